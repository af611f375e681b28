package partition

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// placesRoom has chunks 4, to entry 20, and 5, to entry 30, in files, and three
// places behind them.
func placesRoom() (*Machine, *room) {
	m := NewMachine()
	m.chunks = chunks{number: 4, floor: 10, closed: []chunk{{to: 20}, {to: 30}}}
	r := &room{
		name: "r", last: 20, time: 400,
		spans: []span{{first: 3, time: 100, chunk: 4, offset: 40}, {first: 7, time: 200, chunk: 5, offset: 50}},
		hot:   []place{{first: 10, index: 31, time: 300}, {first: 12, index: 32, time: 300}, {first: 18, index: 40, time: 400}},
	}
	m.rooms["r"] = r
	m.table.add(r)
	return m, r
}

func TestLocate(t *testing.T) {
	m, r := placesRoom()
	for _, tt := range []struct {
		name string
		seq  Seq
		want string
	}{
		{"first of the first span", 3, "file 20 at 40, to 6"},
		{"last of the first span", 6, "file 20 at 40, to 6"},
		{"first of the last span", 7, "file 30 at 50, to 9"},
		{"last of the last span", 9, "file 30 at 50, to 9"},
		{"first of the first place", 10, "place 31, to 20"},
		{"last of the first place", 11, "place 31, to 20"},
		{"first of the second place", 12, "place 32, to 20"},
		{"the last of all", 20, "place 40, to 20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tellLocation(m.locate(r, tt.seq)); got != tt.want {
				t.Errorf("seq %d: %s, want %s", tt.seq, got, tt.want)
			}
		})
	}
}

func tellLocation(loc location) string {
	if loc.inFile {
		return fmt.Sprintf("file %d at %d, to %d", loc.to, loc.offset, loc.last)
	}
	return fmt.Sprintf("place %d, to %d", loc.places[0].index, loc.last)
}

func TestLocateTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		floor int
		time  int64
		want  string
	}{
		{"long before", 10, math.MinInt64, "seq 3"},
		{"at the first", 10, 100, "seq 3"},
		{"just behind the first", 10, 101, "file 20 at 40, to 6"},
		{"at a span's first", 10, 200, "file 20 at 40, to 6"},
		{"behind a span's first", 10, 201, "file 30 at 50, to 9"},
		{"at the first place", 10, 300, "file 30 at 50, to 9"},
		{"behind two places of one time", 10, 301, "place 32, to 17"},
		{"at the last place", 10, 400, "place 32, to 17"},
		{"behind the last", 10, 401, "place 40, to 20"},
		{"far behind", 10, math.MaxInt64, "place 40, to 20"},
		{"before what is held", 20, 150, "seq 7"},
		{"before the places, which alone are held", 30, 250, "seq 10"},
		{"behind them", 30, 401, "place 40, to 20"},
		{"nothing is held", 50, 401, "seq 21"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, r := placesRoom()
			if tt.floor == 50 {
				m.chunks.close(50)
			}
			m.chunks.raise(raftlog.Index(tt.floor), nil)
			loc, seq, inside := m.locateTime(r, tt.time)
			got := fmt.Sprint("seq ", seq)
			if inside {
				got = tellLocation(loc)
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// TestFirst: what is below the partition's floor, a prefix's floor or this
// replica's log is not held.
func TestFirst(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(c *chunks)
		want   Seq
	}{
		{"all is held", func(c *chunks) {}, 3},
		{"a chunk trimmed", func(c *chunks) { c.raise(20, nil) }, 7},
		{"both trimmed", func(c *chunks) { c.raise(30, nil) }, 10},
		{"no checkpoint", func(c *chunks) { c.raise(25, nil) }, 3},
		{"the open chunk closed and trimmed", func(c *chunks) { c.close(50); c.raise(50, nil) }, 21},
		{"its prefix trimmed", func(c *chunks) { c.raise(0, []prefixFloor{{prefix: "r", index: 20}}) }, 7},
		{"another prefix", func(c *chunks) { c.raise(0, []prefixFloor{{prefix: "rr", index: 20}}) }, 3},
		{"every room's prefix", func(c *chunks) { c.raise(0, []prefixFloor{{prefix: "", index: 30}}) }, 10},
		{"the higher of two", func(c *chunks) { c.raise(0, []prefixFloor{{prefix: "r", index: 20}, {prefix: "", index: 30}}) }, 10},
		{"a prefix's floor does not fall", func(c *chunks) {
			c.raise(0, []prefixFloor{{prefix: "r", index: 30}})
			c.raise(0, []prefixFloor{{prefix: "r", index: 20}})
		}, 10},
		{"the floor is higher than the prefix's", func(c *chunks) { c.raise(30, []prefixFloor{{prefix: "r", index: 20}}) }, 10},
		{"not in this log", func(c *chunks) { c.hold(20) }, 7},
		{"half of a chunk is not in this log", func(c *chunks) { c.hold(29) }, 10},
		{"no chunk is in this log", func(c *chunks) { c.hold(30) }, 10},
		{"all of this log", func(c *chunks) { c.hold(0) }, 3},
		{"trimmed and not in this log", func(c *chunks) { c.hold(20); c.raise(30, nil) }, 10},
		{"not in this log and trimmed", func(c *chunks) { c.raise(20, nil); c.hold(30) }, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, r := placesRoom()
			tt.change(&m.chunks)
			if got := m.first(r); got != tt.want {
				t.Errorf("first is %d, want %d: %+v", got, tt.want, m.chunks)
			}
		})
	}
}

// TestRate counts over ten seconds, sliding between two windows of the clock.
func TestRate(t *testing.T) {
	s := int64(time.Second)
	for _, tt := range []struct {
		name string
		adds [][2]int64 // second, messages
		now  int64      // second
		want float64
	}{
		{"nothing", nil, 5, 0},
		{"within the window", [][2]int64{{101, 8}}, 102, 0.8},
		{"early in the next", [][2]int64{{109, 8}}, 111, 0.72},
		{"late in the next", [][2]int64{{109, 8}}, 119, 0.08},
		{"two later", [][2]int64{{109, 8}}, 120, 0},
		{"steady", [][2]int64{{105, 50}, {115, 25}}, 115, 5},
		{"long ago and now", [][2]int64{{105, 50}, {995, 30}}, 996, 3},
		{"the clock behind the leader's", [][2]int64{{109, 8}, {111, 5}}, 108, 1.3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r rate
			for _, a := range tt.adds {
				r.add(a[0]*s, int(a[1]))
			}
			if got := r.perSecond(tt.now * s); math.Abs(got-tt.want) > 1e-9 {
				t.Errorf("%v per second, want %v", got, tt.want)
			}
		})
	}
}
