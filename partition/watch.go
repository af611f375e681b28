package partition

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// Cursor is a subscriber's place in a room. Its methods may be called by any
// goroutine at any time and return at once.
type Cursor interface {
	Next() Seq    // the first that its connection has not been handed
	Name() string // its client, for operators
	Wake()        // ends a Wait; perhaps once more, soon after Leave
}

// Watch is a Cursor that the partition knows of, until Leave. Wait and Delivered
// are for one goroutine at a time.
type Watch struct {
	partition *Partition
	room      *watchedRoom
	cursor    Cursor
	since     Seq // what came before this was there before the cursor: it has no drift
	place     int // in room.cursors; guarded by the partition's mutex
	waits     int // place in room.waiting, -1: not there; guarded by room.mu
	left      bool
	// Of watchDrift: the room's last at its last look, and up to where it has
	// counted what the cursor lacks.
	looked, counted Seq
}

// watchedRoom lives while a room has subscribers on this node. What is not
// atomic is guarded by the partition's mutex.
type watchedRoom struct {
	name    string
	place   int // in Partition.watches
	cursors []*Watch
	ages    histogram
	last    atomic.Uint64 // the room's last seq, told by Apply

	mu      sync.Mutex // held for moments only
	waiting []*Watch   // to be woken by the next message
	spare   []*Watch   // memory for waiting
}

// roomPeriod is that of the rooms' histograms.
const roomPeriod = 10 * time.Second

// Watch counts c among room's subscribers.
func (p *Partition) Watch(room string, c Cursor) *Watch {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.watched[room]
	if r == nil {
		r = &watchedRoom{name: room, place: len(p.watches), ages: histogram{period: roomPeriod}}
		p.watched[room] = r
		p.watches = append(p.watches, r)
	}
	w := &Watch{partition: p, room: r, cursor: c, since: 1, place: len(r.cursors), waits: -1}
	if known := p.machine.rooms[room]; known != nil {
		w.since = known.last + 1
		r.last.Store(uint64(known.last))
	}
	r.cursors = append(r.cursors, w)
	p.metrics.subscribed(1)
	return w
}

// Delivered tells that blocks have just been handed to the cursor's connection.
func (w *Watch) Delivered(now time.Time, blocks []Block) {
	p, all := w.partition, 0
	ahead := time.Duration(p.ahead.Load())
	for i := range blocks {
		b := &blocks[i]
		n := int(b.Last + 1 - b.First)
		if all += n; b.First < w.since {
			continue
		}
		age := max(0, time.Duration(now.UnixNano()-b.Time)+ahead)
		waited := age
		if b.applied != nil {
			waited = b.applied.since(now, &p.work)
		}
		w.late(age, waited, n, now)
		p.metrics.drifted(age)
	}
	p.deliveries.Add(uint64(all))
	p.metrics.delivered(all)
}

// late counts n messages of that age, which have waited here for so long.
func (w *Watch) late(age, waited time.Duration, n int, now time.Time) {
	s := w.partition.stages
	w.room.ages.add(age, n, now)
	s.drift.add(age, n, now)
	s.of[Write].add(waited, n, now)
}

// Leave ends the watch. It may be called at any time, once.
func (w *Watch) Leave() {
	p, r := w.partition, w.room
	w.stopWaiting()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.metrics.subscribed(-1)
	last := len(r.cursors) - 1
	r.cursors[w.place] = r.cursors[last]
	r.cursors[w.place].place = w.place
	r.cursors[last] = nil
	if r.cursors = r.cursors[:last]; last > 0 {
		return
	}
	delete(p.watched, r.name)
	last = len(p.watches) - 1
	p.watches[r.place] = p.watches[last]
	p.watches[r.place].place = r.place
	p.watches[last] = nil
	p.watches = p.watches[:last]
	p.wake(r.name)
}

// lag is how far a cursor is behind. Age is that of the oldest message that it
// has not been handed, waited how long that one has been applied here.
type lag struct {
	*Watch
	next, last  Seq
	behind      uint64
	age, waited time.Duration
}

// eachLag calls visit with every cursor that lacks something, each as it was at
// some moment during the call. It holds the mutex for a page of them at a time.
func (p *Partition) eachLag(now time.Time, visit func(lag)) {
	page := make([]lag, 0, viewPage)
	for room, cursor, more := 0, 0, true; more; {
		room, cursor, page, more = p.lagPage(now, room, cursor, page[:0])
		for _, l := range page {
			visit(l)
		}
	}
}

// lagPage looks at up to viewPage cursors, from a room's number and a cursor's in
// it on, and returns where to go on.
func (p *Partition) lagPage(now time.Time, at, cursor int, page []lag) (nextRoom, nextCursor int, lags []lag, more bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for looked := 0; at < len(p.watches); at, cursor = at+1, 0 {
		w := p.watches[at]
		r := p.machine.rooms[w.name]
		looked++
		for ; r != nil && cursor < len(w.cursors); cursor++ {
			if looked++; looked > viewPage {
				return at, cursor, page, true
			}
			c := w.cursors[cursor]
			if next := c.cursor.Next(); next <= r.last { // what is trimmed it does not lack
				if next = max(next, p.machine.first(r)); next <= r.last {
					page = append(page, p.lag(now, c, r, next))
				}
			}
		}
		if looked >= viewPage {
			return at + 1, 0, page, true
		}
	}
	return at, 0, page, false
}

// lag is that of w, which lacks next of r.
func (p *Partition) lag(now time.Time, w *Watch, r *room, next Seq) lag {
	l := lag{Watch: w, next: next, last: r.last}
	published, done := p.timesOf(r, next)
	l.behind = uint64(r.last + 1 - next)
	l.age = max(0, time.Duration(now.UnixNano()-published+p.ahead.Load()))
	l.waited = l.age
	if done != nil {
		l.waited = done.since(now, &p.work)
	}
	return l
}

// timesOf returns when seq, which r holds, was published, or a time soon before,
// and when it was applied here, if that is still known.
func (p *Partition) timesOf(r *room, seq Seq) (published int64, done *applied) {
	if blocks := p.tail.rooms[r.name]; len(blocks) > 0 && seq >= blocks[0].First {
		b := &blocks[sort.Search(len(blocks), func(i int) bool { return blocks[i].Last >= seq })]
		return b.Time, b.applied
	}
	if len(r.hot) > 0 && r.hot[0].first <= seq {
		return r.hot[placeOf(r.hot, seq)].time, nil
	}
	return r.spans[sort.Search(len(r.spans), func(i int) bool { return r.spans[i].first > seq })-1].time, nil
}
