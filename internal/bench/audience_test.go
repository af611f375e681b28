package bench

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// listener is one subscriber of one room, without a cluster.
func listener(published uint64) (*audience, *subscriber) {
	r := &room{published: published}
	a := newAudience([]*room{r})
	s := &subscriber{room: r}
	a.subs = []*subscriber{s}
	return a, s
}

// TestTake: a message counts as delivered when it comes in the window, and its
// latency when it was due there; a mark ends the round; all are checked.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s := listener(6)
		r := newRound(3, window{1 * time.Second, 2 * time.Second}, 1)
		a.round.Store(r)
		take := func(number uint64, due time.Duration, mark uint32) {
			a.take(s, header{number: number, due: due, mark: mark})
		}
		take(0, 0, 2) // of the round before
		time.Sleep(500 * time.Millisecond)
		take(1, 400*time.Millisecond, 0) // early
		time.Sleep(700 * time.Millisecond)
		take(2, 900*time.Millisecond, 0)  // due early, comes in time
		take(3, 1100*time.Millisecond, 0) // both
		time.Sleep(time.Second)
		take(4, 1800*time.Millisecond, 0) // comes late
		select {
		case <-r.all:
			t.Error("the round has ended without its mark")
		default:
		}
		take(5, 0, 3)
		if err := a.await(t.Context(), r); err != nil {
			t.Error(err)
		}
		h := r.recorder.total()
		if r.inTime.Load() != 2 || h.TotalCount() != 2 || h.Max() < 399_000 || h.Max() > 401_000 {
			t.Errorf("%d in the window; %d latencies, at most %d µs; want 2, 2 and 400 ms", r.inTime.Load(), h.TotalCount(), h.Max())
		}
		if f := a.faults(); f != (Faults{}) {
			t.Errorf("%+v", f)
		}
	})
}

// TestTakeFaults: what a subscriber did not get, got twice or late is told.
func TestTakeFaults(t *testing.T) {
	a, s := listener(7)
	a.round.Store(newRound(1, window{}, 1))
	for _, n := range []uint64{0, 2, 1, 4, 4} { // 3, 5 and 6 are missing
		a.take(s, header{number: n})
	}
	if got, want := a.faults(), (Faults{Missing: 3, Duplicates: 1, Reordered: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestHopeless: a round that may be ended early is, when a message comes too
// late.
func TestHopeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s := listener(2)
		r := newRound(1, window{0, time.Hour}, 1)
		stopped := 0
		r.hopeless, r.stop = time.Second, func() { stopped++ }
		a.round.Store(r)
		time.Sleep(3 * time.Second)
		a.take(s, header{number: 0, due: 2 * time.Second})
		if stopped != 0 {
			t.Error("ended for a message that is a second late")
		}
		a.take(s, header{number: 1, due: 1 * time.Second})
		if stopped != 1 {
			t.Error("not ended for a message that is two seconds late")
		}
	})
}

// TestAwaitSilence: as long as something comes it is waited for, but silence ends
// that.
func TestAwaitSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s := listener(9)
		r := newRound(1, window{}, 1)
		a.round.Store(r)
		began := time.Now()
		go func() {
			for n := range uint64(5) {
				time.Sleep(10 * time.Second)
				a.take(s, header{number: n})
			}
		}()
		if err := a.await(t.Context(), r); !errors.Is(err, errSilence) {
			t.Errorf("await: %v", err)
		}
		if took := time.Since(began); took < 65*time.Second || took > 70*time.Second {
			t.Errorf("gave up after %v; the last message came after 50 s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.await(ctx, r); !errors.Is(err, context.Canceled) {
			t.Errorf("await after the end of its context: %v", err)
		}
		broken := errors.New("broken")
		a.fail(broken)
		a.fail(errors.New("another"))
		if err := a.await(t.Context(), r); err != broken {
			t.Errorf("await with a failed subscriber: %v", err)
		}
	})
}

// TestMayStart: so many subscribers start at once; another one when one of them
// has its first message, and none when none gets it.
func TestMayStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s := listener(1)
		first := newRound(1, window{}, 5)
		first.starting = make(chan struct{}, 2)
		a.round.Store(first)
		for range 2 {
			if err := a.mayStart(t.Context(), first); err != nil {
				t.Fatal(err)
			}
		}
		time.AfterFunc(time.Second, func() { a.take(s, header{mark: 1}) })
		began := time.Now()
		if err := a.mayStart(t.Context(), first); err != nil || time.Since(began) != time.Second {
			t.Errorf("the third: %v after %v, want it when the first has its message", err, time.Since(began))
		}
		if err := a.mayStart(t.Context(), first); !errors.Is(err, errSilence) {
			t.Errorf("the fourth: %v", err)
		}
		broken := errors.New("broken")
		a.fail(broken)
		if err := a.mayStart(t.Context(), first); err != broken {
			t.Errorf("with a failed subscriber: %v", err)
		}
	})
}
