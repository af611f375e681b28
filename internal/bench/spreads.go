package bench

import (
	"slices"
	"sync/atomic"
	"time"
)

// spreads measures how unevenly each message reached the subscribers of its
// room: p99 - p50 of their latencies. Messages are those of one round, in which
// each has a place; subscribers call take concurrently.
type spreads struct {
	rooms    []roomSpreads
	recorder recorder // a spread for each message that all subscribers have
}

type roomSpreads struct {
	first    uint64 // the number of the first message
	subs     int
	messages []atomic.Pointer[latencies]
}

// latencies are those of one message, in no order.
type latencies struct {
	claimed, written atomic.Int64
	took             []time.Duration
}

// newSpreads has places for n messages, which are played to the rooms in turn.
func newSpreads(a *audience, n int) *spreads {
	s := &spreads{}
	for i, r := range a.rooms {
		subs := 0
		for _, sub := range a.subs {
			if sub.room == r {
				subs++
			}
		}
		s.rooms = append(s.rooms, roomSpreads{
			first: r.published, subs: subs,
			messages: make([]atomic.Pointer[latencies], (n-i+len(a.rooms)-1)/len(a.rooms)),
		})
	}
	return s
}

// take notes how long the message took to one subscriber. The last one to get it
// works the spread out.
func (s *spreads) take(h header, took time.Duration) {
	r := &s.rooms[h.room]
	i := h.number - r.first
	if i >= uint64(len(r.messages)) { // or below the first: it wraps
		return
	}
	m := r.messages[i].Load()
	if m == nil {
		r.messages[i].CompareAndSwap(nil, &latencies{took: make([]time.Duration, r.subs)})
		m = r.messages[i].Load()
	}
	at := m.claimed.Add(1) - 1
	if at >= int64(r.subs) {
		return // a duplicate
	}
	m.took[at] = took
	if m.written.Add(1) == int64(r.subs) {
		s.recorder.record(int(i), h.due, spreadOf(m.took))
		m.took = nil // nobody writes any more: all places are claimed
	}
}

// spreadOf is p99 - p50. It sorts took.
func spreadOf(took []time.Duration) time.Duration {
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1)+0.5)] }
	return at(0.99) - at(0.50)
}
