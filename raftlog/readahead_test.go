package raftlog

import (
	"bytes"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// Whoever reads in whatever order, each sees what the log has at that moment.
func TestReadAheadIsCoherent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, told := openTestStore(t, 0)
		defer s.Close(false)
		log := map[uint64]uint64{} // terms
		first, last, term := uint64(1), uint64(0), uint64(1)
		at := [3]uint64{1, 1, 1} // readers
		rt.Repeat(map[string]func(*rapid.T){
			"store": func(rt *rapid.T) {
				n := rapid.Uint64Range(1, 20).Draw(rt, "n")
				if err := s.StoreLogs(entries(last+1, last+n, term, rapid.SampledFrom([]int{1, 1000, 100 << 10}).Draw(rt, "size"))); err != nil {
					rt.Fatal(err)
				}
				for i := last + 1; i <= last+n; i++ {
					log[i] = term
				}
				last += n
			},
			"cut": func(rt *rapid.T) {
				if last < first {
					return
				}
				from := rapid.Uint64Range(max(first, last-min(last, 10)), last).Draw(rt, "from")
				if err := s.DeleteRange(from, last); err != nil {
					rt.Fatal(err)
				}
				for i := from; i <= last; i++ {
					delete(log, i)
				}
				last, term = from-1, term+1
			},
			"reset": func(rt *rapid.T) {
				if rapid.IntRange(0, 4).Draw(rt, "seldom") > 0 {
					return
				}
				index := last + rapid.Uint64Range(1, 10).Draw(rt, "beyond")
				term++
				if err := s.Reset(index, term); err != nil {
					rt.Fatal(err)
				}
				clear(log)
				log[index] = term // the boundary
				first, last = index+1, index
			},
			"read": func(rt *rapid.T) {
				who := rapid.IntRange(0, 2).Draw(rt, "who")
				if rapid.IntRange(0, 3).Draw(rt, "jump") == 0 {
					at[who] = rapid.Uint64Range(max(first, 2)-1, last+2).Draw(rt, "to")
				}
				for range rapid.IntRange(1, 12).Draw(rt, "n") {
					var l raft.Log
					err := s.GetLog(at[who], &l)
					want, held := log[at[who]]
					switch {
					case held != (err == nil) || err != nil && err != raft.ErrLogNotFound:
						rt.Fatalf("entry %d: held %v, %v", at[who], held, err)
					case held && (l.Index != at[who] || l.Term != want || l.Index >= first && !bytes.Equal(l.Data[:1], []byte{byte(l.Index)})):
						rt.Fatalf("entry %d is %d of term %d, want %d", at[who], l.Index, l.Term, want)
					}
					at[who]++
				}
			},
			"": func(rt *rapid.T) {
				if len(*told) > 0 {
					rt.Fatal(*told)
				}
			},
		})
	})
}

// Two readers who read in order are each read ahead for.
func TestReadAheadFollows(t *testing.T) {
	s, _ := openTestStore(t, 0)
	if err := s.StoreLogs(entries(1, 1000, 1, 100)); err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	for i := range uint64(20) {
		for _, at := range []uint64{1 + i, 500 + i} {
			if err := s.GetLog(at, &l); err != nil || l.Index != at {
				t.Fatalf("entry %d is %d, %v", at, l.Index, err)
			}
		}
	}
	for i, w := range s.ahead.windows {
		if len(w.logs) < 100 || w.next != 21 && w.next != 520 {
			t.Errorf("window %d has %d entries, its reader is to ask for %d", i, len(w.logs), w.next)
		}
	}
}
