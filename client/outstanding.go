package client

import (
	"context"
	"sync"
)

// What may be on its way at once, for all partitions of a client. PublishAsync
// blocks beyond.
const (
	maxMessages = 8192
	maxBytes    = 16 << 20
)

// outstanding bounds what the client holds and counts what Flush waits for.
// Its mutex is taken last: under a lane's or none.
type outstanding struct {
	mu      sync.Mutex
	msgs    int
	bytes   int
	waiters []*waiter // who waits for room, first come first served
	closed  bool
	now     *generation   // of publishes since the last Flush
	past    []*generation // which a Flush began to wait for
}

// waiter is a publish that waits for room. ready is closed when it got it, or
// with the client.
type waiter struct {
	size    int
	ready   chan struct{}
	granted bool
}

// generation counts the publishes between two calls of Flush.
type generation struct {
	open int
	err  error         // the first failure
	done chan struct{} // closed when open has fallen to 0; nil while nobody waits
}

func newOutstanding() *outstanding { return &outstanding{now: &generation{}} }

func (o *outstanding) fits(size int) bool {
	return o.msgs < maxMessages && (o.bytes+size <= maxBytes || o.msgs == 0)
}

// acquire takes room for a message, waiting for it if need be.
func (o *outstanding) acquire(ctx context.Context, size int) (*generation, error) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil, ErrClosed
	}
	if len(o.waiters) == 0 && o.fits(size) {
		g := o.take(size)
		o.mu.Unlock()
		return g, nil
	}
	w := &waiter{size: size, ready: make(chan struct{})}
	o.waiters = append(o.waiters, w)
	o.mu.Unlock()

	var end error
	select {
	case <-w.ready:
	case <-ctx.Done():
		end = ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case w.granted && end == nil:
		o.now.open++
		return o.now, nil
	case w.granted: // both at once
		o.free(1, size)
	case o.closed && end == nil:
		end = ErrClosed
	default:
		o.drop(w)
	}
	return nil, end
}

func (o *outstanding) take(size int) *generation {
	o.msgs++
	o.bytes += size
	o.now.open++
	return o.now
}

func (o *outstanding) drop(w *waiter) {
	for i, have := range o.waiters {
		if have == w {
			o.waiters = append(o.waiters[:i], o.waiters[i+1:]...)
			break
		}
	}
	o.grant() // w may have been what the others waited behind
}

// free gives room back.
func (o *outstanding) free(msgs, bytes int) {
	o.msgs -= msgs
	o.bytes -= bytes
	o.grant()
}

func (o *outstanding) grant() {
	for len(o.waiters) > 0 && o.fits(o.waiters[0].size) {
		w := o.waiters[0]
		o.waiters = o.waiters[1:]
		o.msgs++
		o.bytes += w.size
		w.granted = true
		close(w.ready)
	}
}

// tally gathers what became of several publishes, to settle them at once.
type tally struct {
	gen   *generation
	ended int   // publishes that have their answer
	err   error // their first failure
	msgs  int   // publishes that no longer need memory
	bytes int
}

func (o *outstanding) settle(t *tally) {
	if t.ended == 0 && t.msgs == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if g := t.gen; g != nil {
		if g.err == nil {
			g.err = t.err
		}
		g.open -= t.ended
		if g.open == 0 && g.done != nil {
			close(g.done)
			g.done = nil
		}
	}
	o.free(t.msgs, t.bytes)
	*t = tally{}
}

// flush waits for every publish made before and returns the first failure. If
// ctx ends earlier, what is left is for the next flush.
func (o *outstanding) flush(ctx context.Context) error {
	o.mu.Lock()
	o.past = append(o.past, o.now)
	o.now = &generation{}
	wait := make([]*generation, len(o.past))
	copy(wait, o.past)
	o.mu.Unlock()

	for _, g := range wait {
		if err := o.await(ctx, g); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var first error
	for _, g := range wait {
		for i, have := range o.past {
			if have == g {
				o.past = append(o.past[:i], o.past[i+1:]...)
				break
			}
		}
		if first == nil {
			first = g.err
		}
		g.err = nil // told once, also to flushes at the same time
	}
	return first
}

func (o *outstanding) await(ctx context.Context, g *generation) error {
	o.mu.Lock()
	if g.open == 0 {
		o.mu.Unlock()
		return nil
	}
	if g.done == nil {
		g.done = make(chan struct{})
	}
	done := g.done
	o.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close refuses what comes, and those who wait for room.
func (o *outstanding) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for _, w := range o.waiters {
		close(w.ready)
	}
	o.waiters = nil
}
