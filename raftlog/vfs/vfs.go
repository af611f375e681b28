// Package vfs is the part of a file system that a log needs, so that tests can
// put one underneath that forgets what was not synced.
//
// What a caller may rely on after a crash: the bytes of a file that a returned
// Sync covers, and the names in a directory that a returned SyncDir covers.
// Everything else may be there, may be missing, and may be there in part, in
// units of a disk sector.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// FS is a file system. Names are paths as package os takes them; errors wrap
// fs.ErrNotExist and fs.ErrExist. Safe for concurrent use.
type FS interface {
	// Open opens a file that exists for reading and writing.
	Open(name string) (File, error)
	// Create makes a new empty file and opens it; one of that name is an error.
	Create(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// List returns the names in a directory, sorted; none if there is no such directory.
	List(dir string) ([]string, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// MkdirAll makes a directory and its parents, durably.
	MkdirAll(dir string) error
}

// File is an open file. Reads and writes at offsets may run beside each other.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes the file's bytes and its size durable (fdatasync).
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
	Close() error
}

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) Open(name string) (File, error) { return open(name, os.O_RDWR) }

func (osFS) Create(name string) (File, error) {
	return open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func open(name string, flags int) (File, error) {
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(name string) error     { return os.Remove(name) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (o osFS) MkdirAll(dir string) error {
	parent := filepath.Dir(dir)
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case err == nil:
		// Whoever made it may have been killed before it was durable. The
		// parent of one made long ago need not be ours to read.
		if err := o.SyncDir(parent); !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	}
	if parent != dir {
		if err := o.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return o.SyncDir(parent)
}

// Uncache lets the system forget what it has in memory of a file's bytes from one
// offset to another, as far as they are synced. Linux keeps a page cache in
// folios of the size in which they were first written or read, and counts all of a
// folio as written for each byte that changes in it.
func Uncache(f File, from, to int64) {
	if u, ok := f.(interface{ uncache(from, to int64) }); ok {
		u.uncache(from, to)
	}
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// asideSuffix marks a file that was being written; nothing reads one.
const asideSuffix = ".tmp"

// WriteFile writes a file so that after a crash it is there whole or as it was:
// aside, synced, renamed over name, its directory synced. One writer per name.
func WriteFile(fsys FS, name string, write func(io.Writer) error) (err error) {
	aside := name + asideSuffix
	if err := fsys.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(aside)
	if err != nil {
		return err
	}
	w := &offsetWriter{w: f}
	if err = errors.Join(write(w), f.Sync(), f.Close()); err == nil {
		err = fsys.Rename(aside, name)
	}
	if err != nil {
		fsys.Remove(aside)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// IsAside tells whether name is one that WriteFile left behind in a crash.
func IsAside(name string) bool { return strings.HasSuffix(name, asideSuffix) }

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) (_ []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are expected", name, size, limit)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data, nil
}

// Exists tells whether there is a file of that name.
func Exists(fsys FS, name string) (bool, error) {
	f, err := fsys.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, f.Close()
}

type offsetWriter struct {
	w  io.WriterAt
	at int64
}

func (o *offsetWriter) Write(p []byte) (int, error) {
	n, err := o.w.WriteAt(p, o.at)
	o.at += int64(n)
	return n, err
}
