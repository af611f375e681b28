package partition

import (
	"slices"

	"github.com/roomlog/roomlog/raftlog"
)

// room is what the machine knows of a room: bytes, no goroutine, no file.
type room struct {
	name   string
	first  Seq // oldest seq still held
	last   Seq
	time   int64 // of the last message; the next is never earlier
	places []place
	entry  raftlog.Index // the last one with a block for the room
}

// place says where in the log some of a room's messages lie: seq first and
// those up to the next place's. All have the same time.
type place struct {
	first Seq
	index raftlog.Index
	time  int64
}

// find returns the place that holds seq, which the room has, and its last seq.
func (r *room) find(seq Seq) (p place, last Seq) {
	i, found := slices.BinarySearchFunc(r.places, seq, func(p place, s Seq) int {
		switch {
		case p.first < s:
			return -1
		case p.first > s:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i+1 < len(r.places) {
		return r.places[i], r.places[i+1].first - 1
	}
	return r.places[i], r.last
}

// at returns the first seq published at or after time t, or the seq behind the
// last.
func (r *room) at(t int64) Seq {
	i, _ := slices.BinarySearchFunc(r.places, t, func(p place, t int64) int {
		switch {
		case p.time < t:
			return -1
		}
		return 1
	})
	if i == len(r.places) {
		return r.last + 1
	}
	return max(r.places[i].first, r.first)
}

// since counts the messages published at or after time t.
func (r *room) since(t int64) int { return int(r.last + 1 - r.at(t)) }
