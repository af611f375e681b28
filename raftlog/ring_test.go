package raftlog

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// entries makes entries first to last whose data are size bytes long.
func entries(first, last, term uint64, size int) []*raft.Log {
	var logs []*raft.Log
	for i := first; i <= last; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: term, Data: bytes.Repeat([]byte{byte(i)}, size)})
	}
	return logs
}

// held tells which indexes a ring holds, and finds fault with its count of bytes.
func held(t tester, r *ring) string {
	t.Helper()
	var bytes int64
	for i := range r.logs {
		bytes += cost(&r.logs[i])
		if want := r.logs[0].Index + uint64(i); r.logs[i].Index != want {
			t.Errorf("entry %d is in the place of %d", r.logs[i].Index, want)
		}
	}
	if bytes != r.bytes {
		t.Errorf("the ring counts %d bytes and holds %d", r.bytes, bytes)
	}
	if len(r.logs) == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d to %d", r.logs[0].Index, r.logs[len(r.logs)-1].Index)
}

func TestRing(t *testing.T) {
	const size = 1000 - entryOverhead // so that ten fit
	for _, tt := range []struct {
		name string
		do   func(*ring)
		want string
	}{
		{name: "empty", do: func(r *ring) {}, want: "nothing"},
		{name: "below the bound", do: func(r *ring) { r.add(entries(1, 9, 1, size)) }, want: "1 to 9"},
		{name: "at the bound", do: func(r *ring) { r.add(entries(1, 10, 1, size)) }, want: "1 to 10"},
		{name: "past the bound", do: func(r *ring) { r.add(entries(1, 11, 1, size)) }, want: "2 to 11"},
		{name: "far past it, one by one", do: func(r *ring) {
			for i := range uint64(100) {
				r.add(entries(i+1, i+1, 1, size))
			}
		}, want: "91 to 100"},
		{name: "without data", do: func(r *ring) { r.add(entries(1, 1000, 1, 0)) }, want: fmt.Sprintf("%d to 1000", 1001-10000/entryOverhead)},
		{name: "one larger than all", do: func(r *ring) { r.add(entries(1, 3, 1, size)); r.add(entries(4, 4, 1, 50000)) }, want: "4 to 4"},
		{name: "small after large", do: func(r *ring) { r.add(entries(4, 4, 1, 50000)); r.add(entries(5, 6, 1, size)) }, want: "5 to 6"},
		{name: "a hole", do: func(r *ring) { r.add(entries(1, 3, 1, size)); r.add(entries(5, 6, 1, size)) }, want: "5 to 6"},
		{name: "cut at the end", do: func(r *ring) { r.add(entries(1, 5, 1, size)); r.cut(6) }, want: "1 to 5"},
		{name: "cut the last", do: func(r *ring) { r.add(entries(1, 5, 1, size)); r.cut(5) }, want: "1 to 4"},
		{name: "cut at the first", do: func(r *ring) { r.add(entries(3, 5, 1, size)); r.cut(3) }, want: "nothing"},
		{name: "cut below the first", do: func(r *ring) { r.add(entries(3, 5, 1, size)); r.cut(1) }, want: "nothing"},
		{name: "drop below the first", do: func(r *ring) { r.add(entries(3, 5, 1, size)); r.drop(2) }, want: "3 to 5"},
		{name: "drop the first", do: func(r *ring) { r.add(entries(3, 5, 1, size)); r.drop(3) }, want: "4 to 5"},
		{name: "drop all", do: func(r *ring) { r.add(entries(3, 5, 1, size)); r.drop(9) }, want: "nothing"},
		{name: "drop all and go on", do: func(r *ring) { r.add(entries(3, 5, 1, size)); r.drop(5); r.add(entries(6, 7, 1, size)) }, want: "6 to 7"},
		{name: "cut and go on", do: func(r *ring) { r.add(entries(1, 5, 1, size)); r.cut(4); r.add(entries(4, 6, 2, size)) }, want: "1 to 6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &ring{max: 10000}
			tt.do(r)
			if got := held(t, r); got != tt.want {
				t.Errorf("it holds %s, want %s", got, tt.want)
			}
		})
	}
}

// The ring is a window of a log: what it returns is what the log has there, and
// it holds all that its bound allows, back to the last hole.
func TestRingAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &ring{max: rapid.Int64Range(0, 2000).Draw(t, "max")}
		log := map[uint64]raft.Log{}
		next, term, floor := uint64(1), uint64(1), uint64(1) // floor: nothing below is held
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "hole") == 0 {
					next += rapid.Uint64Range(1, 3).Draw(t, "skip")
					floor = next
				}
				n := rapid.Uint64Range(1, 5).Draw(t, "n")
				logs := entries(next, next+n-1, term, rapid.IntRange(0, 300).Draw(t, "size"))
				for _, l := range logs {
					log[l.Index] = *l
				}
				r.add(logs)
				next += n
			},
			"cut": func(t *rapid.T) {
				if next == 1 {
					return
				}
				from := rapid.Uint64Range(max(1, next-min(next, 8)), next).Draw(t, "from")
				for i := from; i < next; i++ {
					delete(log, i)
				}
				r.cut(from)
				next, floor, term = from, min(floor, from), term+1
			},
			"": func(t *rapid.T) {
				held(t, r)
				if len(r.logs) > 1 && r.bytes > r.max {
					t.Errorf("%d bytes in %d entries, allowed are %d", r.bytes, len(r.logs), r.max)
				}
				var oldest uint64
				for i := uint64(0); i <= next+2; i++ {
					var got raft.Log
					if !r.get(i, &got) {
						if oldest != 0 && i < next {
							t.Errorf("entry %d is missing between others", i)
						}
						continue
					}
					if oldest == 0 {
						oldest = i
					}
					want, ok := log[i]
					if !ok || i < floor || got.Term != want.Term || !bytes.Equal(got.Data, want.Data) {
						t.Errorf("entry %d is term %d, %d bytes; the log has %v term %d, %d bytes",
							i, got.Term, len(got.Data), ok, want.Term, len(want.Data))
					}
				}
			},
		})
	})
}
