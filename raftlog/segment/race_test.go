package segment

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
)

// TestReadersBesideWriters reads while entries are stored, cut, dropped and reset. A
// reader sees entries that were stored, or raft.ErrLogNotFound, and nothing else.
func TestReadersBesideWriters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var stop atomic.Bool
	var last, terms atomic.Uint64
	terms.Store(1)
	var seen [2]atomic.Int64
	check := func(e *raft.Log, index uint64) string {
		if e.Index != index {
			return fmt.Sprintf("entry %d where %d was wanted", e.Index, index)
		}
		if e.Term > terms.Load() {
			return fmt.Sprintf("entry %d has term %d, which nobody has stored", e.Index, e.Term)
		}
		return differs(e, entry(index, e.Term, sizeOf(index, e.Term)))
	}
	reader := func(seed uint64) string {
		rng := rand.New(rand.NewPCG(seed, 0))
		for !stop.Load() {
			boundary, _ := r.Boundary()
			index := boundary + rng.Uint64N(max(last.Load(), boundary)-boundary+3)
			if index == 0 {
				continue
			}
			if rng.IntN(2) == 0 {
				var e raft.Log
				switch err := r.GetLog(index, &e); {
				case err == raft.ErrLogNotFound:
				case err != nil:
					return fmt.Sprintf("get %d: %v", index, err)
				case e.Data == nil && e.Type == 0 && sizeOf(index, e.Term) > 0: // the boundary
				default:
					seen[0].Add(1)
					if problem := check(&e, index); problem != "" {
						return problem
					}
				}
				continue
			}
			next, problem := index, ""
			err := r.Read(index, index+20, func(e *raft.Log) bool {
				problem = check(e, next)
				next++
				seen[1].Add(1)
				return problem == ""
			})
			if err != nil && err != raft.ErrLogNotFound {
				return fmt.Sprintf("read from %d: %v", index, err)
			}
			if problem != "" {
				return problem
			}
		}
		return ""
	}
	var group sync.WaitGroup
	for seed := range uint64(3) {
		group.Go(func() {
			if problem := reader(seed); problem != "" {
				t.Error(problem)
			}
		})
	}
	group.Go(func() {
		for !stop.Load() {
			b, _ := r.Boundary()
			if l := last.Load(); l > b+12 {
				if err := r.DropThrough(l - 12); err != nil {
					t.Error(err)
					return
				}
			}
			r.Bytes()
		}
	})
	rng := rand.New(rand.NewPCG(9, 9))
	for n := 0; n < 800 && !t.Failed(); n++ {
		write(r, rng, &last, &terms)
	}
	stop.Store(true)
	group.Wait()
	if seen[0].Load() == 0 || seen[1].Load() == 0 {
		t.Errorf("%d and %d entries were read", seen[0].Load(), seen[1].Load())
	}
}

// TestCutWhileReading cuts, and stores others in the place of what is cut, between
// the steps of a reader: when it opens an index file, and when it reads one or a segment.
func TestCutWhileReading(t *testing.T) {
	for _, tt := range []struct {
		op, name string
		cut      uint64 // from where
		again    uint64 // up to where others are stored, of another size
	}{
		{"open", idx(1), 2, 0},
		{"open", idx(1), 3, 0},
		{"open", idx(1), 3, 16},
		{"read", idx(1), 2, 9},
		{"read", idx(1), 4, 9},
		{"read", seg(1), 3, 0},
		{"read", seg(1), 1, 9},
		{"read", seg(1), 3, 9},
	} {
		for _, read := range []func(r *rig, e *raft.Log) error{
			func(r *rig, e *raft.Log) error { return r.GetLog(3, e) },
			func(r *rig, e *raft.Log) error {
				return r.Read(3, 3, func(found *raft.Log) bool { *e = *found; return true })
			},
		} {
			r := newRig(t)
			r.fill()
			r.reopen() // the files are known by their names
			r.fs.hook = func(op, name string) error {
				if op == tt.op && name == tt.name {
					r.fs.hook = nil
					r.must(r.DeleteRange(tt.cut, 12))
					for i := tt.cut; i <= tt.again; i++ {
						r.store(i, i, 2, 1700)
					}
				}
				return nil
			}
			want, wantErr := entry(3, 1, 2800), error(nil)
			switch {
			case tt.cut <= 3 && tt.again >= 3:
				want = entry(3, 2, 1700)
			case tt.cut <= 3:
				wantErr = raft.ErrLogNotFound
			}
			var e raft.Log
			if err := read(r, &e); err != wantErr {
				t.Errorf("%+v: %v, want %v", tt, err, wantErr)
			} else if problem := differs(&e, want); err == nil && problem != "" {
				t.Errorf("%+v: %s", tt, problem)
			}
			if r.fs.hook != nil {
				t.Errorf("%+v: nothing was cut", tt)
			}
		}
	}
}

// sizeOf gives entries of one index different places in different terms.
func sizeOf(index, term uint64) int { return int(100 + (index*7+term*13)%1000) }

// write stores a few entries, or cuts the last ones; rarely it resets.
func write(r *rig, rng *rand.Rand, last, terms *atomic.Uint64) {
	at, err := r.LastIndex()
	r.must(err)
	boundary, _ := r.Boundary()
	at = max(at, boundary)
	switch k := rng.IntN(30); {
	case k == 0:
		r.must(r.Reset(at+uint64(rng.IntN(3)), terms.Load()+1))
		terms.Add(1)
		if l, _ := r.LastIndex(); l > 0 {
			b, _ := r.Boundary()
			r.must(r.DeleteRange(b+1, l))
		}
	case k < 9 && at > boundary:
		terms.Add(1)
		from := at - min(uint64(rng.IntN(8)), at-boundary-1)
		if err := r.DeleteRange(from, at); err != nil { // the drop was faster
			if b, _ := r.Boundary(); b < from {
				r.must(err)
			}
		}
	default:
		var logs []*raft.Log
		for i := range uint64(rng.IntN(5) + 1) {
			logs = append(logs, entry(at+1+i, terms.Load(), sizeOf(at+1+i, terms.Load())))
		}
		r.must(r.StoreLogs(logs))
		last.Store(logs[len(logs)-1].Index)
	}
}
