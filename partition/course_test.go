package partition

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// spied counts what is read of a log.
type spied struct {
	entryReader
	reads, bytes int
}

func (s *spied) Read(from raftlog.Index, maxBytes int) ([]raftlog.Entry, raftlog.Index, error) {
	entries, next, err := s.entryReader.Read(from, maxBytes)
	s.reads++
	for _, e := range entries {
		s.bytes += len(e.Data)
	}
	return entries, next, err
}

// mixedLedger has 3000 entries of about 4 KiB, 1 ms apart: one of the busy room
// each, and every hundredth one of the rare room too.
func mixedLedger() *ledger {
	l := newLedger()
	l.add(encodeOpen(1, time.Hour, sessionIDs("s")))
	payload := strings.Repeat("x", 4000)
	c := Counter(0)
	for i := range 3000 {
		c++
		all := []sent{{session: "s", counter: c, floor: c, room: "busy", payload: payload}}
		if i%100 == 0 {
			c++
			all = append(all, sent{session: "s", counter: c, floor: c - 1, room: "rare", payload: "r"})
		}
		l.add(packed(int64(i)*1e6, all...))
		if i == 1500 {
			l.add(encodeCheckpoint(int64(i)*1e6, 0))
		}
	}
	return l
}

// TestReadCost: a busy room is read in large pieces, a rare one without what
// lies between its messages.
func TestReadCost(t *testing.T) {
	l := mixedLedger()
	for _, tt := range []struct {
		room            string
		messages        int
		reads, bytes    int // at most
		allocsPerSeqMax float64
	}{
		{"busy", 3000, 60, 3000 * 4200, 0.3},
		{"rare", 30, 60, 30 * 4200 * 6, 20},
	} {
		t.Run(tt.room, func(t *testing.T) {
			spy, next, visits := &spied{entryReader: l}, Seq(1), 0
			read := func() {
				r := l.rooms[tt.room]
				for next = 1; next <= r.last; {
					c, err := l.course(l.locate(r, next), tt.room)
					if err != nil {
						t.Fatal(err)
					}
					c.from(next)
					if err := c.walk(spy, tt.room, minPiece, func(b Block) bool { next = b.Last + 1; visits++; return true }); err != nil {
						t.Fatal(err)
					}
				}
			}
			read()
			if visits != tt.messages || spy.reads > tt.reads || spy.bytes > tt.bytes {
				t.Errorf("%d blocks by %d reads of %d bytes, want %d by %d of %d", visits, spy.reads, spy.bytes, tt.messages, tt.reads, tt.bytes)
			}
			if per := testing.AllocsPerRun(3, read) / float64(tt.messages); per > tt.allocsPerSeqMax {
				t.Errorf("%.2f allocations a message", per)
			}
		})
	}
}

// TestWalkStops when the visitor has enough.
func TestWalkStops(t *testing.T) {
	l := mixedLedger()
	spy, n := &spied{entryReader: l}, 0
	c, _ := l.course(l.locate(l.rooms["busy"], 2000), "busy")
	if err := c.walk(spy, "busy", 1000, func(Block) bool { n++; return n < 3 }); err != nil || n != 3 || spy.bytes > 2*minPiece {
		t.Errorf("%d blocks, %d bytes, %v", n, spy.bytes, err)
	}
}

// TestWalkAstray: an index that does not fit the log is found out.
func TestWalkAstray(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(c *course)
		want   error
	}{
		{"as it is", func(*course) {}, nil},
		{"another room's entry", func(c *course) { c.places[1].index++ }, errAstray},
		{"an entry of no messages", func(c *course) { c.places[0].index = 1 }, errAstray},
		{"too many behind a place", func(c *course) { c.places[1].first = 2 }, errAstray},
		{"the last is in the middle of a block", func(c *course) { c.last = 1 }, errAstray},
		{"more dropped than there are", func(c *course) { c.drops = []drop{{c.places[0].index, []uint32{0, 1, 2}}} }, errAstray},
		{"a place that was dropped", func(c *course) { c.drops = []drop{{index: c.places[0].index}} }, errAstray},
		{"beyond the log", func(c *course) { c.places[1].index += 100 }, errAhead},
		{"before the log", func(c *course) { c.places[0].index = 0 }, raftlog.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			l.add(encodeOpen(1e9, time.Hour, sessionIDs("s")))
			l.add(packed(2e9, sent{session: "s", counter: 1, room: "r"}, sent{session: "s", counter: 2, room: "r"}))
			l.add(packed(2e9, sent{session: "s", counter: 3, room: "r"}))
			l.add(packed(3e9, sent{session: "s", counter: 4, room: "r"}))
			l.add(packed(3e9, sent{session: "s", counter: 5, room: "other"}))
			loc := l.locate(l.rooms["r"], 1)
			tt.change(&loc.course)
			if err := loc.walk(l, "r", 1, func(Block) bool { return true }); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// BenchmarkReadLog reads rooms behind the tail, as one reader after another.
func BenchmarkReadLog(b *testing.B) {
	l := mixedLedger()
	for _, room := range []string{"busy", "rare"} {
		b.Run(fmt.Sprintf("room=%s", room), func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if err := l.blocks(room, 1, func(Block) { n++ }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/block")
		})
	}
}
