package partition

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// rewriting tells whether go test -rewrite renews the files in testdata.
func rewriting() bool { return flag.Lookup("rewrite").Value.String() == "true" }

func sessionID(name string) (id SessionID) {
	copy(id[:], name)
	return id
}

func sessionName(id SessionID) string { return strings.TrimRight(string(id[:]), "\x00") }

// sent is a message on its way into an entry; its publisher is named after the
// session and may have several lives.
type sent struct {
	session string
	life    int // another publisher of the same session
	counter Counter
	floor   Counter
	name    string
	room    string
	payload string
}

// packed makes an entry of what was sent, as the proposer does.
func packed(now int64, all ...sent) []byte {
	var p packer
	data, _ := p.pack(now, messagesOf(all))
	return data
}

func messagesOf(all []sent) []item {
	type life struct {
		session string
		n       int
	}
	publishers := map[life]*Publisher{}
	var messages []item
	for _, s := range all {
		key := life{s.session, s.life}
		if publishers[key] == nil {
			publishers[key] = &Publisher{session: sessionID(s.session)}
		}
		messages = append(messages, item{kind: kindPublish, bundle: bundle{
			from: publishers[key], counter: s.counter, count: 1, floor: max(s.floor, 1),
			name: []byte(s.name), room: []byte(s.room), records: appendBlockRecord(nil, []byte(s.payload)),
		}})
	}
	return messages
}

func sessionIDs(names ...string) (ids []SessionID) {
	for _, name := range names {
		ids = append(ids, sessionID(name))
	}
	return ids
}

// got is a message as a reader gets it.
type got struct {
	seq     Seq
	name    string
	payload string
}

// readBlock reads a block by its description in entry.go alone.
func readBlock(b Block) (records []got, err error) {
	rest := b.Data
	number := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			err = fmt.Errorf("block of %s: no number at %d bytes from its end", b.Room, len(rest))
			return 0
		}
		rest = rest[n:]
		return v
	}
	text := func() string {
		n := number()
		if n > uint64(len(rest)) {
			err = fmt.Errorf("block of %s: no text of %d bytes at %d from its end", b.Room, n, len(rest))
			return ""
		}
		s := string(rest[:n])
		rest = rest[n:]
		return s
	}
	count, names := number(), []string{}
	for range number() {
		names = append(names, text())
	}
	seq := b.First
	for pos := range count {
		who, payload := number(), text()
		switch {
		case err != nil:
			return records, err
		case who >= uint64(len(names)):
			return records, fmt.Errorf("block of %s: record %d of publisher %d", b.Room, pos, who)
		case slices.Contains(b.Dropped, uint32(pos)) || pos < uint64(b.Skip):
			continue
		}
		records = append(records, got{seq, names[who], payload})
		seq++
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("block of %s: %d bytes too many", b.Room, len(rest))
	}
	if err == nil && seq != b.Last+1 {
		err = fmt.Errorf("block of %s: seqs %d to %d, it says to %d", b.Room, b.First, seq-1, b.Last)
	}
	return records, err
}

// ledger is a machine and what a replica keeps for it on disk: Read without a
// Partition.
type ledger struct {
	*Machine
	entries map[raftlog.Index][]byte
	last    raftlog.Index
	files   map[raftlog.Index][]byte // by checkpoint
	snaps   map[raftlog.Index][]byte
	late    bool // views are settled only when they must be
}

const ledgerGroup = 7

func newLedger() *ledger {
	return &ledger{
		Machine: NewMachine(), entries: map[raftlog.Index][]byte{},
		files: map[raftlog.Index][]byte{}, snaps: map[raftlog.Index][]byte{},
	}
}

// add applies data at the next index.
func (l *ledger) add(data []byte) (Outcome, error) {
	if _, ok := checkpointBehind(data); ok {
		l.write()
	}
	l.last++
	l.entries[l.last] = data
	out, err := l.Apply(l.last, data)
	if out.Checkpoint && !l.late {
		l.write()
	}
	return out, err
}

// write writes down and settles the view, if there is one.
func (l *ledger) write() {
	v := l.view
	if v == nil {
		return
	}
	var rooms, snap bytes.Buffer
	if err := v.writeRooms(l.Machine, noLock{}, ledgerGroup, &rooms, onward); err != nil {
		panic(err)
	}
	if err := v.writeSnapshot(l.Machine, noLock{}, &snap, onward); err != nil {
		panic(err)
	}
	l.files[v.index], l.snaps[v.index] = rooms.Bytes(), snap.Bytes()
	if err := v.settle(l.Machine, noLock{}, onward); err != nil {
		panic(err)
	}
}

// restored returns a ledger that begins with the snapshot at index and has been
// given what came behind it. It has the other's files.
func (l *ledger) restored(index raftlog.Index) (*ledger, error) {
	m, err := readSnapshot(index, bytes.NewReader(l.snaps[index]))
	if err != nil {
		return nil, err
	}
	m.limit, m.window, m.keep = l.limit, l.window, l.keep
	r := &ledger{Machine: m, last: index, entries: maps.Clone(l.entries), files: l.files, snaps: maps.Clone(l.snaps), late: l.late}
	maps.DeleteFunc(r.snaps, func(at raftlog.Index, _ []byte) bool { return at > index })
	for r.last < l.last {
		r.add(l.entries[r.last+1])
	}
	return r, nil
}

// Read is that of a raftlog.Group.
func (l *ledger) Read(from raftlog.Index, maxBytes int) (entries []raftlog.Entry, next raftlog.Index, err error) {
	for next = from; next <= l.last && maxBytes > 0; next++ {
		data, ok := l.entries[next]
		if !ok {
			return nil, next, raftlog.ErrNotFound
		}
		entries = append(entries, raftlog.Entry{Index: next, Data: data})
		maxBytes -= len(data)
	}
	return entries, next, nil
}

// course fills in what is in a file.
func (l *ledger) course(loc location, name string) (course, error) {
	if loc.inFile {
		r, err := readRecord(bytes.NewReader(l.files[loc.to]), loc.offset, name)
		if err != nil {
			return course{}, err
		}
		loc.places, loc.drops = r.places, r.drops
	}
	return loc.course, nil
}

// blocks visits the room's blocks from the one with seq next on.
func (l *ledger) blocks(name string, next Seq, visit func(Block)) error {
	r := l.rooms[name]
	if r == nil {
		return nil
	}
	next = max(next, l.first(r))
	for next <= r.last {
		c, err := l.course(l.locate(r, next), name)
		if err != nil {
			return err
		}
		c.from(next)
		was := next
		err = c.walk(l, name, 1, func(b Block) bool {
			if b.Last >= next {
				visit(b.behind(next))
				next = b.Last + 1
			}
			return true
		})
		if err != nil {
			return err
		}
		if next == was {
			return fmt.Errorf("room %s: nothing at seq %d", name, next)
		}
	}
	return nil
}

// read returns the messages of room from seq next on that are held.
func (l *ledger) read(name string, next Seq) (all []got, err error) {
	bad := l.blocks(name, next, func(b Block) {
		records, fault := readBlock(b)
		err = errors.Join(err, fault)
		all = append(all, records...)
	})
	return all, errors.Join(err, bad)
}

// at returns the first seq at or after time t.
func (l *ledger) firstAt(name string, t int64) (Seq, error) {
	r := l.rooms[name]
	loc, at, inside := l.locateTime(r, t)
	if !inside {
		return at, nil
	}
	c, err := l.course(loc, name)
	if err != nil {
		return 0, err
	}
	c.until(t)
	at = c.last + 1
	err = c.walk(l, name, 1, func(b Block) bool {
		if b.Time >= t {
			at = b.First
		}
		return b.Time < t
	})
	return max(at, l.first(r)), err
}

// checkMachine tells what in m cannot be.
func checkMachine(m *Machine) error {
	if len(m.rooms) != m.table.len() {
		return fmt.Errorf("%d rooms, %d in the table", len(m.rooms), m.table.len())
	}
	for i := range m.table.len() {
		if err := checkRoom(m, m.table.at(i)); err != nil {
			return err
		}
	}
	for r, drops := range m.drops {
		if m.rooms[r.name] != r || len(drops) == 0 || len(r.hot) == 0 && m.view == nil {
			return fmt.Errorf("room %q has drops %v", r.name, drops)
		}
	}
	n := 0
	for s := m.sessions.oldest; s != nil; s = s.newer {
		n++
		switch {
		case m.sessions.byID[s.id] != s:
			return fmt.Errorf("session %x is in the list and not in the table", s.id)
		case s.floor+Counter(len(s.answers)) != s.last+1:
			return fmt.Errorf("session %x: last %d, floor %d, %d answers", s.id, s.last, s.floor, len(s.answers))
		case len(s.answers) > m.window:
			return fmt.Errorf("session %x has %d answers", s.id, len(s.answers))
		case m.clock-s.active > m.ttl || s.active > m.clock || s.newer != nil && s.newer.active < s.active:
			return fmt.Errorf("session %x: active at %v, now %v", s.id, s.active, m.clock)
		case s.newer != nil && s.newer.older != s || s.newer == nil && m.sessions.newest != s:
			return fmt.Errorf("session %x is linked one way", s.id)
		}
	}
	kept := 0
	for _, s := range m.sessions.byID {
		kept += len(s.answers)
	}
	if kept != m.sessions.kept || kept > m.keep {
		return fmt.Errorf("%d answers are kept, %d counted, limit %d", kept, m.sessions.kept, m.keep)
	}
	if n != len(m.sessions.byID) || n > m.limit {
		return fmt.Errorf("%d sessions in the list, %d in the table, limit %d", n, len(m.sessions.byID), m.limit)
	}
	if len(m.state) != 0 {
		return fmt.Errorf("%d blocks are left from the last entry", len(m.state))
	}
	return nil
}

func checkRoom(m *Machine, r *room) error {
	first := m.first(r)
	if m.rooms[r.name] != r || r.last < 1 || first < 1 || first > r.last+1 || len(r.spans)+len(r.hot) == 0 && first <= r.last {
		return fmt.Errorf("room %q from %d: %+v", r.name, first, r)
	}
	var before place
	for i, s := range r.spans {
		p := place{first: s.first, time: s.time, index: raftlog.Index(s.chunk) + 1}
		if p.first <= before.first || p.index <= before.index || p.time < before.time || s.chunk >= m.chunks.openNumber() {
			return fmt.Errorf("room %q: span %d of %+v", r.name, i, r.spans)
		}
		before = p
	}
	before.index = 0
	for i, p := range r.hot {
		if p.first <= before.first || p.index <= before.index || p.time < before.time || p.first > r.last || p.time > r.time {
			return fmt.Errorf("room %q: place %d of %+v", r.name, i, r.hot)
		}
		before = p
	}
	return nil
}

func (m *Machine) checked(t interface{ Fatal(...any) }) {
	if err := checkMachine(m); err != nil {
		t.Fatal(err)
	}
}

// dump writes everything that replicas must agree on.
func (m *Machine) dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "index %d, hash %016x, clock %v, ttl %v, wall %d\n", m.index, m.hash, m.clock, m.ttl, m.wall)
	fmt.Fprintf(&b, "floor %d, number %d, closed %v, prefixes %v\n", m.chunks.floor, m.chunks.number, m.chunks.closed, m.chunks.prefixes)
	for i := range m.table.len() {
		r := m.table.at(i)
		_, chunk := m.chunks.floorOf(r.name)
		fmt.Fprintf(&b, "room %q: %d to %d, time %d, hash %016x, spans %v, places %v, drops %v\n",
			r.name, m.first(r), r.last, r.time, r.hash, r.heldSpans(chunk), r.hot, m.drops[r])
	}
	for s := m.sessions.oldest; s != nil; s = s.newer {
		fmt.Fprintf(&b, "session %x: last %d, floor %d, active %v, answers %v\n", s.id, s.last, s.floor, s.active, s.answers)
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// events collects what a Publisher's Replier is told.
type events struct{ all chan any }

type openedEvent struct{}

func newEvents() *events { return &events{make(chan any, 100_000)} }

func (e *events) Opened()           { e.all <- openedEvent{} }
func (e *events) Acked(a []Answer)  { e.all <- slices.Clone(a) }
func (e *events) Refused(r Refusal) { e.all <- r }
func (e *events) none() (any, bool) { return e.within(0) }
func (e *events) next(t *testing.T) any {
	t.Helper()
	if ev, ok := e.within(20 * time.Second); ok {
		return ev
	}
	t.Fatal("no answer came")
	return nil
}

func (e *events) within(d time.Duration) (any, bool) {
	select {
	case ev := <-e.all:
		return ev, true
	default:
	}
	select {
	case ev := <-e.all:
		return ev, true
	case <-time.After(d):
		return nil, false
	}
}
