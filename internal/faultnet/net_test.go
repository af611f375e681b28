//go:build linux

package faultnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("FAULTNET_CHILD") != "" {
		if err := netForEver(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// patience bounds what must happen, moment what must not.
const (
	patience = 10 * time.Second
	moment   = 200 * time.Millisecond
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// start makes a network with hosts, which is closed when the test ends.
func start(tb testing.TB, names ...string) (*Net, []*Host) {
	tb.Helper()
	n, err := New()
	must(tb, err)
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	var hosts []*Host
	for _, name := range names {
		h, err := n.Host(name)
		must(tb, err)
		hosts = append(hosts, h)
	}
	return n, hosts
}

const port = "7000"

func at(h *Host) string { return net.JoinHostPort(h.Addr().String(), port) }

// echo answers on a host's TCP and UDP ports with what it gets, until the test ends.
func echo(tb testing.TB, h *Host) {
	tb.Helper()
	var l net.Listener
	var packets net.PacketConn
	must(tb, h.Do(func() (err error) {
		if l, err = net.Listen("tcp", at(h)); err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", at(h))
		return err
	}))
	tb.Cleanup(func() { l.Close(); packets.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	go func() {
		p := make([]byte, mtu)
		for {
			size, from, err := packets.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(p[:size], from)
		}
	}()
}

// exchange connects a host to another and has it answer a message within d.
func exchange(from, to *Host, network, message string, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	conn, err := from.DialContext(ctx, network, at(to))
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, message); err != nil {
		return err
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != message {
		return fmt.Errorf("the answer is %d other bytes", len(got))
	}
	return nil
}

func TestHostsReachEachOther(t *testing.T) {
	n, hosts := start(t, "a", "b")
	here, err := n.Here("tests")
	must(t, err)
	hosts = append(hosts, here)
	for _, to := range hosts {
		echo(t, to)
		for _, from := range hosts {
			must(t, exchange(from, to, "udp", "hello", patience))
			must(t, exchange(from, to, "tcp", strings.Repeat("much", 100_000), patience))
		}
	}
}

func TestNamesAndAddresses(t *testing.T) {
	n, hosts := start(t, "a", "b")
	if hosts[0].Name() != "a" || hosts[0].Addr() == hosts[1].Addr() || !netip.MustParsePrefix("10.0.0.0/8").Contains(hosts[1].Addr()) {
		t.Errorf("%s %v, %s %v", hosts[0].Name(), hosts[0].Addr(), hosts[1].Name(), hosts[1].Addr())
	}
	if _, err := n.Host("a"); err == nil {
		t.Error("two hosts of one name")
	}
	_, err := n.Here("here")
	must(t, err)
	if _, err := n.Here("again"); err == nil {
		t.Error("this process is there twice")
	}
	must(t, n.Close())
	if _, err := n.Host("c"); err == nil {
		t.Error("a host on a closed network")
	}
}

// TestDropsInOneDirection: what comes out can still be heard.
func TestDropsInOneDirection(t *testing.T) {
	n, hosts := start(t, "a", "b")
	a, b := hosts[0], hosts[1]
	var ears net.PacketConn
	must(t, b.Do(func() (err error) { ears, err = net.ListenPacket("udp", at(b)); return err }))
	defer ears.Close()
	back := n.Inject(Fault{From: []string{"b"}, To: []string{"a"}, Drop: 1})
	conn, err := a.DialContext(t.Context(), "udp", at(b))
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "hello")
	must(t, err)
	p := make([]byte, 10)
	must(t, ears.SetDeadline(time.Now().Add(patience)))
	size, from, err := ears.ReadFrom(p)
	must(t, err)
	if string(p[:size]) != "hello" {
		t.Errorf("b heard %q", p[:size])
	}
	_, err = ears.WriteTo([]byte("hi"), from)
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(moment)))
	if _, err := conn.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a hears: %v", err)
	}
	if back.Count() == 0 {
		t.Error("the fault has met nothing")
	}
	back.Off()
	_, err = ears.WriteTo([]byte("hi"), from)
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	if size, err := conn.Read(p); err != nil || string(p[:size]) != "hi" {
		t.Errorf("after the fault a hears %q, %v", p[:size], err)
	}
}

// TestACutOffHostIsSilent, and reaches itself all the same.
func TestACutOffHostIsSilent(t *testing.T) {
	n, hosts := start(t, "a", "b")
	a, b := hosts[0], hosts[1]
	echo(t, b)
	cut := []*Injected{n.Inject(Fault{To: []string{"b"}, Drop: 1}), n.Inject(Fault{From: []string{"b"}, Drop: 1})}
	for _, network := range []string{"tcp", "udp"} {
		var timeout net.Error
		if err := exchange(a, b, network, "hello", moment); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: %v, want a timeout", network, err)
		}
		must(t, exchange(b, b, network, "hello", patience))
	}
	for _, i := range cut {
		i.Off()
	}
	must(t, exchange(a, b, "tcp", "hello", patience))
}

// TestPortsAreRefused: a host whose process has died answers.
func TestPortsAreRefused(t *testing.T) {
	_, hosts := start(t, "a", "b")
	for _, network := range []string{"tcp", "udp"} {
		if err := exchange(hosts[0], hosts[1], network, "hello", patience); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want that it is refused", network, err)
		}
	}
}

// TestFaultsOnTheWay: TCP comes through all of them together.
func TestFaultsOnTheWay(t *testing.T) {
	n, hosts := start(t, "a", "b")
	echo(t, hosts[1])
	faults := map[string]*Injected{}
	for name, f := range map[string]Fault{
		"drop": {Drop: 0.01}, "delay": {Delay: time.Millisecond}, "reorder": {Jitter: time.Millisecond},
		"duplicate": {Duplicate: 0.05}, "corrupt": {Corrupt: 0.02}, "rate": {Rate: 8 << 20},
	} {
		f.Match = TCP
		faults[name] = n.Inject(f)
	}
	must(t, exchange(hosts[0], hosts[1], "tcp", strings.Repeat("much", 250_000), patience))
	for name, i := range faults {
		if i.Count() == 0 {
			t.Errorf("%s has met nothing", name)
		}
	}
}

// TestCorruptPacketsAreSeen: the kernel throws them away for their checksum.
func TestCorruptPacketsAreSeen(t *testing.T) {
	n, hosts := start(t, "a", "b")
	a, b := hosts[0], hosts[1]
	echo(t, b)
	must(t, exchange(a, b, "udp", "hello", patience))
	fault := n.Inject(Fault{Corrupt: 1, Match: UDP})
	if err := exchange(a, b, "udp", "hello", moment); err == nil {
		t.Error("corrupt packets arrive")
	}
	if got := wrongChecksums(t, b); fault.Count() != 1 || got != "1" {
		t.Errorf("%d packets were made corrupt, b has seen %s", fault.Count(), got)
	}
}

// wrongChecksums is how many UDP packets a host's kernel found to be corrupt.
func wrongChecksums(tb testing.TB, h *Host) string {
	var table []byte
	must(tb, h.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}))
	var names []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		for i, name := range names {
			if name == "InCsumErrors" && fields[0] == "Udp:" {
				return fields[i]
			}
		}
		names = fields
	}
	tb.Fatalf("no count in\n%s", table)
	return ""
}

func TestDelayIsFelt(t *testing.T) {
	n, hosts := start(t, "a", "b")
	echo(t, hosts[1])
	n.Inject(Fault{From: []string{"a"}, Delay: 30 * time.Millisecond})
	began := time.Now()
	must(t, exchange(hosts[0], hosts[1], "udp", "hello", patience))
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("an answer after %v", took)
	}
}

// TestProcessesLiveInTheirHost: one that is started in a host is there.
func TestProcessesLiveInTheirHost(t *testing.T) {
	_, hosts := start(t, "a")
	cmd := exec.Command("cat", "/proc/net/fib_trie")
	var out strings.Builder
	cmd.Stdout = &out
	must(t, hosts[0].Do(cmd.Start))
	must(t, cmd.Wait())
	if !strings.Contains(out.String(), hosts[0].Addr().String()) {
		t.Errorf("%v is not among its addresses", hosts[0].Addr())
	}
}

// state is what a network could leave behind, and how many goroutines there are.
func state(tb testing.TB) (string, int) {
	tb.Helper()
	interfaces, err := net.Interfaces()
	must(tb, err)
	used, err := routes()
	must(tb, err)
	fds, err := os.ReadDir("/proc/self/fd")
	must(tb, err)
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	return fmt.Sprint(names, used, len(fds), " descriptors"), runtime.NumGoroutine()
}

func TestCloseLeavesNothing(t *testing.T) {
	before, running := state(t)
	n, err := New()
	must(t, err)
	for _, add := range []func(string) (*Host, error){n.Host, n.Host, n.Here} {
		_, err := add(fmt.Sprint(len(n.names)))
		must(t, err)
	}
	n.Inject(Fault{Delay: time.Hour})
	if during, _ := state(t); during == before {
		t.Fatalf("a network shows nowhere: %s", during)
	}
	must(t, n.Close())
	must(t, n.Close())
	leaves(t, before, running)
}

// leaves waits until a state is as it was, soon, with as many goroutines or less: one of an
// earlier test may have been about to end.
func leaves(tb testing.TB, before string, running int) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		switch now, n := state(tb); {
		case now == before && n <= running:
			return
		case time.Since(began) > patience:
			tb.Fatalf("it is  %s, %d goroutines\nwant   %s, %d", now, n, before, running)
		}
	}
}

// netForEver is a process with a network of its own.
func netForEver() error {
	n, err := New()
	if err != nil {
		return err
	}
	for name, add := range map[string]func(string) (*Host, error){"a": n.Host, "b": n.Host, "here": n.Here} {
		if _, err := add(name); err != nil {
			return err
		}
	}
	fmt.Println(n.prefix)
	select {}
}

// TestNetworksOfTwoProcesses do not meet, and one that is killed leaves nothing.
func TestNetworksOfTwoProcesses(t *testing.T) {
	before, running := state(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FAULTNET_CHILD=1")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var prefix string
	_, err = fmt.Fscanln(out, &prefix)
	must(t, err)
	n, err := New()
	must(t, err)
	h, err := n.Here("here")
	must(t, err)
	if netip.MustParsePrefix(prefix).Contains(h.Addr()) {
		t.Errorf("%v is within %s", h.Addr(), prefix)
	}
	if used, err := routes(); err != nil || !overlaps(netip.MustParsePrefix(prefix), used) {
		t.Errorf("the other's %s is not in use: %v, %v", prefix, used, err)
	}
	must(t, n.Close())
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	leaves(t, before, running)
}

// TestAPrefixIsReserved also before the network has a route.
func TestAPrefixIsReserved(t *testing.T) {
	n, _ := start(t)
	if l, err := net.Listen("unix", "@roomlog-faultnet-"+n.prefix.Addr().String()); err == nil {
		l.Close()
		t.Error("another could take the same")
	}
}

func TestParseRoutes(t *testing.T) {
	all, err := parseRoutes([]byte("Iface\tDestination\n" +
		"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t0001A80A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"))
	if err != nil || len(all) != 1 || all[0] != netip.MustParsePrefix("10.168.1.0/24") {
		t.Errorf("%v, %v", all, err)
	}
	if !overlaps(netip.MustParsePrefix("10.0.0.0/8"), all) || overlaps(netip.MustParsePrefix("10.168.2.0/24"), all) {
		t.Error("overlaps")
	}
}

func FuzzParseRoutes(f *testing.F) {
	f.Add([]byte("Iface\neth0\t0001A80A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"))
	f.Add([]byte("Iface\nx y\n"))
	f.Fuzz(func(t *testing.T, table []byte) {
		all, _ := parseRoutes(table)
		for _, p := range all {
			if !p.IsValid() || p.Bits() == 0 {
				t.Errorf("a route to %v", p)
			}
		}
	})
}

func BenchmarkTCP(b *testing.B) {
	_, hosts := start(b, "a", "b")
	var l net.Listener
	must(b, hosts[1].Do(func() (err error) { l, err = net.Listen("tcp", at(hosts[1])); return err }))
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		done <- err
	}()
	conn, err := hosts[0].DialContext(b.Context(), "tcp", at(hosts[1]))
	must(b, err)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		_, err := conn.Write(chunk)
		must(b, err)
	}
	must(b, conn.Close())
	must(b, <-done)
}

func BenchmarkUDPRoundTrip(b *testing.B) {
	for _, f := range []struct {
		name  string
		fault *Fault
	}{{"faults=0", nil}, {"faults=1", &Fault{From: []string{"c"}, Drop: 1}}, {"delay=1ms", &Fault{From: []string{"a"}, Delay: time.Millisecond}}} {
		b.Run(f.name, func(b *testing.B) {
			n, hosts := start(b, "a", "b")
			echo(b, hosts[1])
			if f.fault != nil {
				n.Inject(*f.fault)
			}
			conn, err := hosts[0].DialContext(b.Context(), "udp", at(hosts[1]))
			must(b, err)
			defer conn.Close()
			p := make([]byte, 100)
			for b.Loop() {
				_, err := conn.Write(p)
				must(b, err)
				_, err = conn.Read(p)
				must(b, err)
			}
		})
	}
}
