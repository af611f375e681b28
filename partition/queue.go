package partition

import (
	"context"
	"sync"
	"time"
)

// item is a piece of work for the proposer.
type item struct {
	kind entryKind
	message
	came time.Duration // since epoch: when it came or, behind others, the last take before
}

// queue holds what waits to be proposed, in the order of arrival, up to a
// number of bytes; beyond them push answers ErrOverloaded. Safe for concurrent use.
type queue struct {
	max  int64
	wake chan struct{} // one token: something came into the empty queue

	mu     sync.Mutex
	items  []item
	bytes  int64
	arena  []byte        // room for the next items' bytes
	clock  time.Duration // of the next items' coming
	closed error
}

// itemCost is what an item costs in memory beside its bytes, entryCost what it
// may cost in an entry: a run, a record, a session, the head of a block.
const (
	itemCost  = 128
	entryCost = 64
)

// arenaSize is the step in which the queue allocates. Items of one step share
// their fate: its memory is free when all of them are answered.
const arenaSize = 64 << 10

func newQueue(max int64) *queue {
	return &queue{max: max, wake: make(chan struct{}, 1)}
}

// push copies it and its bytes.
func (q *queue) push(it item) error {
	size := len(it.name) + len(it.room) + len(it.payload)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed != nil:
		return q.closed
	case q.bytes+int64(size)+itemCost > q.max && len(q.items) > 0:
		return ErrOverloaded
	}
	q.bytes += int64(size) + itemCost
	if size > cap(q.arena)-len(q.arena) {
		q.arena = make([]byte, 0, max(size, arenaSize))
	}
	it.name, it.room, it.payload = q.keep(it.name), q.keep(it.room), q.keep(it.payload)
	if len(q.items) == 0 {
		q.clock = time.Since(epoch)
	}
	it.came = q.clock
	q.items = append(q.items, it)
	if len(q.items) == 1 {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

func (q *queue) keep(b []byte) []byte {
	at := len(q.arena)
	q.arena = append(q.arena, b...)
	return q.arena[at:len(q.arena):len(q.arena)]
}

// take waits for items and appends the first ones to into: all of one kind, and
// making an entry of at most maxBytes together or, if the first is larger, that
// one alone.
func (q *queue) take(ctx context.Context, maxBytes int, into []item) ([]item, error) {
	for {
		if into = q.takeNow(maxBytes, into); len(into) > 0 {
			return into, nil
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *queue) takeNow(maxBytes int, into []item) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.items) && q.items[n].kind == q.items[0].kind {
		size := q.items[n].size()
		if n > 0 && size+entryCost > maxBytes {
			break
		}
		maxBytes -= size + entryCost
		q.bytes -= int64(size) + itemCost
		n++
	}
	into = append(into, q.items[:n]...)
	clear(q.items[:n])
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
		if len(q.arena) > 0 && cap(q.arena)-len(q.arena) < arenaSize/2 {
			q.arena = nil
		}
	} else if n > 0 {
		q.clock = time.Since(epoch)
	}
	return into
}

func (it *item) size() int { return len(it.name) + len(it.room) + len(it.payload) }

// close makes push answer err from now on and returns what was waiting.
func (q *queue) close(err error) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	items := q.items
	q.items, q.bytes, q.arena = nil, 0, nil
	return items
}

// size returns the bytes that wait.
func (q *queue) size() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}
