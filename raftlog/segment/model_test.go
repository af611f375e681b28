package segment

import (
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// model is what a log must hold.
type model struct {
	boundary, term uint64
	entries        []*raft.Log // behind the boundary
	tail           []*raft.Log // readable since a reset, until the next write
}

func (m *model) last() uint64 { return m.boundary + uint64(len(m.entries)) }

func (m *model) lastTerm() uint64 {
	if n := len(m.entries); n > 0 {
		return m.entries[n-1].Term
	}
	return m.term
}

// through moves the boundary up to an index that is held.
func (m *model) through(index uint64) {
	if index > m.boundary {
		n := index - m.boundary
		m.boundary, m.term, m.entries = index, m.entries[n-1].Term, m.entries[n:]
	}
}

// TestModel does random things to a log of tiny segments and compares it with a
// plain list after each.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		r.must(r.Close())
		r.opt.SegmentBytes = rapid.Int64Range(5<<10, 24<<10).Draw(rt, "segment bytes")
		r.open()
		m := &model{}
		fail := func(err error) {
			rt.Helper()
			if err != nil {
				rt.Fatal(err)
			}
		}
		open := func() {
			var err error
			r.Log, err = Open(r.opt)
			fail(err)
			m.tail = nil
		}
		rt.Repeat(map[string]func(*rapid.T){
			"store": func(rt *rapid.T) {
				n := rapid.IntRange(1, 5).Draw(rt, "entries")
				size := rapid.SampledFrom([]int{0, 1, 100, 700, 1500, 9000}).Draw(rt, "size")
				term := max(m.lastTerm(), 1) + rapid.Uint64Range(0, 1).Draw(rt, "term")
				logs := entries(m.last()+1, m.last()+uint64(n), term, size)
				fail(r.StoreLogs(logs))
				m.entries, m.tail = slices.Concat(m.entries, logs), nil
			},
			"cut": func(rt *rapid.T) {
				if len(m.tail) > 0 {
					fail(r.DeleteRange(m.boundary+1, m.boundary+uint64(len(m.tail))))
					m.tail = nil
					return
				}
				if len(m.entries) == 0 {
					rt.Skip()
				}
				n := rapid.IntRange(1, min(12, len(m.entries))).Draw(rt, "entries")
				fail(r.DeleteRange(m.last()-uint64(n)+1, m.last()))
				m.entries = m.entries[:len(m.entries)-n]
			},
			"drop": func(rt *rapid.T) {
				if len(m.tail) > 0 {
					fail(r.DropThrough(m.boundary + uint64(len(m.tail))))
					return
				}
				index := m.boundary + uint64(rapid.IntRange(0, len(m.entries)+1).Draw(rt, "entries"))
				fail(r.DropThrough(index))
				b, _ := r.Boundary()
				if b < m.boundary || b > index || b > m.last() {
					rt.Fatalf("dropped through %d: boundary %d", index, b)
				}
				m.through(b)
			},
			"reset": func(rt *rapid.T) {
				index := m.boundary + uint64(rapid.IntRange(1, len(m.entries)+8).Draw(rt, "index"))
				term := m.lastTerm() + rapid.Uint64Range(0, 1).Draw(rt, "term")
				fail(r.Reset(index, term))
				n := index - m.boundary
				shown := m.tail
				if shown == nil {
					if n <= uint64(len(m.entries)) && m.entries[n-1].Term == term {
						return // it is held
					}
					shown = m.entries
				}
				*m = model{boundary: index, term: term}
				if n < uint64(len(shown)) {
					m.tail = shown[n:]
				}
			},
			"close": func(rt *rapid.T) {
				fail(r.Close())
				_, err := Verify(r.opt, nil)
				fail(err)
				open()
			},
			"crash": func(rt *rapid.T) {
				fail(r.Abandon())
				if _, err := Verify(r.opt, nil); err != nil {
					rt.Fatal(err)
				}
				open()
			},
			"": func(rt *rapid.T) {
				if index, term := r.Boundary(); index != m.boundary || term != m.term {
					rt.Fatalf("boundary %d/%d, want %d/%d", index, term, m.boundary, m.term)
				}
				want := m.entries
				if m.tail != nil {
					want = m.tail
				}
				if problem := mismatch(r.Log, want); problem != "" {
					rt.Fatal(problem)
				}
			},
		})
		fail(r.Close())
		r.verified(m.entries)
	})
}
