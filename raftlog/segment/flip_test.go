package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// used makes a log that was closed in order, of five segments of which two had an
// earlier life, with a file to be used again.
func used(t *testing.T) (r *rig, want []*raft.Log) {
	t.Helper()
	r = newRig(t)
	r.fill()
	r.must(r.DropThrough(8))
	for i := uint64(13); i < 28; i += 3 {
		r.store(i, i+2, 1, 1500)
	}
	r.must(r.DropThrough(12))
	r.must(r.DeleteRange(26, 27))
	r.store(26, 27, 2, 900)
	last, _ := r.LastIndex()
	b, _ := r.Boundary()
	r.must(r.Read(b+1, last, func(e *raft.Log) bool {
		own := *e
		want = append(want, &own)
		return true
	}))
	r.must(r.Close())
	rep := r.verified(want)
	if !rep.Clean || rep.Segments < 3 {
		t.Fatalf("report %+v", rep)
	}
	return r, want
}

// finding is how damage to a file was found.
type finding struct {
	verify, open, read bool
}

// look verifies, opens and reads a log that something was done to, and fails if it
// serves anything that is not wanted.
func (r *rig) look(want []*raft.Log, what string) (f finding) {
	r.t.Helper()
	damage := func(err error) bool {
		if err != nil && !errors.As(err, new(*DamageError)) {
			r.t.Fatalf("%s: %v is no damage", what, err)
		}
		return err != nil
	}
	_, err := Verify(r.opt, nil)
	f.verify = damage(err)
	l, err := Open(r.opt)
	if f.open = damage(err); f.open {
		return f
	}
	defer l.Abandon()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if first != want[0].Index || last != want[len(want)-1].Index {
		r.t.Fatalf("%s: entries %d to %d are held without a word", what, first, last)
	}
	n := 0
	f.read = damage(l.Read(first, last, func(e *raft.Log) bool {
		if problem := differs(e, want[n]); problem != "" {
			r.t.Fatalf("%s: %s", what, problem)
		}
		n++
		return true
	}))
	for i, w := range want {
		var e raft.Log
		if damage(l.GetLog(w.Index, &e)) {
			f.read = true
		} else if problem := differs(&e, want[i]); problem != "" {
			r.t.Fatalf("%s: %s", what, problem)
		}
	}
	return f
}

// TestFlips turns single bits at random places of all files of a log. Verify finds each
// but those behind the records of a file with an earlier life, and in files that wait
// to be used again; whatever is read is right.
func TestFlips(t *testing.T) {
	t.Parallel()
	r, want := used(t)
	files := r.snapshot()
	rng := rand.New(rand.NewPCG(4, 2))
	type place struct {
		name string
		at   int
	}
	var places []place
	for _, name := range r.names() { // small files are not drawn often enough
		for range 50 {
			places = append(places, place{name, rng.IntN(len(files[name]))})
		}
	}
	for len(places) < 1000 {
		name := r.names()[rng.IntN(len(files))]
		places = append(places, place{name, rng.IntN(len(files[name]))})
	}
	ends, recycled := r.ends()
	found := map[finding]int{}
	for _, p := range places {
		r.must(os.WriteFile(r.path(p.name), files[p.name], 0o600))
		r.edit(p.name, func(b []byte) []byte { b[p.at] ^= 1 << rng.IntN(8); return b })
		f := r.look(want, fmt.Sprintf("%s, byte %d", p.name, p.at))
		found[f]++
		harmless := strings.HasSuffix(p.name, suffixFree) || recycled[p.name] && int64(p.at) >= ends[p.name]
		if !f.verify && !harmless {
			t.Errorf("a flip in byte %d of %s is not found", p.at, p.name)
		}
		if harmless && f != (finding{}) {
			t.Errorf("a flip in byte %d of %s does harm: %+v", p.at, p.name, f)
		}
		r.restoreNames(files)
	}
	t.Logf("found %v", found)
}

// ends tells where the records of each segment end, and which had an earlier life.
func (r *rig) ends() (ends map[string]int64, recycled map[string]bool) {
	ends, recycled = map[string]int64{}, map[string]bool{}
	r.open()
	defer r.Abandon()
	for _, s := range r.segments {
		ends[seg(s.first)], recycled[seg(s.first)] = s.last.end, s.recycled
	}
	return ends, recycled
}

// restoreNames brings back files that were changed or made.
func (r *rig) restoreNames(files map[string][]byte) {
	for _, name := range r.names() {
		if _, ok := files[name]; !ok {
			r.must(os.Remove(r.path(name)))
		}
	}
	for name, b := range files {
		if now, err := os.ReadFile(r.path(name)); err != nil || !slices.Equal(now, b) {
			r.must(os.WriteFile(r.path(name), b, 0o600))
		}
	}
}

// TestVerifyFindsEveryClass flips a byte of each class, once.
func TestVerifyFindsEveryClass(t *testing.T) {
	r := newRig(t)
	for i := uint64(1); i < 12; i += 2 {
		r.store(i, i+1, 1, 2801) // padded
	}
	r.must(r.Close())
	ends, _ := r.ends()
	files := r.snapshot()
	record := recordSize(entry(1, 1, 2801))
	for _, name := range []string{seg(1), seg(9)} {
		for what, at := range map[string]int64{
			"magic": 1, "version": 4, "flags": 6, "group": 8, "chain": 12, "salt": 18, "first": 25, "boundary term": 32,
			"header checksum": 41, "header's zeros": 44, "header's last zero": pageSize - 1,
			"length": pageSize, "record checksum": pageSize + 5, "record chain": pageSize + 9, "batch": pageSize + 12,
			"index": pageSize + 16, "term": pageSize + 25, "time": pageSize + 33, "type": pageSize + 40, "guard": pageSize + 42,
			"extension length": pageSize + 44, "data": pageSize + headSize, "padding": pageSize + record - 1,
			"last record": ends[name] - 100, "first zero": ends[name], "last zero": 16<<10 - 1,
		} {
			r.flip(name, at)
			if _, err := Verify(r.opt, nil); !errors.As(err, new(*DamageError)) {
				t.Errorf("%s of %s flipped: %v", what, name, err)
			}
			r.restoreNames(files)
		}
	}
	for _, name := range []string{idx(1), "CLEAN"} {
		for at := range files[name] {
			r.flip(name, int64(at))
			r.verifyFinds(name, -1, "")
			r.restoreNames(files)
		}
	}
}

// TestTruncations cuts files short at random places and at the edges of records.
func TestTruncations(t *testing.T) {
	t.Parallel()
	r, want := used(t)
	files := r.snapshot()
	ends, _ := r.ends()
	rng := rand.New(rand.NewPCG(4, 3))
	for name, b := range files {
		sizes := []int{0, 1, len(b) - 1, len(b) / 2}
		for range 30 {
			sizes = append(sizes, rng.IntN(len(b)))
		}
		if end := int(ends[name]); end > 0 {
			sizes = append(sizes, end-1, end, pageSize, pageSize+1)
		}
		for _, size := range sizes {
			r.must(os.Truncate(r.path(name), int64(size)))
			f := r.look(want, fmt.Sprintf("%s cut to %d bytes", name, size))
			harmless := strings.HasSuffix(name, suffixFree) || ends[name] > 0 && int64(size) >= ends[name]
			if f.verify == harmless {
				t.Errorf("%s cut to %d of %d bytes, the records end at %d: %+v", name, size, len(b), ends[name], f)
			}
			r.restoreNames(files)
		}
	}
}
