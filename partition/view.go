package partition

import (
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// view is a Machine as it was when a checkpoint had been applied. To freeze one
// costs nothing: what changes afterwards is saved before it does, and whoever
// writes the view walks over rooms and sessions page by page, in steps short
// enough to hold up nobody. A Machine has one view at a time.
//
//	Machine.Apply (freeze) -> writeRooms -> writeSnapshot -> settle
//
// What the chunk's index file says is what is hot up to the checkpoint: hot
// places and drops are only ever added behind, so they need not be saved.
type view struct {
	from, index raftlog.Index // the chunk that ended: (from, index]
	number      uint32        // of that chunk
	rooms       int
	slots       int
	saved       map[*room]roomState
	offsets     []uint32 // in the index file, of the rooms that are in it

	hash       uint64
	wall       int64
	clock, ttl time.Duration
	chunks     chunks
}

// roomState is what changes in a room with every message.
type roomState struct {
	last Seq
	time int64
	hash uint64
}

// roomImage is a room as of a view.
type roomImage struct {
	name string
	roomState
	spans []span
	hot   []place // of the view's chunk, as are the drops
	drops []drop
}

// viewPage is how many rooms or sessions are looked at under one lock.
const viewPage = 256

func (m *Machine) freeze() {
	if m.view != nil {
		panic("partition: a checkpoint before the view of the last one was settled")
	}
	m.view = &view{
		index: m.index, number: m.chunks.openNumber() - 1,
		rooms: m.table.len(), slots: len(m.sessions.slots), saved: map[*room]roomState{},
		hash: m.hash, wall: m.wall, clock: m.clock, ttl: m.ttl, chunks: m.chunks,
	}
	m.view.from, _ = m.chunks.bounds(m.view.number)
	m.sessions.freeze()
}

// save keeps what r is before its first change after the freeze.
func (v *view) save(r *room) {
	if v != nil && r.entry <= v.index && r.last > 0 {
		v.saved[r] = roomState{r.last, r.time, r.hash}
	}
}

// page returns images of up to viewPage rooms from number at on. lock guards m.
func (v *view) page(m *Machine, lock sync.Locker, at int, into []roomImage) []roomImage {
	into = into[:0]
	lock.Lock()
	defer lock.Unlock()
	for i := at; i < min(at+viewPage, v.rooms); i++ {
		r := m.table.at(i)
		img := roomImage{name: r.name, roomState: roomState{r.last, r.time, r.hash}, spans: r.spans}
		if r.entry > v.index {
			img.roomState = v.saved[r]
		}
		if len(r.hot) > 0 && r.hot[0].index <= v.index {
			img.hot = placesThrough(r.hot, v.index)
			img.drops = dropsThrough(m.drops[r], v.index)
		}
		into = append(into, img)
	}
	return into
}

// sessions returns the images of all sessions, by last activity.
func (v *view) sessions(m *Machine, lock sync.Locker, goOn func() error) (all []sessionImage, err error) {
	for slot := 0; slot < v.slots; slot += viewPage {
		if err := goOn(); err != nil {
			return nil, err
		}
		lock.Lock()
		all = m.sessions.unchanged(slot, min(viewPage, v.slots-slot), all)
		lock.Unlock()
	}
	lock.Lock()
	all = append(all, m.sessions.saved...) // some of them twice
	lock.Unlock()
	slices.SortFunc(all, func(a, b sessionImage) int {
		switch {
		case a.turn < b.turn:
			return -1
		case a.turn > b.turn:
			return 1
		}
		return 0
	})
	return slices.CompactFunc(all, func(a, b sessionImage) bool { return a.turn == b.turn }), nil
}

// settle puts spans in the place of what the index file holds by now, forgets
// spans below the floors, and lets go of the view.
func (v *view) settle(m *Machine, lock sync.Locker, goOn func() error) error {
	next := 0 // of v.offsets
	for at := 0; at < v.rooms; at += viewPage {
		if err := goOn(); err != nil {
			return err
		}
		lock.Lock()
		for i := at; i < min(at+viewPage, v.rooms); i++ {
			next += v.settleRoom(m, m.table.at(i), next)
		}
		lock.Unlock()
	}
	lock.Lock()
	defer lock.Unlock()
	m.view = nil
	m.sessions.thaw()
	return nil
}

// settleRoom returns how many of v.offsets it has used.
func (v *view) settleRoom(m *Machine, r *room, next int) (used int) {
	// Not what this replica lacks beyond: the next snapshot is to be that of all.
	_, chunk := m.chunks.floorOf(r.name)
	if held := r.heldSpans(chunk); len(held) < len(r.spans) {
		r.spans = slices.Clone(held)
	}
	if len(r.hot) == 0 || r.hot[0].index > v.index {
		return 0
	}
	hot := placesThrough(r.hot, v.index)
	if v.number >= chunk {
		r.spans = append(r.spans, v.span(hot, v.offsets[next]))
	}
	r.hot = slices.Clone(r.hot[len(hot):])
	if drops := m.drops[r]; len(drops) > 0 {
		if drops = drops[len(dropsThrough(drops, v.index)):]; len(drops) > 0 {
			m.drops[r] = slices.Clone(drops)
		} else {
			delete(m.drops, r)
		}
	}
	return 1
}

// span is that of the view's chunk for a room with hot places.
func (v *view) span(hot []place, offset uint32) span {
	return span{first: hot[0].first, time: hot[0].time, chunk: v.number, offset: offset}
}

// noLock is the lock of a Machine that nobody shares.
type noLock struct{}

func (noLock) Lock()   {}
func (noLock) Unlock() {}

// onward is for those who are never told to stop.
func onward() error { return nil }
