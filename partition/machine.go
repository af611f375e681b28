package partition

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/roomlog/roomlog/raftlog"
)

// Machine gives numbers. It is deterministic: after the same entries every
// replica's Machine is the same and has given the same answers, whether it has
// applied them all or was restored from a snapshot in between. It is not safe
// for concurrent use.
type Machine struct {
	rooms    map[string]*room
	table    table // the rooms in the order of their creation
	sessions sessions
	limit    int // of sessions
	window   int // answers kept for a session
	keep     int // answers kept for all of them

	wall  int64         // newest time of an entry
	clock time.Duration // logical time: wall time, at most a second per entry
	ttl   time.Duration // idle sessions live this long

	chunks chunks
	drops  map[*room][]drop // of what is hot

	hash  uint64 // rolling, over everything that decides the state
	index raftlog.Index

	view    *view // as of the last checkpoint, until it is settled
	scratch entry
	state   []numbering // of the entry being applied
	at      uint64      // where the entry begins in its chunk
}

// NewMachine returns an empty machine.
func NewMachine() *Machine {
	return &Machine{
		rooms:    map[string]*room{},
		sessions: sessions{byID: map[SessionID]*session{}},
		limit:    maxSessions,
		window:   MaxWindow,
		keep:     maxAnswers,
		drops:    map[*room][]drop{},
	}
}

// Outcome is what an entry did.
type Outcome struct {
	// Answers are in the order of arrival, joined where counters and seqs of
	// one session run on.
	Answers []Answer
	// Opened has an error, or nil, for each session of an open entry.
	Opened []error
	// Blocks are the numbered ones of the entry.
	Blocks []Block
	// Checkpoint: the entry closed a chunk. Its view must be settled before
	// the next checkpoint.
	Checkpoint bool
	// Trimmed: the entry raised a floor.
	Trimmed bool

	passage passage // of the entry
}

// Answer tells the outcome of Count publishes of one session: counter
// Counter+i got seq Seq+i. With Err they got none.
type Answer struct {
	Session   int // place in the entry's session table
	Counter   Counter
	Count     int
	Seq       Seq
	Time      int64
	Duplicate bool
	Err       error
}

// Block is a room's share of an entry, numbered. Of its records those at
// Dropped have no seq, the first Skip are not wanted by the reader, and the
// others are First to Last. Data is laid out as entry.go says.
type Block struct {
	Room        string
	First, Last Seq
	Time        int64
	Skip        int
	Dropped     []uint32
	Data        []byte

	applied *applied // when this replica had done so; nil: read from the log
}

// Apply takes the entry at index. An error means that the entry was passed
// over, by every replica alike, unless it is errEntryVersion: then this replica
// must not go on.
func (m *Machine) Apply(index raftlog.Index, data []byte) (Outcome, error) {
	m.index = index
	m.at = m.chunks.open.bytes
	m.chunks.open.bytes += uint64(len(data)) + entryDiskCost
	e := &m.scratch
	if err := e.decode(data); err != nil {
		return Outcome{}, fmt.Errorf("entry %d: %w", index, err)
	}
	if err := m.begin(index, e); err != nil {
		return Outcome{}, fmt.Errorf("entry %d: %w", index, err)
	}
	if seededLeaderCounter { // a control
		m.claim(data)
	}
	m.advance(e)
	switch e.kind {
	case kindPublish:
		return m.publish(index, e), nil
	case kindOpen:
		out := Outcome{Opened: m.open(e.ids)}
		m.rollState(e.kind)
		return out, nil
	case kindClose:
		for _, id := range e.ids {
			if s := m.sessions.byID[id]; s != nil {
				m.sessions.close(s)
			}
		}
		m.rollState(e.kind)
	case kindTick:
		m.rollState(e.kind)
	case kindCheckpoint:
		return Outcome{Checkpoint: m.checkpoint(e.index)}, nil
	case kindTrim:
		return Outcome{Trimmed: m.trim(e)}, nil
	}
	return Outcome{}, nil
}

// checkpoint closes the open chunk and freezes a view, if previous is the
// checkpoint before: of two proposals under way only the first counts.
func (m *Machine) checkpoint(previous raftlog.Index) bool {
	if previous != m.chunks.last() {
		return false
	}
	m.rollState(kindCheckpoint, uint64(previous), uint64(m.table.len()), uint64(m.wall), m.chunks.open.bytes, m.chunks.open.messages)
	m.chunks.close(m.index)
	if seededForgetSessions { // a control
		m.sessions = NewMachine().sessions
	}
	m.freeze()
	return true
}

// trim raises the floors as far as the entry's indexes are checkpoints.
func (m *Machine) trim(e *entry) bool {
	raised := m.chunks.raise(e.index, e.prefixes)
	if raised {
		floors := []uint64{uint64(m.chunks.floor)}
		for _, p := range m.chunks.prefixes {
			floors = append(floors, xxhash.Sum64String(p.prefix), uint64(p.index))
		}
		m.rollState(kindTrim, floors...)
	}
	return raised
}

// advance moves logical time and forgets the sessions that have been idle too long.
func (m *Machine) advance(e *entry) {
	if e.kind == kindOpen || e.kind == kindTick {
		m.ttl = e.ttl
	}
	if m.wall != 0 && e.time > m.wall {
		m.clock += min(time.Duration(e.time-m.wall), maxClockStep)
	}
	m.wall = max(m.wall, e.time)
	for s := m.sessions.oldest; s != nil && m.clock-s.active > m.ttl; s = m.sessions.oldest {
		m.sessions.close(s)
	}
}

func (m *Machine) open(ids []SessionID) []error {
	errs := make([]error, len(ids))
	for i, id := range ids {
		switch s := m.sessions.byID[id]; {
		case s != nil:
			m.sessions.touch(s, m.clock)
		case len(m.sessions.byID) >= m.limit:
			errs[i] = ErrTooManySessions
		default:
			m.sessions.open(id, m.clock)
		}
	}
	return errs
}

// numbering is the progress through one block of an entry.
type numbering struct {
	room     *room
	roomHash uint64
	records  []byte // not yet looked at
	record   int    // position of the next
	first    Seq
	time     int64
	dropped  []uint32
	claimed  Seq // by a control
}

// begin finds the rooms of the entry's blocks. One that is new and gets no
// message is forgotten by end.
func (m *Machine) begin(index raftlog.Index, e *entry) error {
	if e.kind != kindPublish {
		return nil
	}
	for i := range e.blocks {
		b := &e.blocks[i]
		r := m.rooms[string(b.room)]
		switch {
		case r == nil:
			r = &room{name: string(b.room)}
			m.rooms[r.name] = r
		case r.entry == index: // its seqs would not run on within a block
			m.end()
			return fmt.Errorf("%w: two blocks for room %q", errMalformed, r.name)
		}
		m.view.save(r)
		r.entry = index
		m.state = append(m.state, numbering{room: r, roomHash: xxhash.Sum64(b.room), records: b.records})
	}
	return nil
}

func (m *Machine) end() {
	for i := range m.state {
		if r := m.state[i].room; r.last == 0 {
			delete(m.rooms, r.name)
		}
	}
	clear(m.state)
	m.state = m.state[:0]
}

func (m *Machine) publish(index raftlog.Index, e *entry) Outcome {
	out := Outcome{Answers: make([]Answer, 0, len(e.runs)), Blocks: make([]Block, 0, len(e.blocks))}
	for _, r := range e.runs {
		ref := e.sessions[r.session]
		s := m.sessions.byID[ref.id]
		if seededForgetSessions && s == nil { // a control
			s = m.unknown(ref, r.counter)
		}
		if s != nil {
			m.sessions.touch(s, m.clock)
			m.sessions.forget(s, ref.floor)
		}
		if m.expects(s, r) {
			out.add(m.numberAll(s, r, e.time, &m.state[r.block]))
			continue
		}
		for i := range r.count {
			a := m.number(s, r.counter+Counter(i), e.time, &m.state[r.block])
			a.Session = r.session
			out.add(a)
		}
	}
	for i := range m.state {
		m.finish(index, i, e, &m.state[i], &out)
	}
	m.end()
	return out
}

// expects tells whether a run is nothing but the session's next publishes, for
// all of which there is room: the ordinary case.
func (m *Machine) expects(s *session, r run) bool {
	return s != nil && r.counter == s.last+1 && r.count <= m.window-len(s.answers) && r.count <= m.keep-m.sessions.kept
}

// numberAll does for a run that is expected what number does for each of it.
func (m *Machine) numberAll(s *session, r run, now int64, n *numbering) Answer {
	a := Answer{Session: r.session, Counter: r.counter, Count: r.count}
	s.answers = slices.Grow(s.answers, r.count)
	for i := range r.count {
		var payload []byte
		payload, n.records = nextPayload(n.records)
		seq, at := n.give(now)
		if i == 0 {
			a.Seq, a.Time = seq, at
		}
		m.sessions.keep(s, answer{seq: seq, time: at, hash: hashOf(payload, n.roomHash)})
	}
	n.record += r.count
	return a
}

// hashOf is what a retry is known by.
func hashOf(payload []byte, roomHash uint64) uint64 { return xxhash.Sum64(payload)*31 + roomHash }

// number decides about one publish of an entry that was proposed at time now.
func (m *Machine) number(s *session, c Counter, now int64, n *numbering) Answer {
	payload, rest := nextPayload(n.records)
	n.records = rest
	pos := uint32(n.record)
	n.record++
	a := Answer{Counter: c, Count: 1}
	hash := hashOf(payload, n.roomHash)
	switch {
	case s == nil:
		a.Err = ErrSessionExpired
	case c > s.last+1:
		a.Err = &OutOfOrderError{Got: c, Want: s.last + 1}
	case c <= s.last && c < s.floor:
		// The client has said that it has its answer: an echo of an old stream.
		a.Err = &OutOfOrderError{Got: c, Want: s.last + 1}
	case c <= s.last:
		a = repeat(s, c, hash)
	case len(s.answers) >= m.window, m.sessions.kept >= m.keep:
		a.Err = ErrWindow
	default:
		a.Seq, a.Time = n.give(now)
		m.sessions.keep(s, answer{seq: a.Seq, time: a.Time, hash: hash})
		return a
	}
	n.dropped = append(n.dropped, pos)
	return a
}

// repeat answers a retry as its first attempt was.
func repeat(s *session, c Counter, hash uint64) Answer {
	a := Answer{Counter: c, Count: 1, Duplicate: true}
	first := s.answers[c-s.floor]
	if first.hash != hash {
		a.Err, a.Duplicate = ErrConflict, false
		return a
	}
	a.Seq, a.Time = first.seq, first.time
	return a
}

// give gives the room's next number.
func (n *numbering) give(now int64) (Seq, int64) {
	r := n.room
	if seededLeaderCounter && n.first == 0 && r.last > 0 { // a control
		r.last = max(r.last+1, n.claimed) - 1
	}
	if n.first == 0 {
		n.first, n.time = r.last+1, max(now, r.time)
		r.time = n.time
	}
	r.last++
	return r.last, n.time
}

// finish records where a block's messages lie.
func (m *Machine) finish(index raftlog.Index, i int, e *entry, n *numbering, out *Outcome) {
	r := n.room
	if n.first == 0 { // repeats and refusals only: readers who read on must know
		if m.chunks.has(r) {
			m.drops[r] = append(m.drops[r], drop{index: index})
		}
		return
	}
	if n.first == 1 {
		m.table.add(r)
	}
	if len(n.dropped) > 0 {
		m.drops[r] = append(m.drops[r], drop{index, n.dropped})
	}
	if m.wantsPlace(r, n.time) {
		r.hot = append(r.hot, place{first: n.first, index: index, time: n.time, at: m.at})
	}
	count := r.last + 1 - n.first
	r.rate.add(n.time, int(count))
	m.chunks.open.add(n.time, uint64(count))
	b := Block{
		Room: r.name, First: n.first, Last: r.last,
		Time: n.time, Dropped: n.dropped, Data: e.blocks[i].data,
	}
	m.roll(index, n, &b)
	out.Blocks = append(out.Blocks, b)
}

// A room gets a place when this much of the log or of time has passed since its
// last one; readers find what is between by reading on.
const (
	placeBytes = 16 << 10
	placeTime  = int64(time.Second)
)

// wantsPlace tells whether the room's next messages, of the given time, get one.
// The first ones of a chunk always do.
func (m *Machine) wantsPlace(r *room, now int64) bool {
	if !m.chunks.has(r) {
		return true
	}
	last := &r.hot[len(r.hot)-1]
	return m.at-last.at >= placeBytes || now-last.time >= placeTime
}

// roll adds a block to the room's rolling hash and that to the partition's.
func (m *Machine) roll(index raftlog.Index, n *numbering, b *Block) {
	var head [40]byte
	binary.LittleEndian.PutUint64(head[0:], n.room.hash)
	binary.LittleEndian.PutUint64(head[8:], n.roomHash)
	binary.LittleEndian.PutUint64(head[16:], uint64(b.First))
	binary.LittleEndian.PutUint64(head[24:], uint64(b.Last))
	binary.LittleEndian.PutUint64(head[32:], uint64(b.Time))
	var d xxhash.Digest
	d.Reset()
	d.Write(head[:])
	for _, pos := range b.Dropped {
		d.Write(binary.LittleEndian.AppendUint32(head[:0], pos))
	}
	d.Write(b.Data)
	n.room.hash = d.Sum64()

	binary.LittleEndian.PutUint64(head[0:], m.hash)
	binary.LittleEndian.PutUint64(head[8:], uint64(index))
	binary.LittleEndian.PutUint64(head[16:], n.room.hash)
	m.hash = xxhash.Sum64(head[:24])
}

// rollState adds an entry that numbers nothing to the rolling hash, by what it
// left behind.
func (m *Machine) rollState(kind entryKind, more ...uint64) {
	var d xxhash.Digest
	d.Reset()
	var word [8]byte
	for _, v := range [...]uint64{
		m.hash, uint64(m.index), uint64(kind), uint64(m.clock), uint64(m.ttl),
		uint64(len(m.sessions.byID)), uint64(m.sessions.kept),
	} {
		binary.LittleEndian.PutUint64(word[:], v)
		d.Write(word[:])
	}
	for _, v := range more {
		binary.LittleEndian.PutUint64(word[:], v)
		d.Write(word[:])
	}
	m.hash = d.Sum64()
}

// add appends a, joined to the answer before where it runs on.
func (o *Outcome) add(a Answer) {
	if n := len(o.Answers); n > 0 {
		p := &o.Answers[n-1]
		if p.Session == a.Session && p.Err == nil && a.Err == nil && p.Duplicate == a.Duplicate && p.Time == a.Time &&
			p.Counter+Counter(p.Count) == a.Counter && p.Seq+Seq(p.Count) == a.Seq {
			p.Count += a.Count
			return
		}
	}
	o.Answers = append(o.Answers, a)
}
