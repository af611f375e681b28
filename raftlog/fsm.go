package raftlog

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// fsm hands committed entries to the StateMachine and publishes how far it has
// come. It outlives the raft instance: after a restart of raft the entries that
// were applied before come again and are passed over.
type fsm struct {
	machine StateMachine
	applied atomic.Uint64
}

var _ raft.BatchingFSM = (*fsm)(nil)

func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	entries := make([]Entry, 0, len(logs))
	places := make([]int, 0, len(logs))
	applied := f.applied.Load()
	for i, l := range logs {
		// Configuration entries come along and are not for the machine.
		if l.Type == raft.LogCommand && l.Index > applied {
			entries = append(entries, Entry{Index: Index(l.Index), Term: Term(l.Term), Data: l.Data})
			places = append(places, i)
		}
	}
	if len(entries) > 0 {
		for i, result := range f.machine.Apply(entries) {
			results[places[i]] = result
		}
	}
	if last := logs[len(logs)-1].Index; last > applied {
		f.applied.Store(last)
	}
	return results
}

// Snapshots are never asked for: compaction is off.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("raftlog: snapshots are not supported yet")
}

func (f *fsm) Restore(r io.ReadCloser) error {
	return errors.New("raftlog: snapshots are not supported yet")
}
