//go:build controls

package segment

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// seed switches on a bug until the test ends; "" switches on none.
func seed(t *testing.T, control string) {
	Seed(control)
	t.Cleanup(func() { Seed("") })
}

// eachWay runs a test without a bug, which must do no harm, and with it, which must.
func eachWay(t *testing.T, control string, harm func(t *testing.T) bool) {
	for _, name := range []string{"none", control} {
		t.Run(name, func(t *testing.T) {
			seed(t, name)
			if got, want := harm(t), name == control; got != want {
				t.Errorf("harm is done: %v, want %v", got, want)
			}
		})
	}
}

// A power cut takes back entries whose write has returned.
func TestControlSkipFsync(t *testing.T) {
	defer func(n int64) { syncsFirst = n }(syncsFirst)
	syncsFirst = 1
	eachWay(t, "skip-fsync", func(t *testing.T) (lost bool) {
		disk := crashfs.New()
		opt := Options{FS: disk, Dir: "log", Group: 3}
		l, err := Open(opt)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Abandon()
		for i := uint64(1); i <= 20; i++ {
			if err := l.StoreLog(entry(i, 1, 100)); err != nil {
				t.Fatal(err)
			}
		}
		for crash := range disk.Crashes(crashfs.Explore{From: disk.Ops()}) {
			opt.FS = crash.FS()
			after, err := Open(opt)
			if damage := new(DamageError); errors.As(err, &damage) && seededSkipFsync {
				continue // a cut that leaves a later write and not an earlier one is noticed
			} else if err != nil {
				t.Fatalf("%v: %v", crash, err)
			}
			last, _ := after.LastIndex()
			lost = lost || last < 20
			after.Abandon()
		}
		return lost
	})
}

// A process that is killed soon after its log has begun to use a file again finds
// more entries than were written: what lies behind them in the file.
func TestControlStaleRecords(t *testing.T) {
	eachWay(t, "stale-records", func(t *testing.T) bool {
		r := newRig(t)
		each := int(r.opt.SegmentBytes-pageSize) / int(padded(248)) // entries fill a segment
		index := uint64(0)
		store := func(n int) (all []*raft.Log) {
			for range n {
				index++
				all = append(all, &raft.Log{Index: index, Term: 1, Data: entry(index, 1, 248).Data})
				r.must(r.StoreLogs(all[len(all)-1:]))
			}
			return all
		}
		store(each + 1)
		r.must(r.DropThrough(uint64(each)))
		store(each)
		before, _ := r.FirstIndex()
		kept := store(3)
		if names := r.names(); len(names) == 0 || before != uint64(each)+1 {
			t.Fatalf("the log begins at %d: %q", before, names)
		}
		r.crash()
		last, _ := r.LastIndex()
		for _, want := range kept {
			var got raft.Log
			r.must(r.GetLog(want.Index, &got))
			if problem := differs(&got, want); problem != "" {
				t.Error(problem)
			}
		}
		if last > index { // they are read like any other
			read := 0
			r.must(r.Read(before, last, func(*raft.Log) bool { read++; return true }))
			if uint64(read) != last+1-before {
				t.Errorf("%d entries are read of %d to %d", read, before, last)
			}
			r.must(r.StoreLogs([]*raft.Log{entry(last+1, 1, 10)}))
		}
		return last > index
	})
}
