package partition

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// wokenCursor counts how often it is woken.
type wokenCursor struct {
	testCursor
	times atomic.Int32
	woken chan struct{}
}

func newWokenCursor() *wokenCursor { return &wokenCursor{woken: make(chan struct{}, 1000)} }

func (c *wokenCursor) Wake() {
	c.times.Add(1)
	c.woken <- struct{}{}
}

// Who waits is woken once, few by Apply and many by the waker; who has something to
// read does not wait.
func TestWait(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	counter := Counter(1)
	for _, n := range []int{1, fewCursors, fewCursors + 1, 300} {
		cursors, watches := make([]*wokenCursor, n), make([]*Watch, n)
		_, last := r.Head("lobby")
		for i := range cursors {
			cursors[i] = newWokenCursor()
			watches[i] = r.Watch("lobby", cursors[i])
			if watches[i].Wait(last) {
				t.Fatal("a cursor waits for what is there")
			}
			if watches[i].Head() != last || !watches[i].Wait(last+1) || !watches[i].Wait(last+1) {
				t.Fatal("a cursor does not wait for what is to come")
			}
		}
		quiet := cursors[n/2]
		watches[n/2].Leave()
		send(t, pub, told, counter+1, "other", "lobby")
		counter += 2
		for i, c := range cursors {
			if c != quiet {
				receive(t, c.woken)
				watches[i].Leave()
			}
		}
		for i, c := range cursors {
			if times := c.times.Load(); c != quiet && times != 1 || c == quiet && times != 0 {
				t.Errorf("cursor %d of %d was woken %d times", i, n, times)
			}
		}
		if watches[0].Wait(1); len(watches[0].room.waiting) > 0 {
			t.Error("one who has left waits")
		}
	}
}

// Nobody waits in a replica without a leader, or is left waiting when it loses it.
func TestWaitStale(t *testing.T) {
	r := openReplica(t, Config{})
	c := newWokenCursor()
	w := r.Watch("lobby", c)
	defer w.Leave()
	if !w.Wait(1) {
		t.Fatal("the cursor does not wait")
	}
	r.mu.Lock()
	r.setStale(true)
	r.mu.Unlock()
	receive(t, c.woken)
	if !w.Wait(1) || r.IsStale() {
		t.Error("a cursor does not wait in a replica that has found its leader again")
	}
	p := r.Partition
	r.close(t)
	p.checkStale()
	if !p.IsStale() || w.Wait(1) {
		t.Error("a cursor waits in a stale replica")
	}
}

// No wake-up is lost however a Wait and an Apply meet.
func TestWaitAgainstApply(t *testing.T) {
	r := openReplica(t, Config{Group: raftlog.Config{RingBytes: 1 << 20}})
	const messages, cursors = 200, 20
	arrived := make(chan struct{}, cursors)
	var running sync.WaitGroup
	for i := range cursors {
		running.Go(func() {
			c := newWokenCursor()
			w := r.Watch("lobby", c)
			defer w.Leave()
			for next := Seq(1); next <= messages; next++ {
				for w.Wait(next) {
					select {
					case <-c.woken:
					case <-time.After(20 * time.Second):
						t.Errorf("cursor %d waits for seq %d for ever", i, next)
						return
					}
				}
				if len(r.Newest("lobby", next, 1)) == 0 {
					t.Errorf("seq %d is not there", next)
				}
				arrived <- struct{}{}
			}
		})
	}
	pub, told := r.session(t, "anna")
	for i := range messages {
		send(t, pub, told, Counter(i+1), "lobby")
		for range cursors { // the next message would wake who has missed this one
			receive(t, arrived)
		}
	}
	running.Wait()
}
