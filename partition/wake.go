package partition

import (
	"context"
	"runtime"
	"sync"
)

// Wait makes the cursor be woken, once, when there is a message from next on or
// the replica is Stale. It returns false, and does nothing, if that is so already.
func (w *Watch) Wait(next Seq) bool {
	w.partition.IsStale() // may find that it is no more
	r := w.room
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case w.left || w.waits >= 0:
		return true
	case Seq(r.last.Load()) >= next || w.partition.unled.Load():
		return false
	}
	// Whoever sets one of the two takes the waiting only then: it sees this one.
	w.waits = len(r.waiting)
	r.waiting = append(r.waiting, w)
	return true
}

// stopWaiting ends a Wait and all those to come.
func (w *Watch) stopWaiting() {
	r := w.room
	r.mu.Lock()
	defer r.mu.Unlock()
	w.left = true
	if w.waits < 0 {
		return
	}
	last := len(r.waiting) - 1
	r.waiting[w.waits] = r.waiting[last]
	r.waiting[w.waits].waits = w.waits
	r.waiting[last] = nil
	r.waiting = r.waiting[:last]
	w.waits = -1
}

// takeWaiting returns who waits for the room.
func (r *watchedRoom) takeWaiting() (crowd crowd) {
	r.mu.Lock()
	defer r.mu.Unlock()
	crowd.room, crowd.cursors = r, r.waiting
	r.waiting, r.spare = r.spare, nil
	for _, w := range crowd.cursors {
		w.waits = -1
	}
	return crowd
}

// crowd is cursors that are to be woken.
type crowd struct {
	room    *watchedRoom
	cursors []*Watch
}

func (c crowd) wake() {
	for i, w := range c.cursors {
		if i > 0 && i%wokenAtOnce == 0 {
			runtime.Gosched()
		}
		w.cursor.Wake()
	}
	clear(c.cursors)
	c.room.mu.Lock()
	c.room.spare = c.cursors[:0]
	c.room.mu.Unlock()
}

// waker wakes cursors. Few of them are woken by Apply itself, which is soonest;
// for many it only says who they are, for it must not wait for a crowd.
type waker struct {
	kick chan struct{} // one token: there are crowds

	mu     sync.Mutex
	crowds []crowd
}

const fewCursors = 8

// wokenAtOnce is how many cursors of a crowd are woken before others may run: what
// each of them begins takes turns with everything else in the process, and what
// passes through several goroutines, like a heartbeat, takes several turns.
const wokenAtOnce = 32

func (k *waker) wake(r *watchedRoom) {
	if c := r.takeWaiting(); len(c.cursors) > fewCursors {
		k.later(c)
	} else {
		c.wake()
	}
}

// later leaves a crowd to run.
func (k *waker) later(c crowd) {
	k.mu.Lock()
	k.crowds = append(k.crowds, c)
	k.mu.Unlock()
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

func (k *waker) run(ctx context.Context) {
	for {
		select {
		case <-k.kick:
		case <-ctx.Done():
			return
		}
		k.mu.Lock()
		crowds := k.crowds
		k.crowds = nil
		k.mu.Unlock()
		for _, c := range crowds {
			c.wake()
		}
	}
}

// Head is the room's last seq on this replica, as Wait knows it.
func (w *Watch) Head() Seq { return Seq(w.room.last.Load()) }
