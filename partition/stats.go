package partition

import (
	"math"
	"sort"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Status is a partition's state as this replica knows it.
type Status struct {
	Partition int
	raftlog.Status
	Rooms      int
	Sessions   int
	QueueBytes int64
	Hash       uint64 // rolling hash after the entry HashIndex
	HashIndex  raftlog.Index
	Checkpoint raftlog.Index // newest, 0: none
	Floor      raftlog.Index // entries up to here are trimmed
	Chunks     int           // closed and not trimmed
	Messages   uint64        // not trimmed, of all rooms; those of policies count till their chunk goes
}

// Status returns the state of this replica.
func (p *Partition) Status() Status {
	st := Status{Partition: p.id, Status: p.group.Status(), QueueBytes: p.queue.size()}
	p.mu.RLock()
	defer p.mu.RUnlock()
	m := p.machine
	st.Rooms, st.Sessions = m.table.len(), len(m.sessions.byID)
	st.Hash, st.HashIndex = m.hash, m.index
	st.Checkpoint, st.Floor, st.Chunks = m.chunks.last(), m.chunks.floor, len(m.chunks.closed)
	st.Messages = m.chunks.open.messages
	for i := range m.chunks.closed {
		st.Messages += m.chunks.closed[i].messages
	}
	return st
}

// RoomStatus is a room's state on this node.
type RoomStatus struct {
	Room        string
	First, Last Seq
	Partition   int
	Drift       time.Duration // p99 age of messages when handed to a subscriber's connection
	Spread      time.Duration // p99 − p50 of that age
	Subscribers int
	Rate        float64 // messages per second, over the last 10 s
}

const rateWindow = 10 * time.Second

// Room returns the state of one room; one never used has First 1, Last 0.
func (p *Partition) Room(name string) RoomStatus {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.roomStatus(name, time.Now())
}

// Rooms returns the state of all rooms, in no order that means anything. Each is
// as of some moment during the call.
func (p *Partition) Rooms() []RoomStatus {
	now := time.Now()
	var rooms []RoomStatus
	for more := true; more; {
		rooms, more = p.roomsPage(rooms, now)
	}
	return rooms
}

// roomsPage appends the state of up to viewPage rooms to rooms, which has that of
// those before.
func (p *Partition) roomsPage(rooms []RoomStatus, now time.Time) (all []RoomStatus, more bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	t := &p.machine.table
	for i := 0; i < viewPage && len(rooms) < t.len(); i++ {
		rooms = append(rooms, p.roomStatus(t.at(len(rooms)).name, now))
	}
	return rooms, len(rooms) < t.len()
}

func (p *Partition) roomStatus(name string, now time.Time) RoomStatus {
	st := RoomStatus{Room: name, First: 1, Partition: p.id}
	if r := p.machine.rooms[name]; r != nil {
		st.First, st.Last = p.machine.first(r), r.last
		st.Rate = r.rate.perSecond(now.UnixNano())
	}
	if w := p.watched[name]; w != nil {
		st.Subscribers = w.subscribers
		st.Drift, st.Spread = w.ages.drift(now)
	}
	return st
}

// Watch counts a subscriber of room, until leave is called. delivered is to be
// told when messages published at the given time are handed to its connection.
func (p *Partition) Watch(room string) (delivered func(published int64, messages int), leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.watched[room]
	if w == nil {
		w = &roomStats{}
		p.watched[room] = w
	}
	w.subscribers++
	p.metrics.subscribed(1)
	return func(published int64, messages int) {
			now := time.Now()
			age := max(0, time.Duration(now.UnixNano()-published))
			w.ages.add(age, messages, now)
			p.metrics.delivered(age, messages)
		}, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.metrics.subscribed(-1)
			if w.subscribers--; w.subscribers == 0 {
				delete(p.watched, room)
				p.wake(room)
			}
		}
}

// roomStats lives while a room has subscribers on this node.
type roomStats struct {
	subscribers int // guarded by the partition's mutex
	ages        ages
}

// ages is a histogram over the last agesPeriod to twice that, with buckets that
// grow by a quarter power of two from 64 µs on. Safe for concurrent use.
type ages struct {
	mu      sync.Mutex
	started time.Time
	now     [ageBuckets]uint32
	before  [ageBuckets]uint32
}

const (
	agesPeriod = 10 * time.Second
	ageBuckets = 96 // up to 64 µs · 2^24 = 18 minutes
	ageUnit    = 64 * time.Microsecond
)

func (a *ages) add(age time.Duration, n int, now time.Time) {
	bucket := 0
	if age > ageUnit {
		bucket = min(ageBuckets-1, int(4*math.Log2(float64(age)/float64(ageUnit)))+1)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(now)
	a.now[bucket] += uint32(n)
}

func (a *ages) turn(now time.Time) {
	switch since := now.Sub(a.started); {
	case since > 2*agesPeriod:
		a.now, a.before, a.started = [ageBuckets]uint32{}, [ageBuckets]uint32{}, now
	case since > agesPeriod:
		a.before, a.now, a.started = a.now, [ageBuckets]uint32{}, a.started.Add(agesPeriod)
	}
}

// drift returns the p99 and the p99 − p50.
func (a *ages) drift(now time.Time) (p99, spread time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn(now)
	var sums [ageBuckets]uint64
	total := uint64(0)
	for i := range sums {
		total += uint64(a.now[i]) + uint64(a.before[i])
		sums[i] = total
	}
	if total == 0 {
		return 0, 0
	}
	at := func(q float64) time.Duration {
		want := uint64(math.Ceil(q * float64(total)))
		i := sort.Search(ageBuckets, func(i int) bool { return sums[i] >= want })
		return time.Duration(float64(ageUnit) * math.Exp2(float64(i)/4))
	}
	p99 = at(0.99)
	return p99, p99 - at(0.5)
}
