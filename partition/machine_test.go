package partition

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/roomlog/roomlog/raftlog"
)

// TestMachine tells the stories in testdata/machine. Times are seconds.
//
//	open at=T [ttl=D]      sessions by name
//	close at=T             sessions by name
//	tick at=T [ttl=D]
//	publish at=T           a message a line: SESSION COUNTER [floor=N] [life=N] ROOM [NAME:] PAYLOAD
//	raw                    an entry in hexadecimal
//	read room=R [from=N]   what a reader gets who wants seq N first
//	checkpoint at=T [previous=N] [late]  late: its view is settled only before the next
//	trim at=T [floor=N]    a prefix and its floor a line
//	restore [from=N]       goes on with a machine restored from the snapshot at N, or the newest, and the log
//	at room=R time=T       the first seq at or after T
//	rooms, chunks, sessions, hash  what the machine holds
//	limit sessions=N, window=N, answers=N
func TestMachine(t *testing.T) {
	datadriven.Walk(t, "testdata/machine", func(t *testing.T, path string) {
		s := story{ledger: newLedger()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := s.tell(t, d)
			s.checked(t)
			return out
		})
	})
}

type story struct {
	*ledger
	out strings.Builder
}

func (s *story) tell(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	at, ttl := 0.0, "10m"
	if d.HasArg("at") {
		d.ScanArgs(t, "at", &at)
	}
	d.MaybeScanArgs(t, "ttl", &ttl)
	idle, err := time.ParseDuration(ttl)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	now := int64(math.Round(at * 1e9))
	switch d.Cmd {
	case "open":
		s.open(encodeOpen(now, idle, sessionIDs(strings.Fields(d.Input)...)), strings.Fields(d.Input))
	case "close":
		s.pass(encodeClose(now, sessionIDs(strings.Fields(d.Input)...)))
	case "tick":
		s.pass(encodeTick(now, idle))
	case "raw":
		data, err := hex.DecodeString(strings.Join(strings.Fields(d.Input), ""))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.pass(data)
	case "publish":
		s.publish(t, d, now)
	case "checkpoint":
		s.checkpoint(t, d, now)
	case "trim":
		s.trim(t, d, now)
	case "restore":
		s.restore(t, d)
	case "at":
		s.tellAt(t, d)
	case "chunks":
		s.tellChunks()
	case "read":
		s.tellRead(t, d)
	case "rooms":
		s.tellRooms()
	case "sessions":
		s.tellSessions()
	case "hash":
		s.say("index %d, hash %016x", s.index, s.hash)
	case "limit":
		d.MaybeScanArgs(t, "sessions", &s.limit)
		d.MaybeScanArgs(t, "window", &s.window)
		d.MaybeScanArgs(t, "answers", &s.keep)
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	return s.out.String()
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *story) pass(data []byte) {
	if _, err := s.add(data); err != nil {
		s.say("%v", err)
	}
}

func (s *story) open(data []byte, names []string) {
	out, err := s.add(data)
	if err != nil {
		s.say("%v", err)
	}
	for i, name := range names {
		if out.Opened[i] != nil {
			s.say("%s: %v", name, out.Opened[i])
		} else {
			s.say("%s: open", name)
		}
	}
}

func (s *story) publish(t *testing.T, d *datadriven.TestData, now int64) {
	var all []sent
	for _, line := range strings.Split(d.Input, "\n") {
		all = append(all, sentOf(t, d, line))
	}
	var p packer
	data, publishers := p.pack(now, messagesOf(all))
	out, err := s.add(data)
	if err != nil {
		s.say("%v", err)
		return
	}
	for _, a := range out.Answers {
		who := sessionName(publishers[a.Session].session)
		switch {
		case a.Err != nil:
			s.say("%s %s: %v", who, through(a.Counter, a.Count), a.Err)
		case a.Duplicate:
			s.say("%s %s: seq %s at %s, duplicate", who, through(a.Counter, a.Count), through(a.Seq, a.Count), seconds(a.Time))
		default:
			s.say("%s %s: seq %s at %s", who, through(a.Counter, a.Count), through(a.Seq, a.Count), seconds(a.Time))
		}
	}
	for _, b := range out.Blocks {
		s.say("block of %s: seq %s at %s, dropped %v", b.Room, through(b.First, int(b.Last+1-b.First)), seconds(b.Time), b.Dropped)
		if _, err := readBlock(b); err != nil {
			s.say("%v", err)
		}
	}
}

// sentOf reads "SESSION COUNTER [floor=N] [life=N] ROOM [NAME:] PAYLOAD".
func sentOf(t *testing.T, d *datadriven.TestData, line string) sent {
	words := strings.Fields(line)
	if len(words) < 3 {
		d.Fatalf(t, "no message: %q", line)
	}
	m := sent{session: words[0]}
	number := func(text string) Counter {
		n, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			d.Fatalf(t, "%q: %v", line, err)
		}
		return Counter(n)
	}
	m.counter = number(words[1])
	words = words[2:]
	for ; strings.Contains(words[0], "="); words = words[1:] {
		if n, ok := strings.CutPrefix(words[0], "floor="); ok {
			m.floor = number(n)
		} else if n, ok := strings.CutPrefix(words[0], "life="); ok {
			m.life = int(number(n))
		}
	}
	m.room, words = words[0], words[1:]
	if len(words) > 0 && strings.HasSuffix(words[0], ":") {
		m.name, words = strings.TrimSuffix(words[0], ":"), words[1:]
	}
	m.payload = strings.Join(words, " ")
	return m
}

func (s *story) tellRead(t *testing.T, d *datadriven.TestData) {
	room, from := "", uint64(1)
	d.ScanArgs(t, "room", &room)
	d.MaybeScanArgs(t, "from", &from)
	all, err := s.read(room, Seq(from))
	for _, m := range all {
		s.say("%d %s: %s", m.seq, m.name, m.payload)
	}
	if err != nil {
		s.say("%v", err)
	}
}

func (s *story) checkpoint(t *testing.T, d *datadriven.TestData, now int64) {
	previous := uint64(s.chunks.last())
	d.MaybeScanArgs(t, "previous", &previous)
	s.late = d.HasArg("late")
	out, err := s.add(encodeCheckpoint(now, raftlog.Index(previous)))
	if err != nil {
		s.say("%v", err)
	}
	if out.Checkpoint {
		s.say("checkpoint at %d", s.last)
	} else {
		s.say("no checkpoint")
	}
}

func (s *story) trim(t *testing.T, d *datadriven.TestData, now int64) {
	floor := uint64(0)
	d.MaybeScanArgs(t, "floor", &floor)
	var prefixes []prefixFloor
	for _, line := range strings.Split(d.Input, "\n") {
		var p prefixFloor
		if n, _ := fmt.Sscanf(line, "%s %d", &p.prefix, &p.index); n == 2 {
			prefixes = append(prefixes, p)
		}
	}
	out, err := s.add(encodeTrim(now, raftlog.Index(floor), prefixes))
	if err != nil {
		s.say("%v", err)
	}
	if !out.Trimmed {
		s.say("nothing trimmed")
	}
}

// restore ends up where it was: the rest of the story is told by another machine.
func (s *story) restore(t *testing.T, d *datadriven.TestData) {
	s.write()
	from := uint64(s.chunks.last())
	d.MaybeScanArgs(t, "from", &from)
	before := s.dump()
	r, err := s.restored(raftlog.Index(from))
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	r.write()
	if got := r.dump(); got != before {
		d.Fatalf(t, "restored it is\n%s\nit was\n%s", got, before)
	}
	s.ledger = r
}

func (s *story) tellAt(t *testing.T, d *datadriven.TestData) {
	room, at := "", 0.0
	d.ScanArgs(t, "room", &room)
	d.ScanArgs(t, "time", &at)
	seq, err := s.firstAt(room, int64(math.Round(at*1e9)))
	if err != nil {
		s.say("%v", err)
	}
	s.say("seq %d", seq)
}

func (s *story) tellRooms() {
	for _, name := range sortedKeys(s.rooms) {
		r := s.rooms[name]
		s.say("%s: %d to %d, last at %s", name, s.first(r), r.last, seconds(r.time))
		for _, p := range r.spans {
			s.say("  from seq %d: chunk %d, at %s", p.first, p.chunk, seconds(p.time))
		}
		for _, p := range r.hot {
			s.say("  from seq %d: index %d, at %s", p.first, p.index, seconds(p.time))
		}
	}
}

func (s *story) tellChunks() {
	s.say("floor %d", s.chunks.floor)
	for i, c := range s.chunks.closed {
		s.say("chunk %d: to %d, %d messages, the last at %s", int(s.chunks.number)+i, c.to, c.messages, seconds(c.time))
	}
	for _, p := range s.chunks.prefixes {
		s.say("rooms %s…: floor %d", p.prefix, p.index)
	}
	s.say("open: %d messages", s.chunks.open.messages)
}

func (s *story) tellSessions() {
	s.say("logical time %v", s.clock)
	for at := s.sessions.oldest; at != nil; at = at.newer {
		s.say("%s: last %d, floor %d, %d answers, active at %v", sessionName(at.id), at.last, at.floor, len(at.answers), at.active)
	}
}

func through[N ~uint64](first N, count int) string {
	if count == 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, first+N(count)-1)
}

func seconds(ns int64) string { return strconv.FormatFloat(float64(ns)/1e9, 'g', -1, 64) }

// TestFloorBeyondAll: a client may send any floor; the machine forgets what it
// has and no more.
func TestFloorBeyondAll(t *testing.T) {
	for _, floor := range []Counter{4, 5, 1 << 40, math.MaxInt64, math.MaxInt64 + 1, math.MaxInt64 + 5, math.MaxUint64 - 1, math.MaxUint64} {
		l := newLedger()
		l.add(encodeOpen(0, time.Minute, sessionIDs("s")))
		l.add(packed(0, sent{session: "s", counter: 1, room: "r"}, sent{session: "s", counter: 2, room: "r"}))
		l.add(packed(0, sent{session: "s", counter: max(floor, 3), floor: floor, room: "r"}))
		l.checked(t)
		if out, err := l.add(packed(0, sent{session: "s", counter: 3, room: "r"})); err != nil || out.Answers[0].Seq != 3 {
			t.Errorf("behind floor %d the next publish gets %+v, %v", floor, out, err)
		}
	}
}

func TestAnswersJoin(t *testing.T) {
	l := newLedger()
	l.add(encodeOpen(0, time.Minute, sessionIDs("s", "t")))
	out, _ := l.add(packed(5,
		sent{session: "s", counter: 1, room: "a"}, sent{session: "s", counter: 2, room: "a"},
		sent{session: "s", counter: 3, room: "b"}, sent{session: "s", counter: 4, room: "b"},
		sent{session: "t", counter: 1, room: "b"},
		sent{session: "s", counter: 5, room: "b"},
	))
	want := []Answer{
		{Session: 0, Counter: 1, Count: 2, Seq: 1, Time: 5},
		{Session: 0, Counter: 3, Count: 2, Seq: 1, Time: 5},
		{Session: 1, Counter: 1, Count: 1, Seq: 3, Time: 5},
		{Session: 0, Counter: 5, Count: 1, Seq: 4, Time: 5},
	}
	if fmt.Sprint(out.Answers) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", out.Answers, want)
	}
	// The first number in d and the next two in c run on at one time: an answer of
	// two messages joins the one before.
	l.add(packed(6, sent{session: "t", counter: 2, room: "c"}))
	out, _ = l.add(packed(7,
		sent{session: "s", counter: 6, room: "d"},
		sent{session: "s", counter: 7, room: "c"}, sent{session: "s", counter: 8, room: "c"},
	))
	want = []Answer{{Session: 0, Counter: 6, Count: 3, Seq: 1, Time: 7}}
	if fmt.Sprint(out.Answers) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", out.Answers, want)
	}
}
