package partition

import (
	"errors"
	"fmt"
	"sort"

	"github.com/roomlog/roomlog/raftlog"
)

// entryReader is what a raftlog.Group does for readers.
type entryReader interface {
	Read(from raftlog.Index, maxBytes int) (entries []raftlog.Entry, next raftlog.Index, err error)
}

// course leads through the log to the messages of a room, in order: from the
// first place's to last. What is between two places is found by reading on.
type course struct {
	places []place
	drops  []drop
	last   Seq
}

// errAhead: the entry has been applied and the log does not hand it out yet.
var errAhead = errors.New("the log is about to hand out the entry")

// errAstray: index and log do not agree.
var errAstray = errors.New("index and log do not agree")

// Pieces in which the log is read. One goes on over what is not the room's as
// long as that is less than maxDetour.
const (
	minPiece  = 256 << 10 // for a room that has much of the log
	maxDetour = 32 << 10
)

// from drops the places before the one that leads to seq.
func (c *course) from(seq Seq) {
	if i := placeOf(c.places, seq); i > 0 {
		c.places = c.places[i:]
	}
}

// until cuts the course down to where the first message at or after time t is,
// which is behind its last message if it is not in it. There is a place before t.
func (c *course) until(t int64) {
	i := sort.Search(len(c.places), func(i int) bool { return c.places[i].time >= t })
	if i < len(c.places) {
		c.last = c.places[i].first - 1
	}
	c.places = c.places[max(0, i-1):i]
}

// piece says how much to read at place k for a reader of want bytes: to the last
// place that is worth reading on to.
func (c *course) piece(k, want int) int {
	begin := c.places[k].at
	end := begin
	for k++; k < len(c.places) && c.places[k].at >= end && c.places[k].at-end <= maxDetour; k++ {
		if end = c.places[k].at; end-begin >= uint64(max(want, minPiece)) {
			break
		}
	}
	return int(end-begin) + 1
}

// pieceBehind says how much to read behind the entry at place k.
func (c *course) pieceBehind(k, want int) int {
	at := c.places[k].at
	if k+1 < len(c.places) && c.places[k+1].at >= at && c.places[k+1].at-at <= maxDetour {
		return int(c.places[k+1].at-at) + c.piece(k+1, want)
	}
	return placeBytes
}

// walk visits the room's blocks along the course until visit has enough. want
// is how many bytes the visitor is going to take, about. Blocks lie in memory
// of the log's that is only read.
func (c *course) walk(log entryReader, room string, want int, visit func(Block) bool) error {
	w := walker{course: c, room: room}
	if len(c.places) > 0 {
		w.seq, w.time = c.places[0].first, c.places[0].time
	}
	for w.seq <= c.last && len(c.places) > 0 {
		var from raftlog.Index
		var size int
		if w.atPlace() {
			from, size = c.places[w.k].index, c.piece(w.k, want)
		} else {
			from, size = w.next, c.pieceBehind(w.k, want)
		}
		entries, next, err := log.Read(from, size)
		if err != nil {
			return err
		}
		if next == from {
			return errAhead
		}
		w.next = next
		for _, e := range entries {
			if more, err := w.entry(e, visit); !more || err != nil {
				return err
			}
		}
		if w.atPlace() && w.next > c.places[w.k].index && w.seq <= c.last {
			return fmt.Errorf("%w: nothing of room %q in entry %d", errAstray, room, c.places[w.k].index)
		}
	}
	return nil
}

// walker is a walk's progress.
type walker struct {
	*course
	room string
	k    int // the place that led here, or leads to seq
	seq  Seq // the next to be found
	time int64
	next raftlog.Index // of the log
}

// atPlace tells whether a place says where seq is, and moves on to it.
func (w *walker) atPlace() bool {
	if w.k+1 < len(w.places) && w.places[w.k+1].first == w.seq {
		w.k++
		w.time = w.places[w.k].time
	}
	return w.places[w.k].first == w.seq
}

// entry looks at the next entry of the log.
func (w *walker) entry(e raftlog.Entry, visit func(Block) bool) (more bool, err error) {
	if w.seq > w.last {
		return false, nil
	}
	place := w.atPlace()
	if place && e.Index < w.places[w.k].index {
		return true, nil
	}
	data, now, ok := blockIn(e.Data, w.room)
	if place && (!ok || e.Index != w.places[w.k].index) {
		return false, fmt.Errorf("%w: nothing of room %q in entry %d", errAstray, w.room, w.places[w.k].index)
	}
	if !ok {
		return true, nil
	}
	b := Block{Room: w.room, First: w.seq, Data: data}
	count := records(data)
	if d, dropped := dropAt(w.drops, e.Index); dropped {
		if b.Dropped = d.positions; b.Dropped == nil {
			return true, nil
		}
		count -= len(b.Dropped)
	}
	if seededLeaderCounter && w.seq > 1 { // a control
		w.seq = max(w.seq, claimedIn(e.Data, w.room))
		b.First = w.seq
		w.atPlace()
	}
	b.Last = w.seq + Seq(count) - 1
	if count <= 0 || b.Last > w.last || w.k+1 < len(w.places) && b.Last >= w.places[w.k+1].first {
		return false, fmt.Errorf("%w: entry %d has %d messages of room %q, seq %d to %d", errAstray, e.Index, count, w.room, b.First, b.Last)
	}
	w.time = max(w.time, now)
	b.Time = w.time
	w.seq = b.Last + 1
	return visit(b), nil
}
