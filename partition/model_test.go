package partition

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
	"pgregory.net/rapid"
)

// model is the numbering rules said again, without regard to cost: it remembers
// everything, of what was trimmed too.
type model struct {
	index         int // of the last entry
	checkpoints   []int
	floor         int
	prefixes      map[string]int
	limit, window int
	clock, ttl    time.Duration
	wall          int64
	sessions      map[string]*modelSession
	rooms         map[string][]modelMessage
}

type modelSession struct {
	active  time.Duration
	floor   Counter // the highest told, but never beyond last+1 at that time
	answers []modelAnswer
}

type modelAnswer struct {
	room, payload string
	seq           int
	time          int64
}

type modelMessage struct {
	index         int
	time          int64
	name, payload string
}

func (m *model) advance(now int64) {
	if m.wall != 0 && now > m.wall {
		m.clock += min(time.Second, time.Duration(now-m.wall))
	}
	m.wall = max(m.wall, now)
	for name, s := range m.sessions {
		if m.clock-s.active > m.ttl {
			delete(m.sessions, name)
		}
	}
}

func (m *model) open(now int64, ttl time.Duration, names []string) (answers []string) {
	m.ttl = ttl
	m.advance(now)
	for _, name := range names {
		switch {
		case m.sessions[name] != nil:
			m.sessions[name].active = m.clock
			answers = append(answers, "open")
		case len(m.sessions) == m.limit:
			answers = append(answers, ErrTooManySessions.Error())
		default:
			m.sessions[name] = &modelSession{active: m.clock, floor: 1}
			answers = append(answers, "open")
		}
	}
	return answers
}

func (m *model) checkpoint(now int64, previous int) {
	m.advance(now)
	last := 0
	if n := len(m.checkpoints); n > 0 {
		last = m.checkpoints[n-1]
	}
	if previous == last {
		m.checkpoints = append(m.checkpoints, m.index)
	}
}

func (m *model) trim(now int64, floor int, prefixes []prefixFloor) {
	m.advance(now)
	if slices.Contains(m.checkpoints, floor) {
		m.floor = max(m.floor, floor)
	}
	for _, p := range prefixes {
		if slices.Contains(m.checkpoints, int(p.index)) {
			m.prefixes[p.prefix] = max(m.prefixes[p.prefix], int(p.index))
		}
	}
}

// first is the first seq of room above its floors.
func (m *model) first(room string) int {
	floor := m.floor
	for prefix, at := range m.prefixes {
		if strings.HasPrefix(room, prefix) {
			floor = max(floor, at)
		}
	}
	for i, msg := range m.rooms[room] {
		if msg.index > floor {
			return i + 1
		}
	}
	return len(m.rooms[room]) + 1
}

func (m *model) close(now int64, names []string) {
	m.advance(now)
	for _, name := range names {
		delete(m.sessions, name)
	}
}

// publish takes the messages of an entry one by one. The floor of a publisher is
// the highest it sent in the entry, but no higher than its lowest counter there;
// it is looked at when a run begins.
func (m *model) publish(now int64, all []sent) (answers []string) {
	m.advance(now)
	floors := map[string]Counter{}
	for _, s := range all {
		key := fmt.Sprint(s.session, s.life)
		floors[key] = max(floors[key], s.floor, 1)
	}
	for _, s := range all {
		key := fmt.Sprint(s.session, s.life)
		floors[key] = min(floors[key], s.counter)
	}
	for i, msg := range all {
		s := m.sessions[msg.session]
		if s == nil {
			answers = append(answers, fmt.Sprintf("%s %d: %v", msg.session, msg.counter, ErrSessionExpired))
			continue
		}
		s.active = m.clock
		last := Counter(len(s.answers))
		if i == 0 || !runsOn(all[i-1], msg) {
			s.floor = max(s.floor, min(floors[fmt.Sprint(msg.session, msg.life)], last+1))
		}
		answer := ""
		switch c := msg.counter; {
		case c > last+1, c < s.floor:
			answer = (&OutOfOrderError{Got: c, Want: last + 1}).Error()
		case c <= last:
			a := s.answers[c-1]
			answer = fmt.Sprintf("seq %d at %d, duplicate", a.seq, a.time)
			if a.room != msg.room || a.payload != msg.payload {
				answer = ErrConflict.Error()
			}
		case int(last+1-s.floor) == m.window:
			answer = ErrWindow.Error()
		default:
			room := m.rooms[msg.room]
			at := max(now, 0)
			if len(room) > 0 {
				at = max(at, room[len(room)-1].time)
			}
			m.rooms[msg.room] = append(room, modelMessage{m.index, at, msg.name, msg.payload})
			s.answers = append(s.answers, modelAnswer{msg.room, msg.payload, len(room) + 1, at})
			answer = fmt.Sprintf("seq %d at %d", len(room)+1, at)
		}
		answers = append(answers, fmt.Sprintf("%s %d: %s", msg.session, msg.counter, answer))
	}
	return answers
}

func runsOn(a, b sent) bool {
	return a.session == b.session && a.life == b.life && a.room == b.room && a.counter+1 == b.counter
}

// answersOf lists an outcome as the model does, message by message.
func answersOf(out Outcome, publishers []*Publisher) (answers []string) {
	for _, a := range out.Answers {
		for i := range a.Count {
			who := sessionName(publishers[a.Session].session)
			text := fmt.Sprintf("seq %d at %d", a.Seq+Seq(i), a.Time)
			if a.Duplicate {
				text += ", duplicate"
			}
			if a.Err != nil {
				text = a.Err.Error()
				if a.Seq != 0 || a.Time != 0 || a.Duplicate || a.Count != 1 {
					text = fmt.Sprintf("%+v", a)
				}
			}
			answers = append(answers, fmt.Sprintf("%s %d: %s", who, a.Counter+Counter(i), text))
		}
	}
	return answers
}

// TestModel gives a machine and the model the same entries. A second machine
// gets copies of them and has had other rooms and sessions before, so that its
// maps go another way; a third is restored from snapshots in between, and the
// views of each are written at other times: all end up the same, with the same
// snapshots and index files.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, twin := newLedger(), newLedger()
		l.late, twin.late = true, rapid.Bool().Draw(t, "late")
		for i := range rapid.IntRange(0, 100).Draw(t, "earlier") {
			name := fmt.Sprint(i)
			twin.rooms[name], twin.sessions.byID[sessionID(name)] = nil, nil
			delete(twin.rooms, name)
			delete(twin.sessions.byID, sessionID(name))
		}
		mod := &model{sessions: map[string]*modelSession{}, rooms: map[string][]modelMessage{}, prefixes: map[string]int{}}
		mod.limit = rapid.IntRange(1, 4).Draw(t, "limit")
		mod.window = rapid.IntRange(1, 5).Draw(t, "window")
		for _, m := range []*Machine{l.Machine, twin.Machine} {
			m.limit, m.window = mod.limit, mod.window
		}
		third := twin
		g := &entries{now: rapid.Int64Range(-5, 1e9).Draw(t, "begin"), last: map[string]Counter{}}
		for range rapid.IntRange(1, 60).Draw(t, "entries") {
			data, want, gotten := g.draw(t, l, mod)
			if strings.Join(gotten, "\n") != strings.Join(want, "\n") {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(gotten, "\n"), strings.Join(want, "\n"))
			}
			twin.add(bytes.Clone(data))
			if third != twin {
				third.add(data)
			}
			switch rapid.IntRange(0, 20).Draw(t, "meanwhile") {
			case 0:
				l.write()
			case 1:
				third = restoreAny(t, twin)
			case 2:
				compareRooms(t, l, mod)
			}
		}
		for _, other := range []*ledger{twin, third} {
			compareLedgers(t, l, other)
		}
		compareRooms(t, l, mod)
		compareRooms(t, third, mod)
	})
}

// restoreAny returns what twin should be too, restored from one of its snapshots.
func restoreAny(t *rapid.T, twin *ledger) *ledger {
	twin.write()
	if len(twin.snaps) == 0 {
		return twin
	}
	from := rapid.SampledFrom(slices.Sorted(maps.Keys(twin.snaps))).Draw(t, "snapshot")
	third, err := twin.restored(from)
	if err != nil {
		t.Fatal(err)
	}
	return third
}

func compareLedgers(t *rapid.T, l, other *ledger) {
	l.write()
	other.write()
	l.checked(t)
	other.checked(t)
	if l.dump() != other.dump() {
		t.Fatalf("two machines differ:\n%s\n\n%s", l.dump(), other.dump())
	}
	for index, snap := range other.snaps {
		if !bytes.Equal(l.snaps[index], snap) {
			t.Fatalf("two snapshots at %d differ:\n%x\n%x", index, l.snaps[index], snap)
		}
	}
	for index, file := range other.files {
		if !bytes.Equal(l.files[index], file) {
			t.Fatalf("two index files at %d differ:\n%x\n%x", index, l.files[index], file)
		}
	}
}

// entries draws what a leader might write.
type entries struct {
	now  int64
	last map[string]Counter // the next counter that a client would use, about
}

func (g *entries) draw(t *rapid.T, l *ledger, mod *model) (data []byte, want, gotten []string) {
	g.now += rapid.SampledFrom([]int64{0, 1, 1e6, 300e6, 1e9, 1e9 + 1, 5e9, 86400e9, -1, -3e9}).Draw(t, "passed")
	ttl := rapid.SampledFrom([]time.Duration{0, time.Second, 3 * time.Second, time.Hour, time.Hour, time.Hour}).Draw(t, "ttl")
	names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 4)
	mod.index++
	switch rapid.SampledFrom([]entryKind{
		kindPublish, kindPublish, kindPublish, kindPublish, kindPublish, kindPublish, kindOpen, kindOpen, kindOpen, kindClose, kindTick,
		kindCheckpoint, kindCheckpoint, kindTrim,
	}).Draw(t, "kind") {
	case kindCheckpoint:
		previous := l.chunks.last()
		if rapid.IntRange(0, 5).Draw(t, "second") == 0 {
			previous = raftlog.Index(rapid.IntRange(0, mod.index).Draw(t, "previous"))
		}
		data = encodeCheckpoint(g.now, previous)
		l.add(data)
		mod.checkpoint(g.now, int(previous))
	case kindTrim:
		at := rapid.OneOf(rapid.SampledFrom(append([]int{0}, mod.checkpoints...)), rapid.IntRange(0, mod.index))
		floor := at.Draw(t, "floor")
		var prefixes []prefixFloor
		for range rapid.IntRange(0, 3).Draw(t, "prefixes") {
			prefixes = append(prefixes, prefixFloor{
				prefix: rapid.SampledFrom([]string{"r", "s", "t", "", "x", "tt"}).Draw(t, "prefix"),
				index:  raftlog.Index(at.Draw(t, "prefix floor")),
			})
		}
		data = encodeTrim(g.now, raftlog.Index(floor), prefixes)
		l.add(data)
		mod.trim(g.now, floor, prefixes)
	case kindOpen:
		open := names.Draw(t, "open")
		data = encodeOpen(g.now, ttl, sessionIDs(open...))
		out, err := l.add(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range out.Opened {
			if err != nil {
				gotten = append(gotten, err.Error())
			} else {
				gotten = append(gotten, "open")
			}
		}
		return data, mod.open(g.now, ttl, open), gotten
	case kindClose:
		closed := names.Draw(t, "closed")
		data = encodeClose(g.now, sessionIDs(closed...))
		l.add(data)
		mod.close(g.now, closed)
	case kindTick:
		data = encodeTick(g.now, ttl)
		l.add(data)
		mod.open(g.now, ttl, nil)
	case kindPublish:
		all := rapid.SliceOfN(rapid.Custom(g.message), 1, 12).Draw(t, "messages")
		var p packer
		var publishers []*Publisher
		data, publishers = p.pack(g.now, messagesOf(all))
		out, err := l.add(data)
		if err != nil {
			t.Fatal(err)
		}
		return data, mod.publish(g.now, all), answersOf(out, publishers)
	}
	return data, nil, nil
}

// message draws one that mostly carries on where its session is.
func (g *entries) message(t *rapid.T) sent {
	m := sent{
		session: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "session"),
		life:    rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "life"),
		room:    rapid.SampledFrom([]string{"r", "s", "t", "tt"}).Draw(t, "room"),
		name:    rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "name"),
		payload: rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "payload"),
	}
	switch rapid.SampledFrom([]string{"next", "next", "next", "next", "again", "any", "first"}).Draw(t, "which") {
	case "next":
		g.last[m.session]++
		m.counter = g.last[m.session]
	case "again":
		m.counter = max(g.last[m.session], 1)
	case "any":
		m.counter = Counter(rapid.Uint64Range(1, uint64(g.last[m.session])+3).Draw(t, "counter"))
	case "first":
		g.last[m.session], m.counter = 1, 1
	}
	m.floor = max(1, m.counter-min(m.counter, Counter(rapid.Uint64Max(3).Draw(t, "behind"))))
	return m
}

// compareRooms reads every room from every seq on.
func compareRooms(t *rapid.T, l *ledger, mod *model) {
	if len(l.rooms) != len(mod.rooms) {
		t.Fatalf("%d rooms, want %d", len(l.rooms), len(mod.rooms))
	}
	for name, want := range mod.rooms {
		r, first := l.rooms[name], mod.first(name)
		if r == nil || int(r.last) != len(want) || int(l.first(r)) != first {
			t.Fatalf("room %s: %+v, want %d messages from %d on", name, r, len(want), first)
		}
		for from := first; from <= len(want); from++ {
			compareMessages(t, l, name, from, want)
		}
		compareTimes(t, l, r, first, want)
	}
}

// compareMessages reads a room from seq from on.
func compareMessages(t *rapid.T, l *ledger, name string, from int, want []modelMessage) {
	seq := from
	err := l.blocks(name, Seq(from), func(b Block) {
		records, err := readBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range records {
			w := want[seq-1]
			if m != (got{Seq(seq), w.name, w.payload}) || b.Time != w.time {
				t.Fatalf("room %s: %+v at %d, want seq %d %+v", name, m, b.Time, seq, w)
			}
			seq++
		}
	})
	if err != nil || seq != len(want)+1 {
		t.Fatalf("room %s from %d: %d messages, %v, want %d", name, from, seq-from, err, len(want)+1-from)
	}
}

// compareTimes looks for places by time.
func compareTimes(t *rapid.T, l *ledger, r *room, first int, want []modelMessage) {
	for _, m := range want {
		for _, when := range []int64{m.time - 1, m.time, m.time + 1} {
			seq := len(want) + 1
			for i := first; i <= len(want); i++ {
				if want[i-1].time >= when {
					seq = i
					break
				}
			}
			if got, err := l.firstAt(r.name, when); err != nil || int(got) != seq {
				t.Fatalf("room %s at %d: seq %d, %v, want %d", r.name, when, got, err, seq)
			}
		}
	}
}
