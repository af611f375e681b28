package segment

import (
	"bytes"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestEmptyLog(t *testing.T) {
	r := newRig(t)
	for range 2 {
		r.holds(nil)
		if index, term := r.Boundary(); index != 0 || term != 0 {
			t.Errorf("boundary %d/%d", index, term)
		}
		var e raft.Log
		if err := r.GetLog(0, &e); err != raft.ErrLogNotFound {
			t.Errorf("get 0: %v", err)
		}
		r.must(r.StoreLogs(nil))
		r.must(r.DeleteRange(1, 9))
		r.reopen()
	}
	r.must(r.Close())
	if rep := r.verified(nil); !rep.Clean || rep.Segments != 1 || rep.First != 0 || rep.Last != 0 {
		t.Errorf("report %+v", rep)
	}
}

// TestStored keeps all fields of an entry, across segments, a clean stop and a crash.
func TestStored(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	odd := []*raft.Log{
		{Index: 13, Term: 2},
		{Index: 14, Term: 2, Data: []byte{}, Extensions: []byte("only extensions")},
		{Index: 15, Term: 2, Type: 255, Data: []byte{0}, AppendedAt: time.Unix(0, 0)},
		{Index: 16, Term: 2, Data: make([]byte, 7), AppendedAt: time.Unix(-5, 3)},
		{Index: 17, Term: math.MaxUint64, Type: raft.LogConfiguration, Data: bytes.Repeat([]byte{1}, 8), AppendedAt: time.Unix(0, math.MaxInt64)},
		{Index: 18, Term: math.MaxUint64, AppendedAt: time.Time{}},
	}
	r.must(r.StoreLogs(odd))
	all = append(all, odd...)
	r.holds(all)
	r.crash()
	r.holds(all)
	r.reopen()
	r.holds(all)
	r.must(r.Close())
	if rep := r.verified(all); !rep.Clean || rep.Torn != 0 || rep.First != 1 || rep.Last != 18 || rep.Segments < 3 {
		t.Errorf("report %+v", rep)
	}
}

// TestOrder refuses what does not follow on the last entry, changes nothing by that,
// and goes on.
func TestOrder(t *testing.T) {
	r := newRig(t)
	all := r.store(1, 2, 5, 10)
	for _, tt := range []struct {
		name string
		logs []*raft.Log
	}{
		{"a gap", []*raft.Log{entry(4, 5, 1)}},
		{"an index again", []*raft.Log{entry(2, 5, 1)}},
		{"index 0", []*raft.Log{entry(0, 5, 1)}},
		{"a gap within", []*raft.Log{entry(3, 5, 1), entry(5, 5, 1)}},
		{"a term that falls", []*raft.Log{entry(3, 4, 1)}},
		{"a term that falls within", []*raft.Log{entry(3, 6, 1), entry(4, 5, 1)}},
	} {
		if err := r.StoreLogs(tt.logs); err == nil {
			t.Errorf("%s was stored", tt.name)
		}
		r.holds(all)
	}
	all = append(all, entry(3, 5, 9))
	r.must(r.StoreLog(all[2]))
	r.holds(all)
	r.reopen()
	if err := r.StoreLog(entry(4, 4, 1)); err == nil {
		t.Error("a term that falls was stored after opening again")
	}
	r.holds(all)
}

// TestOversize puts a write larger than a segment into one longer segment.
func TestOversize(t *testing.T) {
	r := newRig(t)
	all := r.store(1, 1, 1, 100)
	all = append(all, r.store(2, 6, 1, 300<<10)...) // five large ones in one write
	all = append(all, r.store(7, 7, 1, 3<<20)...)   // one larger than a piece that is read at once
	all = append(all, r.store(8, 9, 1, 100)...)
	if names := r.names(); !slices.Equal(names, []string{idx(1), seg(1), idx(2), seg(2), idx(7), seg(7), seg(8)}) {
		t.Errorf("files %q", names)
	}
	r.holds(all)
	r.crash()
	r.holds(all)
	r.must(r.Close())
	r.verified(all)
	r.open()
	r.must(r.DeleteRange(5, 9))
	r.holds(all[:4])
	r.crash()
	r.holds(all[:4])
}

func TestTooLarge(t *testing.T) {
	r := newRig(t)
	huge := make([]byte, 64<<20)
	var logs []*raft.Log
	for i := range uint64(64) {
		logs = append(logs, &raft.Log{Index: i + 1, Term: 1, Data: huge})
	}
	if err := r.StoreLogs(logs); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Fatalf("4 GiB at once: %v", err)
	}
	r.holds(r.store(1, 2, 1, 10))
}

// TestReadEdges asks for all ranges about the edges of what is held.
func TestReadEdges(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	r.must(r.DropThrough(4))
	all = all[4:]
	r.holds(all)
	for from := uint64(0); from <= 14; from++ {
		for to := uint64(0); to <= 14; to++ {
			var got []uint64
			err := r.Read(from, to, func(e *raft.Log) bool {
				got = append(got, e.Index)
				return true
			})
			want, wantErr := []uint64(nil), error(nil)
			switch {
			case from > to:
			case from < 5 || from > 12:
				wantErr = raft.ErrLogNotFound
			default:
				for i := from; i <= min(to, 12); i++ {
					want = append(want, i)
				}
				if to > 12 {
					wantErr = raft.ErrLogNotFound
				}
			}
			if err != wantErr || !slices.Equal(got, want) {
				t.Errorf("read %d to %d: %v, %v, want %v, %v", from, to, got, err, want, wantErr)
			}
		}
	}
	if err := r.Read(12, math.MaxUint64, func(*raft.Log) bool { return true }); err != raft.ErrLogNotFound {
		t.Errorf("read without an end: %v", err)
	}
	n := 0
	r.must(r.Read(5, 12, func(*raft.Log) bool { n++; return n < 5 }))
	if n != 5 {
		t.Errorf("%d entries were read, 5 were wanted", n)
	}
	e := *entry(9, 9, 9)
	r.must(r.GetLog(4, &e))
	if e.Index != 4 || e.Term != 1 || e.Data != nil || e.Extensions != nil || !e.AppendedAt.IsZero() || e.Type != 0 {
		t.Errorf("the boundary is answered by %+v", e)
	}
}

// TestBytesAreOwned: what a read has handed out stays, whatever is stored or read after it.
func TestBytesAreOwned(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	var read []*raft.Log
	for range 2 {
		r.must(r.Read(1, 12, func(e *raft.Log) bool {
			own := *e
			read = append(read, &own)
			e.Data = append(e.Data, "beyond"...) // must not reach the entry behind
			return true
		}))
	}
	r.store(13, 16, 1, 2800)
	r.must(r.DropThrough(8))
	r.store(17, 20, 1, 2800)
	for i, e := range read {
		if problem := differs(e, all[i%12]); problem != "" {
			t.Fatal(problem)
		}
	}
}

// TestNoSpace refuses a write that needs more room than there is, as if it was not
// asked for.
func TestNoSpace(t *testing.T) {
	full := errors.New("no space")
	var room atomic.Int64 // -1: as much as is wanted
	room.Store(-1)
	var asked []int64
	r := newRig(t)
	r.must(r.Close())
	r.opt.Space = func(n int64) error {
		asked = append(asked, n)
		if have := room.Load(); have >= 0 && n > have {
			return full
		}
		return nil
	}
	r.open()
	all := r.store(1, 1, 1, 100)
	if !slices.Equal(asked, []int64{16<<10 - pageSize}) {
		t.Errorf("asked for %d", asked)
	}
	all = append(all, r.store(2, 4, 1, 2800)...)
	if len(asked) != 1 {
		t.Errorf("asked for %d, although there was room", asked)
	}
	room.Store(0)
	r.reopen() // with CLEAN
	before, bytesBefore := r.snapshot(), r.Bytes()
	for range 2 {
		if err := r.StoreLogs(entries(5, 6, 1, 2800)); err != full {
			t.Fatalf("store without space: %v", err)
		}
	}
	r.holds(all)
	if after := r.snapshot(); len(after) != len(before) || r.Bytes() != bytesBefore {
		t.Errorf("a refused write left %q instead of %q", r.names(), before)
	}
	all = append(all, r.store(5, 5, 1, 100)...) // there is room for this one
	room.Store(1 << 20)
	all = append(all, r.store(6, 7, 1, 2800)...)
	r.must(r.DropThrough(5))
	all = all[5:]
	room.Store(0)
	asked = nil
	all = append(all, r.store(8, 11, 1, 2800)...) // into the file that was dropped
	r.holds(all)
	for _, n := range asked {
		if n > 0 {
			t.Errorf("asked for %d bytes, with a file to use again", n)
		}
	}
	r.crash()
	r.holds(all)
}

// TestFailedWrite lets every operation of a write fail once. Nothing is written
// from then on, the error stays, reads go on; and what was acknowledged is there when
// the log is opened again.
func TestFailedWrite(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken disk")
	for _, tt := range []struct {
		name  string
		write func(r *rig) error
	}{
		{"store", func(r *rig) error { return r.StoreLogs(entries(13, 13, 1, 2800)) }},
		{"store and roll", func(r *rig) error { return r.StoreLogs(entries(13, 17, 1, 2800)) }},
		{"cut", func(r *rig) error { return r.DeleteRange(7, 12) }},
		{"drop", func(r *rig) error { return r.DropThrough(8) }},
		{"reset", func(r *rig) error { return r.Reset(20, 3) }},
		{"reset within", func(r *rig) error {
			if err := r.Reset(6, 2); err != nil {
				return err
			}
			return r.StoreLog(entry(7, 2, 10))
		}},
	} {
		for n := 1; ; n++ {
			r := newRig(t)
			all := r.fill()
			r.reopen() // the first write removes CLEAN
			ops := 0
			r.fs.hook = func(op, _ string) error {
				if op != "read" && op != "open" {
					if ops++; ops == n {
						return broken
					}
				}
				return nil
			}
			err := tt.write(r)
			if ops < n {
				if n == 1 {
					t.Errorf("%s does nothing", tt.name)
				}
				r.must(err)
				break
			}
			if !errors.Is(err, broken) {
				t.Fatalf("%s, operation %d fails: %v", tt.name, n, err)
			}
			writes := ops
			for _, again := range []error{
				r.StoreLogs(entries(13, 13, 1, 10)), r.DeleteRange(12, 12), r.Reset(30, 9), r.DropThrough(9),
			} {
				if !errors.Is(again, broken) {
					t.Fatalf("%s, operation %d failed, later writes: %v", tt.name, n, again)
				}
			}
			if ops != writes {
				t.Fatalf("%s, operation %d failed: something was written after that", tt.name, n)
			}
			var e raft.Log
			for i := uint64(1); i <= 12; i++ {
				if err := r.GetLog(i, &e); err == nil && i > 8 { // above the boundary
					if problem := differs(&e, all[i-1]); problem != "" {
						t.Fatal(problem)
					}
				} else if err != nil && err != raft.ErrLogNotFound {
					t.Fatalf("%s, operation %d failed, get %d: %v", tt.name, n, i, err)
				}
			}
			r.fs.hook = nil
			r.must(r.Close())
			if tt.name != "drop" && ops > 1 && slices.Contains(r.names(), "CLEAN") { // a drop leaves the end as it is
				t.Fatalf("%s, operation %d failed: and CLEAN was written", tt.name, n)
			}
			r.open()
			if strings.HasPrefix(tt.name, "store") {
				last, _ := r.LastIndex()
				r.holds(append(all, entries(13, max(12, last), 1, 2800)...))
			}
			r.must(r.Close())
		}
	}
}

// TestFailedReadIsNotLatched: a read that fails says so, and writes go on.
func TestFailedReadIsNotLatched(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	broken := errors.New("cannot be read")
	r.fs.hook = func(op, _ string) error {
		if op == "read" {
			return broken
		}
		return nil
	}
	var e raft.Log
	for _, i := range []uint64{1, 12} {
		if err := r.GetLog(i, &e); !errors.Is(err, broken) {
			t.Errorf("get %d: %v", i, err)
		}
	}
	all = append(all, r.store(13, 13, 1, 5)...)
	r.fs.hook = nil
	r.holds(all)
}

// TestAHungDiskBlocksNoStatus: what a status page asks is answered while a write hangs.
func TestAHungDiskBlocksNoStatus(t *testing.T) {
	r := newRig(t)
	all := r.fill()
	hung, goOn := make(chan bool), make(chan bool)
	r.fs.hook = func(op, _ string) error {
		if op == "sync" {
			hung <- true
			<-goOn
		}
		return nil
	}
	done := make(chan error)
	go func() { done <- r.StoreLog(entry(13, 1, 10)) }()
	<-hung
	answered := make(chan string)
	go func() {
		r.Bytes()
		r.Boundary()
		answered <- mismatch(r.Log, all)
	}()
	select {
	case problem := <-answered:
		if problem != "" {
			t.Error(problem)
		}
	case <-time.After(10 * time.Second):
		t.Error("status waits for the disk")
	}
	close(goOn)
	r.must(<-done)
	r.fs.hook = nil
	r.holds(append(all, entry(13, 1, 10)))
}

func TestBytesTold(t *testing.T) {
	r := newRig(t)
	check := func(after string) {
		t.Helper()
		total := int64(0)
		for _, name := range r.names() {
			if strings.HasSuffix(name, suffixSegment) || strings.HasSuffix(name, suffixFree) {
				info, err := os.Stat(r.path(name))
				r.must(err)
				total += info.Size()
			}
		}
		if got := r.Bytes(); got != total {
			t.Errorf("after %s %d bytes are told, %d are taken", after, got, total)
		}
	}
	check("opening")
	r.fill()
	check("writing")
	r.store(13, 14, 1, 30<<10)
	check("a large write")
	r.must(r.DropThrough(12))
	check("dropping")
	r.store(15, 20, 1, 2800)
	check("using files again")
	r.must(r.DeleteRange(14, 20))
	check("a cut")
	r.crash()
	check("a crash")
	r.must(r.Reset(99, 9))
	check("a reset")
}

func TestClosed(t *testing.T) {
	r := newRig(t)
	r.fill()
	r.must(r.Close())
	var e raft.Log
	if err := r.GetLog(3, &e); err == nil {
		t.Error("a closed log was read")
	}
	for _, err := range []error{r.StoreLog(entry(13, 1, 1)), r.DeleteRange(12, 12), r.Reset(20, 1), r.DropThrough(4)} {
		if err == nil {
			t.Error("a closed log was written to")
		}
	}
	r.must(r.Close())
	r.must(r.Abandon())
}
