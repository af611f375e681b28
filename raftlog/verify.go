package raftlog

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
	"github.com/roomlog/roomlog/raftlog/vfs"
)

// Verification says what is to be verified: the replica of a group in a folder.
type Verification struct {
	FS  vfs.FS // default vfs.OS
	Dir string // the group's own folder, as in Config
	ID  uint32

	// Entry is called with every command in the log, in order, before what
	// follows it is known to be whole. An error ends the verification. May be nil.
	Entry func(Entry) error
	// Snapshot is called with what was written for each snapshot, oldest first;
	// it has been checked. An error ends the verification. May be nil.
	Snapshot func(index Index, body io.Reader) error
}

// Verified is what was found.
type Verified struct {
	Log       segment.Report
	Snapshots []Index // oldest first
	// Received is where a snapshot was received that the log does not begin
	// after yet: Open goes on with it. 0: none.
	Received   Index
	Fenced     string // why, "" if it is not
	Rebuilding bool   // a rebuild has not ended; then nothing else is looked at
}

// Verify reads all of a stopped replica's log and snapshots and changes
// nothing. The first damage found is a *DamageError.
func Verify(v Verification) (found Verified, err error) {
	if v.FS == nil {
		v.FS = vfs.OS
	}
	if found.Rebuilding, err = vfs.Exists(v.FS, filepath.Join(v.Dir, rebuildFile)); err != nil || found.Rebuilding {
		return found, err
	}
	err = checkFence(v.FS, v.Dir)
	if fence, ok := errors.AsType[*FencedError](err); ok {
		found.Fenced = fence.Reason
	}
	snaps := &snapshotStore{fs: v.FS, dir: filepath.Join(v.Dir, snapshotsDir), group: v.ID}
	received, err := v.snapshots(snaps, &found)
	if err != nil {
		return found, err
	}
	terms := map[uint64]uint64{}
	for i := range snaps.kept {
		terms[snaps.kept[i].index] = 0
	}
	found.Log, err = segment.Verify(segment.Options{FS: v.FS, Dir: filepath.Join(v.Dir, logDir), Group: v.ID}, func(l *raft.Log) error {
		if _, asked := terms[l.Index]; asked {
			terms[l.Index] = l.Term
		}
		if v.Entry != nil && l.Type == raft.LogCommand {
			return v.Entry(Entry{Index: Index(l.Index), Term: Term(l.Term), Data: l.Data})
		}
		return nil
	})
	if err != nil {
		return found, err
	}
	terms[found.Log.BoundaryIndex] = found.Log.BoundaryTerm
	return found, snaps.meetLog(received, &found.Log, terms)
}

// snapshots reads all snapshots, and returns the newest that was received.
func (v *Verification) snapshots(s *snapshotStore, found *Verified) (received *snapshotHead, err error) {
	snaps, recvs, _, err := listSnapshots(s.fs, s.dir)
	if err != nil {
		return nil, err
	}
	for _, index := range snaps {
		path := s.path(index, snapSuffix)
		info, err := s.readInfo(path, index)
		if err != nil {
			return nil, err
		}
		s.setKept(append(s.kept, info))
		found.Snapshots = append(found.Snapshots, Index(index))
		body, err := s.body(index)
		if err != nil {
			return nil, err
		}
		if v.Snapshot != nil {
			err = v.Snapshot(Index(index), body)
		}
		if err = errors.Join(err, body.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, index := range recvs {
		path := s.path(index, recvSuffix)
		info, err := s.readInfo(path, index)
		if err != nil {
			return nil, err
		}
		if err := s.check(path); err != nil {
			return nil, err
		}
		if len(snaps) == 0 || index > snaps[len(snaps)-1] {
			received = &info.snapshotHead
			found.Received = Index(index)
		}
	}
	return received, nil
}

// meetLog checks the snapshots against the log, of whose entries terms has the
// terms at each snapshot, 0 where there is none.
func (s *snapshotStore) meetLog(received *snapshotHead, log *segment.Report, terms map[uint64]uint64) error {
	if received != nil { // Open resets the log to it, if it must be
		return nil
	}
	var newest *snapshotHead
	path := s.dir
	if n := len(s.kept); n > 0 {
		newest = &s.kept[n-1].snapshotHead
		path = s.path(newest.index, snapSuffix)
	}
	last := log.Last
	if err := meets(newest, path, log.BoundaryIndex, last, terms[newestIndex(newest)]); err != nil {
		return err
	}
	if err := frontLost(s.indexes(), s.dir, log.BoundaryIndex); err != nil {
		return err
	}
	for _, info := range slices.Backward(s.kept) {
		if info.index < log.BoundaryIndex {
			break // Open removes it
		}
		if term := terms[info.index]; term != info.term {
			return &DamageError{
				Path:   s.path(info.index, snapSuffix),
				Reason: fmt.Sprintf("the snapshot at %d is of term %d, but the log's entry of term %d", info.index, info.term, term),
			}
		}
	}
	return nil
}

func newestIndex(h *snapshotHead) uint64 {
	if h == nil {
		return 0
	}
	return h.index
}
