package segment

import (
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

// ghost makes a log of 1 to 12 whose entry 6 a snapshot has contradicted: 7 to 12
// are still readable.
func ghost(t *testing.T) (r *rig, tail []*raft.Log) {
	t.Helper()
	r = newRig(t)
	tail = r.fill()[6:]
	r.must(r.Reset(6, 3))
	r.isGhost(tail)
	return r, tail
}

// isGhost checks what can be read behind the boundary 6/3.
func (r *rig) isGhost(tail []*raft.Log) {
	r.t.Helper()
	r.holds(tail)
	var e raft.Log
	if err := r.GetLog(6, &e); err != nil || e.Index != 6 || e.Term != 3 || e.Data != nil {
		r.t.Errorf("the boundary is answered by %+v, %v", e, err)
	}
	if index, term := r.Boundary(); index != 6 || term != 3 {
		r.t.Errorf("boundary %d/%d", index, term)
	}
	if err := r.Read(6, 8, func(*raft.Log) bool { return true }); err != raft.ErrLogNotFound {
		r.t.Errorf("read from the boundary: %v", err)
	}
}

// begun checks that nothing but the boundary is left, and that the log goes on there.
func (r *rig) begun(index, term uint64) {
	r.t.Helper()
	r.holds(nil)
	r.goesOn(index, term)
}

func (r *rig) goesOn(index, term uint64) {
	r.t.Helper()
	if i, t := r.Boundary(); i != index || t != term {
		r.t.Fatalf("boundary %d/%d, want %d/%d", i, t, index, term)
	}
	if err := r.StoreLog(entry(index+2, term, 1)); err == nil {
		r.t.Error("an entry was stored that leaves a gap behind the boundary")
	}
	if term > 0 {
		if err := r.StoreLog(entry(index+1, term-1, 1)); err == nil {
			r.t.Error("an entry was stored whose term is below the boundary's")
		}
	}
	all := r.store(index+1, index+3, term, 100)
	r.crash()
	r.holds(all)
	if i, t := r.Boundary(); i != index || t != term {
		r.t.Fatalf("boundary %d/%d, want %d/%d", i, t, index, term)
	}
	r.must(r.Close())
	r.verified(all)
}

func TestResetAhead(t *testing.T) {
	for _, index := range []uint64{12, 13, 1000} {
		r := newRig(t)
		r.fill()
		r.must(r.Reset(index, 3))
		if names := r.names(); !slices.Equal(names, []string{seg(index + 1)}) {
			t.Errorf("files %q", names)
		}
		r.begun(index, 3)
	}
	r := newRig(t) // and of an empty log
	r.must(r.Reset(5, 1))
	r.begun(5, 1)
}

// TestResetOfWhatIsHeld changes nothing: the entry, or the boundary, is held with that
// term, or it was dropped before.
func TestResetOfWhatIsHeld(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	r.must(r.DropThrough(4))
	before := r.snapshot()
	for _, index := range []uint64{0, 1, 3, 4, 5, 8, 9, 12} {
		r.must(r.Reset(index, 1))
	}
	r.must(r.Reset(3, 7)) // dropped: its term is not known
	r.holds(all[4:])
	after := r.snapshot()
	for name, b := range before {
		if !slices.Equal(b, after[name]) {
			t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("files %q", r.names())
	}
	r = newRig(t)
	all = r.fill()
	r.must(r.Reset(0, 0))
	r.holds(append(all, r.store(13, 13, 1, 10)...))
}

// TestGhost ends what a reset has left readable in all the ways there are.
func TestGhost(t *testing.T) {
	t.Run("store", func(t *testing.T) {
		r, _ := ghost(t)
		r.goesOn(6, 3)
	})
	t.Run("store after one refused", func(t *testing.T) {
		r, tail := ghost(t)
		if err := r.StoreLog(entry(13, 3, 1)); err == nil {
			t.Error("an entry was stored behind the tail")
		}
		r.isGhost(tail) // a refused one ends nothing
		all := r.store(7, 8, 3, 10)
		r.holds(all)
		r.crash()
		r.holds(all)
	})
	t.Run("delete", func(t *testing.T) {
		r, tail := ghost(t)
		r.must(r.DeleteRange(13, 20))
		r.isGhost(tail)
		for _, from := range []uint64{6, 8, 12} {
			if err := r.DeleteRange(from, 12); err == nil {
				t.Errorf("a part was deleted, from %d", from)
			}
			r.isGhost(tail)
		}
		r.must(r.DeleteRange(7, 12))
		r.holds(nil)
		r.begun(6, 3)
	})
	t.Run("close", func(t *testing.T) {
		r, _ := ghost(t)
		r.reopen()
		r.begun(6, 3)
	})
	t.Run("crash", func(t *testing.T) {
		r, _ := ghost(t)
		r.must(r.Abandon())
		if rep := r.verified(nil); rep.BoundaryIndex != 6 || rep.BoundaryTerm != 3 {
			t.Errorf("report %+v", rep)
		}
		r.open()
		r.begun(6, 3)
	})
	t.Run("drop", func(t *testing.T) {
		r, tail := ghost(t)
		r.must(r.DropThrough(9))
		r.isGhost(tail)
		r.crash()
		r.begun(6, 3)
	})
	t.Run("another snapshot within", func(t *testing.T) {
		r, tail := ghost(t)
		r.must(r.Reset(6, 3))
		r.must(r.Reset(5, 3))
		r.isGhost(tail)
		r.must(r.Reset(9, 1)) // what can be read there is not held
		r.holds(tail[3:])
		r.goesOn(9, 1)
	})
	t.Run("another snapshot behind", func(t *testing.T) {
		r, _ := ghost(t)
		r.must(r.Reset(40, 4))
		r.begun(40, 4)
	})
	t.Run("no space", func(t *testing.T) {
		r, tail := ghost(t)
		full := errors.New("full")
		r.Log.opt.Space = func(int64) error { return full }
		if err := r.StoreLog(entry(7, 3, 1)); err != full {
			t.Errorf("stored without space: %v", err)
		}
		r.isGhost(tail)
	})
}

// TestResetIsDoneAgain interrupts a reset before each of its operations.
func TestResetIsDoneAgain(t *testing.T) {
	for _, index := range []uint64{6, 50} {
		for n, ended := 1, false; !ended; n++ {
			var r *rig
			r, ended = die(t, n, func(r *rig) {
				if r.Reset(index, 3) == nil {
					r.StoreLog(entry(index+1, 3, 10))
				}
			})
			rep, err := Verify(r.opt, nil)
			r.must(err)
			r.open()
			last, _ := r.LastIndex()
			switch b, _ := r.Boundary(); {
			case b == 0:
				r.holds(entries(1, 12, 1, 2800))
				r.must(r.Reset(index, 3))
				r.must(r.DeleteRange(index+1, 12))
				r.begun(index, 3)
			case rep.BoundaryIndex != b:
				t.Errorf("Verify has reported %+v, the boundary is %d", rep, b)
			case last == 0:
				r.begun(index, 3)
			default:
				r.holds(entries(index+1, index+1, 3, 10))
			}
		}
	}
}
