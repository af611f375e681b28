package partition

import (
	"encoding/binary"
	"flag"
	"fmt"
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

func messagesOf(all []sent) []message {
	type life struct {
		session string
		n       int
	}
	publishers := map[life]*Publisher{}
	var messages []message
	for _, s := range all {
		key := life{s.session, s.life}
		if publishers[key] == nil {
			publishers[key] = &Publisher{session: sessionID(s.session)}
		}
		messages = append(messages, message{
			from: publishers[key], counter: s.counter, floor: max(s.floor, 1),
			name: []byte(s.name), room: []byte(s.room), payload: []byte(s.payload),
		})
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

// ledger is a machine and the log it was given: Read without a Partition.
type ledger struct {
	*Machine
	entries map[raftlog.Index][]byte
	last    raftlog.Index
}

func newLedger() *ledger {
	return &ledger{Machine: NewMachine(), entries: map[raftlog.Index][]byte{}}
}

// add applies data at the next index.
func (l *ledger) add(data []byte) (Outcome, error) {
	l.last++
	l.entries[l.last] = data
	return l.Apply(l.last, data)
}

// read returns the messages of room from seq next on, block by block.
func (l *ledger) read(name string, next Seq) (all []got, err error) {
	r := l.rooms[name]
	if r == nil {
		return nil, nil
	}
	var e entry
	for next <= r.last {
		p, last := r.find(next)
		b, n, err := p.reread(&e, name, last, l.entries[p.index])
		if err != nil {
			return all, err
		}
		b.Dropped = l.dropped[blockID{p.index, n}]
		b = b.behind(next)
		records, err := readBlock(b)
		if err != nil {
			return all, err
		}
		all = append(all, records...)
		next = b.Last + 1
	}
	return all, nil
}

// checkMachine tells what in m cannot be.
func checkMachine(m *Machine) error {
	for name, r := range m.rooms {
		if name != r.name || r.last < r.first || len(r.places) == 0 || r.places[0].first != r.first {
			return fmt.Errorf("room %q: %+v", name, r)
		}
		for i, p := range r.places {
			if i > 0 && (p.first <= r.places[i-1].first || p.index <= r.places[i-1].index || p.time < r.places[i-1].time) {
				return fmt.Errorf("room %q: place %+v behind %+v", name, p, r.places[i-1])
			}
			if p.first > r.last || p.time > r.time {
				return fmt.Errorf("room %q ends at %d, %d: place %+v", name, r.last, r.time, p)
			}
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

func (m *Machine) checked(t interface{ Fatal(...any) }) {
	if err := checkMachine(m); err != nil {
		t.Fatal(err)
	}
}

// dump writes everything that replicas must agree on.
func (m *Machine) dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "index %d, hash %016x, clock %v, ttl %v, wall %d\n", m.index, m.hash, m.clock, m.ttl, m.wall)
	for _, name := range sortedKeys(m.rooms) {
		r := m.rooms[name]
		fmt.Fprintf(&b, "room %q: %d to %d, time %d, places %v\n", name, r.first, r.last, r.time, r.places)
	}
	for s := m.sessions.oldest; s != nil; s = s.newer {
		fmt.Fprintf(&b, "session %x: last %d, floor %d, active %v, answers %v\n", s.id, s.last, s.floor, s.active, s.answers)
	}
	var dropped []string
	for id, positions := range m.dropped {
		dropped = append(dropped, fmt.Sprintf("dropped %v: %v", id, positions))
	}
	slices.Sort(dropped)
	return b.String() + strings.Join(dropped, "\n")
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
