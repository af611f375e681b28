package partition

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// While leadership is handed over publishes wait: what was on its way is answered
// first, and what came meanwhile is refused by a leader that knows it is none, or
// proposed by one that still leads.
func TestHandOverHoldsPublishes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leads bool // afterwards
	}{{"another leads", false}, {"it still leads", true}} {
		t.Run(tt.name, func(t *testing.T) {
			proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
				pub, e := f.opened("a")
				pub.Publish(1, 1, nil, []byte("r"), []byte("x"))
				before := f.next()
				moving, moved := make(chan struct{}), make(chan error)
				go func() {
					moved <- f.gate.hold(t.Context(), func() error { <-moving; f.leads.Store(tt.leads); return nil })
				}()
				if f.next(); before == nil {
					t.Fatal("nothing was proposed before")
				}
				pub.Publish(2, 1, nil, []byte("r"), []byte("y"))
				if got := f.next(); got != nil {
					t.Fatalf("proposed during the hand-over: %s", counters(t, got))
				}
				f.commit(before)
				if a, ok := e.next(t).([]Answer); !ok || a[0].Counter != 1 {
					t.Fatalf("the publish on its way got %v", a)
				}
				if got, ok := e.none(); ok {
					t.Fatalf("the publish that waits got %v before leadership had moved", got)
				}
				close(moving)
				if err := <-moved; err != nil {
					t.Fatal(err)
				}
				held := f.next()
				if tt.leads {
					if counters(t, held) == "none" {
						t.Fatal("a leader that stays did not propose what had waited")
					}
					f.commit(held)
					return
				}
				r, ok := e.next(t).(Refusal)
				if !ok || !errors.Is(r.Err, ErrNotLeader) || r.Maybe || r.Counter != 2 {
					t.Errorf("what had waited got %+v, want a sure refusal of 2", r)
				}
			})
		})
	}
}

// A hand-over does not wait for ever for what is on its way, and there is one at a
// time.
func TestHandOverIsBounded(t *testing.T) {
	proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
		pub, _ := f.opened("a")
		pub.Publish(1, 1, nil, []byte("r"), []byte("x"))
		stuck := f.next()
		began := time.Now()
		err := f.gate.hold(t.Context(), func() error {
			if took := time.Since(began); took != finishWait {
				t.Errorf("waited %v for an entry without an answer", took)
			}
			return f.gate.hold(t.Context(), func() error { return nil })
		})
		if !errors.Is(err, raftlog.ErrTransferring) {
			t.Errorf("a second hand-over = %v", err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.gate.hold(ended, func() error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("a hand-over whose time is over = %v", err)
		}
		f.commit(stuck)
	})
}
