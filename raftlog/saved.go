package raftlog

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// SaveSnapshot keeps the state after the entry at index, which must have been
// applied and be held in the log; write writes it, and gives Restore the same
// bytes later. The snapshot is durable on return. One at the same index is
// replaced. If a newer one has come from another node, nothing is kept but the
// error ErrOvertaken. Any goroutine may call it; one at a time is served.
func (g *Group) SaveSnapshot(index Index, write func(io.Writer) error) error {
	g.saving.Lock()
	defer g.saving.Unlock()
	if applied := g.Applied(); index > applied || index == 0 {
		return fmt.Errorf("raftlog: no snapshot can be at %d: applied is %d", index, applied)
	}
	var l raft.Log
	if err := g.store.GetLog(uint64(index), &l); err != nil {
		if index < g.First() {
			err = ErrOvertaken
		}
		return fmt.Errorf("save snapshot at %d: %w", index, err)
	}
	conf, known := g.fsm.confBy(uint64(index))
	if !known {
		if index < g.First() {
			return fmt.Errorf("save snapshot at %d: %w", index, ErrOvertaken)
		}
		return fmt.Errorf("raftlog: no snapshot can be at %d: the configuration of then is not known", index)
	}
	head := snapshotHead{group: g.cfg.ID, index: uint64(index), term: l.Term, conf: conf.conf, confIndex: conf.index}
	if err := g.snaps.save(&head, write); err != nil {
		return fmt.Errorf("save snapshot at %d: %w", index, err)
	}
	return nil
}

// Snapshots returns where there are snapshots, oldest first.
func (g *Group) Snapshots() []Index { return g.snaps.indexes() }

// OpenSnapshot returns what was written for the snapshot at index. All of it has
// been checked. It fails with ErrNotFound if there is none, and with a
// *DamageError.
func (g *Group) OpenSnapshot(index Index) (io.ReadCloser, error) { return g.snaps.body(uint64(index)) }

// Trim drops what is older than the snapshot at floor: first snapshots, then
// segments of the log with no entry above it. Without a snapshot at floor
// nothing happens but an error; nor while raft, after a start, has not come to
// floor again: that is ErrNotYet. Any goroutine may call it.
func (g *Group) Trim(floor Index) error {
	g.saving.Lock()
	defer g.saving.Unlock()
	if inst := g.instance(); inst == nil || Index(inst.raft.AppliedIndex()) < floor {
		return fmt.Errorf("trim the log to %d: %w", floor, ErrNotYet)
	}
	if err := g.snaps.trim(uint64(floor)); err != nil {
		return err
	}
	g.fsm.forgetConfs(uint64(floor))
	if err := g.store.DropThrough(uint64(floor)); err != nil {
		return fmt.Errorf("trim the log to %d: %w", floor, err)
	}
	return nil
}
