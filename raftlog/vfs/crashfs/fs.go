package crashfs

import (
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// FS is a vfs.FS in memory that remembers its operations: all of them, with
// their bytes, for as long as it lives. Safe for concurrent use; operations are
// remembered in the order in which they took effect. It removes no directories.
type FS struct {
	mu    sync.Mutex
	start *image // everything in it is durable
	ops   []*op
	now   *image // start and all ops
	dirs  map[string]bool
	files int // numbers given
	syncs int // Sync and SyncDir calls
}

var _ vfs.FS = (*FS)(nil)

// New returns a file system with nothing but its root directories "/" and ".".
func New() *FS {
	return newFS(newImage(), map[string]bool{"/": true, ".": true}, 0)
}

func newFS(start *image, dirs map[string]bool, files int) *FS {
	return &FS{start: start, now: start.clone(), dirs: dirs, files: files}
}

// Ops is the number of operations so far that changed or synced something.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ops)
}

// Trace tells the operations so far, for people: "write 7.seg 4096+512".
func (f *FS) Trace() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, o := range f.ops {
		all = append(all, o.text)
	}
	return all
}

// Syncs are the Sync and SyncDir calls so far, in order.
func (f *FS) Syncs() []Sync {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Sync
	for i, o := range f.ops {
		if o.sync != nil {
			s := *o.sync
			s.After = i
			all = append(all, s)
		}
	}
	return all
}

// Killed returns the file system that the process finds which starts after this
// one was killed, with that many operations made: all of them are there, and
// those that no sync covered can still be lost. The new file system remembers
// them as its own, so look at Crashes from there on.
func (f *FS) Killed(ops int) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := newFS(f.start.clone(), maps.Clone(f.dirs), f.files)
	k.ops = slices.Clone(f.ops[:ops])
	for _, o := range k.ops {
		for i := range o.effects {
			k.now.apply(&o.effects[i])
		}
		if o.sync != nil {
			k.syncs++
		}
	}
	return k
}

// did remembers an operation and makes it. Callers hold mu.
func (f *FS) did(o *op) {
	for i := range o.effects {
		f.now.apply(&o.effects[i])
	}
	f.ops = append(f.ops, o)
}

// synced remembers a sync. Callers hold mu.
func (f *FS) synced(s *Sync, file int) {
	s.N = f.syncs
	f.syncs++
	f.ops = append(f.ops, &op{text: s.text(), sync: s, file: file})
}

func failed(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens a file.
func (f *FS) Open(name string) (vfs.File, error) {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.now.names[name]
	if !ok {
		return nil, failed("open", name, fs.ErrNotExist)
	}
	return &file{fs: f, name: name, n: n}, nil
}

// Create makes a file, in a directory that exists.
func (f *FS) Create(name string) (vfs.File, error) {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch _, ok := f.now.names[name]; {
	case ok || f.dirs[name]:
		return nil, failed("create", name, fs.ErrExist)
	case !f.dirs[filepath.Dir(name)]:
		return nil, failed("create", name, fs.ErrNotExist)
	}
	f.files++
	f.did(created(name, f.files))
	return &file{fs: f, name: name, n: f.files}, nil
}

// Rename renames a file, over another if there is one.
func (f *FS) Rename(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.now.names[from]
	switch {
	case !ok || !f.dirs[filepath.Dir(to)]:
		return failed("rename", from, fs.ErrNotExist)
	case f.dirs[to]:
		return failed("rename", to, fs.ErrExist)
	case from != to:
		f.did(renamed(from, to, n))
	}
	return nil
}

// Remove removes a file. Those who have it open go on.
func (f *FS) Remove(name string) error {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.now.names[name]
	switch {
	case f.dirs[name]:
		return failed("remove", name, fmt.Errorf("is a directory: %w", fs.ErrInvalid))
	case !ok:
		return failed("remove", name, fs.ErrNotExist)
	}
	f.did(removed(name, n))
	return nil
}

// List returns the names in a directory, sorted.
func (f *FS) List(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	f.mu.Lock()
	defer f.mu.Unlock()
	list := []string{}
	for name := range f.now.names {
		if filepath.Dir(name) == dir {
			list = append(list, filepath.Base(name))
		}
	}
	for name := range f.dirs {
		if filepath.Dir(name) == dir && name != dir {
			list = append(list, filepath.Base(name))
		}
	}
	slices.Sort(list)
	return list, nil
}

// SyncDir makes a directory's names durable.
func (f *FS) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	s := newSync(dir, true)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dirs[dir] {
		return failed("sync", dir, fs.ErrNotExist)
	}
	f.synced(s, 0)
	return nil
}

// MkdirAll makes a directory and its parents, durable at once.
func (f *FS) MkdirAll(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var made []string
	for dir = filepath.Clean(dir); !f.dirs[dir]; dir = filepath.Dir(dir) {
		if _, ok := f.now.names[dir]; ok {
			return failed("mkdir", dir, fs.ErrExist)
		}
		made = append(made, dir)
	}
	for _, dir := range made {
		f.dirs[dir] = true
	}
	return nil
}

// file is an open file.
type file struct {
	fs     *FS
	name   string // by which it was opened
	n      int
	closed bool // under fs.mu
}

// use locks the file system for one operation on an open file.
func (f *file) use(op string) (unlock func(), err error) {
	f.fs.mu.Lock()
	if f.closed {
		f.fs.mu.Unlock()
		return nil, failed(op, f.name, fs.ErrClosed)
	}
	return f.fs.mu.Unlock, nil
}

// named is the file's name now, or the last that is known if it has none.
func (f *file) named() string {
	for name, n := range f.fs.now.names {
		if n == f.n {
			return name
		}
	}
	return f.name
}

// content is the file's bytes now, to look at only.
func (f *file) content() *content {
	if c := f.fs.now.files[f.n]; c != nil {
		return c
	}
	return &content{}
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	unlock, err := f.use("read")
	if err != nil {
		return 0, err
	}
	defer unlock()
	if off < 0 {
		return 0, failed("read", f.name, fs.ErrInvalid)
	}
	return f.content().readAt(p, off)
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	unlock, err := f.use("write")
	if err != nil {
		return 0, err
	}
	defer unlock()
	if off < 0 {
		return 0, failed("write", f.name, fs.ErrInvalid)
	}
	f.fs.did(&op{
		text:    fmt.Sprintf("write %s %d+%d", filepath.Base(f.named()), off, len(p)),
		effects: f.content().writes(f.n, off, p),
	})
	return len(p), nil
}

func (f *file) Truncate(size int64) error {
	unlock, err := f.use("truncate")
	if err != nil {
		return err
	}
	defer unlock()
	if size < 0 {
		return failed("truncate", f.name, fs.ErrInvalid)
	}
	o := &op{text: fmt.Sprintf("truncate %s to %d", filepath.Base(f.named()), size)}
	if size != f.content().size {
		o.effects = []effect{{what: sizes, file: f.n, size: size}}
	}
	f.fs.did(o)
	return nil
}

func (f *file) Sync() error {
	s := newSync("", false)
	unlock, err := f.use("sync")
	if err != nil {
		return err
	}
	defer unlock()
	s.Path = f.named()
	f.fs.synced(s, f.n)
	return nil
}

func (f *file) Size() (int64, error) {
	unlock, err := f.use("stat")
	if err != nil {
		return 0, err
	}
	defer unlock()
	return f.content().size, nil
}

func (f *file) Close() error {
	unlock, err := f.use("close")
	if err != nil {
		return err
	}
	defer unlock()
	f.closed = true
	return nil
}

func hash(name string, sum uint64) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString(name)
	maphash.WriteComparable(&h, sum)
	return h.Sum64()
}
