package clustertest

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/wire"
)

// closedWith waits until the server has closed the connection, and returns why.
func (r *Raw) closedWith(t *testing.T) (wire.Code, string) {
	t.Helper()
	select {
	case <-r.conn.Context().Done():
	case <-time.After(patience):
		t.Fatal("the connection was not closed")
	}
	var closed *quic.ApplicationError
	if err := context.Cause(r.conn.Context()); !errors.As(err, &closed) {
		t.Fatalf("closed with %v", err)
	}
	return wire.Code(closed.ErrorCode), closed.ErrorMessage
}

// A client that does not read the answers on its publish stream loses its
// connection before they take much memory.
func TestUnreadAnswers(t *testing.T) {
	c := Start(t, 1, 1, nil)
	raw := c.DialStingy("n1")
	str := raw.Open(&wire.Attach{})
	frames := make([]byte, 0, 64<<10)
	for range 1000 {
		frames = wire.Append(frames, &wire.Attach{})
	}
	for range 1000 {
		if _, err := str.Write(frames); err != nil {
			break
		}
	}
	if code, why := raw.closedWith(t); code != wire.CodeSlowConsumer || why == "" {
		t.Errorf("closed with %v %q, want %v", code, why, wire.CodeSlowConsumer)
	}
	c.unharmed()
}

// A client that stops in the middle of hello does not keep a node from stopping.
func TestStopDuringHello(t *testing.T) {
	c := Start(t, 1, 1, nil)
	conn := dialQUIC(t, c.Addr("n1"), c.TLS(), nil)
	str, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	str.Write([]byte{30})
	raw := c.DialRaw("n1") // the one before has been accepted by now
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.Stop("n1")
	}()
	select {
	case <-stopped:
	case <-time.After(3 * time.Second):
		t.Error("the node has not stopped after 3 s")
		<-stopped
	}
	if code, _ := raw.closedWith(t); code != wire.CodeGoingAway {
		t.Errorf("closed with %v, want %v", code, wire.CodeGoingAway)
	}
	c.Run("n1")
	c.WaitReady()
	c.unharmed()
}

// A client that opens session after session on one stream has one in the end,
// and the table has room for others.
func TestManySessions(t *testing.T) {
	c := Start(t, 1, 1, nil)
	raw := c.DialRaw("n1")
	attach := func(i int) *wire.Attach {
		a := &wire.Attach{Open: true}
		binary.LittleEndian.PutUint64(a.Session[:], uint64(i))
		return a
	}
	const sessions = 3000
	str := raw.Open(attach(0))
	for i := range sessions {
		str.Send(attach(i + 1))
	}
	for range sessions + 1 {
		str.Expect(wire.TypeAttached)
	}
	c.Until("one session is left", func() bool { return c.Node("n1").Partitions()[0].Sessions == 1 })
	c.unharmed()
}

// Nor does it help to have each session refused before the next is opened.
func TestManyRefusedSessions(t *testing.T) {
	c := Start(t, 1, 1, nil)
	raw := c.DialRaw("n1")
	const sessions = 300
	str := raw.Open(&wire.Attach{Open: true})
	str.Expect(wire.TypeAttached)
	for i := range sessions {
		str.Write(wire.AppendPublish(nil, 1, 0, "", "a\x07b", nil))
		str.Expect(wire.TypeRefused)
		a := &wire.Attach{Open: true}
		binary.LittleEndian.PutUint64(a.Session[:], uint64(i+1))
		str.Send(a)
		str.Expect(wire.TypeAttached)
	}
	c.Until("one session is left", func() bool { return c.Node("n1").Partitions()[0].Sessions == 1 })
	c.unharmed()
}

// Subscribers who do not read cost the server a write each, not what they would
// have read.
func TestStalledSubscribers(t *testing.T) {
	c := Start(t, 1, 1, func(cfg *node.Config) { cfg.TailBytes = 1 << 20 })
	p := &Publisher{Name: "p", Client: c.Client("p"), History: &c.History}
	for range 4000 {
		c.must(p.Send("r", 1000))
	}
	c.must(p.Wait())

	raw := c.DialStingy("n1")
	before := heap()
	const stalled = 300
	streams := make([]*RawStream, stalled)
	for i := range streams {
		streams[i] = raw.Open(&wire.Subscribe{Room: "r", Next: 1})
		streams[i].Expect(wire.TypeSubscribed)
	}
	limit := uint64(stalled * 80 << 10) // a write, stacks, streams at both ends
	c.Until("what they hold is let go", func() bool { return heap() < before+limit })

	// They get everything when they read on.
	last := readTo(t, streams[7], 4000)
	if last != 4000 {
		t.Errorf("the stalled subscriber had seqs up to %d, want 4000", last)
	}
	c.unharmed()
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// readTo reads deliveries until seq want, which must come in order from 1.
func readTo(t *testing.T, s *RawStream, want uint64) (last uint64) {
	t.Helper()
	for last < want {
		var d wire.Deliver
		if err := wire.ParseDeliver(s.Expect(wire.TypeDeliver), &d); err != nil {
			t.Fatal(err)
		}
		err := d.Records(func(r wire.Record) bool {
			if r.Seq != last+1 {
				t.Fatalf("seq %d after %d", r.Seq, last)
			}
			last = r.Seq
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return last
}
