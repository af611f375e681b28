package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// What raft asks of a raft.SnapshotStore.

// asideSuffix is what vfs.IsAside knows.
const asideSuffix = ".tmp"

// setStarting tells whether raft is being started: only then does List begin
// with the newest snapshot.
func (s *snapshotStore) setStarting(starting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting, s.fault = starting, nil
}

// startFault is why raft could not start with a snapshot. Raft does not say.
func (s *snapshotStore) startFault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// List has the snapshot that raft is to use first: the newest when it starts,
// and only that, for an older one in its place would hide damage; the oldest to
// ship: whoever gets it has the whole log that is held after it.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.kept
	if n := len(kept); n > 0 && s.starting {
		kept = kept[n-1:]
	}
	var all []*raft.SnapshotMeta
	for i := range kept {
		all = append(all, kept[i].meta())
	}
	return all, nil
}

func (i *snapshotInfo) meta() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version:            raft.SnapshotVersionMax,
		ID:                 strconv.FormatUint(i.index, 10),
		Index:              i.index,
		Term:               i.term,
		Configuration:      i.conf,
		ConfigurationIndex: i.confIndex,
		Size:               i.size,
	}
}

// Open opens the whole stream of a snapshot, after it has been checked.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.openStream(id)
	if err == nil {
		return meta, r, nil
	}
	s.logger.Error("a snapshot could not be opened", "err", err)
	if index, _ := strconv.ParseUint(id, 10, 64); index > s.applied() {
		s.failed(err) // it was to be restored, not shipped
	}
	return nil, nil, err
}

// failed takes an error after which the log and the machine do not meet.
func (s *snapshotStore) failed(err error) {
	s.mu.Lock()
	starting := s.starting
	if starting && s.fault == nil {
		s.fault = err
	}
	s.mu.Unlock()
	if !starting {
		s.fatal(fmt.Errorf("group %d: %w", s.group, err))
	}
}

func (s *snapshotStore) openStream(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	index, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	i, exists := s.find(index)
	var info snapshotInfo
	if exists {
		info = s.kept[i]
	}
	s.mu.Unlock()
	if !exists {
		return nil, nil, fmt.Errorf("snapshot at %d: %w", index, ErrNotFound)
	}
	path := s.path(index, snapSuffix)
	f, size, err := openWhole(s.fs, path)
	if err != nil {
		return nil, nil, err
	}
	err = checkStream(path, io.NewSectionReader(f, 0, size), s.group)
	if err == nil && size != info.size {
		err = &DamageError{Path: path, Offset: size, Reason: fmt.Sprintf("it has %d bytes, not %d", size, info.size)}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return info.meta(), readCloser{io.NewSectionReader(f, 0, size), f}, nil
}

// Create begins to take what a leader ships. It is not always news: a leader
// that has not heard of an earlier installation's success repeats it, and goes
// on only after this one's.
func (s *snapshotStore) Create(_ raft.SnapshotVersion, index, term uint64, _ raft.Configuration, _ uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if err := s.acceptable(index, term); err != nil {
		return nil, err
	}
	aside := s.path(index, recvSuffix) + asideSuffix
	if err := s.fs.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := s.fs.Create(aside)
	if err != nil {
		return nil, err
	}
	return &sink{store: s, index: index, term: term, aside: aside, f: f}, nil
}

// acceptable tells whether raft may go to a snapshot. To an old one it goes back
// in earnest (hashicorp/raft#248): it gives the entries after it to the fsm
// again, which passes them over, so they must be there, and it takes the
// configuration of then for the present one, so there must be no other since.
func (s *snapshotStore) acceptable(index, term uint64) error {
	applied := s.applied()
	if index > applied {
		if newest := uint64(s.newest()); index < newest {
			return fmt.Errorf("a snapshot at %d is older than the one at %d", index, newest)
		}
		return nil
	}
	boundary, _ := s.log.Boundary()
	last, err := s.log.LastIndex()
	if err != nil {
		return err
	}
	var l raft.Log
	switch err := s.log.GetLog(index, &l); {
	case index < boundary:
		return fmt.Errorf("a snapshot at %d lies before the log, which begins after entry %d", index, boundary)
	case err != nil:
		return err
	case l.Term != term:
		return fmt.Errorf("a snapshot at %d is of term %d, and entry %d, which has been applied, of term %d", index, term, index, l.Term)
	}
	conf, _ := s.confBy(last)
	for i := applied + 1; i <= last && conf.index <= index; i++ {
		if err := s.log.GetLog(i, &l); err != nil {
			return err
		}
		if l.Type == raft.LogConfiguration {
			conf.index = i
		}
	}
	if conf.index > index {
		return fmt.Errorf("a snapshot at %d has an older configuration than that of entry %d", index, conf.index)
	}
	return nil
}

// sink takes one shipped snapshot. It belongs to one goroutine.
type sink struct {
	store       *snapshotStore
	index, term uint64
	aside       string
	f           vfs.File
	n           int64
}

func (k *sink) ID() string { return strconv.FormatUint(k.index, 10) }

func (k *sink) Write(p []byte) (int, error) {
	n, err := k.f.WriteAt(p, k.n)
	k.n += int64(n)
	return n, err
}

// Cancel forgets what came.
func (k *sink) Cancel() error {
	return errors.Join(k.f.Close(), k.store.fs.Remove(k.aside))
}

// Close makes the snapshot durable, and the log begin after it. Raft has the
// machine restored next.
func (k *sink) Close() error {
	s := k.store
	info, err := k.finish()
	if err != nil {
		return errors.Join(err, s.fs.Remove(k.aside))
	}
	if err := s.fs.Rename(k.aside, s.path(k.index, recvSuffix)); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	if err := s.adopt(info); err != nil {
		s.failed(err)
		return err
	}
	return nil
}

// finish makes the file durable and checks it.
func (k *sink) finish() (info snapshotInfo, err error) {
	if err := errors.Join(k.f.Sync(), k.f.Close()); err != nil {
		return info, err
	}
	if info, err = k.store.readInfo(k.aside, k.index); err != nil {
		return info, err
	}
	if info.term != k.term {
		return info, fmt.Errorf("the snapshot at %d is of term %d, announced was %d", k.index, info.term, k.term)
	}
	return info, k.store.check(k.aside)
}

// adopt makes the log begin after a received snapshot, unless it has the entry
// there, and the snapshot an ordinary one.
func (s *snapshotStore) adopt(info snapshotInfo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index, term := s.log.Boundary(); index != info.index || term != info.term {
		if err := s.log.Reset(info.index, info.term); err != nil {
			return fmt.Errorf("reset the log to the snapshot at %d: %w", info.index, err)
		}
	}
	if err := s.fs.Rename(s.path(info.index, recvSuffix), s.path(info.index, snapSuffix)); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	s.keep(info)
	return s.dropBelowBoundary()
}
