//go:build linux

package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"
	"time"
)

// Options of an FS.
type Options struct {
	// NamesWithFile has the fsync of a file make all names durable too, as the
	// journals of ext4 and XFS do. POSIX does not promise it: without it a file
	// is lost whose directory was never synced.
	NamesWithFile bool
}

// Stats counts what an FS was asked for and what went wrong.
type Stats struct {
	Reads, Writes, Syncs, DirSyncs int64
	Lied                           int64 // fsyncs that did nothing
	Full                           int64 // writes refused for want of space
}

// FS is a mounted file system. Its methods may be called concurrently, but for
// Restore and Close.
type FS struct {
	dir    string
	opts   Options
	faults faults

	mu     sync.Mutex
	tree   *tree
	mount  *mount // nil: not mounted
	isCut  bool
	cutNow chan struct{} // closed by Cut
	lying  bool
	stats  Stats

	guard   *guard
	closing time.Duration // how long unmounting waits for files to be closed
}

// Mount shows a new, empty file system at dir, an existing directory. Close it.
func Mount(dir string, opts Options) (*FS, error) {
	f := &FS{dir: dir, opts: opts, tree: newTree(), cutNow: make(chan struct{}), closing: closing}
	var err error
	if f.guard, err = newGuard(dir); err != nil {
		return nil, err
	}
	if f.mount, err = f.newMount(); err != nil {
		f.guard.end()
		return nil, err
	}
	return f, nil
}

// Dir is where it is mounted.
func (f *FS) Dir() string { return f.dir }

// Cut cuts the power of all the file systems at the same instant. Operations
// under way have either taken effect or fail; all later ones, and those that
// stall, fail with EIO. Bytes that the kernel has cached can still be read.
func Cut(all ...*FS) {
	for _, f := range all {
		f.mu.Lock()
	}
	for _, f := range all {
		if !f.isCut {
			f.isCut = true
			close(f.cutNow)
		}
		f.mu.Unlock()
	}
}

// Restore gives the power back: the file system is mounted anew with what was
// durable at the Cut and what s adds to it. Without a Cut it makes one. All
// faults are taken off, and an fsync lies no longer. The processes that used it
// must have ended: a file that is still open gives an error, and Restore may be
// called again.
func (f *FS) Restore(s Survivors) error {
	Cut(f)
	f.faults.clear()
	if err := f.unmount(); err != nil {
		return err
	}
	f.mu.Lock()
	f.tree.cut(s)
	f.isCut, f.lying, f.cutNow = false, false, make(chan struct{})
	f.mu.Unlock()
	m, err := f.newMount()
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.mount = m
	f.mu.Unlock()
	return nil
}

func (f *FS) unmount() error {
	f.mu.Lock()
	m := f.mount
	f.mu.Unlock()
	if m == nil {
		return nil
	}
	if err := m.unmount(f.closing); err != nil {
		return err
	}
	f.mu.Lock()
	f.mount = nil
	f.mu.Unlock()
	return nil
}

// Close takes the mount away; what it held is gone. A file that is still open
// is an error, but the mount goes away nonetheless. It may be called again.
func (f *FS) Close() error {
	Cut(f)
	f.faults.clear()
	err := f.unmount()
	if err != nil {
		err = errors.Join(err, f.mount.detach())
	}
	f.guard.end()
	return err
}

// Inject puts a fault to work, until its Off or Restore.
func (f *FS) Inject(fault Fault) *Injected { return f.faults.add(fault) }

// SetLying has every fsync return success and make nothing durable, as a disk
// does that loses its cache. An honest fsync later makes up for it.
func (f *FS) SetLying(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lying = on
}

// SetFree sets how much room is left; writes that need more fail with ENOSPC.
// Room that files give back counts. Files grow in blocks of 4096 bytes.
func (f *FS) SetFree(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tree.capacity = f.tree.used + bytes
}

// Free is how much room is left.
func (f *FS) Free() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.free()
}

func (f *FS) free() int64 { return max(0, f.tree.capacity-f.tree.used) }

// Stats returns what was counted since Mount.
func (f *FS) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// Flip turns one bit of a file over, durably, as a disk does that rots: bit 0 is
// the lowest of byte 0. The path is relative to the mount. Readers see it at once.
func (f *FS) Flip(path string, bit int64) error {
	f.mu.Lock()
	n, m := f.tree.find(path), f.mount
	err := error(nil)
	switch {
	case n == nil:
		err = &fs.PathError{Op: "flip", Path: path, Err: fs.ErrNotExist}
	case n.isDir():
		err = &fs.PathError{Op: "flip", Path: path, Err: syscall.EISDIR}
	case bit < 0 || bit/8 >= n.file.now.size:
		err = fmt.Errorf("flip bit %d of %s: it has %d bytes", bit, path, n.file.now.size)
	default:
		n.file.flip(bit)
	}
	f.mu.Unlock() // dropping pages can wait for reads, which need it
	if err == nil && m != nil {
		m.dropPages(n.id, bit/8)
	}
	return err
}
