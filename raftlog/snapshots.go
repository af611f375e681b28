package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// snapshotStore keeps a group's snapshots. Raft takes none through it: it
// restores the newest when it starts, ships the oldest, the floor, to who has
// fallen below it, and installs what is shipped to it.
//
//	%020d.snap  a snapshot; the log reaches from it on, or from before
//	%020d.recv  one that was received; the log may not know of it yet
//
// A received snapshot becomes an ordinary one when the log has been reset to
// it. So an ordinary one that the log does not reach means that entries were
// lost, and never that an installation was cut short.
//
// Safe for concurrent use.
type snapshotStore struct {
	fs      vfs.FS
	dir     string
	group   uint32
	log     boundedLog
	applied func() uint64
	confBy  func(uint64) (confAt, bool)
	fatal   func(error)
	logger  *slog.Logger

	mu       sync.Mutex
	starting bool           // raft is being started
	fault    error          // what went wrong with its snapshot then
	kept     []snapshotInfo // oldest first; see setKept

	shown atomic.Pointer[[]snapshotInfo] // a copy of kept, for those who must not wait
}

// boundedLog is the log as snapshots see it.
type boundedLog interface {
	Boundary() (index, term uint64)
	Reset(index, term uint64) error
	LastIndex() (uint64, error)
	GetLog(index uint64, l *raft.Log) error
}

type snapshotInfo struct {
	snapshotHead
	size int64
}

const (
	snapSuffix = ".snap"
	recvSuffix = ".recv"
)

func (s *snapshotStore) path(index uint64, suffix string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%020d%s", index, suffix))
}

// listSnapshots returns the indexes of the snapshots of a kind in dir, oldest
// first, and the names of files that were never finished.
func listSnapshots(fsys vfs.FS, dir string) (snaps, recvs []uint64, asides []string, err error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, name := range names {
		if vfs.IsAside(name) {
			asides = append(asides, name)
			continue
		}
		suffix := filepath.Ext(name)
		index, err := strconv.ParseUint(strings.TrimSuffix(name, suffix), 10, 64)
		switch {
		case err != nil || len(name) != 20+len(suffix):
		case suffix == snapSuffix:
			snaps = append(snaps, index)
			continue
		case suffix == recvSuffix:
			recvs = append(recvs, index)
			continue
		}
		return nil, nil, nil, &DamageError{Path: filepath.Join(dir, name), Reason: "no snapshot has such a name"}
	}
	slices.Sort(snaps)
	slices.Sort(recvs)
	return snaps, recvs, asides, nil
}

// open reads what is there, completes an installation that was cut short, and
// checks that the newest snapshot and the log meet.
func (s *snapshotStore) open() error {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	snaps, recvs, asides, err := listSnapshots(s.fs, s.dir)
	if err != nil {
		return err
	}
	for _, name := range asides {
		if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	for _, index := range snaps {
		info, err := s.readInfo(s.path(index, snapSuffix), index)
		if err != nil {
			return err
		}
		s.setKept(append(s.kept, info))
	}
	for _, index := range recvs {
		if err := s.reinstall(index); err != nil {
			return err
		}
	}
	if err := s.meetsLog(); err != nil {
		return err
	}
	boundary, _ := s.log.Boundary()
	if err := frontLost(s.indexes(), s.dir, boundary); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropBelowBoundary() // what an installation left
}

// reinstall completes an installation.
func (s *snapshotStore) reinstall(index uint64) error {
	path := s.path(index, recvSuffix)
	if n := len(s.kept); n > 0 && s.kept[n-1].index >= index {
		return s.fs.Remove(path)
	}
	info, err := s.readInfo(path, index)
	if err != nil {
		return err
	}
	if err := s.check(path); err != nil {
		return err
	}
	return s.adopt(info)
}

// meetsLog checks that the log goes on where the newest snapshot ends.
func (s *snapshotStore) meetsLog() error {
	last, err := s.log.LastIndex()
	if err != nil {
		return err
	}
	boundary, _ := s.log.Boundary()
	if len(s.kept) == 0 {
		return meets(nil, s.dir, boundary, last, 0)
	}
	newest := &s.kept[len(s.kept)-1].snapshotHead
	var l raft.Log
	if newest.index >= boundary && newest.index <= max(boundary, last) {
		if err := s.log.GetLog(newest.index, &l); err != nil {
			return err
		}
	}
	return meets(newest, s.path(newest.index, snapSuffix), boundary, last, l.Term)
}

// meets checks the newest snapshot, nil if there is none, against a log whose
// entry at its index, if it has one, is of a term.
func meets(newest *snapshotHead, path string, boundary, last, term uint64) error {
	switch {
	case newest == nil && boundary > 0:
		return &DamageError{Path: path, Reason: fmt.Sprintf("the log begins after entry %d, but there is no snapshot", boundary)}
	case newest == nil:
		return nil
	case newest.index < boundary:
		return &DamageError{Path: path, Reason: fmt.Sprintf("the newest snapshot is at %d, but the log begins after entry %d", newest.index, boundary)}
	case newest.index > max(boundary, last):
		return &DamageError{Path: path, Reason: fmt.Sprintf("the newest snapshot is at %d, but the log ends at entry %d", newest.index, max(boundary, last))}
	case newest.term != term:
		return &DamageError{Path: path, Reason: fmt.Sprintf("the snapshot at %d is of term %d, but the log's entry of term %d", newest.index, newest.term, term)}
	}
	return nil
}

// frontLost finds that the log's first segments are gone: a trim drops snapshots
// before the log, so that one is left below the log's beginning only by an
// installation, which puts another at the beginning.
func frontLost(kept []Index, dir string, boundary uint64) error {
	if len(kept) == 0 || uint64(kept[0]) >= boundary || slices.Contains(kept, Index(boundary)) {
		return nil
	}
	return &DamageError{Path: dir, Reason: fmt.Sprintf("there is a snapshot at %d, and the log begins after entry %d: its first segments are missing", kept[0], boundary)}
}

// readInfo reads a snapshot's head, and looks whether there is an end.
func (s *snapshotStore) readInfo(path string, index uint64) (snapshotInfo, error) {
	f, size, err := openWhole(s.fs, path)
	if err != nil {
		return snapshotInfo{}, err
	}
	defer f.Close()
	r, err := readSnapshot(io.NewSectionReader(f, 0, size), s.group)
	if err != nil {
		return snapshotInfo{}, damaged(path, err)
	}
	if r.head.index != index {
		return snapshotInfo{}, damaged(path, fault(16, "it is the one at %d", r.head.index))
	}
	end := make([]byte, snapshotTrailer)
	at := max(size-snapshotTrailer, r.before)
	if _, err := f.ReadAt(end, at); err != nil && err != io.EOF {
		return snapshotInfo{}, err
	}
	r.n = at - r.before
	if err := r.checkTrailer(end); err != io.EOF && string(end[12:]) != snapshotEnd {
		return snapshotInfo{}, damaged(path, err)
	}
	return snapshotInfo{r.head, size}, nil
}

func openWhole(fsys vfs.FS, path string) (vfs.File, int64, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// damaged makes a fault in a stream a damage of a file.
func damaged(path string, err error) error {
	if f, ok := errors.AsType[*snapshotFault](err); ok {
		return &DamageError{Path: path, Offset: f.offset, Reason: f.reason}
	}
	return fmt.Errorf("%s: %w", path, err)
}

// check reads a whole snapshot.
func (s *snapshotStore) check(path string) error {
	f, size, err := openWhole(s.fs, path)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkStream(path, io.NewSectionReader(f, 0, size), s.group)
}

func checkStream(path string, stream io.Reader, group uint32) error {
	r, err := readSnapshot(stream, group)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		return damaged(path, err)
	}
	return nil
}

// indexes returns where there are snapshots, oldest first. Like newest and bytes
// it waits for no file operation.
func (s *snapshotStore) indexes() []Index {
	shown := s.show()
	all := make([]Index, len(shown))
	for i := range shown {
		all[i] = Index(shown[i].index)
	}
	return all
}

// newest is the index of the newest snapshot, 0 if there is none.
func (s *snapshotStore) newest() Index {
	if shown := s.show(); len(shown) > 0 {
		return Index(shown[len(shown)-1].index)
	}
	return 0
}

func (s *snapshotStore) bytes() (n int64) {
	for _, info := range s.show() {
		n += info.size
	}
	return n
}

// show returns kept as it was when it last changed.
func (s *snapshotStore) show() []snapshotInfo {
	if shown := s.shown.Load(); shown != nil {
		return *shown
	}
	return nil
}

// setKept needs mu, but for open.
func (s *snapshotStore) setKept(kept []snapshotInfo) {
	s.kept = kept
	shown := slices.Clone(kept)
	s.shown.Store(&shown)
}

// find needs mu.
func (s *snapshotStore) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(s.kept, index, func(i snapshotInfo, index uint64) int {
		return int(min(max(int64(i.index-index), -1), 1))
	})
}

// keep needs mu.
func (s *snapshotStore) keep(info snapshotInfo) {
	i, exists := s.find(info.index)
	if exists {
		s.kept[i] = info
		s.setKept(s.kept)
		return
	}
	s.setKept(slices.Insert(s.kept, i, info))
}

// save writes a snapshot of this replica's own.
func (s *snapshotStore) save(h *snapshotHead, write func(io.Writer) error) error {
	path := s.path(h.index, snapSuffix)
	var size int64
	err := vfs.WriteFile(s.fs, path, func(w io.Writer) error {
		counted := &summing{w: w}
		err := writeSnapshot(counted, h, write)
		size = counted.n
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if boundary, _ := s.log.Boundary(); h.index < boundary {
		return errors.Join(ErrOvertaken, s.fs.Remove(path))
	}
	s.keep(snapshotInfo{*h, size})
	return nil
}

// trim removes the snapshots older than the one at floor.
func (s *snapshotStore) trim(floor uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.find(floor); !exists {
		return fmt.Errorf("raftlog: there is no snapshot at %d", floor)
	}
	return s.dropBelow(floor)
}

// dropBelow needs mu.
func (s *snapshotStore) dropBelow(index uint64) error {
	dropped := false
	for len(s.kept) > 0 && s.kept[0].index < index {
		if err := s.fs.Remove(s.path(s.kept[0].index, snapSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.setKept(s.kept[1:])
		dropped = true
	}
	if !dropped {
		return nil
	}
	return s.fs.SyncDir(s.dir)
}

// dropBelowBoundary needs mu.
func (s *snapshotStore) dropBelowBoundary() error {
	boundary, _ := s.log.Boundary()
	return s.dropBelow(boundary)
}

// body opens the body of a snapshot, after all of it has been checked.
func (s *snapshotStore) body(index uint64) (io.ReadCloser, error) {
	s.mu.Lock()
	_, exists := s.find(index)
	s.mu.Unlock()
	path := s.path(index, snapSuffix)
	if !exists {
		return nil, fmt.Errorf("snapshot at %d: %w", index, ErrNotFound)
	}
	f, size, err := openWhole(s.fs, path)
	if err != nil {
		return nil, err
	}
	err = checkStream(path, io.NewSectionReader(f, 0, size), s.group)
	var r *snapshotReader
	if err == nil {
		r, err = readSnapshot(io.NewSectionReader(f, 0, size), s.group)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return readCloser{r, f}, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}
