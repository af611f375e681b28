package partition

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/roomlog/roomlog/raftlog"
)

// Machine gives numbers. It is deterministic: after the same entries every
// replica's Machine is the same and has given the same answers. It is not safe
// for concurrent use.
type Machine struct {
	rooms    map[string]*room
	sessions sessions
	limit    int // of sessions
	window   int // answers kept for a session
	keep     int // answers kept for all of them

	wall  int64         // newest time of an entry
	clock time.Duration // logical time: wall time, at most a second per entry
	ttl   time.Duration // idle sessions live this long

	// dropped records which messages of a block got no seq, because they were
	// repeats or were refused.
	dropped map[blockID][]uint32

	hash  uint64 // rolling, over everything numbered
	index raftlog.Index

	scratch entry
	state   []numbering // of the entry being applied
}

type blockID struct {
	index raftlog.Index
	block int
}

// NewMachine returns an empty machine.
func NewMachine() *Machine {
	return &Machine{
		rooms:    map[string]*room{},
		sessions: sessions{byID: map[SessionID]*session{}},
		limit:    maxSessions,
		window:   MaxWindow,
		keep:     maxAnswers,
		dropped:  map[blockID][]uint32{},
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
}

// Apply takes the entry at index. An error means that the entry was passed
// over, by every replica alike, unless it is errEntryVersion: then this replica
// must not go on.
func (m *Machine) Apply(index raftlog.Index, data []byte) (Outcome, error) {
	m.index = index
	e := &m.scratch
	if err := e.decode(data); err != nil {
		return Outcome{}, fmt.Errorf("entry %d: %w", index, err)
	}
	if err := m.begin(index, e); err != nil {
		return Outcome{}, fmt.Errorf("entry %d: %w", index, err)
	}
	m.advance(e)
	switch e.kind {
	case kindPublish:
		return m.publish(index, e), nil
	case kindOpen:
		return Outcome{Opened: m.open(e.ids)}, nil
	case kindClose:
		for _, id := range e.ids {
			if s := m.sessions.byID[id]; s != nil {
				m.sessions.close(s)
			}
		}
	}
	return Outcome{}, nil
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
			r = &room{name: string(b.room), first: 1}
			m.rooms[r.name] = r
		case r.entry == index: // its seqs would not run on within a block
			m.end()
			return fmt.Errorf("%w: two blocks for room %q", errMalformed, r.name)
		}
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
		if s != nil {
			m.sessions.touch(s, m.clock)
			m.sessions.forget(s, ref.floor)
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

// number decides about one publish of an entry that was proposed at time now.
func (m *Machine) number(s *session, c Counter, now int64, n *numbering) Answer {
	payload, rest := nextPayload(n.records)
	n.records = rest
	pos := uint32(n.record)
	n.record++
	a := Answer{Counter: c, Count: 1}
	hash := xxhash.Sum64(payload)*31 + n.roomHash
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
	if n.first == 0 {
		n.first, n.time = r.last+1, max(now, r.time)
		r.time = n.time
	}
	r.last++
	return r.last, n.time
}

// finish records where a block's messages lie.
func (m *Machine) finish(index raftlog.Index, i int, e *entry, n *numbering, out *Outcome) {
	if n.first == 0 {
		return // repeats and refusals only
	}
	if len(n.dropped) > 0 {
		m.dropped[blockID{index, i}] = n.dropped
	}
	n.room.places = append(n.room.places, place{first: n.first, index: index, time: n.time})
	b := Block{
		Room: n.room.name, First: n.first, Last: n.room.last,
		Time: n.time, Dropped: n.dropped, Data: e.blocks[i].data,
	}
	m.roll(index, &b)
	out.Blocks = append(out.Blocks, b)
}

// roll adds a block to the rolling hash.
func (m *Machine) roll(index raftlog.Index, b *Block) {
	var head [40]byte
	binary.LittleEndian.PutUint64(head[0:], m.hash)
	binary.LittleEndian.PutUint64(head[8:], uint64(index))
	binary.LittleEndian.PutUint64(head[16:], uint64(b.First))
	binary.LittleEndian.PutUint64(head[24:], uint64(b.Last))
	binary.LittleEndian.PutUint64(head[32:], uint64(b.Time))
	var d xxhash.Digest
	d.Reset()
	d.Write(head[:])
	d.WriteString(b.Room)
	for _, pos := range b.Dropped {
		d.Write(binary.LittleEndian.AppendUint32(head[:0], pos))
	}
	d.Write(b.Data)
	m.hash = d.Sum64()
}

// add appends a, joined to the answer before where it runs on.
func (o *Outcome) add(a Answer) {
	if n := len(o.Answers); n > 0 {
		p := &o.Answers[n-1]
		if p.Session == a.Session && p.Err == nil && a.Err == nil && p.Duplicate == a.Duplicate && p.Time == a.Time &&
			p.Counter+Counter(p.Count) == a.Counter && p.Seq+Seq(p.Count) == a.Seq {
			p.Count++
			return
		}
	}
	o.Answers = append(o.Answers, a)
}

// reread returns the block of room in the entry at p, which holds the seqs up
// to last, and the block's place in the entry; Dropped is left out. It reads
// nothing of a Machine.
func (p place) reread(e *entry, room string, last Seq, data []byte) (Block, int, error) {
	if err := e.decode(data); err != nil {
		return Block{}, 0, fmt.Errorf("entry %d: %w", p.index, err)
	}
	for i := range e.blocks {
		if string(e.blocks[i].room) == room {
			return Block{Room: room, First: p.first, Last: last, Time: p.time, Data: e.blocks[i].data}, i, nil
		}
	}
	return Block{}, 0, fmt.Errorf("entry %d holds nothing of room %q", p.index, room)
}
