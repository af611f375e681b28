package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// send publishes n numbered messages to room without waiting.
func send(t testing.TB, c *Client, room string, n int) []*Pending {
	t.Helper()
	var all []*Pending
	for i := range n {
		p, err := c.PublishAsync(context.Background(), room, fmt.Appendf(nil, "m%d", i+1))
		if err != nil {
			t.Fatalf("PublishAsync %d: %v", i+1, err)
		}
		all = append(all, p)
	}
	return all
}

// checkLog checks that what was acked is in the log under its number, that the
// log has nothing twice, and that it is in the order of the calls.
func checkLog(t testing.TB, f *fake, room string, all []*Pending) {
	t.Helper()
	for _, p := range all {
		p.Wait(within(t))
	}
	log := f.room(room)
	at := make(map[string]int)
	last := 0
	for i, m := range log {
		var nr int
		if _, err := fmt.Sscanf(m.payload, "m%d", &nr); err != nil {
			t.Fatalf("room %q holds %q", room, m.payload)
		}
		if at[m.payload] != 0 {
			t.Errorf("room %q: %q has seq %d and %d", room, m.payload, at[m.payload], i+1)
		}
		if nr < last {
			t.Errorf("room %q: m%d stands behind m%d", room, nr, last)
		}
		at[m.payload], last = i+1, nr
	}
	for i, p := range all {
		r, err := p.Wait(within(t))
		payload := fmt.Sprintf("m%d", i+1)
		switch {
		case err == nil && at[payload] != int(r.Seq):
			t.Errorf("room %q: %s was acked with seq %d, the log has %d", room, payload, r.Seq, at[payload])
		case err != nil && !errors.Is(err, ErrOutcomeUnknown) && at[payload] != 0:
			t.Errorf("room %q: %s failed with %v but has seq %d", room, payload, err, at[payload])
		}
	}
}

// once makes a hook that does something with the publish of that payload to the
// lobby, the first times that it comes.
func once(payload string, times int, do act) func(*fakeNode, wire.SessionID, wire.Publish) act {
	return func(n *fakeNode, _ wire.SessionID, p wire.Publish) act {
		if string(p.Room) == "lobby" && string(p.Payload) == payload && times > 0 {
			times--
			n.f.event("hook")
			return do
		}
		return act{}
	}
}

func TestPublish(t *testing.T) {
	f := startFake(t, 3, 4)
	c := f.dial(t, WithName("ann"))
	for i := range 20 {
		r, err := c.Publish(within(t), "lobby", fmt.Appendf(nil, "m%d", i+1))
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq != uint64(i+1) || r.Duplicate || r.Room != "lobby" || r.Time.UnixNano() != fakeEpoch+int64(i+1)*1e9 {
			t.Fatalf("publish %d: %+v", i+1, r)
		}
	}
	if _, err := c.Publish(within(t), "lobby", nil, As("bob")); err != nil {
		t.Fatal(err)
	}
	log := f.room("lobby")
	if log[0].publisher != "ann" || log[20].publisher != "bob" || log[20].payload != "" {
		t.Errorf("publishers %q and %q, payload %q", log[0].publisher, log[20].publisher, log[20].payload)
	}
}

// What goes wrong with m5 of 40 pipelined publishes must not change what
// becomes of the others.
func TestTroubleInMidPipeline(t *testing.T) {
	for _, tt := range []struct {
		name      string
		do        act
		times     int
		fails     error // m5 ends with this
		duplicate bool
	}{
		{name: "overloaded", do: act{refuse: &wire.Refused{Code: wire.CodeOverloaded, RetryAfter: 1}}, times: 3},
		{name: "unavailable", do: act{refuse: &wire.Refused{Code: wire.CodeUnavailable}}, times: 3},
		{name: "not leader for a while", do: act{refuse: &wire.Refused{Code: wire.CodeNotLeader}}, times: 3},
		{name: "internal error", do: act{refuse: &wire.Refused{Code: wire.CodeInternal}}, times: 1},
		{name: "unknown, and in the log", do: act{refuse: &wire.Refused{Code: wire.CodeUnknownOutcome, Maybe: true}, apply: true}, times: 1, duplicate: true},
		{name: "unknown, and not in the log", do: act{refuse: &wire.Refused{Code: wire.CodeUnknownOutcome, Maybe: true}}, times: 2},
		{name: "out of order, wants a lower one", do: act{refuse: &wire.Refused{Code: wire.CodeOutOfOrder, Want: 5}}, times: 2},
		{name: "connection breaks before", do: act{kill: true}, times: 2},
		{name: "connection breaks behind", do: act{kill: true, apply: true}, times: 1, duplicate: true},
		{name: "too large", do: act{refuse: &wire.Refused{Code: wire.CodeTooLarge}}, times: 1, fails: ErrTooLarge},
		{name: "bad room", do: act{refuse: &wire.Refused{Code: wire.CodeBadRoom}}, times: 1, fails: ErrBadRoom},
		{name: "denied", do: act{refuse: &wire.Refused{Code: wire.CodeDenied, Reason: "no right"}}, times: 1, fails: ErrDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, 2, 2)
			f.onPublish = once("m5", tt.times, tt.do)
			c := f.dial(t)
			all := send(t, c, "lobby", 40)
			other := send(t, c, "hall", 40)
			err := c.Flush(within(t))
			if !errors.Is(err, tt.fails) {
				t.Errorf("Flush = %v, want %v", err, tt.fails)
			}
			checkLog(t, f, "lobby", all)
			checkLog(t, f, "hall", other)
			r, err := all[4].Wait(within(t))
			if !errors.Is(err, tt.fails) || errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("m5: %v, want %v", err, tt.fails)
			}
			if err == nil && r.Duplicate != tt.duplicate {
				t.Errorf("m5: duplicate %v", r.Duplicate)
			}
			want := 40
			if tt.fails != nil {
				want = 39
			}
			if n, m := len(f.room("lobby")), len(f.room("hall")); n != want || m != 40 {
				t.Errorf("%d and %d messages in the log, want %d and 40", n, m, want)
			}
		})
	}
}

// The counters behind a refused publish move down by one.
func TestRefusedCounterIsUsedAgain(t *testing.T) {
	f := startFake(t, 1, 1)
	var counters []string
	refuse := once("m3", 1, act{refuse: &wire.Refused{Code: wire.CodeDenied}})
	f.onPublish = func(n *fakeNode, id wire.SessionID, p wire.Publish) act {
		do := refuse(n, id, p)
		if do.refuse == nil {
			counters = append(counters, fmt.Sprintf("%s=%d", p.Payload, p.Counter))
		}
		return do
	}
	c := f.dial(t)
	send(t, c, "lobby", 5)
	if err := c.Flush(within(t)); !errors.Is(err, ErrDenied) {
		t.Fatalf("Flush = %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Join(counters, " "); got != "m1=1 m2=2 m4=3 m5=4" {
		t.Errorf("counters %s", got)
	}
}

func TestLeaderMoves(t *testing.T) {
	for _, quietly := range []bool{false, true} {
		t.Run(fmt.Sprintf("quietly=%v", quietly), func(t *testing.T) {
			f := startFake(t, 3, 1)
			c := f.dial(t)
			var all []*Pending
			for i := range 60 {
				p, err := c.PublishAsync(within(t), "lobby", fmt.Appendf(nil, "m%d", i+1))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, p)
				if i%20 == 10 {
					f.lead(0, 1+i/20%2, quietly) // never n1 again
				}
			}
			if err := c.Flush(within(t)); err != nil {
				t.Fatal(err)
			}
			checkLog(t, f, "lobby", all)
		})
	}
}

func TestLeaderKilled(t *testing.T) {
	f := startFake(t, 3, 1)
	f.onPublish = once("m10", 1, act{}) // before there is a connection: nothing else orders the two
	c := f.dial(t)
	all := send(t, c, "lobby", 30)
	f.await(t, "hook")
	f.nodes[0].kill()
	f.lead(0, 1, false) // nobody is connected there yet: found by looking round
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	checkLog(t, f, "lobby", all)
	if n := len(f.room("lobby")); n != 30 {
		t.Errorf("%d messages in the log", n)
	}
}

// A node that hangs is told from one that has nothing to say by its silence.
func TestLeaderHangs(t *testing.T) {
	f := startFake(t, 2, 1)
	c := f.dial(t)
	if _, err := c.Publish(within(t), "lobby", []byte("m1")); err != nil {
		t.Fatal(err)
	}
	f.nodes[0].mute.Store(true)
	f.lead(0, 1, true)
	start := time.Now()
	r, err := c.Publish(within(t), "lobby", []byte("m2"))
	if err != nil || r.Seq != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("noticed after %v", d)
	}
}

// A client that is patient with its leader, for answers used to take long, hears by
// another node who leads now, and does not wait until the silent one counts as dead.
func TestLeaderHangsAndAnotherIsElected(t *testing.T) {
	f := startFake(t, 3, 1)
	c := f.dial(t)
	if _, err := c.Publish(within(t), "lobby", []byte("m1")); err != nil {
		t.Fatal(err)
	}
	c.router.mu.Lock()
	first := c.router.home
	c.router.mu.Unlock()
	first.alive.trip.Store(int64(maxPatience / 4))
	f.nodes[0].mute.Store(true)
	f.lead(0, 1, true)
	if r, err := c.Publish(within(t), "lobby", []byte("m2")); err != nil || r.Seq != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if first.quic.Context().Err() != nil {
		t.Error("the publish has waited for the end of the connection")
	}
}

// Who doubts a node makes one connection to another one, and no more.
func TestDoubtConnectsElsewhereOnce(t *testing.T) {
	f := startFake(t, 3, 1)
	c := f.dial(t)
	r := c.router
	r.mu.Lock()
	home := r.home
	r.mu.Unlock()
	for range 3 {
		r.doubt(home)
		for {
			changed := r.changes()
			r.mu.Lock()
			conns := len(r.conns)
			r.mu.Unlock()
			if conns == 2 {
				break
			}
			select {
			case <-changed:
			case <-within(t).Done():
				t.Fatalf("%d connections", conns)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nodes {
		if n.dial != nil && len(n.conns) == 0 || len(r.conns) != 2 {
			t.Errorf("%s is dialed too, beside %d connections", n.name, len(r.conns))
		}
	}
}

func TestAckLost(t *testing.T) {
	f := startFake(t, 1, 1)
	first := true
	f.onPublish = func(n *fakeNode, _ wire.SessionID, p wire.Publish) act {
		if first {
			first = false
			n.f.event("applied")
			return act{noAck: true}
		}
		return act{}
	}
	c := f.dial(t)
	p := send(t, c, "lobby", 1)[0]
	f.await(t, "applied")
	f.nodes[0].breakConns(wire.CodeGoingAway)
	r, err := p.Wait(within(t))
	if err != nil || r.Seq != 1 || !r.Duplicate || r.Time.UnixNano() != fakeEpoch+1e9 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := c.Publish(within(t), "lobby", []byte("m2")); err != nil || r.Seq != 2 || r.Duplicate {
		t.Fatalf("%+v, %v", r, err)
	}
}

// Rooms that take turns have a run of their own for every ack of a window.
func TestManyRunsInAFrame(t *testing.T) {
	f := startFake(t, 1, 1)
	f.onPublish = func(_ *fakeNode, _ wire.SessionID, p wire.Publish) act {
		return act{noAck: p.Counter < 4000, ackAll: p.Counter == 4000}
	}
	c := f.dial(t)
	all := send(t, c, "lobby", 4000)
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	checkLog(t, f, "lobby", all)
	if r, err := all[3999].Wait(within(t)); err != nil || r.Duplicate {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSessionExpired(t *testing.T) {
	t.Run("idle: nobody notices", func(t *testing.T) {
		f := startFake(t, 1, 1)
		c := f.dial(t)
		if _, err := c.Publish(within(t), "lobby", []byte("m1")); err != nil {
			t.Fatal(err)
		}
		f.forget()
		all := send(t, c, "lobby", 10)
		if err := c.Flush(within(t)); err != nil {
			t.Fatal(err)
		}
		for i, p := range all {
			if r, err := p.Wait(within(t)); err != nil || r.Seq != uint64(i+2) {
				t.Errorf("%d: %+v, %v", i, r, err)
			}
		}
	})
	t.Run("with publishes on the way: they are told", func(t *testing.T) {
		f := startFake(t, 1, 1)
		f.onPublish = func(n *fakeNode, _ wire.SessionID, p wire.Publish) act {
			if string(p.Payload) == "m3" && p.Counter == 3 {
				clear(n.f.parts[0].sessions)
				n.f.event("killed")
				return act{kill: true}
			}
			return act{}
		}
		c := f.dial(t)
		all := send(t, c, "lobby", 3)
		f.await(t, "killed")
		later := send(t, c, "lobby", 3)
		err := c.Flush(within(t))
		if !errors.Is(err, ErrSessionExpired) || !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("Flush = %v", err)
		}
		if _, err := all[2].Wait(within(t)); !errors.Is(err, ErrSessionExpired) || !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("m3: %v", err)
		}
		for i, p := range later {
			if _, err := p.Wait(within(t)); err != nil && !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("later %d: %v", i, err)
			}
		}
	})
}

// Attach is refused until the table has room, and until the leader is one.
func TestSessionNotOpenedAtOnce(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeTooManySessions, wire.CodeNotLeader, wire.CodeUnavailable, wire.CodeUnknownOutcome} {
		t.Run(code.String(), func(t *testing.T) {
			f := startFake(t, 1, 1)
			opens := 0
			f.onAttach = func(_ *fakeNode, a wire.Attach) *wire.Refused {
				if opens++; opens <= 3 {
					return &wire.Refused{Code: code, RetryAfter: 1}
				}
				return nil
			}
			c := f.dial(t)
			all := send(t, c, "lobby", 5)
			if err := c.Flush(within(t)); err != nil {
				t.Fatal(err)
			}
			checkLog(t, f, "lobby", all)
		})
	}
	t.Run(wire.CodeDenied.String(), func(t *testing.T) {
		f := startFake(t, 1, 1)
		f.onAttach = func(_ *fakeNode, a wire.Attach) *wire.Refused { return &wire.Refused{Code: wire.CodeDenied} }
		c := f.dial(t)
		if _, err := c.Publish(within(t), "lobby", nil); !errors.Is(err, ErrDenied) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("%v", err)
		}
	})
}

func TestContextEnds(t *testing.T) {
	t.Run("never sent", func(t *testing.T) {
		f := startFake(t, 1, 1)
		f.lead(0, -1, true)
		c := f.dial(t)
		ctx, cancel := context.WithCancel(context.Background())
		p, err := c.PublishAsync(ctx, "lobby", []byte("m1"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := p.Wait(within(t)); !errors.Is(err, context.Canceled) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("%v", err)
		}
		if err := c.Flush(within(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("Flush = %v", err)
		}
		f.lead(0, 0, false)
		if r, err := c.Publish(within(t), "lobby", []byte("m2")); err != nil || r.Seq != 1 {
			t.Errorf("the next: %+v, %v", r, err)
		}
	})
	t.Run("sent", func(t *testing.T) {
		f := startFake(t, 1, 1)
		f.onPublish = once("m1", 1, act{noAck: true})
		c := f.dial(t)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			f.await(t, "hook")
			cancel()
		}()
		payload := []byte("m1")
		_, err := c.Publish(ctx, "lobby", payload)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("%v", err)
		}
		copy(payload, "xx") // ours again: what is sent once more must not change
		p := send(t, c, "lobby", 2)[1]
		f.nodes[0].breakConns(0)
		if r, err := p.Wait(within(t)); err != nil || r.Seq != 3 {
			t.Errorf("m2: %+v, %v", r, err)
		}
	})
	t.Run("overloaded", func(t *testing.T) {
		f := startFake(t, 1, 1)
		f.onPublish = once("m1", 1<<30, act{refuse: &wire.Refused{Code: wire.CodeOverloaded, RetryAfter: 5000}})
		c := f.dial(t)
		ctx, cancel := context.WithCancel(context.Background())
		p, err := c.PublishAsync(ctx, "lobby", []byte("m1"))
		if err != nil {
			t.Fatal(err)
		}
		f.await(t, "hook")
		for p.lane.overloaded() == nil { // the refusal is on its way
			if _, err := c.Nodes(within(t)); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		_, err = p.Wait(within(t))
		over, ok := errors.AsType[*OverloadedError](err)
		if !ok || over.RetryAfter != 5*time.Second || !errors.Is(err, context.Canceled) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("%v", err)
		}
	})
	t.Run("already ended", func(t *testing.T) {
		f := startFake(t, 1, 1)
		c := f.dial(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := c.Publish(ctx, "lobby", nil); err != context.Canceled {
			t.Errorf("%v", err)
		}
	})
	t.Run("the wait only", func(t *testing.T) {
		f := startFake(t, 1, 1)
		f.lead(0, -1, true)
		c := f.dial(t)
		p := send(t, c, "lobby", 1)[0]
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := p.Wait(ctx); err != context.Canceled {
			t.Errorf("%v", err)
		}
		if err := c.Flush(ctx); err != context.Canceled {
			t.Errorf("Flush = %v", err)
		}
		f.lead(0, 0, false)
		if _, err := p.Wait(within(t)); err != nil {
			t.Error(err)
		}
		if err := c.Flush(within(t)); err != nil {
			t.Errorf("Flush = %v", err)
		}
	})
}

func TestCloseWithOutstanding(t *testing.T) {
	f := startFake(t, 2, 2)
	f.lead(wire.PartitionOf("hall", 2), -1, true)
	f.onPublish = once("m1", 1, act{noAck: true})
	c := f.dial(t)
	if wire.PartitionOf("hall", 2) == wire.PartitionOf("lobby", 2) {
		t.Fatal("choose other rooms")
	}
	unsent := send(t, c, "hall", 3)
	sent := send(t, c, "lobby", 1)
	f.await(t, "hook")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range unsent {
		if _, err := p.Wait(within(t)); !errors.Is(err, ErrClosed) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("unsent: %v", err)
		}
	}
	for _, p := range sent {
		if _, err := p.Wait(within(t)); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("sent: %v", err)
		}
	}
	if _, err := c.PublishAsync(within(t), "lobby", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("PublishAsync after Close: %v", err)
	}
	if _, err := c.Room(within(t), "lobby"); !errors.Is(err, ErrClosed) {
		t.Errorf("Room after Close: %v", err)
	}
	for _, err := range c.Subscribe(within(t), "lobby") {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("Subscribe after Close: %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	f.await(t, fmt.Sprintf("detach %d", wire.PartitionOf("lobby", 2)))
}

func TestOutstandingIsBounded(t *testing.T) {
	f := startFake(t, 1, 1)
	f.lead(0, -1, true)
	c := f.dial(t)
	payload := make([]byte, 1<<20)
	for range 16 {
		if _, err := c.PublishAsync(context.Background(), "lobby", payload); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	blocked := make(chan error)
	go func() {
		_, err := c.PublishAsync(ctx, "lobby", []byte("one more"))
		blocked <- err
	}()
	waitFor(t, func() bool { c.out.mu.Lock(); defer c.out.mu.Unlock(); return len(c.out.waiters) == 1 })
	cancel()
	if err := <-blocked; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	go func() {
		_, err := c.PublishAsync(context.Background(), "lobby", []byte("one more"))
		blocked <- err
	}()
	waitFor(t, func() bool { c.out.mu.Lock(); defer c.out.mu.Unlock(); return len(c.out.waiters) == 1 })
	f.lead(0, 0, false)
	if err := <-blocked; err != nil {
		t.Error(err)
	}
	if err := c.Flush(within(t)); err != nil {
		t.Error(err)
	}
	if c.out.msgs != 0 || c.out.bytes != 0 {
		t.Errorf("%d messages, %d bytes left", c.out.msgs, c.out.bytes)
	}
}

func TestFlushTellsTheFirstFailureOnce(t *testing.T) {
	f := startFake(t, 1, 1)
	f.onPublish = func(n *fakeNode, _ wire.SessionID, p wire.Publish) act {
		switch string(p.Payload) {
		case "m2":
			return act{refuse: &wire.Refused{Code: wire.CodeDenied}}
		case "m3":
			return act{refuse: &wire.Refused{Code: wire.CodeTooLarge}}
		}
		return act{}
	}
	c := f.dial(t)
	if err := c.Flush(within(t)); err != nil {
		t.Errorf("nothing published: %v", err)
	}
	send(t, c, "lobby", 4)
	if err := c.Flush(within(t)); !errors.Is(err, ErrDenied) {
		t.Errorf("first: %v", err)
	}
	if err := c.Flush(within(t)); err != nil {
		t.Errorf("second: %v", err)
	}
	if _, err := c.Publish(within(t), "lobby", []byte("m2")); !errors.Is(err, ErrDenied) {
		t.Errorf("Publish: %v", err)
	}
	if err := c.Flush(within(t)); err != nil {
		t.Errorf("Publish had told it: %v", err)
	}
}

func TestRefusedLocally(t *testing.T) {
	f := startFake(t, 1, 1)
	c := f.dial(t)
	for _, tt := range []struct {
		name, room string
		size       int
		opts       []PublishOption
		want       error
		words      string
	}{
		{name: "largest", room: "lobby", size: 1 << 20},
		{name: "too large", room: "lobby", size: 1<<20 + 1, want: ErrTooLarge, words: "1048577 bytes"},
		{name: "longest room", room: strings.Repeat("r", 255)},
		{name: "room too long", room: strings.Repeat("r", 256), want: ErrBadRoom, words: "256 bytes"},
		{name: "no room", want: ErrBadRoom, words: "empty"},
		{name: "control character", room: "a\nb", want: ErrBadRoom, words: "control character"},
		{name: "not UTF-8", room: "\xff", want: ErrBadRoom, words: "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Publish(within(t), tt.room, make([]byte, tt.size), tt.opts...)
			if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := c.PublishAsync(within(t), "lobby", nil, As(strings.Repeat("n", 65))); err == nil || !strings.Contains(err.Error(), "65 bytes") {
		t.Errorf("publisher name of 65 bytes: %v", err)
	}
}

// waitFor waits for a state that no event tells, yielding to what leads there.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("did not happen")
		}
	}
}
