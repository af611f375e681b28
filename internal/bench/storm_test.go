package bench

import (
	"testing"
	"testing/synctest"
	"time"
)

// quietStorm is a storm of so many clients, without a cluster.
func quietStorm(clients int) *storm {
	w := &storm{
		report: &StormReport{Settings: Settings{Clients: clients}}, failed: make(chan error, 1),
		resumed: make([]time.Duration, clients), awaited: clients, all: make(chan struct{}),
	}
	w.crowd, w.aside = &load{audience: newAudience(nil)}, &load{audience: newAudience(nil)}
	return w
}

func (w *storm) over() bool {
	select {
	case <-w.all:
		return true
	default:
		return false
	}
}

// A client has resumed with the first message that was due after the fault.
func TestStormResumed(t *testing.T) {
	w := quietStorm(2)
	first, second := &subscriber{index: 0}, &subscriber{index: 1}
	hear := func(s *subscriber, due, now time.Duration) { w.heard(s, header{due: due}, now) }
	hear(first, time.Second, time.Second)
	w.failedAt.Store(int64(2 * time.Second))
	hear(first, 1900*time.Millisecond, 3*time.Second) // due before
	if w.awaited != 2 {
		t.Error("resumed with a message from before the fault")
	}
	hear(first, 2*time.Second, 3*time.Second)
	hear(first, 3*time.Second, 4*time.Second)
	if w.over() {
		t.Error("over, and one is still to come")
	}
	hear(second, 2500*time.Millisecond, 5*time.Second)
	if !w.over() || w.resumed[0] != time.Second || w.resumed[1] != 3*time.Second {
		t.Errorf("over: %v; resumed after %v, want 1 s and 3 s", w.over(), w.resumed)
	}
}

// A bystander's message counts by when it was due: before the fault, in the storm, or
// not at all.
func TestStormBystanders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := quietStorm(1)
		time.Sleep(time.Second)
		w.aside.audience.clock = startClock() // a second later than the crowd's
		s := &subscriber{}
		hear := func(due, took time.Duration) { w.heardAside(s, header{due: due}, due+took) }
		hear(500*time.Millisecond, time.Millisecond)
		w.failedAt.Store(int64(2 * time.Second))
		hear(999*time.Millisecond, 9*time.Millisecond) // due just before
		hear(time.Second, 100*time.Millisecond)
		hear(2*time.Second, 200*time.Millisecond)
		hear(3*time.Second, 300*time.Millisecond)
		close(w.all)
		hear(4*time.Second, time.Hour)
		before, during := w.before.total(), w.during.total()
		if before.TotalCount() != 2 || during.TotalCount() != 3 {
			t.Errorf("%d before and %d in the storm, want 2 and 3", before.TotalCount(), during.TotalCount())
		}
		if max := during.Max(); max < 299_000 || max > 301_000 {
			t.Errorf("at most %d µs in the storm, want 300 ms", max)
		}
	})
}
