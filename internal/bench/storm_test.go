package bench

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/client"
)

// A client has resumed with the first message that was due after the node had ended,
// not with one that the node has still served.
func TestStormResumed(t *testing.T) {
	w := newCrowd(nil, crowdOrder{Settings: Settings{Clients: 2}})
	over := func() bool {
		select {
		case <-w.all:
			return true
		default:
			return false
		}
	}
	first, second := &subscriber{index: 0}, &subscriber{index: 1}
	hear := func(s *subscriber, due, now time.Duration) { w.heard(s, header{due: due}, now) }
	hear(first, time.Second, time.Second)
	w.failedAt.Store(int64(2 * time.Second))
	hear(first, 2*time.Second, 2500*time.Millisecond) // by the node that is about to end
	w.endedAt.Store(int64(3 * time.Second))
	hear(first, 2900*time.Millisecond, 3200*time.Millisecond) // due before
	if w.awaited != 2 {
		t.Error("resumed with a message from before the node's end")
	}
	hear(first, 3*time.Second, 4*time.Second)
	hear(first, 4*time.Second, 9*time.Second)
	if over() {
		t.Error("over, and one is still to come")
	}
	hear(second, 3500*time.Millisecond, 5*time.Second)
	if !over() || w.refugees[0].resumed != 2*time.Second || w.refugees[1].resumed != 3*time.Second {
		t.Errorf("over: %v; resumed: %v, want after 2 s and 3 s", over(), w.refugees)
	}
	if w.refugees[0].silence != 800*time.Millisecond || w.refugees[1].silence != 3*time.Second {
		t.Errorf("silences: %v, want 800 ms and 3 s", w.refugees)
	}
}

// A talk that gets rid of nothing is given up, and so is a flush.
func TestStormEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		talk := &talk{stop: func() {}, ended: make(chan struct{})}
		if err := talk.end(); err != errStuck {
			t.Errorf("a talk without an end: %v, want %v", err, errStuck)
		}
		close(talk.ended)
		if err := talk.end(); err != nil {
			t.Errorf("a talk that has ended: %v", err)
		}
		if err := flush(t.Context(), stuck{}); err != errStuck {
			t.Errorf("a flush without an end: %v, want %v", err, errStuck)
		}
	})
}

// stuck has publishes that nobody answers.
type stuck struct{}

func (stuck) Flush(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A bystander's message counts by when it was due: before the fault, in the storm, or
// not at all.
func TestStormBystanders(t *testing.T) {
	w := newStorm(&Target{nodes: make([]client.Node, 3)}, &StormReport{})
	s := &subscriber{}
	hear := func(due, took time.Duration) { w.heardAside(s, header{due: due}, due+took) }
	hear(500*time.Millisecond, time.Millisecond)
	w.failedAt.Store(int64(time.Second))
	hear(999*time.Millisecond, 9*time.Millisecond) // due just before
	hear(time.Second, 100*time.Millisecond)
	hear(2*time.Second, 200*time.Millisecond)
	hear(3*time.Second, 300*time.Millisecond)
	close(w.over)
	hear(4*time.Second, time.Hour)
	before, during := w.before.total(), w.during.total()
	if before.TotalCount() != 2 || during.TotalCount() != 3 {
		t.Errorf("%d before and %d in the storm, want 2 and 3", before.TotalCount(), during.TotalCount())
	}
	if max := during.Max(); max < 299_000 || max > 301_000 {
		t.Errorf("at most %d µs in the storm, want 300 ms", max)
	}
}

// Times are told to the crowd's process by the wall clock.
func TestStormCrowdHearsOfTimes(t *testing.T) {
	w := newCrowd(nil, crowdOrder{})
	w.load = &load{audience: newAudience(nil)}
	failed := w.load.audience.clock.began.Add(2 * time.Second)
	said, err := json.Marshal(crowdWord{Failed: failed})
	if err != nil {
		t.Fatal(err)
	}
	var word crowdWord
	if err := json.Unmarshal(said, &word); err != nil {
		t.Fatal(err)
	}
	w.hearOf(word)
	w.hearOf(crowdWord{Ended: failed.Add(time.Second)})
	if at, ended := time.Duration(w.failedAt.Load()), time.Duration(w.endedAt.Load()); at != 2*time.Second || ended != 3*time.Second {
		t.Errorf("failed at %v, ended at %v, want 2 s and 3 s", at, ended)
	}
}
