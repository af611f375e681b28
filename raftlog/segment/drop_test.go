package segment

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// TestDropThrough drops whole segments, never the last one.
func TestDropThrough(t *testing.T) {
	for through := uint64(0); through <= 14; through++ {
		r := newRig(t)
		all := r.fill()
		r.must(r.DropThrough(through))
		want := min(through/4*4, 8)
		r.holds(all[want:])
		for range 2 {
			index, term := r.Boundary()
			if index != want || term != min(want, 1) {
				t.Errorf("dropped through %d: boundary %d/%d", through, index, term)
			}
			r.crash()
			r.holds(all[want:])
		}
		r.must(r.DeleteRange(want+1, 12)) // all that is left
		r.holds(nil)
		all = r.store(want+1, want+5, 2, 2800)
		r.holds(all)
		r.must(r.Close())
		r.verified(all)
	}
}

func TestDeleteRange(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		for from := uint64(1); from <= 13; from++ {
			r := newRig(t)
			all := r.fill()
			if reopen {
				r.reopen()
			}
			r.must(r.DeleteRange(from, 12+from%2)) // behind the end is as good as the end
			r.holds(all[:from-1])
			all = append(all[:from-1:from-1], r.store(from, from+4, 2, 2800)...)
			r.holds(all)
			r.crash()
			r.holds(all)
			r.must(r.Close())
			r.verified(all)
		}
	}
	r := newRig(t)
	all := r.fill()
	r.must(r.DropThrough(4))
	for _, tt := range [][2]uint64{{5, 11}, {1, 4}, {4, 12}, {7, 8}} {
		if err := r.DeleteRange(tt[0], tt[1]); err == nil {
			t.Errorf("entries %d to %d were deleted", tt[0], tt[1])
		}
	}
	r.holds(all[4:])
}

// TestRecycling: a file that is used again never shows what was in it, whatever it
// is that a crash leaves of the first write into it.
func TestRecycling(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	for i := uint64(13); i < 21; i += 2 {
		all = append(all, r.store(i, i+1, 1, 2800)...)
	}
	r.must(r.DropThrough(16))
	if names := r.names(); !slices.Equal(names, []string{free(1), free(5), idx(13), seg(13), seg(17)}) &&
		!slices.Equal(names, []string{free(1), free(5), seg(17)}) {
		t.Fatalf("files %q", names)
	}
	all = all[16:]
	r.crash() // the files to use again are found again
	all = append(all, r.store(21, 22, 1, 2800)...)
	if name := r.active().name; name != r.path(seg(21)) || !r.active().recycled {
		t.Fatalf("%s had no earlier life", name)
	}
	r.must(r.Abandon())
	files := r.snapshot()
	if len(files[seg(21)]) != 16<<10 {
		t.Errorf("the file has %d bytes", len(files[seg(21)]))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	old := files[seg(17)] // what may lie there, at the same places
	for range 60 {
		r.restore(files)
		r.edit(seg(21), func(b []byte) []byte { // sectors that were not written
			for at := pageSize; at < len(b); at += 512 {
				if rng.IntN(2) == 0 {
					copy(b[at:at+512], old[at:at+512])
				}
			}
			return b
		})
		r.open()
		last, _ := r.LastIndex()
		r.holds(all[:min(last, 22)-16])
		r.must(r.Abandon())
	}
	// Nothing of the write: the log ends before it.
	r.restore(files)
	r.edit(seg(21), func(b []byte) []byte { return append(b[:pageSize:pageSize], old[pageSize:]...) })
	r.open()
	r.holds(all[:4])
	all = append(all[:4], r.store(21, 29, 1, 2000)...)
	r.crash()
	r.holds(all)
	r.must(r.Close())
	r.verified(all)
}

// TestFreeFiles keeps no more than two, whatever they hold, and takes them in turn.
func TestFreeFiles(t *testing.T) {
	r := newRig(t)
	for i := uint64(1); i <= 24; i++ {
		r.store(i, i, 1, 2800)
	}
	r.must(r.DropThrough(20))
	if names := r.names(); !slices.Equal(names, []string{free(1), free(5), seg(21)}) {
		t.Errorf("files %q", names)
	}
	r.must(r.Abandon())
	r.must(os.WriteFile(r.path(free(1)), []byte("not a segment"), 0o600))
	r.must(os.WriteFile(r.path(free(2)), nil, 0o600))
	r.must(os.WriteFile(r.path(free(3)), make([]byte, 9<<10), 0o600))
	r.open()
	count := 0
	for _, name := range r.names() {
		if _, ok := numberOf(name, suffixFree); ok {
			count++
		}
	}
	if count != 2 {
		t.Errorf("%d files are kept: %q", count, r.names())
	}
	all := entries(21, 24, 1, 2800)
	for i := uint64(25); i < 45; i++ {
		all = append(all, r.store(i, i, 1, 2800)...)
	}
	r.holds(all)
	r.crash()
	r.holds(all)
	r.must(r.Close())
	r.verified(all)
	if names := fmt.Sprint(r.names()); r.active().recycled {
		t.Errorf("more files were used again than there were: %s", names)
	}
}
