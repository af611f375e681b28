package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// hooked is the real file system; hook may refuse an operation, and nothing is
// synced, because these tests cut no power.
type hooked struct {
	vfs.FS
	hook func(op, name string) error // "open", "create", "rename", "remove", "syncdir", "read", "write", "sync"; nil: all is well
}

func (h *hooked) ask(op, name string) error {
	if h.hook == nil {
		return nil
	}
	return h.hook(op, filepath.Base(name))
}

func (h *hooked) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &hookedFile{File: f, fs: h, name: name}, nil
}

func (h *hooked) Open(name string) (vfs.File, error) {
	if err := h.ask("open", name); err != nil {
		return nil, err
	}
	f, err := h.FS.Open(name)
	return h.file(name, f, err)
}

func (h *hooked) Create(name string) (vfs.File, error) {
	if err := h.ask("create", name); err != nil {
		return nil, err
	}
	f, err := h.FS.Create(name)
	return h.file(name, f, err)
}

func (h *hooked) Rename(from, to string) error {
	if err := h.ask("rename", to); err != nil {
		return err
	}
	return h.FS.Rename(from, to)
}

func (h *hooked) Remove(name string) error {
	if err := h.ask("remove", name); err != nil {
		return err
	}
	return h.FS.Remove(name)
}

func (h *hooked) SyncDir(dir string) error { return h.ask("syncdir", dir) }

type hookedFile struct {
	vfs.File
	fs   *hooked
	name string
}

func (f *hookedFile) ReadAt(b []byte, at int64) (int, error) {
	if err := f.fs.ask("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, at)
}

func (f *hookedFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.fs.ask("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, at)
}

func (f *hookedFile) Sync() error { return f.fs.ask("sync", f.name) }

// rig is a log under test, in a folder of its own.
type rig struct {
	t   testing.TB
	fs  *hooked
	opt Options
	*Log
}

// newRig opens an empty log whose segments have room for three pages of records.
func newRig(t testing.TB) *rig {
	t.Helper()
	fs := &hooked{FS: vfs.OS}
	r := &rig{t: t, fs: fs, opt: Options{FS: fs, Dir: filepath.Join(t.TempDir(), "log"), Group: 3, SegmentBytes: 16 << 10, FillBelow: 3000}}
	r.open()
	t.Cleanup(func() { r.Log.Abandon() })
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) open() {
	r.t.Helper()
	l, err := Open(r.opt)
	r.must(err)
	r.Log = l
}

// crash opens the log again, as after a process that was killed.
func (r *rig) crash() {
	r.t.Helper()
	r.must(r.Abandon())
	r.open()
}

func (r *rig) reopen() {
	r.t.Helper()
	r.must(r.Close())
	r.open()
}

// damaged says that Open finds damage at that place, and what for.
func (r *rig) damaged(name string, offset int64, reason string) {
	r.t.Helper()
	l, err := Open(r.opt)
	if err == nil {
		l.Abandon()
	}
	r.isDamage(err, name, offset, reason)
}

// isDamage checks a *DamageError; an offset of -1 is not looked at.
func (r *rig) isDamage(err error, name string, offset int64, reason string) {
	r.t.Helper()
	var d *DamageError
	if !errors.As(err, &d) {
		r.t.Fatalf("error %v, want damage of %s: %s", err, name, reason)
	}
	if filepath.Base(d.Path) != name || offset >= 0 && d.Offset != offset || !strings.Contains(d.Reason, reason) {
		r.t.Errorf("%v\nwant %s at byte %d: %s", err, name, offset, reason)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.opt.Dir, name) }

func seg(first uint64) string  { return fmt.Sprintf("%020d.seg", first) }
func idx(first uint64) string  { return fmt.Sprintf("%020d.idx", first) }
func free(first uint64) string { return fmt.Sprintf("%020d.free", first) }

// names lists the log's folder.
func (r *rig) names() []string {
	names, err := r.fs.List(r.opt.Dir)
	r.must(err)
	return names
}

// edit changes a file's bytes.
func (r *rig) edit(name string, change func([]byte) []byte) {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	r.must(err)
	r.must(os.WriteFile(r.path(name), change(b), 0o600))
}

// flip turns a bit of a file's byte.
func (r *rig) flip(name string, at int64) {
	r.t.Helper()
	r.edit(name, func(b []byte) []byte {
		b[at] ^= 0x10
		return b
	})
}

// snapshot keeps the folder's files, and restore brings them back.
func (r *rig) snapshot() map[string][]byte {
	files := map[string][]byte{}
	for _, name := range r.names() {
		b, err := os.ReadFile(r.path(name))
		r.must(err)
		files[name] = b
	}
	return files
}

func (r *rig) restore(files map[string][]byte) {
	r.must(os.RemoveAll(r.opt.Dir))
	r.must(os.MkdirAll(r.opt.Dir, 0o700))
	for name, b := range files {
		r.must(os.WriteFile(r.path(name), b, 0o600))
	}
}

// entry makes an entry; its bytes depend on index and term alone.
func entry(index, term uint64, size int) *raft.Log {
	e := &raft.Log{Index: index, Term: term, Type: raft.LogType(index % 6)}
	rng := rand.NewChaCha8([32]byte{byte(index), byte(index >> 8), byte(index >> 16), byte(term)})
	if size > 0 {
		e.Data = make([]byte, size)
		rng.Read(e.Data)
	}
	if index%3 == 0 {
		e.Extensions = make([]byte, 1+index%9)
		rng.Read(e.Extensions)
	}
	if index%4 > 0 {
		e.AppendedAt = time.Unix(1_700_000_000, int64(index))
	}
	return e
}

func entries(from, to, term uint64, size int) (all []*raft.Log) {
	for i := from; i <= to; i++ {
		all = append(all, entry(i, term, size))
	}
	return all
}

// store stores entries as one write.
func (r *rig) store(from, to, term uint64, size int) []*raft.Log {
	r.t.Helper()
	all := entries(from, to, term, size)
	r.must(r.StoreLogs(all))
	return all
}

// fill stores three segments of four entries each, 1 to 12, two to a write.
func (r *rig) fill() (all []*raft.Log) {
	r.t.Helper()
	for i := uint64(1); i < 12; i += 2 {
		all = append(all, r.store(i, i+1, 1, 2800)...)
	}
	if names := r.names(); !slices.Equal(names, []string{idx(1), seg(1), idx(5), seg(5), seg(9)}) {
		r.t.Fatalf("the files are %q", names)
	}
	return all
}

func differs(got, want *raft.Log) string {
	switch {
	case got.Index != want.Index, got.Term != want.Term, got.Type != want.Type:
		return fmt.Sprintf("entry %d/%d %v instead of %d/%d %v", got.Index, got.Term, got.Type, want.Index, want.Term, want.Type)
	case !bytes.Equal(got.Data, want.Data):
		return fmt.Sprintf("the data of entry %d differ", want.Index)
	case !bytes.Equal(got.Extensions, want.Extensions):
		return fmt.Sprintf("the extensions of entry %d differ", want.Index)
	case !got.AppendedAt.Equal(want.AppendedAt):
		return fmt.Sprintf("the time of entry %d is %v instead of %v", want.Index, got.AppendedAt, want.AppendedAt)
	}
	return ""
}

// holds checks that the log holds these entries and no others, by every way to read.
func (r *rig) holds(want []*raft.Log) {
	r.t.Helper()
	if problem := mismatch(r.Log, want); problem != "" {
		r.t.Fatal(problem)
	}
}

func mismatch(l *Log, want []*raft.Log) string {
	first, err1 := l.FirstIndex()
	last, err2 := l.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return err.Error()
	}
	boundary, _ := l.Boundary()
	if len(want) == 0 {
		if first != 0 || last != 0 {
			return fmt.Sprintf("entries %d to %d are held, want none", first, last)
		}
		first, last = boundary+1, boundary
	} else if first != want[0].Index || last != want[len(want)-1].Index || boundary != first-1 {
		return fmt.Sprintf("entries %d to %d are held behind %d, want %d to %d",
			first, last, boundary, want[0].Index, want[len(want)-1].Index)
	}
	var e raft.Log
	for _, index := range []uint64{boundary - 1, last + 1, last + 2} {
		if err := l.GetLog(index, &e); err != raft.ErrLogNotFound {
			return fmt.Sprintf("get %d, which is not held: %v", index, err)
		}
	}
	problem, n := "", 0
	err := l.Read(first, last, func(e *raft.Log) bool {
		problem = differs(e, want[n])
		n++
		return problem == ""
	})
	if problem == "" && err == nil && n == len(want) {
		for _, w := range want {
			if err = l.GetLog(w.Index, &e); err == nil {
				problem = differs(&e, w)
			}
			if err != nil || problem != "" {
				break
			}
		}
	}
	switch {
	case problem != "":
		return problem
	case err != nil:
		return err.Error()
	case n != len(want):
		return fmt.Sprintf("%d entries were read of %d", n, len(want))
	}
	return ""
}

// verified checks that Verify finds these entries, and nothing wrong.
func (r *rig) verified(want []*raft.Log) Report {
	r.t.Helper()
	n := 0
	rep, err := Verify(r.opt, func(e *raft.Log) error {
		if n >= len(want) {
			return fmt.Errorf("entry %d is one too many", e.Index)
		}
		if problem := differs(e, want[n]); problem != "" {
			return errors.New(problem)
		}
		n++
		return nil
	})
	r.must(err)
	if n != len(want) || rep.Entries != uint64(n) {
		r.t.Fatalf("verified %d entries and reported %+v, want %d", n, rep, len(want))
	}
	return rep
}

// verifyFinds checks that Verify reports damage there.
func (r *rig) verifyFinds(name string, offset int64, reason string) {
	r.t.Helper()
	_, err := Verify(r.opt, nil)
	r.isDamage(err, name, offset, reason)
}
