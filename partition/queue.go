package partition

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"time"
)

// item is a piece of work for the proposer.
type item struct {
	kind entryKind
	bundle
	came time.Duration // since epoch: when it came or, behind others, the last take before
}

// queue holds what waits to be proposed, in the order of arrival, up to a
// number of bytes; beyond them push answers ErrOverloaded. Safe for concurrent use.
type queue struct {
	max  int64
	wake chan struct{} // one token: something came into the empty queue

	mu     sync.Mutex
	items  []item
	spare  []item // an empty slice for the next items
	bytes  int64
	arena  []byte        // room for the next items' bytes; the last item's records end where its use ends
	clock  time.Duration // of the next items' coming
	closed error
}

// itemCost is what an item costs in memory beside its bytes, entryCost what it
// may cost in an entry: a run, a session, the head of a block.
const (
	itemCost  = 128
	entryCost = 64
)

// arenaSize is the step in which the queue allocates. Items of one step share
// their fate: its memory is free when all of them are answered. maxBundle bounds
// the records of a bundle of several: an entry is filled by whole bundles.
const (
	arenaSize = 64 << 10
	maxBundle = 16 << 10
)

func newQueue(max int64) *queue {
	return &queue{max: max, wake: make(chan struct{}, 1)}
}

// push adds an open or a close, or a publish of payload: one more record for the
// last item where it runs on, else an item of its own. Bytes are copied.
func (q *queue) push(it item, payload []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	record := 0
	if it.kind == kindPublish {
		record = blockRecordSize(payload)
	}
	cost := int64(record)
	last := q.runsOn(&it, record)
	if last == nil {
		cost = it.cost() + int64(record)
	}
	switch {
	case q.closed != nil:
		return q.closed
	case q.bytes+cost > q.max && len(q.items) > 0:
		return ErrOverloaded
	}
	q.bytes += cost
	if last == nil {
		last = q.add(it, record)
	}
	if it.kind == kindPublish {
		at := len(q.arena)
		q.arena = appendBlockRecord(q.arena, payload)
		last.records = q.arena[at-len(last.records) : len(q.arena) : len(q.arena)]
		last.count++
		last.floor = max(last.floor, it.floor)
	}
	return nil
}

// runsOn returns the last item if it is one more record of that.
func (q *queue) runsOn(it *item, record int) *item {
	if len(q.items) == 0 || it.kind != kindPublish {
		return nil
	}
	last := &q.items[len(q.items)-1]
	if last.kind != kindPublish || last.from != it.from || last.counter+Counter(last.count) != it.counter ||
		len(last.records)+record > maxBundle || record > cap(q.arena)-len(q.arena) ||
		!bytes.Equal(last.room, it.room) || !bytes.Equal(last.name, it.name) {
		return nil
	}
	return last
}

// add appends it and makes room for its first record.
func (q *queue) add(it item, record int) *item {
	if size := len(it.name) + len(it.room) + record; size > cap(q.arena)-len(q.arena) {
		q.arena = make([]byte, 0, max(size, arenaSize))
	}
	it.name, it.room = q.keep(it.name), q.keep(it.room)
	if q.items == nil {
		q.items, q.spare = q.spare, nil
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
	return &q.items[len(q.items)-1]
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
		q.gather(maxBytes)
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

// gather lets those run who have something for the queue at this moment, as long
// as it grows: each entry costs the same, whatever is in it. It waits for nobody
// who waits himself.
func (q *queue) gather(maxBytes int) {
	for before := int64(0); ; {
		now := q.size()
		if now == before || now >= int64(maxBytes) {
			return
		}
		before = now
		runtime.Gosched()
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
		q.bytes -= q.items[n].cost()
		n++
	}
	into = append(into, q.items[:n]...)
	rest := copy(q.items, q.items[n:])
	clear(q.items[rest:])
	if q.items = q.items[:rest]; rest > 0 {
		if n > 0 {
			q.clock = time.Since(epoch)
		}
		return into
	}
	if cap(q.items) <= maxSpare {
		q.spare = q.items
	}
	q.items = nil
	if len(q.arena) > 0 && cap(q.arena)-len(q.arena) < arenaSize/2 {
		q.arena = nil
	}
	return into
}

// maxSpare bounds how many items' room an empty queue keeps.
const maxSpare = 512

// size is how many bytes it brings to an entry, entryCost aside.
func (it *item) size() int { return len(it.name) + len(it.room) + len(it.records) }

func (it *item) cost() int64 { return int64(it.size()) + itemCost }

// close makes push answer err from now on and returns what was waiting.
func (q *queue) close(err error) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	items := q.items
	q.items, q.spare, q.bytes, q.arena = nil, nil, 0, nil
	return items
}

// size returns the bytes that wait.
func (q *queue) size() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}
