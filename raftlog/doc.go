// Package raftlog is a replicated log of opaque entries: one Group is one Raft
// group and this node's replica of it.
//
// What a caller may rely on:
//
//   - An entry whose proposal succeeded is fsynced on a majority, and has been
//     given to this node's StateMachine.
//   - Every replica's StateMachine sees the same entries in the same order,
//     each once per process, however often Raft is restarted underneath, but
//     for those that a snapshot stands for.
//   - Read hands out nothing that the StateMachine has not been given.
//   - The log is whole from First on. What lies before is gone on this node, and
//     a snapshot at or after the entry before First is there: SaveSnapshot keeps
//     one, Trim drops what is older.
//   - A replica that lacks entries which the leader has dropped is given the
//     leader's oldest snapshot (StateMachine.Restore) and every entry after it.
//   - A proposal's error says whether the entry may be in the log: ErrUnknown
//     if so; every other error means that it never will be.
//
// On disk, in Config.Dir: log/ (package segment), snapshots/ (snapfile.go), and
// markers: FENCED, REBUILD. Term and vote of all groups of a node lie together
// in a StableStore. Files that are not as they were written are a *DamageError,
// and Open refuses the replica.
//
// hashicorp/raft does the work. This is the only package that names its errors,
// and the place where its traps are stepped round: see transport.go (heartbeats,
// the replication back-off), errors.go (what an error means) and group.go
// (futures that are never answered, the stuck leadership transfer).
//
// Groups are safe for concurrent use.
package raftlog

import "io"

// Index is an entry's place in a group's log, from 1.
type Index uint64

// Term is a Raft term.
type Term uint64

// Entry is one entry of the log. Data must not be changed.
type Entry struct {
	Index Index
	Term  Term
	Data  []byte
	Times Times // only of what a StateMachine is given
}

// StateMachine is told of every committed entry.
type StateMachine interface {
	// Apply is called from one goroutine with entries in index order. The
	// results go to the callers who proposed them here; it returns one for
	// each entry.
	Apply(entries []Entry) []any
	// Restore replaces the state by that after the entry at index: r is what
	// was written for SaveSnapshot. It is called like Apply, and before Open
	// returns. After an error the state does not matter any more: Open fails,
	// or Fatal is told.
	Restore(index Index, r io.Reader) error
}
