package raftlog

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// smallRead is up to how many bytes an entry is looked up by itself: a read of
// many takes a large piece of the file.
const smallRead = 64 << 10

// First is the first index that this replica's log holds, or will hold.
func (g *Group) First() Index {
	boundary, _ := g.store.Boundary()
	return Index(boundary) + 1
}

// Read returns entries from index on, at least one and up to about maxBytes,
// none beyond what the StateMachine has been given. Configuration entries and
// no-ops are left out, so indexes may jump. next is where to go on; if nothing
// has been applied from index on, next is index and there are no entries. It
// fails with ErrNotFound if the log does not hold index (any more).
func (g *Group) Read(from Index, maxBytes int) (entries []Entry, next Index, err error) {
	applied := g.Applied()
	next = max(from, 1)
	take := func(l *raft.Log) bool {
		if l.Type == raft.LogCommand {
			entries = append(entries, Entry{Index: next, Term: Term(l.Term), Data: l.Data})
			maxBytes -= len(l.Data)
		}
		next++
		return maxBytes > 0
	}
	for next <= applied && maxBytes > 0 && err == nil {
		var l raft.Log
		switch {
		case g.store.ring.get(uint64(next), &l):
			take(&l)
		case maxBytes <= smallRead:
			if err = g.store.disk.GetLog(uint64(next), &l); err == nil && uint64(next) == l.Index && next >= g.First() {
				take(&l)
			} else if err == nil {
				err = raft.ErrLogNotFound
			}
		default:
			err = g.store.read(uint64(next), uint64(applied), take)
		}
	}
	if err != nil {
		if errors.Is(err, raft.ErrLogNotFound) {
			err = ErrNotFound
		}
		return nil, next, fmt.Errorf("read entry %d: %w", next, err)
	}
	return entries, next, nil
}
