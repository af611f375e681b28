package partition

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
	"pgregory.net/rapid"
)

const goldenTime = 1700000000123456789

// goldenEntries has one of each kind. package transport reads their files too.
var goldenEntries = []struct {
	name string
	what string
	data []byte
}{
	{"1-open", "sessions anna and ben, ten minutes", encodeOpen(goldenTime, 10*time.Minute, sessionIDs("anna", "ben"))},
	{"2-publish", "anna 1 and 2 in the lobby, ben 1 in match, anna 3 in the lobby as Anne", packed(goldenTime+1,
		sent{session: "anna", counter: 1, room: "lobby", name: "Anna", payload: "hello"},
		sent{session: "anna", counter: 2, room: "lobby", name: "Anna"},
		sent{session: "ben", counter: 1, room: "match", payload: "goal"},
		sent{session: "anna", counter: 3, floor: 2, room: "lobby", name: "Anne", payload: "bye"},
	)},
	{"3-publish-again", "anna 3 and 4 in the lobby as Anna", packed(goldenTime+2,
		sent{session: "anna", counter: 3, floor: 3, room: "lobby", name: "Anna", payload: "bye"},
		sent{session: "anna", counter: 4, floor: 3, room: "lobby", name: "Anna", payload: strings.Repeat("x", 130)},
	)},
	{"4-tick", "ten minutes", encodeTick(goldenTime+3, 10*time.Minute)},
	{"5-close", "session ben", encodeClose(goldenTime+4, sessionIDs("ben"))},
	{"6-checkpoint", "behind that at 1000", encodeCheckpoint(goldenTime+5, 1000)},
	{"7-trim", "up to 1000, rooms match… up to 200000", encodeTrim(goldenTime+6, 1000, []prefixFloor{{prefix: "match", index: 200_000}})},
}

// TestGolden holds the entries' bytes fast: logs are made of them.
func TestGolden(t *testing.T) {
	for _, g := range goldenEntries {
		t.Run(g.name, func(t *testing.T) {
			path := filepath.Join("testdata", "golden", g.name+".txt")
			text := fmt.Sprintf("%s\n\n%s", g.what, hex.Dump(g.data))
			if rewriting() {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != text {
				t.Errorf("%s has\n%s\nnow it is\n%s", path, want, text)
			}
			if !bytes.Equal(undump(t, string(want)), g.data) {
				t.Errorf("the hexadecimal digits of %s are not the entry", path)
			}
		})
	}
}

var dumpLine = regexp.MustCompile(`(?m)^[0-9a-f]{8}  ((?:[0-9a-f]{2} +)+)\|`)

func undump(t *testing.T, text string) (b []byte) {
	for _, line := range dumpLine.FindAllStringSubmatch(text, -1) {
		part, err := hex.DecodeString(strings.ReplaceAll(line[1], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, part...)
	}
	return b
}

// TestPackAny packs messages of any kind and finds them all again: per room in
// the order of arrival, per run with their session and counter.
func TestPackAny(t *testing.T) {
	var p packer // one for all, as the proposer has
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) sent {
			return sent{
				session: fmt.Sprint("s", rapid.IntRange(0, 5).Draw(t, "session")),
				life:    rapid.IntRange(0, 1).Draw(t, "life"),
				counter: Counter(rapid.OneOf(rapid.Uint64Range(1, 5), rapid.Uint64Min(1)).Draw(t, "counter")),
				floor:   Counter(rapid.Uint64Min(1).Draw(t, "floor")),
				name:    rapid.StringN(0, 5, 64).Draw(t, "name"),
				room:    fmt.Sprint("r", rapid.IntRange(0, 9).Draw(t, "room")),
				payload: string(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload")),
			}
		}), 1, 60).Draw(t, "messages")
		checkPacked(t, &p, all)
	})
}

func TestPackEdges(t *testing.T) {
	var turns []sent // more publishers taking turns than the packer looks back
	for i := range 100 {
		turns = append(turns, sent{session: "s", counter: Counter(i) + 1, room: "r", name: fmt.Sprint("name-", i%(nameSearch+1))})
	}
	var rooms []sent
	for i := range 1000 {
		rooms = append(rooms, sent{session: "s", counter: Counter(i) + 1, room: fmt.Sprint("room-", i%500)})
	}
	var tiny []sent
	for i := range maxEntryBytes / entryCost {
		tiny = append(tiny, sent{session: fmt.Sprint(i % 300), counter: math.MaxUint64 - Counter(i), floor: math.MaxUint64 - Counter(i), room: fmt.Sprint(i % 7)})
	}
	large := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name string
		all  []sent
		most int // bytes
	}{
		{"one empty message", []sent{{session: "s", counter: 1, room: "r"}}, 60},
		{"the largest message", []sent{{session: "s", counter: 1, room: strings.Repeat("r", 255), name: strings.Repeat("n", 64), payload: large}}, 1<<20 + 500},
		{"the highest counters", []sent{{session: "s", counter: math.MaxUint64, floor: math.MaxUint64, room: "r"}}, 100},
		{"names taking turns", turns, 4000},
		{"many rooms", rooms, 30_000},
		{"as many empty messages as an entry takes", tiny, maxEntryBytes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n := checkPacked(t, &packer{}, tt.all); n > tt.most {
				t.Errorf("the entry has %d bytes, want at most %d", n, tt.most)
			}
		})
	}
}

// checkPacked packs what was sent and compares it with what decode finds.
func checkPacked(t interface{ Fatalf(string, ...any) }, p *packer, all []sent) (size int) {
	messages := messagesOf(all)
	data, publishers := p.pack(goldenTime, messages)
	var e entry
	if err := e.decode(data); err != nil {
		t.Fatalf("decode: %v", err)
	}
	if e.kind != kindPublish || e.time != goldenTime || len(e.sessions) != len(publishers) {
		t.Fatalf("kind %d, time %d, %d sessions for %d publishers", e.kind, e.time, len(e.sessions), len(publishers))
	}
	floors := map[*Publisher]Counter{}
	for _, m := range messages {
		floors[m.from] = max(floors[m.from], m.floor)
	}
	for _, m := range messages { // a floor passes no message of its own entry
		floors[m.from] = min(floors[m.from], m.counter)
	}
	for i, pub := range publishers {
		if e.sessions[i].id != pub.session || e.sessions[i].floor != floors[pub] {
			t.Fatalf("session %d: %+v, want floor %d", i, e.sessions[i], floors[pub])
		}
	}
	records := make([][]got, len(e.blocks))
	for i, b := range e.blocks {
		var err error
		if records[i], err = readBlock(Block{Room: string(b.room), First: 1, Last: Seq(b.count), Data: b.data}); err != nil {
			t.Fatalf("%v", err)
		}
	}
	next := 0 // message
	for _, r := range e.runs {
		for i := range r.count {
			m, s := messages[next], all[next]
			if publishers[r.session] != m.from || r.counter+Counter(i) != s.counter || string(e.blocks[r.block].room) != s.room {
				t.Fatalf("message %d: run %+v of room %q, want %+v", next, r, e.blocks[r.block].room, s)
			}
			if rec := records[r.block][0]; rec.name != s.name || rec.payload != s.payload {
				t.Fatalf("message %d: %+v, want %+v", next, rec, s)
			}
			records[r.block] = records[r.block][1:]
			next++
		}
	}
	if next != len(all) {
		t.Fatalf("%d messages, want %d", next, len(all))
	}
	return len(data)
}

func TestPackerForgets(t *testing.T) {
	var p packer
	p.pack(1, messagesOf([]sent{{session: "s", counter: 1, room: "r", name: "n"}}))
	p.forget()
	if len(p.sessionOf) != 0 || len(p.blockOf) != 0 || p.blocks[:1][0].names != nil {
		t.Errorf("something is kept: %+v", p)
	}
}

func TestSessionEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64().Draw(t, "now")
		ttl := time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "ttl")) * time.Millisecond
		var ids []SessionID
		for range rapid.IntRange(0, 20).Draw(t, "sessions") {
			var id SessionID
			copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
			ids = append(ids, id)
		}
		var e entry
		check := func(data []byte, kind entryKind, ids []SessionID, ttl time.Duration) {
			e = entry{}
			if err := e.decode(data); err != nil || e.kind != kind || e.time != now || e.ttl != ttl || fmt.Sprint(e.ids) != fmt.Sprint(ids) {
				t.Fatalf("got %+v, %v, want kind %d, %d, %v, %v", e, err, kind, now, ttl, ids)
			}
		}
		check(encodeOpen(now, ttl, ids), kindOpen, ids, ttl)
		check(encodeClose(now, ids), kindClose, ids, 0)
		check(encodeTick(now, ttl), kindTick, nil, ttl)
	})
}

// TestDecodeCutShort: no beginning of an entry is an entry.
func TestDecodeCutShort(t *testing.T) {
	for _, g := range goldenEntries {
		for n := range g.data {
			var e entry
			if err := e.decode(g.data[:n]); !errors.Is(err, errMalformed) {
				t.Errorf("%s: its first %d bytes of %d: %v", g.name, n, len(g.data), err)
			}
		}
	}
}

func TestDecodeEdges(t *testing.T) {
	head := string(appendHead(nil, kindOpen, 0))
	number := func(v uint64) string { return string(binary.AppendUvarint(nil, v)) }
	for _, tt := range []struct {
		name string
		data string
		want error
	}{
		{"nothing", "", errMalformed},
		{"a later version, however short", "\x02", errEntryVersion},
		{"version 0", "\x00", errEntryVersion},
		{"a later kind", "\x01\x07" + head[2:], errEntryVersion},
		{"kind 0", "\x01\x00" + head[2:], errEntryVersion},
		{"the longest time to live", head + number(1<<40) + "\x00", nil},
		{"a longer one", head + number(1<<40+1) + "\x00", errMalformed},
		{"more sessions than bytes", head + "\x00\x02" + strings.Repeat("x", 31), errMalformed},
		{"bytes behind the end", head + "\x00\x00x", errMalformed},
		{"a number without end", head + strings.Repeat("\xff", 11), errMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e entry
			if err := e.decode([]byte(tt.data)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// FuzzDecodeEntry applies any bytes, twice, to a machine that has sessions and
// rooms. It never panics, and the machine stays sound.
func FuzzDecodeEntry(f *testing.F) {
	for _, g := range goldenEntries {
		f.Add(g.data)
	}
	f.Add(packed(1, sent{session: "anna", counter: 2, floor: math.MaxUint64, room: "lobby", payload: "x"}))
	f.Add(packed(1, sent{session: "anna", counter: math.MaxUint64, room: "lobby"}, sent{session: "anna", counter: 2, room: "new"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLedger()
		l.limit, l.window = 3, 4
		l.add(goldenEntries[0].data)
		l.add(goldenEntries[1].data)
		whole := map[string]Seq{"lobby": 3, "match": 1}
		for range 2 {
			before := l.dump()
			out, err := l.add(data)
			l.checked(t)
			if err != nil {
				if got := l.dump(); got != strings.Replace(before, fmt.Sprintf("index %d", l.last-1), fmt.Sprintf("index %d", l.last), 1) {
					t.Fatalf("an entry that was passed over changed the machine from\n%s\nto\n%s", before, got)
				}
				continue
			}
			for _, b := range out.Blocks {
				records, err := readBlock(b)
				if err != nil {
					t.Fatal(err)
				}
				if b.First != whole[b.Room]+1 || Seq(len(records)) != b.Last+1-b.First {
					t.Fatalf("block %d to %d with %d records behind seq %d", b.First, b.Last, len(records), whole[b.Room])
				}
				whole[b.Room] = b.Last
			}
		}
		for room, last := range whole {
			all, err := l.read(room, 1)
			if err != nil || Seq(len(all)) != last {
				t.Fatalf("room %q: %d messages, %v, want %d", room, len(all), err, last)
			}
		}
		if len(whole) != len(l.rooms) {
			t.Fatalf("%d rooms, want %d", len(l.rooms), len(whole))
		}
	})
}

// BenchmarkMachineApply numbers entries of 64 messages of 8 sessions.
func BenchmarkMachineApply(b *testing.B) {
	for _, rooms := range []int{1, 64} {
		b.Run(fmt.Sprintf("payload=128/rooms=%d", rooms), func(b *testing.B) {
			m := NewMachine()
			names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
			m.Apply(1, encodeOpen(1, time.Hour, sessionIDs(names...)))
			var all []sent
			for i := range 64 {
				all = append(all, sent{session: names[i%8], counter: 1, room: fmt.Sprint("room-", i%rooms), name: names[i%8], payload: strings.Repeat("x", 128)})
			}
			messages := messagesOf(all)
			var p packer
			index, applied := raftlog.Index(1), 0
			b.SetBytes(64 * 128)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				for i := range messages {
					messages[i].counter, messages[i].floor = Counter(applied/8+i/8+1), Counter(applied/8+1)
				}
				data, _ := p.pack(int64(index), messages)
				b.StartTimer()
				index++
				out, err := m.Apply(index, data)
				if err != nil || len(out.Answers) == 0 || out.Answers[0].Err != nil {
					b.Fatalf("%+v, %v", out, err)
				}
				applied += 64
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(applied), "ns/message")
		})
	}
}

// BenchmarkPack makes entries of 64 messages of 8 publishers.
func BenchmarkPack(b *testing.B) {
	for _, rooms := range []int{1, 64} {
		b.Run(fmt.Sprintf("payload=128/rooms=%d", rooms), func(b *testing.B) {
			var all []sent
			for i := range 64 {
				all = append(all, sent{session: fmt.Sprint(i % 8), counter: Counter(i/8 + 1), room: fmt.Sprint("room-", i%rooms), name: fmt.Sprint(i % 8), payload: strings.Repeat("x", 128)})
			}
			messages := messagesOf(all)
			var p packer
			b.SetBytes(64 * 128)
			b.ReportAllocs()
			for b.Loop() {
				p.pack(1, messages)
				p.forget()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/message")
		})
	}
}
