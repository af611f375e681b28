package raftlog

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// fsm hands committed entries to the StateMachine, publishes how far it has
// come, and knows which configuration held when. It outlives the raft instance:
// after a restart of raft the snapshot and the entries that were applied before
// come again and are passed over.
type fsm struct {
	machine StateMachine
	group   uint32
	applied atomic.Uint64
	failed  func(error)              // told when a snapshot could not be restored
	news    func(index, term uint64) // if set, told the last entry of what is about to be applied

	watch     *stopwatch
	committed func() uint64 // the commit index

	mu    sync.Mutex
	confs []confAt // by index
}

// confAt is the configuration that an entry brought.
type confAt struct {
	index uint64
	conf  raft.Configuration
}

var _ raft.BatchingFSM = (*fsm)(nil)

func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	entries := make([]Entry, 0, len(logs))
	places := make([]int, 0, len(logs))
	applied, last := f.applied.Load(), logs[len(logs)-1]
	if f.news != nil && last.Index > applied {
		f.news(last.Index, last.Term)
	}
	for i, l := range logs {
		if l.Index <= applied {
			continue
		}
		switch l.Type {
		case raft.LogCommand:
			entries = append(entries, Entry{Index: Index(l.Index), Term: Term(l.Term), Data: l.Data})
			places = append(places, i)
		case raft.LogConfiguration: // not for the machine
			f.configured(confAt{l.Index, raft.DecodeConfiguration(l.Data)})
		}
	}
	if len(entries) > 0 {
		f.watch.hand(entries)
		for i, result := range f.machine.Apply(entries) {
			results[places[i]] = result
		}
		f.watch.handed(f.committed())
	}
	if last.Index > applied {
		f.applied.Store(last.Index)
	}
	return results
}

// Restore is given the stream of a snapshot. One that is not newer than the
// machine is passed over.
func (f *fsm) Restore(r io.ReadCloser) error {
	err := f.restore(r)
	if err != nil {
		f.failed(err)
	}
	return err
}

func (f *fsm) restore(r io.Reader) error {
	s, err := readSnapshot(r, f.group)
	if err != nil {
		return fmt.Errorf("restore a snapshot: %w", err)
	}
	index := s.head.index
	if index <= f.applied.Load() {
		return nil
	}
	err = f.machine.Restore(Index(index), s)
	if err == nil {
		_, err = io.Copy(io.Discard, s) // the end has the checksum
	}
	if err != nil {
		return fmt.Errorf("restore the snapshot at %d: %w", index, err)
	}
	f.mu.Lock()
	f.confs = []confAt{{s.head.confIndex, s.head.conf}}
	f.mu.Unlock()
	f.applied.Store(index)
	return nil
}

// Snapshot is never called: SaveSnapshot does what it is for.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("raftlog: raft takes no snapshots")
}

func (f *fsm) configured(c confAt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.confs = append(f.confs, c)
}

// confBy returns the configuration that held after the entry at index.
func (f *fsm) confBy(index uint64) (confAt, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.confs) - 1; i >= 0; i-- {
		if f.confs[i].index <= index {
			return f.confs[i], true
		}
	}
	return confAt{}, false
}

// forgetConfs forgets the configurations that held before index only.
func (f *fsm) forgetConfs(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.confs) > 1 && f.confs[1].index <= index {
		f.confs = f.confs[1:]
	}
}
