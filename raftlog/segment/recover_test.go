package segment

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// place is where a record lies: that of an entry of the last segment.
func (r *rig) offset(index uint64) int64 {
	r.t.Helper()
	p, err := r.find(index)
	r.must(err)
	return p.at
}

// TestTornTail cuts what a crash has left of the last write, wherever it was torn.
func TestTornTail(t *testing.T) {
	for _, recycled := range []bool{false, true} {
		for torn := int64(0); torn < 112; torn += 7 {
			r := newRig(t)
			all := r.fill()
			if recycled {
				r.must(r.DropThrough(8))
				all = append(all[8:], r.store(13, 14, 1, 2800)...)
			}
			last := all[len(all)-1].Index
			r.store(last+1, last+1, 1, 64)
			at, name := r.offset(last+1), r.active().name
			r.must(r.Abandon())
			b, err := os.ReadFile(name)
			r.must(err)
			clear(b[at+torn : at+120]) // bytes from torn on were not written
			r.must(os.WriteFile(name, b, 0o600))
			if rep := r.verified(all); !recycled && rep.Torn == 0 && torn > 0 {
				t.Errorf("the torn write is not reported: %+v", rep)
			}
			r.open()
			r.holds(all)
			all = append(all, r.store(last+1, last+2, 2, 30)...)
			r.crash()
			r.holds(all)
			r.must(r.Close())
			r.verified(all)
		}
	}
}

// TestTornBatch: records of one write behind a bad one of the same write are what a
// crash may leave. They go, and do not come back behind new records.
func TestTornBatch(t *testing.T) {
	for bad := uint64(13); bad <= 16; bad++ {
		r := newRig(t)
		all := r.fill()
		r.must(r.DropThrough(8)) // into a file that had another life, too
		all = all[8:]
		all = append(all, r.store(13, 16, 1, 200)...)
		name, at, end := r.active().name, r.offset(bad), r.active().last.end
		if !r.active().recycled {
			t.Fatalf("%s had no earlier life", name)
		}
		r.must(r.Abandon())
		r.flip(seg(13), at+60)
		if rep := r.verified(all[:bad-9]); rep.Torn == 0 && bad < 16 {
			t.Errorf("the torn write is not reported: %+v", rep)
		}
		r.open()
		r.holds(all[:bad-9])
		b, err := os.ReadFile(name)
		r.must(err)
		if at, ok := allZero(b[at:end]); !ok && bad < 16 { // half a record alone never comes back
			t.Errorf("rests of the torn write are left at %d", at)
		}
		// The same sizes again: the rests would fit exactly.
		more := r.store(bad, bad, 1, 200)
		r.crash()
		r.holds(append(slices.Clone(all[:bad-9]), more...))
	}
}

// TestWrongBatch: a record that follows in all but its place in a write is not the next.
func TestWrongBatch(t *testing.T) {
	for batch := range 4 {
		r := newRig(t)
		all := r.store(1, 2, 1, 100)
		s := r.active()
		b, _ := appendRecord(nil, entry(3, 1, 100), s.seed, s.last.chain, batch)
		end := s.last.end
		r.must(r.Abandon())
		r.edit(seg(1), func(file []byte) []byte { copy(file[end:], b); return file })
		if batch == 0 || batch == 2 { // of a new write, or the next of that one
			all = append(all, entry(3, 1, 100))
		}
		r.open()
		r.holds(all)
	}
}

// TestForgedHeads: a publisher may write what looks like heads of records into a
// message. That makes the look behind a torn write no slower.
func TestForgedHeads(t *testing.T) {
	r := newRig(t)
	r.must(r.Close())
	r.opt.SegmentBytes = 4 << 20
	r.open()
	all := r.store(1, 1, 1, 100)
	forged := &raft.Log{Index: 2, Term: 1}
	for range 512 << 10 / headSize {
		b, _ := appendRecord(nil, &raft.Log{Index: 4, Term: 1}, 0, 0, 0)
		le.PutUint32(b, 1<<20) // what it claims to hold
		forged.Data = append(forged.Data, b...)
	}
	r.must(r.StoreLogs([]*raft.Log{forged, entry(3, 1, 2<<20)}))
	at := r.offset(2)
	r.must(r.Abandon())
	r.flip(seg(1), at+headSize)
	reads := 0
	r.fs.hook = func(op, _ string) error {
		if op == "read" {
			reads++
		}
		return nil
	}
	r.open()
	r.holds(all)
	if reads > 100 {
		t.Errorf("%d pieces were read of a file of 4 MiB", reads)
	}
}

// TestLaterWriteBehind: a record of a later write behind a bad one proves that the bad
// one was synced once.
func TestLaterWriteBehind(t *testing.T) {
	for _, recycled := range []bool{false, true} {
		r := newRig(t)
		all := r.fill()
		first := uint64(9)
		if recycled {
			r.must(r.DropThrough(8))
			r.store(13, 14, 1, 2800)
			first = 13
		}
		_ = all
		r.store(r.active().last.index+1, r.active().last.index+3, 1, 64)
		r.store(r.active().last.index+1, r.active().last.index+1, 1, 64)
		last := r.active().last.index
		at := r.offset(last - 1) // the last of the write before
		r.must(r.Abandon())
		r.flip(seg(first), at+50)
		before := r.snapshot()
		r.damaged(seg(first), at, fmt.Sprintf("entry %d of a later write is behind it", last))
		r.verifyFinds(seg(first), at, "later write")
		if after := r.snapshot(); !slices.Equal(after[seg(first)], before[seg(first)]) {
			t.Error("the damaged segment was changed")
		}
	}
}

// TestClean: a log that was closed in order ends as it did then, or is damaged.
func TestClean(t *testing.T) {
	r := newRig(t)
	r.fill()
	at := r.offset(12)
	r.must(r.Close())
	clean := r.snapshot()

	r.flip(seg(9), at+100) // would be a torn tail without CLEAN
	r.damaged(seg(9), at, "closed with entry 12")
	r.verifyFinds(seg(9), at, "closed with entry 12")

	r.restore(clean)
	r.edit(seg(9), func(b []byte) []byte { clear(b[at:]); return b })
	r.damaged(seg(9), at, "ends with 11")

	// Other entries in the same places.
	r.restore(clean)
	r.must(os.Remove(r.path("CLEAN")))
	r.open()
	r.must(r.DeleteRange(12, 12))
	r.must(r.StoreLog(entry(12, 1, 2800)))
	r.must(r.StoreLog(entry(13, 1, 1)))
	r.must(r.DeleteRange(13, 13))
	r.must(r.Abandon())
	r.must(os.WriteFile(r.path("CLEAN"), clean["CLEAN"], 0o600))
	r.damaged(seg(9), -1, "closed with entry 12 and ends with 12")

	for at := range clean["CLEAN"] {
		r.restore(clean)
		r.flip("CLEAN", int64(at))
		r.damaged("CLEAN", 0, "")
		r.verifyFinds("CLEAN", 0, "")
	}
	r.restore(clean)
	r.edit("CLEAN", func(b []byte) []byte { return b[:20] })
	r.damaged("CLEAN", 0, "")

	// It goes before the first write, and a longer log is not taken for the same.
	r.restore(clean)
	r.open()
	r.store(13, 13, 1, 10)
	if slices.Contains(r.names(), "CLEAN") {
		t.Error("CLEAN is there after a write")
	}
	r.must(r.Abandon())
	r.must(os.WriteFile(r.path("CLEAN"), clean["CLEAN"], 0o600))
	r.damaged(seg(9), -1, "ends with 13")
}

func TestMissingSegments(t *testing.T) {
	r := newRig(t)
	r.fill()
	r.must(r.Abandon())
	unclean := r.snapshot()
	r.open()
	r.must(r.Close())
	clean := r.snapshot()
	for _, files := range []map[string][]byte{unclean, clean} {
		for _, tt := range []struct {
			name   string
			gone   []string
			at     string
			reason string
		}{
			{"the middle one", []string{seg(5)}, seg(9), "begins with entry 9, the segment before ends with 4"},
			{"the middle one and its index", []string{seg(5), idx(5)}, seg(9), "begins with entry 9, the segment before ends with 4"},
			{"the middle one and the index before", []string{seg(5), idx(1)}, seg(1), "entry 5 cannot be read (there is no record's head), and the segment behind begins with entry 9"},
			{"the last one", []string{seg(9)}, seg(5), "the segment behind it is missing"},
			{"the last two", []string{seg(9), seg(5), idx(5)}, seg(1), "the segment behind it is missing"},
			{"all of them", []string{seg(9), seg(5), seg(1)}, "log", "segments are missing"},
		} {
			r.restore(files)
			for _, name := range tt.gone {
				r.must(os.Remove(r.path(name)))
			}
			t.Log(tt.name)
			r.damaged(tt.at, -1, tt.reason)
			r.verifyFinds(tt.at, -1, tt.reason)
		}
	}
	// Without any index file CLEAN still knows.
	r.restore(clean)
	for _, name := range []string{seg(9), idx(5)} {
		r.must(os.Remove(r.path(name)))
	}
	r.damaged(seg(5), -1, "closed with entry 12")
}

// TestOlderCopy: a segment that is exchanged for what it was before is known by its
// chain, or by that of its neighbour.
func TestOlderCopy(t *testing.T) {
	r := newRig(t)
	for i := uint64(1); i <= 4; i++ {
		r.store(i, i, 1, 2800)
	}
	r.must(r.Abandon())
	old := r.snapshot()[seg(1)]
	r.open()
	r.must(r.DeleteRange(3, 4))
	all := entries(1, 2, 1, 2800)
	for i := uint64(3); i <= 6; i++ {
		all = append(all, r.store(i, i, 2, 2800)...)
	}
	r.holds(all)
	r.must(r.Close())
	now := r.snapshot()[seg(1)]
	r.must(os.WriteFile(r.path(seg(1)), old, 0o600))
	r.verifyFinds(idx(1), -1, "where the records are")
	r.open() // the index file is believed
	err := r.Read(1, 4, func(*raft.Log) bool { return true })
	r.isDamage(err, seg(1), -1, "does not belong between those beside it")
	r.must(r.Abandon())
	// One record alone is as it was: a write that the disk has lost.
	third := pageSize + recordSize(all[0]) + recordSize(all[1])
	r.must(os.WriteFile(r.path(seg(1)), now, 0o600))
	r.edit(seg(1), func(b []byte) []byte {
		copy(b[third:third+recordSize(all[2])], old[third:])
		return b
	})
	r.open()
	err = r.Read(1, 4, func(*raft.Log) bool { return true })
	r.isDamage(err, seg(1), -1, "entry 4 does not belong between those beside it")
	r.must(r.Abandon())
	r.must(os.WriteFile(r.path(seg(1)), old, 0o600))
	r.must(os.Remove(r.path(idx(1))))
	r.damaged(seg(5), -1, "does not follow on the segment before")
	r.verifyFinds(seg(5), -1, "does not follow on the segment before")
}

func TestIndexFiles(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	r.must(r.Abandon())
	files := r.snapshot()
	n := len(files[idx(1)])
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		reason string // for Verify
	}{
		{"missing", nil, ""},
		{"empty", func(b []byte) []byte { return nil }, "does not begin"},
		{"half written", func(b []byte) []byte { return b[:n/2] }, ""},
		{"cut short by an offset", func(b []byte) []byte { return b[:n-4] }, "checksum"},
		{"longer", func(b []byte) []byte { return append(b, 0, 0, 0, 0) }, "checksum"},
		{"a flipped offset", func(b []byte) []byte { b[indexHead+5] ^= 1; return b }, "checksum"},
		{"of the next segment", func([]byte) []byte { return files[idx(5)] }, "another segment"},
		{"of another version", func(b []byte) []byte {
			b[4] = 2
			le.PutUint32(b[n-4:], checksum(b[:n-4]))
			return b
		}, "version 2"},
	} {
		r.restore(files)
		if tt.change == nil {
			r.must(os.Remove(r.path(idx(1))))
			r.verified(all)
		} else {
			r.edit(idx(1), tt.change)
			r.verifyFinds(idx(1), -1, tt.reason)
		}
		r.open()
		r.holds(all)
		r.must(r.Abandon())
		if !slices.Equal(r.snapshot()[idx(1)], files[idx(1)]) {
			t.Errorf("an index file that was %s is not made again", tt.name)
		}
		r.verified(all)
	}
	// Offsets that its checksum says are right, and are not.
	r.restore(files)
	r.edit(idx(1), func(b []byte) []byte {
		le.PutUint32(b[indexHead+4:], le.Uint32(b[indexHead+4:])+8)
		le.PutUint32(b[n-4:], checksum(b[:n-4]))
		return b
	})
	r.verifyFinds(idx(1), indexHead, "where the records are")
	r.open()
	var e raft.Log
	r.isDamage(r.GetLog(2, &e), seg(1), -1, "entry 2")
	// A file that is cut short while the log is open.
	r.must(os.Truncate(r.path(idx(5)), indexHead+4))
	r.isDamage(r.GetLog(7, &e), idx(5), indexHead+8, "too short")
	r.must(os.Remove(r.path(idx(5))))
	r.isDamage(r.GetLog(7, &e), seg(5), 0, "index file is missing")
}

// TestHeaders: headers that are not as they were written, of the first, a middle and
// the last segment.
func TestHeaders(t *testing.T) {
	r := newRig(t)
	r.fill()
	r.must(r.Close())
	files := r.snapshot()
	sealAgain := func(b []byte) []byte {
		le.PutUint32(b[40:], checksum(b[:40]))
		return b
	}
	for _, first := range []uint64{1, 5, 9} {
		for _, tt := range []struct {
			name   string
			change func(b []byte) []byte
			reason string
		}{
			{"another group", func(b []byte) []byte { b[8] = 4; return sealAgain(b) }, "belongs to group 4, not 3"},
			{"another version", func(b []byte) []byte { b[4] = 9; return sealAgain(b) }, "version 9"},
			{"unknown flags", func(b []byte) []byte { b[6] = 4; return sealAgain(b) }, "unknown flags"},
			{"another first entry", func(b []byte) []byte { b[24]++; return sealAgain(b) }, "not that of its name"},
			{"no magic", func(b []byte) []byte { b[0] = 'x'; return b }, "does not begin like a segment"},
			{"a flipped bit", func(b []byte) []byte { b[33] ^= 1; return b }, "checksum"},
			{"cut short", func(b []byte) []byte { return b[:30] }, "cut short"},
			{"cut short behind the header", func(b []byte) []byte { return b[:pageSize-1] }, "ends within its header"},
			{"empty", func(b []byte) []byte { return nil }, "cut short"},
		} {
			r.restore(files)
			r.edit(seg(first), tt.change)
			r.damaged(seg(first), -1, tt.reason)
			r.verifyFinds(seg(first), -1, tt.reason)
		}
	}
	r.restore(files)
	r.opt.Group = 8
	r.damaged("CLEAN", 8, "belongs to group 3, not 8")
	r.must(os.Remove(r.path("CLEAN")))
	r.damaged(seg(1), 8, "belongs to group 3, not 8")
	r.opt.Group = 3
	r.edit(seg(5), func(b []byte) []byte { b[16] ^= 1; return sealAgain(b) }) // another salt
	r.verifyFinds(idx(5), 0, "another segment")
	r.damaged(seg(5), pageSize, "entry 5 cannot be read") // by its index file, and then by its records
}

// TestSegmentTooShort: a sealed segment that has lost its end.
func TestSegmentTooShort(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	r.must(r.Close())
	size := pageSize + 3*recordSize(all[4]) + 100
	r.must(os.Truncate(r.path(seg(5)), size))
	r.damaged(seg(5), size, "too short")
	r.verifyFinds(seg(5), -1, "")
}

// TestHalfMade: what was being made when the process died is removed.
func TestHalfMade(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	r.must(r.Abandon())
	for _, name := range []string{"00000000000000000013.new", idx(9) + ".new", "CLEAN.tmp", "INTENT.tmp"} {
		r.must(os.WriteFile(r.path(name), []byte("half"), 0o600))
	}
	r.verified(all)
	r.open()
	if names := r.names(); !slices.Equal(names, []string{idx(1), seg(1), idx(5), seg(5), seg(9)}) {
		t.Errorf("files %q", names)
	}
	r.holds(append(all, r.store(13, 14, 1, 2800)...))
}

// die makes a log whose process dies before operation n of a write.
func die(t *testing.T, n int, write func(r *rig)) (r *rig, ended bool) {
	r = newRig(t)
	r.fill()
	ops := 0
	died := fmt.Errorf("died before operation %d", n)
	r.fs.hook = func(op, _ string) error {
		if op == "read" || op == "open" {
			return nil
		}
		if ops++; ops >= n {
			return died
		}
		return nil
	}
	write(r)
	r.must(r.Abandon())
	r.fs.hook = nil
	return r, ops < n
}

// TestCutIsDoneAgain: a cut across segments that is interrupted after its INTENT is
// done by Open, and Verify counts it as done.
func TestCutIsDoneAgain(t *testing.T) {
	t.Parallel()
	for _, from := range []uint64{1, 3, 5, 6, 9, 10, 12} {
		for n, ended := 1, false; !ended; n++ {
			var r *rig
			r, ended = die(t, n, func(r *rig) { r.DeleteRange(from, 12) })
			want := entries(1, 12, 1, 2800)
			if slices.Contains(r.names(), "INTENT") || ended || r.LastIndexOnDisk() < 12 {
				want = want[:from-1]
			}
			r.verified(want)
			r.open()
			r.holds(want)
			if slices.Contains(r.names(), "INTENT") {
				t.Error("INTENT is left")
			}
			last := uint64(len(want))
			want = append(want, r.store(last+1, last+3, 2, 2800)...)
			r.crash()
			r.holds(want)
			r.must(r.Close())
			r.verified(want)
		}
	}
}

// LastIndexOnDisk is what Verify finds.
func (r *rig) LastIndexOnDisk() uint64 {
	rep, err := Verify(r.opt, nil)
	r.must(err)
	return rep.Last
}

func TestBadIntent(t *testing.T) {
	r := newRig(t)
	r.fill()
	r.must(r.Abandon())
	r.must(r.opt.writeMark("INTENT", mark{magic: magicIntent, kind: intentCut, index: 7}))
	files := r.snapshot()
	for at := range files["INTENT"] {
		r.restore(files)
		r.flip("INTENT", int64(at))
		r.damaged("INTENT", 0, "")
		r.verifyFinds("INTENT", 0, "")
	}
	// It cuts where entries are missing that it did not mean.
	r.restore(files)
	for _, name := range []string{seg(1), idx(1), seg(5), idx(5)} {
		r.must(os.Remove(r.path(name)))
	}
	r.damaged(seg(9), 0, "segments are missing")
	// It cuts behind a damaged entry.
	r.restore(files)
	r.flip(seg(5), pageSize+70)
	r.damaged(seg(5), pageSize, "checksum")
	r.verifyFinds(seg(5), pageSize, "checksum")
}

func TestOpenOnNothing(t *testing.T) {
	r := newRig(t)
	r.must(r.Close())
	r.must(os.RemoveAll(r.opt.Dir))
	if rep, err := Verify(r.opt, nil); err != nil || rep != (Report{}) {
		t.Errorf("a log that is not there: %+v, %v", rep, err)
	}
	if ok, err := vfs.Exists(vfs.OS, r.opt.Dir); ok || err != nil {
		t.Errorf("Verify has made the folder: %v", err)
	}
}
