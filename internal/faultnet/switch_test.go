package faultnet

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a device without a kernel: the test is in its place.
type wire struct {
	sent     chan []byte // by the host
	mu       sync.Mutex
	arrived  []arrival
	received chan struct{} // closed by Close
}

type arrival struct {
	at     time.Duration // since the test began
	packet []byte
}

func newWire() *wire { return &wire{sent: make(chan []byte), received: make(chan struct{})} }

func (w *wire) Read(p []byte) (int, error) {
	select {
	case packet := <-w.sent:
		return copy(p, packet), nil
	case <-w.received:
		return 0, io.EOF
	}
}

var began time.Time // of the bubble

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrived = append(w.arrived, arrival{time.Since(began), bytes.Clone(p)})
	return len(p), nil
}

func (w *wire) Close() error {
	close(w.received)
	return nil
}

// got is what has arrived, once all is where it goes now.
func (w *wire) got() []arrival {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.arrived)
}

// numbers are those of the packets that have arrived, in order.
func (w *wire) numbers() (all []int) {
	for _, a := range w.got() {
		all = append(all, int(binary.BigEndian.Uint32(payloadOf(a.packet))))
	}
	return all
}

// bench is a switch with three hosts without kernels, a, b and c.
type bench struct {
	*Net
	t     *testing.T
	wires map[string]*wire
}

type nothing struct{}

func (nothing) Close() error { return nil }

// onBench runs a test in a bubble of its own, whose clock moves only when all wait.
func onBench(t *testing.T, test func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		began = time.Now()
		b := &bench{Net: newNet(netip.MustParsePrefix("10.1.2.0/24"), nothing{}), t: t, wires: map[string]*wire{}}
		defer func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}()
		for i, name := range []string{"a", "b", "c"} {
			b.wires[name] = newWire()
			b.mu.Lock()
			b.join(&Host{name: name, addr: b.at(i + 1), device: b.wires[name], space: &namespace{}}, i+1)
			b.mu.Unlock()
		}
		test(b)
	})
}

// packet makes one with a number as its payload, followed by size bytes.
func (b *bench) packet(protocol byte, from, to string, number, size int) []byte {
	transport := 8
	if protocol == protocolTCP {
		transport = 20
	}
	p := make([]byte, minHeader+transport+4+size)
	p[0] = 4<<4 | minHeader/4
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[9] = protocol
	copy(p[12:], b.names[from].addr.AsSlice())
	copy(p[16:], b.names[to].addr.AsSlice())
	if protocol == protocolTCP {
		p[minHeader+12] = 5 << 4
	}
	binary.BigEndian.PutUint32(p[minHeader+transport:], uint32(number))
	return p
}

// send sends UDP packets with the numbers from 1 to n, each at its time.
func (b *bench) send(from, to string, n int, every time.Duration) {
	for i := range n {
		b.wires[from].sent <- b.packet(protocolUDP, from, to, i+1, 0)
		time.Sleep(every)
	}
	synctest.Wait()
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

func (b *bench) arrived(at string, want []int) {
	b.t.Helper()
	if got := b.wires[at].numbers(); !slices.Equal(got, want) {
		b.t.Errorf("%s has got %v, want %v", at, got, want)
	}
}

func (b *bench) counted(i *Injected, want int) {
	b.t.Helper()
	if got := i.Count(); got != want {
		b.t.Errorf("a fault met %d packets, want %d", got, want)
	}
}

func TestPacketsGoWhereTheyShall(t *testing.T) {
	onBench(t, func(b *bench) {
		b.send("a", "b", 3, 0)
		b.arrived("b", upTo(3))
		stray := b.packet(protocolUDP, "a", "b", 4, 0)
		stray[19] = 77 // nobody's
		b.wires["a"].sent <- stray
		far := b.packet(protocolUDP, "a", "b", 4, 0)
		far[17] = 99 // not of this net
		b.wires["a"].sent <- far
		b.wires["a"].sent <- []byte{0x60, 0, 0, 0} // IPv6, as kernels send by themselves
		b.send("a", "c", 1, 0)
		b.arrived("a", nil)
		b.arrived("b", upTo(3))
		b.arrived("c", upTo(1))
	})
}

func TestFaultsMatch(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault Fault
		lost  []string // of the packets below
	}{
		{"all", Fault{}, []string{"a>b tcp", "a>b udp", "b>a udp", "c>b udp", "a>b icmp"}},
		{"from", Fault{From: []string{"b", "c"}}, []string{"b>a udp", "c>b udp"}},
		{"to", Fault{To: []string{"b"}}, []string{"a>b tcp", "a>b udp", "c>b udp", "a>b icmp"}},
		{"from and to", Fault{From: []string{"c"}, To: []string{"b"}}, []string{"c>b udp"}},
		{"TCP", Fault{Match: TCP}, []string{"a>b tcp"}},
		{"UDP", Fault{Match: UDP}, []string{"a>b udp", "b>a udp", "c>b udp"}},
		{"nobody", Fault{From: []string{}}, nil},
		{"hosts that are not", Fault{To: []string{"d"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onBench(t, func(b *bench) {
				tt.fault.Drop = 1
				fault := b.Inject(tt.fault)
				for _, p := range []struct {
					what, from, to string
					protocol       byte
				}{{"a>b tcp", "a", "b", protocolTCP}, {"a>b udp", "a", "b", protocolUDP}, {"b>a udp", "b", "a", protocolUDP},
					{"c>b udp", "c", "b", protocolUDP}, {"a>b icmp", "a", "b", 1}} {
					before := len(b.wires[p.to].numbers())
					b.wires[p.from].sent <- b.packet(p.protocol, p.from, p.to, 1, 0)
					lost := len(b.wires[p.to].got()) == before
					if lost != slices.Contains(tt.lost, p.what) {
						t.Errorf("%s lost: %v", p.what, lost)
					}
				}
				b.counted(fault, len(tt.lost))
			})
		})
	}
}

func TestSomeAreDropped(t *testing.T) {
	onBench(t, func(b *bench) {
		fault := b.Inject(Fault{Drop: 0.25, Seed: 7})
		b.send("a", "b", 1000, 0)
		lost := 1000 - len(b.wires["b"].numbers())
		if lost < 200 || lost > 300 {
			t.Errorf("%d of 1000 were lost, a quarter should", lost)
		}
		b.counted(fault, lost)
	})
}

func TestOffRestores(t *testing.T) {
	onBench(t, func(b *bench) {
		fault, other := b.Inject(Fault{Drop: 1}), b.Inject(Fault{Duplicate: 1})
		b.send("a", "b", 1, 0)
		b.arrived("b", nil)
		fault.Off()
		fault.Off()
		b.send("a", "b", 1, 0)
		b.arrived("b", []int{1, 1})
		other.Off()
		b.send("a", "b", 1, 0)
		b.arrived("b", []int{1, 1, 1})
		b.counted(fault, 1)
		b.counted(other, 1)
	})
}

func TestDelays(t *testing.T) {
	onBench(t, func(b *bench) {
		one := b.Inject(Fault{From: []string{"a"}, Delay: 30 * time.Millisecond})
		b.Inject(Fault{To: []string{"b"}, Delay: 5 * time.Millisecond})
		b.send("a", "b", 3, time.Millisecond)
		b.arrived("b", nil)
		time.Sleep(time.Second)
		b.arrived("b", upTo(3))
		for i, a := range b.wires["b"].got() {
			if want := time.Duration(35+i) * time.Millisecond; a.at != want {
				t.Errorf("packet %d came after %v, want %v", i+1, a.at, want)
			}
		}
		b.counted(one, 3)
	})
}

func TestJitterReorders(t *testing.T) {
	onBench(t, func(b *bench) {
		fault := b.Inject(Fault{Delay: time.Millisecond, Jitter: 50 * time.Millisecond, Seed: 1})
		b.send("a", "b", 100, time.Millisecond)
		time.Sleep(time.Second)
		got := b.wires["b"].numbers()
		if slices.IsSorted(got) {
			t.Error("no packet overtook another")
		}
		for _, a := range b.wires["b"].got() {
			sent := time.Duration(binary.BigEndian.Uint32(payloadOf(a.packet))-1) * time.Millisecond
			if late := a.at - sent; late < time.Millisecond || late >= 51*time.Millisecond {
				t.Errorf("a packet took %v", late)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, upTo(100)) {
			t.Errorf("arrived: %v", got)
		}
		b.counted(fault, 100)
	})
}

func TestOrderedJitterKeepsTheOrder(t *testing.T) {
	onBench(t, func(b *bench) {
		b.Inject(Fault{Jitter: 50 * time.Millisecond, Ordered: true, Seed: 1})
		b.send("a", "b", 100, time.Millisecond)
		time.Sleep(time.Second)
		b.arrived("b", upTo(100))
	})
}

func TestDuplicates(t *testing.T) {
	onBench(t, func(b *bench) {
		fault := b.Inject(Fault{Duplicate: 1})
		b.send("a", "b", 2, 0)
		b.arrived("b", []int{1, 1, 2, 2})
		fault.Off()
		later := b.Inject(Fault{Duplicate: 1, Delay: time.Millisecond})
		b.send("a", "c", 2, 0)
		time.Sleep(time.Second)
		b.arrived("c", []int{1, 1, 2, 2})
		b.counted(fault, 2)
		b.counted(later, 2)
	})
}

func TestOneBitOfThePayloadFlips(t *testing.T) {
	const times, size = 300, 20
	for _, protocol := range []byte{protocolUDP, protocolTCP} {
		onBench(t, func(b *bench) {
			fault := b.Inject(Fault{Corrupt: 1, Seed: 3})
			sent := b.packet(protocol, "a", "b", 0, size-4)
			header := len(sent) - size
			for range times {
				b.wires["a"].sent <- sent
			}
			flipped := map[int]bool{} // bits of the payload
			for _, a := range b.wires["b"].got() {
				var here []int
				for bit := range 8 * len(sent) {
					if (a.packet[bit/8]^sent[bit/8])>>(bit%8)&1 != 0 {
						here = append(here, bit-8*header)
					}
				}
				if len(here) != 1 || here[0] < 0 {
					t.Fatalf("protocol %d: bits %v of the payload flipped", protocol, here)
				}
				flipped[here[0]] = true
			}
			if len(flipped) < 8*size/2 {
				t.Errorf("protocol %d: only %d different bits flipped", protocol, len(flipped))
			}
			empty := sent[:header] // nothing to flip
			binary.BigEndian.PutUint16(empty[2:], uint16(header))
			b.wires["a"].sent <- empty
			synctest.Wait()
			b.counted(fault, times)
		})
	}
}

// TestRate sends four times as fast as the rate, longer than the queue can hold.
func TestRate(t *testing.T) {
	onBench(t, func(b *bench) {
		const rate, size = 1 << 20, 1024
		fault := b.Inject(Fault{Rate: rate})
		for range 1024 {
			b.wires["a"].sent <- b.packet(protocolUDP, "a", "b", 1, size-32)
			time.Sleep(time.Second / 4096)
		}
		b.wires["a"].sent <- b.packet(protocolUDP, "a", "c", 1, 0) // another link is free
		time.Sleep(2 * time.Millisecond)
		b.arrived("c", upTo(1))
		time.Sleep(time.Second)
		// 256 KiB went in the quarter of a second, and as much waited.
		got := b.wires["b"].got()
		if len(got) < 511 || len(got) > 513 {
			t.Fatalf("%d packets arrived, want 512", len(got))
		}
		last := got[len(got)-1].at
		if want := time.Second / 2; last < want-2*time.Millisecond || last > want+2*time.Millisecond {
			t.Errorf("the last one came after %v, want %v", last, want)
		}
		b.counted(fault, 1025)
	})
}

// TestTheQueueIsBounded delays more than it holds.
func TestTheQueueIsBounded(t *testing.T) {
	onBench(t, func(b *bench) {
		b.delayed.most = 1 << 20
		b.Inject(Fault{Delay: time.Hour})
		packet := b.packet(protocolUDP, "a", "b", 1, 1400)
		for range b.delayed.most/len(packet) + 100 {
			b.wires["a"].sent <- packet
		}
		time.Sleep(2 * time.Hour)
		if got, want := len(b.wires["b"].got()), b.delayed.most/len(packet); got != want {
			t.Errorf("%d packets arrived, want %d", got, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	udp := make([]byte, 60)
	udp[0], udp[3], udp[9] = 0x45, 60, protocolUDP
	f.Add(udp)
	tcp := bytes.Clone(udp)
	tcp[9], tcp[32] = protocolTCP, 5<<4
	f.Add(tcp)
	options := bytes.Clone(udp)
	options[0] = 0x4f
	f.Add(options)
	short := bytes.Clone(udp) // than its header
	short[3] = 10
	f.Add(short)
	f.Fuzz(func(t *testing.T, packet []byte) {
		h, ok := parse(packet)
		if !ok {
			return
		}
		payload := payloadOf(packet)
		if h.protocol != packet[9] || len(payload) > len(packet)-headerLen(packet) {
			t.Errorf("%+v, a payload of %d bytes in %d", h, len(payload), len(packet))
		}
	})
}
