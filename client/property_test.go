package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/roomlog/roomlog/transport/wire"
)

// Whatever goes wrong: what is acked is in the log once under its number, what
// failed without ErrOutcomeUnknown is not there, and each room is in the order
// of the calls. The faults are drawn beforehand, one for each publish that
// reaches a server, so that a run can be drawn again.
func TestAnyFaults(t *testing.T) {
	t.Parallel()
	faults := []act{
		{refuse: &wire.Refused{Code: wire.CodeOverloaded, RetryAfter: 1}},
		{refuse: &wire.Refused{Code: wire.CodeUnavailable}},
		{refuse: &wire.Refused{Code: wire.CodeNotLeader}},
		{refuse: &wire.Refused{Code: wire.CodeDenied}},
		{refuse: &wire.Refused{Code: wire.CodeUnknownOutcome, Maybe: true}},
		{refuse: &wire.Refused{Code: wire.CodeUnknownOutcome, Maybe: true}, apply: true},
		{refuse: &wire.Refused{Code: wire.CodeSessionExpired}},
		{kill: true},
		{kill: true, apply: true},
	}
	rapid.Check(t, func(rt *rapid.T) {
		f, err := newFake(2, 2)
		if err != nil {
			rt.Fatal(err)
		}
		defer f.stop()
		f.lastWords = true
		script := rapid.SliceOfN(rapid.IntRange(-12, len(faults)+2), 0, 60).Draw(rt, "script")
		cancelled := rapid.SliceOfNDistinct(rapid.IntRange(0, 59), 0, 4, rapid.ID).Draw(rt, "cancelled")
		f.onPublish = func(n *fakeNode, id wire.SessionID, p wire.Publish) act {
			if len(script) == 0 {
				return act{}
			}
			do := script[0]
			script = script[1:]
			switch {
			case do < 0:
				return act{}
			case do == len(faults): // the leader moves, for some to see
				part := n.f.parts[wire.PartitionOf(p.Room, 2)]
				part.leader = 1 - part.leader
				part.term++
				return act{}
			case do == len(faults)+1: // it moves, for all to see, and perhaps back
				part := n.f.parts[wire.PartitionOf(p.Room, 2)]
				part.leader = 1 - part.leader
				part.term++
				n.f.tellLocked()
				return act{}
			case do > len(faults): // all sessions are forgotten, and all connections break
				for _, p := range n.f.parts {
					clear(p.sessions)
				}
				return act{kill: true}
			}
			a := faults[do]
			// A refusal to a session that has got through would be a lie.
			if a.refuse != nil && !a.refuse.Maybe {
				if s := n.f.parts[wire.PartitionOf(p.Room, 2)].sessions[id]; s != nil && p.Counter <= s.last {
					return act{}
				}
			}
			if a.refuse != nil && a.refuse.Code == wire.CodeSessionExpired {
				delete(n.f.parts[wire.PartitionOf(p.Room, 2)].sessions, id)
			}
			return a
		}
		run(rt, f, cancelled)
	})
}

type failer interface {
	Errorf(string, ...any)
	Fatal(...any)
}

// run publishes 60 messages to three rooms and checks what became of them.
func run(t failer, f *fake, cancelled []int) {
	ctx, cancel := context.WithTimeout(context.Background(), quiteLong)
	defer cancel()
	c, err := Dial(ctx, f.addrs(), f.options()...)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rooms := []string{"lobby", "hall", "yard"}
	var all []*Pending
	for i := range 60 {
		mine, end := context.WithCancel(ctx)
		p, err := c.PublishAsync(mine, rooms[i%3], fmt.Appendf(nil, "m%d", i))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
		for _, n := range cancelled {
			if n == i {
				end()
			}
		}
		defer end()
	}
	c.Flush(ctx)
	if ctx.Err() != nil {
		t.Fatal("publishes without an answer")
	}
	seqs := make(map[string]uint64)
	for _, room := range rooms {
		last := -1
		for i, m := range f.room(room) {
			var nr int
			fmt.Sscanf(m.payload, "m%d", &nr)
			if seqs[m.payload] != 0 || nr <= last {
				t.Errorf("room %q: %s at %d, behind m%d", room, m.payload, i+1, last)
			}
			seqs[m.payload], last = uint64(i+1), nr
		}
	}
	for i, p := range all {
		r, err := p.Wait(ctx)
		have := seqs[fmt.Sprintf("m%d", i)]
		switch {
		case err == nil && have != r.Seq:
			t.Errorf("m%d was acked with seq %d, the log has %d", i, r.Seq, have)
		case err != nil && !errors.Is(err, ErrOutcomeUnknown) && have != 0:
			t.Errorf("m%d failed with %v, the log has it at %d", i, err, have)
		}
	}
}

// Rings are queues that also lose things in the middle.
func TestRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ring
		var model []*Pending
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				p := &Pending{}
				r.push(p)
				model = append(model, p)
			},
			"pop": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				if r.pop() != model[0] {
					t.Fatal("popped another")
				}
				model = model[1:]
			},
			"keep": func(t *rapid.T) {
				from := rapid.IntRange(0, len(model)).Draw(t, "from")
				drop := make(map[*Pending]bool)
				kept := append([]*Pending(nil), model[:from]...)
				for _, p := range model[from:] {
					if drop[p] = rapid.Bool().Draw(t, "drop"); !drop[p] {
						kept = append(kept, p)
					}
				}
				r.keep(from, func(p *Pending) bool { return !drop[p] })
				model = kept
			},
			"": func(t *rapid.T) {
				if r.n != len(model) {
					t.Fatalf("%d, want %d", r.n, len(model))
				}
				for i, p := range model {
					if r.at(i) != p {
						t.Fatalf("another at %d", i)
					}
				}
			},
		})
	})
}

// Publishes from many goroutines, each in its own order, while leaders move.
func TestConcurrentPublishers(t *testing.T) {
	f := startFake(t, 3, 4)
	c := f.dial(t)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			room := fmt.Sprintf("room %d", g)
			for i := range 50 {
				if g == 0 && i%10 == 5 {
					f.lead(i%4, i%3, i%20 == 5)
				}
				r, err := c.Publish(within(t), room, fmt.Appendf(nil, "m%d", i+1))
				if err != nil || r.Seq != uint64(i+1) {
					t.Errorf("%s: publish %d: %+v, %v", room, i+1, r, err)
				}
			}
		})
	}
	all.Wait()
	if err := c.Flush(within(t)); err != nil {
		t.Error(err)
	}
}
