package main

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// ledger keeps what was published, acked and delivered, room by room, for the
// verdict. It is safe for concurrent use.
type ledger struct {
	partitions int
	seed       maphash.Seed

	mu       sync.Mutex
	rooms    map[string]*roomLedger
	inFlight []int // publishes without an answer, by partition
}

type roomLedger struct {
	partition int
	sent      []uint64   // the i-th publish: the hash of author and payload
	acked     []uint64   // the seq it got, 0 while it has none
	delivered []delivery // in the order in which they came
	lost      []span     // gaps that the subscriber was told of
	head      uint64     // the room's last seq, asked for in the end
}

type delivery struct {
	seq, hash uint64
}

type span struct{ from, to uint64 }

func newLedger(partitions int) *ledger {
	return &ledger{
		partitions: partitions,
		seed:       maphash.MakeSeed(),
		rooms:      make(map[string]*roomLedger),
		inFlight:   make([]int, partitions),
	}
}

func (l *ledger) hash(author string, payload []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	h.WriteString(author)
	h.WriteByte(0)
	h.Write(payload)
	return h.Sum64()
}

func (l *ledger) room(name string) *roomLedger {
	r := l.rooms[name]
	if r == nil {
		r = &roomLedger{partition: wire.PartitionOf(name, l.partitions)}
		l.rooms[name] = r
	}
	return r
}

// publish notes that a message is about to be published and returns its place
// among those of its room, from 0.
func (l *ledger) publish(room, author string, payload []byte) (place int) {
	h := l.hash(author, payload)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.room(room)
	r.sent, r.acked = append(r.sent, h), append(r.acked, 0)
	l.inFlight[r.partition]++
	return len(r.sent) - 1
}

// ack notes the seq that a publish got.
func (l *ledger) ack(room string, place int, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.room(room)
	r.acked[place] = seq
	l.inFlight[r.partition]--
}

func (l *ledger) deliver(room string, seq uint64, author string, payload []byte) {
	h := l.hash(author, payload)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.room(room)
	r.delivered = append(r.delivered, delivery{seq, h})
}

func (l *ledger) gap(room string, from, to uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.room(room)
	r.lost = append(r.lost, span{from, to})
}

// setHead notes the room's last seq: what lies beyond the acked messages is a
// second copy of something.
func (l *ledger) setHead(room string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room(room).head = seq
}

// unanswered counts the publishes in flight to the given partitions.
func (l *ledger) unanswered(partitions map[int]bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for p := range partitions {
		n += l.inFlight[p]
	}
	return n
}

// complete tells whether the subscriber of room has come to seq.
func (l *ledger) complete(room string, seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.room(room)
	last := uint64(0)
	if n := len(r.delivered); n > 0 {
		last = r.delivered[n-1].seq
	}
	if n := len(r.lost); n > 0 {
		last = max(last, r.lost[n-1].to)
	}
	return last >= seq
}

// verdict is what came of it all.
type verdict struct {
	Messages  int // published
	Acks      int
	Delivered int // messages that subscribers got, second copies included
	Missing   int // acked, but not delivered with that seq and payload
	Duplicate int // in the log or delivered a second time
	Reordered int // acked or delivered out of order
	Gaps      int // seqs that subscribers were told they cannot have
}

func (v verdict) good() bool {
	return v.Acks == v.Messages && v.Missing == 0 && v.Duplicate == 0 && v.Reordered == 0
}

func (l *ledger) verdict() verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	var v verdict
	for _, r := range l.rooms {
		r.judge(&v)
	}
	return v
}

// judge adds a room to v. One client published its messages, in order, and all
// of them count: so the i-th must have seq i, and the room no other.
func (r *roomLedger) judge(v *verdict) {
	v.Messages += len(r.sent)
	v.Delivered += len(r.delivered)
	for _, s := range r.lost {
		v.Gaps += int(s.to - s.from + 1)
	}

	last := uint64(0) // the highest seq acked so far
	given := make(map[uint64]bool)
	for _, seq := range r.acked {
		switch {
		case seq == 0:
			continue
		case given[seq]: // one seq for two messages: one of them is lost
			v.Missing++
		case seq < last:
			v.Reordered++
		}
		given[seq] = true
		last = max(last, seq)
		v.Acks++
	}
	if extra := max(last, r.head) - min(max(last, r.head), uint64(len(given))); extra > 0 {
		v.Duplicate += int(extra)
	}

	got := make(map[uint64]uint64)
	last = 0
	for _, d := range r.delivered {
		_, twice := got[d.seq]
		switch {
		case twice:
			v.Duplicate++
			continue
		case d.seq < last:
			v.Reordered++
		}
		got[d.seq] = d.hash
		last = max(last, d.seq)
	}
	for place, seq := range r.acked {
		if hash, ok := got[seq]; seq != 0 && (!ok || hash != r.sent[place]) {
			v.Missing++
		}
	}
}

// silence finds how long nothing has come of what was begun: the time between
// two ends, or between the first begin of an idle time and its end. While
// nothing is open, time does not count. It is safe for concurrent use.
type silence struct {
	mu    sync.Mutex
	open  int
	since time.Time // the last end, or the begin that ended an idle time
	gaps  []gap
}

type gap struct{ from, to time.Time }

func (s *silence) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == 0 {
		s.since = time.Now()
	}
	s.open++
}

func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == 0 {
		return // a second copy
	}
	now := time.Now()
	s.gaps = append(s.gaps, gap{s.since, now})
	s.since = now
	s.open--
}

// after returns the longest gap that was not over at moment.
func (s *silence) after(moment time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := time.Duration(0)
	for _, g := range s.gaps {
		if g.to.After(moment) {
			longest = max(longest, g.to.Sub(g.from))
		}
	}
	return longest
}
