package partition

import (
	"sort"

	"github.com/roomlog/roomlog/raftlog"
)

// room is what the machine knows of a room: bytes, no goroutine, no file. An
// idle one costs at most 300 of them.
type room struct {
	name  string
	last  Seq
	time  int64  // of the last message; the next is never earlier
	hash  uint64 // rolling, over the room's blocks
	spans []span // a chunk each, oldest first
	hot   []place
	entry raftlog.Index // the last one with a block for the room
	rate  rate
}

// place says where in the log some of a room's messages lie: seq first and what
// follows in the same block. It holds more up to the next place's first, in
// this entry or soon behind it.
type place struct {
	first Seq
	index raftlog.Index
	time  int64  // of the messages in that block
	at    uint64 // bytes of the chunk before the entry
}

// span says where the places of a chunk stand, in the chunk's index file.
type span struct {
	first  Seq
	time   int64  // of the first message
	chunk  uint32 // its number
	offset uint32 // of the room's record in the file
}

// drop says which records of the room's block in the entry at index got no seq;
// without positions none of them did.
type drop struct {
	index     raftlog.Index
	positions []uint32
}

// placesThrough returns the places of entries up to index, hot being in order.
func placesThrough(hot []place, index raftlog.Index) []place {
	if n := len(hot); n == 0 || hot[n-1].index <= index {
		return hot
	}
	return hot[:sort.Search(len(hot), func(i int) bool { return hot[i].index > index })]
}

// dropsThrough returns the drops of entries up to index.
func dropsThrough(drops []drop, index raftlog.Index) []drop {
	return drops[:sort.Search(len(drops), func(i int) bool { return drops[i].index > index })]
}

// dropAt returns what was dropped from the block in the entry at index.
func dropAt(drops []drop, index raftlog.Index) (d drop, ok bool) {
	i := sort.Search(len(drops), func(i int) bool { return drops[i].index >= index })
	if i == len(drops) || drops[i].index != index {
		return drop{}, false
	}
	return drops[i], true
}

// placeOf returns where among places, which are not empty and begin at or below
// seq, the one stands that leads to seq.
func placeOf(places []place, seq Seq) int {
	return sort.Search(len(places), func(i int) bool { return places[i].first > seq }) - 1
}

// heldSpans returns the spans of chunks from number chunk on.
func (r *room) heldSpans(chunk uint32) []span {
	if len(r.spans) == 0 || r.spans[0].chunk >= chunk {
		return r.spans
	}
	return r.spans[sort.Search(len(r.spans), func(i int) bool { return r.spans[i].chunk >= chunk }):]
}

// heldPlaces returns the hot places above the entry at floor.
func (r *room) heldPlaces(floor raftlog.Index) []place {
	return r.hot[len(placesThrough(r.hot, floor)):]
}

// first returns the room's oldest seq that is still held, or last+1.
func (m *Machine) first(r *room) Seq {
	floor, chunk := m.chunks.floorHere(r.name)
	if spans := r.heldSpans(chunk); len(spans) > 0 {
		return spans[0].first
	}
	if hot := r.heldPlaces(floor); len(hot) > 0 {
		return hot[0].first
	}
	return r.last + 1
}

// location says where a seq is found: by places, or in a chunk's index file.
type location struct {
	course
	seq      Seq // a held one that it leads to
	inFile   bool
	from, to raftlog.Index // of the chunk
	offset   uint32        // in its file
}

// locate finds seq, which the room holds.
func (m *Machine) locate(r *room, seq Seq) location {
	if len(r.hot) > 0 && r.hot[0].first <= seq {
		return location{seq: seq, course: course{places: r.hot[placeOf(r.hot, seq):], drops: m.drops[r], last: r.last}}
	}
	i := sort.Search(len(r.spans), func(i int) bool { return r.spans[i].first > seq }) - 1
	return m.inFile(r, i)
}

// inFile locates the room's span i.
func (m *Machine) inFile(r *room, i int) location {
	s := r.spans[i]
	loc := location{seq: s.first, inFile: true, offset: s.offset, course: course{last: r.last}}
	loc.from, loc.to = m.chunks.bounds(s.chunk)
	if i+1 < len(r.spans) {
		loc.last = r.spans[i+1].first - 1
	} else if len(r.hot) > 0 {
		loc.last = r.hot[0].first - 1
	}
	return loc
}

// locateTime finds where the first message at or after time t is. It is in
// found's course, which may have to be read, or else seq.
func (m *Machine) locateTime(r *room, t int64) (found location, seq Seq, ok bool) {
	floor, chunk := m.chunks.floorHere(r.name)
	spans, hot := r.heldSpans(chunk), r.heldPlaces(floor)
	i := sort.Search(len(hot), func(i int) bool { return hot[i].time >= t })
	if i > 0 {
		loc := location{seq: hot[i-1].first, course: course{places: hot[i-1 : i], drops: m.drops[r], last: r.last}}
		if i < len(hot) {
			loc.last = hot[i].first - 1
		}
		return loc, loc.last + 1, true
	}
	i = sort.Search(len(spans), func(i int) bool { return spans[i].time >= t })
	if i > 0 {
		loc := m.inFile(r, len(r.spans)-len(spans)+i-1)
		return loc, loc.last + 1, true
	}
	return location{}, m.first(r), false
}

// table lists the rooms in the order of their creation. It grows by pages, so
// that no single step is long.
type table struct{ pages [][]*room }

const tablePage = 1024

func (t *table) add(r *room) {
	if n := len(t.pages); n == 0 || len(t.pages[n-1]) == tablePage {
		t.pages = append(t.pages, nil)
	}
	last := &t.pages[len(t.pages)-1]
	*last = append(*last, r)
}

func (t *table) len() int {
	if len(t.pages) == 0 {
		return 0
	}
	return (len(t.pages)-1)*tablePage + len(t.pages[len(t.pages)-1])
}

func (t *table) at(i int) *room { return t.pages[i/tablePage][i%tablePage] }

// rate counts a room's messages by the time they have: those of a window and
// those of the one before. It is not part of the state that replicas agree on.
type rate struct{ window, now, before uint32 }

func (r *rate) add(now int64, n int) {
	r.turn(now)
	r.now += uint32(n)
}

func (r *rate) turn(now int64) {
	switch w := uint32(now / int64(rateWindow)); {
	case w <= r.window: // or a clock that went back
	case w == r.window+1:
		r.window, r.before, r.now = w, r.now, 0
	default:
		r.window, r.before, r.now = w, 0, 0
	}
}

// perSecond returns the messages per second over about the last rateWindow.
func (r rate) perSecond(now int64) float64 {
	r.turn(now)
	into := min(1, float64(max(0, now-int64(r.window)*int64(rateWindow)))/float64(rateWindow))
	return (float64(r.now) + float64(r.before)*(1-into)) / rateWindow.Seconds()
}
