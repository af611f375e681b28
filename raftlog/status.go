package raftlog

import (
	"slices"

	"github.com/hashicorp/raft"
)

// CaughtUp tells whether the StateMachine has been given every entry that this
// replica knows to be committed. No-ops and configurations are never given to
// it, so the applied index alone does not tell.
func (g *Group) CaughtUp() bool {
	inst := g.instance()
	if inst == nil {
		return false
	}
	commit := inst.raft.CommitIndex()
	if commit == 0 {
		return false // no leader has spoken yet
	}
	for i := max(g.fsm.applied.Load(), g.quiet.Load()) + 1; i <= commit; i++ {
		var l raft.Log
		if g.store.GetLog(i, &l) != nil || l.Type == raft.LogCommand && i > g.fsm.applied.Load() {
			return false
		}
		g.quiet.Store(i)
	}
	return true
}

// Status is a group's state as this replica knows it.
type Status struct {
	Leader      string // "" while unknown
	Term        Term
	Commit      Index
	Applied     Index // everything up to here has been applied, if it was to be
	First, Last Index // held in this replica's log; none if Last < First
	Bytes       int64 // on disk, log and snapshots
	Voters      []string
	Voter       bool // this node is one of them
	Nonvoters   []string

	SnapshotIndex Index  // of the newest snapshot; 0: none
	Stalled       bool   // a write of the log has lasted for more than a second
	Fenced        string // why this replica was fenced; "" if it was not
	Rebuilding    bool   // it votes for nobody yet
}

// Status returns the state of this replica.
func (g *Group) Status() Status {
	st := Status{
		Applied: g.Applied(), First: g.First(), Bytes: g.store.size() + g.snaps.bytes(),
		SnapshotIndex: g.snaps.newest(), Stalled: g.store.stalled(), Fenced: g.fencedFor(), Rebuilding: g.rebuild.under(),
	}
	if g.CaughtUp() {
		st.Applied = max(st.Applied, Index(g.quiet.Load())) // nothing there was to be applied
	}
	st.Leader, _ = g.Leader()
	inst := g.instance()
	if inst == nil {
		return st
	}
	r := inst.raft
	st.Term, st.Commit, st.Last = Term(r.CurrentTerm()), Index(r.CommitIndex()), Index(r.LastIndex())
	st.Voters, st.Nonvoters = servers(r)
	st.Voter = slices.Contains(st.Voters, g.cfg.Node)
	return st
}

// servers returns who has a vote in the group, and who has none.
func servers(r *raft.Raft) (voters, nonvoters []string) {
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, string(s.ID))
		} else {
			nonvoters = append(nonvoters, string(s.ID))
		}
	}
	return voters, nonvoters
}
