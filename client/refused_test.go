package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/roomlog/roomlog/transport/wire"
)

// leaveAndComeBack makes the lane leave n1's stream, which lives on, for n2,
// and lets it return.
func leaveAndComeBack(t *testing.T, f *fake) {
	t.Helper()
	f.mu.Lock()
	before := f.onAttach
	f.onAttach = func(n *fakeNode, a wire.Attach) *wire.Refused {
		if n.name == "n2" {
			f.event("attach n2")
			return &wire.Refused{Code: wire.CodeUnavailable}
		}
		return nil
	}
	f.mu.Unlock()
	f.lead(0, 1, false)
	f.await(t, "attach n2")
	f.mu.Lock()
	f.onAttach = before
	f.mu.Unlock()
	f.lead(0, 0, false)
}

// scripted lets hooks act on publishes by payload and by how often each came.
func scripted(f *fake, do func(payload string, times int, id wire.SessionID, counter uint64) act) {
	times := make(map[string]int)
	f.onPublish = func(_ *fakeNode, id wire.SessionID, p wire.Publish) act {
		times[string(p.Payload)]++
		return do(string(p.Payload), times[string(p.Payload)], id, p.Counter)
	}
}

// publishWith publishes to the lobby with a ctx of its own.
func publishWith(t *testing.T, c *Client, payload string) (*Pending, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	p, err := c.PublishAsync(ctx, "lobby", []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return p, cancel
}

// A node that lost a partition and won it back still owes the last word to what
// the client sent before. It says nothing about what was sent since.
func TestLastWordToAnEarlierAttach(t *testing.T) {
	f := startFake(t, 2, 1)
	scripted(f, func(payload string, times int, _ wire.SessionID, _ uint64) act {
		switch {
		case payload == "m1" && times == 1:
			f.event("m1")
			return act{drop: true}
		case payload == "m1":
			return act{noAck: true}
		case payload == "m2":
			return act{noAck: true, late: []wire.Frame{
				&wire.Refused{Attach: 1, Counter: 1, Code: wire.CodeNotLeader},
				&wire.Acks{Time: fakeEpoch, Runs: []wire.AckRun{{Counter: 1, Count: 1, Seq: 1}}},
			}}
		}
		return act{}
	})
	c := f.dial(t)
	first, _ := publishWith(t, c, "m1")
	f.await(t, "m1")
	leaveAndComeBack(t, f)
	second, cancel := publishWith(t, c, "m2")
	if r, err := first.Wait(within(t)); err != nil || r.Seq != 1 {
		t.Errorf("m1: %+v, %v", r, err)
	}
	cancel()
	if _, err := second.Wait(within(t)); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("m2, which is in the log: %v", err)
	}
	third, _ := publishWith(t, c, "m3")
	if r, err := third.Wait(within(t)); err != nil || r.Seq != 3 {
		t.Errorf("m3: %+v, %v", r, err)
	}
	checkLog(t, f, "lobby", []*Pending{first, second, third})
}

// The answer to an earlier Attach does not open the session of a later one.
func TestAttachedOfAnEarlierAttach(t *testing.T) {
	c := &Client{out: newOutstanding()}
	if err := c.cfg.check([]string{"a:1"}); err != nil {
		t.Fatal(err)
	}
	l := newLane(c, 0)
	s := newPubStream(&conn{limits: wire.Limits{Window: 8}}, nil)
	b, err := s.bind(l)
	if err != nil {
		t.Fatal(err)
	}
	l.stream, l.binding, l.attachDue = s, b, true
	l.fill(nil, s, 1000)
	old := l.session
	if l.begin(); l.session == old {
		t.Error("the session is the old one")
	}
	if l.onAttached(s, &wire.Attached{Attach: 1}); l.opened {
		t.Error("opened before its Attach was written")
	}
	l.attachDue = true
	l.fill(nil, s, 1000)
	if l.onAttached(s, &wire.Attached{Attach: 1}); l.opened {
		t.Error("opened by the answer to the Attach before")
	}
	if l.onAttached(s, &wire.Attached{Attach: 2}); !l.opened {
		t.Error("not opened by the answer to its Attach")
	}
}

// To a session that has been opened publishes go behind Attach at once.
func TestAttachAgainWithoutWaiting(t *testing.T) {
	f := startFake(t, 2, 1)
	f.noAttached = true
	f.onPublish = once("m2", 1, act{drop: true})
	c := f.dial(t)
	all := send(t, c, "lobby", 2)
	f.await(t, "hook")
	leaveAndComeBack(t, f)
	for i, p := range all {
		if r, err := p.Wait(within(t)); err != nil || r.Seq != uint64(i+1) {
			t.Errorf("m%d: %+v, %v", i+1, r, err)
		}
	}
}

// Acks do not say which Attach they answer. While some for an earlier session may
// come, a new one takes another connection.
func TestNewSessionKeepsClearOfTheOld(t *testing.T) {
	for _, owed := range []bool{true, false} {
		t.Run(fmt.Sprintf("owed=%v", owed), func(t *testing.T) {
			f := startFake(t, 2, 1)
			scripted(f, func(payload string, times int, _ wire.SessionID, _ uint64) act {
				switch {
				case payload == "m1" && times == 1:
					f.event("m1")
					return act{drop: true}
				case payload == "m1" && owed:
					return act{refuse: &wire.Refused{Code: wire.CodeSessionExpired}}
				case payload == "m1":
					return act{refuse: &wire.Refused{Code: wire.CodeSessionExpired}, late: []wire.Frame{
						&wire.Refused{Attach: 1, Counter: 1, Code: wire.CodeNotLeader},
					}}
				case payload == "m2" && times == 1 && owed:
					return act{late: []wire.Frame{
						&wire.Acks{Time: fakeEpoch, Runs: []wire.AckRun{{Counter: 1, Count: 1, Seq: 77}}},
					}}
				}
				return act{}
			})
			c := f.dial(t)
			first, _ := publishWith(t, c, "m1")
			f.await(t, "m1")
			leaveAndComeBack(t, f)
			if _, err := first.Wait(within(t)); !errors.Is(err, ErrSessionExpired) || !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("m1: %v", err)
			}
			if r, err := c.Publish(within(t), "lobby", []byte("m2")); err != nil || r.Seq != 1 {
				t.Errorf("m2: %+v, %v", r, err)
			}
			again := false
			for len(f.events) > 0 {
				again = <-f.events == "welcome n1" || again
			}
			if again != owed {
				t.Errorf("connected again: %v", again)
			}
		})
	}
}

// What nobody waits for any more and is not in the log stays out of it.
func TestEndedPublishIsNotSentAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		code wire.Code
	}{
		{name: "overloaded", code: wire.CodeOverloaded},
		{name: "not the leader", code: wire.CodeNotLeader},
		{name: "session expired", code: wire.CodeSessionExpired},
		{name: "denied", code: wire.CodeDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, 1, 1)
			refuse := make(chan struct{})
			scripted(f, func(payload string, times int, id wire.SessionID, _ uint64) act {
				if payload != "m1" || times > 1 {
					return act{}
				}
				f.event("m1")
				<-refuse
				return act{refuse: &wire.Refused{Code: tt.code, RetryAfter: 1}}
			})
			c := f.dial(t)
			first, cancel := publishWith(t, c, "m1")
			second, _ := publishWith(t, c, "m2")
			f.await(t, "m1")
			cancel()
			if _, err := first.Wait(within(t)); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("m1: %v", err)
			}
			close(refuse)
			if r, err := second.Wait(within(t)); err != nil || r.Seq != 1 {
				t.Errorf("m2: %+v, %v", r, err)
			}
			if err := c.Flush(within(t)); !errors.Is(err, context.Canceled) {
				t.Errorf("Flush = %v", err)
			}
			if c.out.msgs != 0 || c.out.bytes != 0 {
				t.Errorf("%d messages, %d bytes left", c.out.msgs, c.out.bytes)
			}
		})
	}
}

// What nobody waits for any more keeps its counter while it may be in the log.
func TestEndedPublishThatMayBeInTheLog(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before []act // what happens to m1 at first
		refuse wire.Refused
		apply  bool
	}{
		{name: "the server cannot tell", refuse: wire.Refused{Code: wire.CodeUnknownOutcome, Maybe: true}, apply: true},
		{name: "the server wants a higher one", refuse: wire.Refused{Code: wire.CodeOutOfOrder, Want: 2}, apply: true},
		{name: "an earlier attempt got no answer", before: []act{{noAck: true}}, refuse: wire.Refused{Code: wire.CodeOverloaded, RetryAfter: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, 1, 1)
			refuse := make(chan struct{})
			scripted(f, func(payload string, times int, _ wire.SessionID, _ uint64) act {
				switch {
				case payload == "m1" && times <= len(tt.before):
					return tt.before[times-1]
				case payload == "m1" && times == len(tt.before)+1:
					f.event("m1")
					<-refuse
					return act{refuse: &tt.refuse, apply: tt.apply}
				case payload == "m2" && times == 1 && tt.before != nil: // the last word to m1 too
					return act{refuse: &wire.Refused{Code: wire.CodeOverloaded, RetryAfter: 1}}
				}
				return act{}
			})
			c := f.dial(t)
			first, cancel := publishWith(t, c, "m1")
			second, _ := publishWith(t, c, "m2")
			f.await(t, "m1")
			cancel()
			if _, err := first.Wait(within(t)); !errors.Is(err, ErrOutcomeUnknown) {
				t.Errorf("m1: %v", err)
			}
			close(refuse)
			if r, err := second.Wait(within(t)); err != nil || r.Seq != 2 {
				t.Errorf("m2: %+v, %v", r, err)
			}
			checkLog(t, f, "lobby", []*Pending{first, second})
		})
	}
}

// A refusal is the last word, even to those below that got no answer.
func TestRefusedBehindOneWithoutAnAnswer(t *testing.T) {
	f := startFake(t, 1, 1)
	scripted(f, func(payload string, times int, _ wire.SessionID, _ uint64) act {
		switch {
		case payload == "m1" && times == 1:
			return act{noAck: true}
		case payload == "m2" && times == 1:
			return act{refuse: &wire.Refused{Code: wire.CodeOverloaded, RetryAfter: 1}}
		}
		return act{}
	})
	c := f.dial(t)
	all := send(t, c, "lobby", 3)
	for i, p := range all {
		if r, err := p.Wait(within(t)); err != nil || r.Seq != uint64(i+1) || r.Duplicate != (i == 0) {
			t.Errorf("m%d: %+v, %v", i+1, r, err)
		}
	}
}

// A server may want a counter that has been answered since.
func TestOutOfOrderWantsAnAnsweredCounter(t *testing.T) {
	for _, tt := range []struct {
		name  string
		times int
		fails error
	}{
		{name: "a few times", times: 3},
		{name: "always", times: 1 << 30, fails: ErrSessionExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, 1, 1)
			scripted(f, func(payload string, times int, _ wire.SessionID, counter uint64) act {
				switch {
				case payload == "m2" && times == 1:
					return act{kill: true} // it may be in the log
				case payload == "m2" && times <= 1+tt.times:
					return act{refuse: &wire.Refused{Code: wire.CodeOutOfOrder, Want: 1}}
				}
				return act{}
			})
			c := f.dial(t)
			if _, err := c.Publish(within(t), "lobby", []byte("m1")); err != nil {
				t.Fatal(err)
			}
			p, _ := publishWith(t, c, "m2")
			r, err := p.Wait(within(t))
			if !errors.Is(err, tt.fails) || err == nil && r.Seq != 2 {
				t.Errorf("m2: %+v, %v, want %v", r, err, tt.fails)
			}
			if r, err := c.Publish(within(t), "lobby", []byte("m3")); err != nil || int(r.Seq) != len(f.room("lobby")) {
				t.Errorf("m3: %+v, %v", r, err)
			}
		})
	}
}

// What is acked out of turn may be sent again; its caller has the buffer back.
func TestAckOutOfTurn(t *testing.T) {
	f := startFake(t, 1, 1)
	changed := make(chan string, 1)
	scripted(f, func(payload string, times int, _ wire.SessionID, counter uint64) act {
		switch {
		case payload == "m1" && times == 1:
			return act{noAck: true}
		case counter == 2 && times > 1, payload == "xx":
			changed <- payload
		}
		return act{}
	})
	c := f.dial(t)
	first, _ := publishWith(t, c, "m1")
	payload := []byte("m2")
	if r, err := c.Publish(within(t), "lobby", payload); err != nil || r.Seq != 2 {
		t.Fatalf("m2: %+v, %v", r, err)
	}
	copy(payload, "xx")
	f.nodes[0].breakConns(0)
	if r, err := first.Wait(within(t)); err != nil || r.Seq != 1 || !r.Duplicate {
		t.Errorf("m1: %+v, %v", r, err)
	}
	if got := <-changed; got != "m2" {
		t.Errorf("sent %q again", got)
	}
}

// The end of the publish stream ends the connection: the server may still have
// it open, and a second one is against the protocol.
func TestPublishStreamEnds(t *testing.T) {
	f := startFake(t, 1, 1)
	f.onPublish = once("m3", 2, act{end: true})
	c := f.dial(t)
	all := send(t, c, "lobby", 10)
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	checkLog(t, f, "lobby", all)
	for len(f.events) > 0 {
		if e := <-f.events; e == "second publish stream" {
			t.Error(e)
		}
	}
}

// publishing is a log handler that publishes what it is given.
type publishing struct {
	slog.Handler
	c    atomic.Pointer[Client]
	told chan error
}

func (h *publishing) Handle(ctx context.Context, r slog.Record) error {
	c := h.c.Load()
	if c == nil || r.Level < slog.LevelWarn {
		return nil
	}
	_, err := c.Publish(ctx, "log", []byte(r.Message))
	select {
	case h.told <- err:
	default:
	}
	return err
}

func (h *publishing) Enabled(context.Context, slog.Level) bool { return true }

func TestLogHandlerMayPublish(t *testing.T) {
	f := startFake(t, 1, 1)
	f.onPublish = once("m1", 1, act{refuse: &wire.Refused{Code: wire.CodeSessionExpired}})
	h := &publishing{Handler: slog.DiscardHandler, told: make(chan error, 1)}
	c := f.dial(t, WithLogger(slog.New(h)))
	h.c.Store(c)
	if _, err := c.Publish(within(t), "lobby", []byte("m1")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-h.told:
		if err != nil {
			t.Error(err)
		}
	case <-within(t).Done():
		t.Fatal("the handler does not return")
	}
	if log := f.room("log"); len(log) != 1 || log[0].payload != "publisher session is over" {
		t.Errorf("logged %v", log)
	}
}

// All that was logged before Close is handed on, in order.
func TestLogsAreHandedOn(t *testing.T) {
	var got []string
	logs := newLogs(&gathering{Handler: slog.DiscardHandler, got: &got})
	for i := range maxLogged + 5 { // the last five find no room
		slog.New(logs).Info(fmt.Sprint(i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	logs.run(ctx)
	if len(got) != maxLogged || got[0] != "0" || got[maxLogged-1] != fmt.Sprint(maxLogged-1) {
		t.Errorf("%d records, %v", len(got), got)
	}
}

type gathering struct {
	slog.Handler
	got *[]string
}

func (h *gathering) Handle(_ context.Context, r slog.Record) error {
	*h.got = append(*h.got, r.Message)
	return nil
}

func (h *gathering) Enabled(context.Context, slog.Level) bool { return true }
