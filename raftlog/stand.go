package raftlog

import (
	"time"

	"github.com/hashicorp/raft"
)

// standLimit is how long raft may be busy with something else. What it has done by
// then may have changed who leads, and it does not look again.
const standLimit = 10 * time.Millisecond

// Stand makes this replica stand for election at once, without a pre-vote, in the
// place of a leader whose process is known to be gone. It does nothing if raft is
// busy: try again later. It returns false if the replica does not follow that leader,
// or not in that term, any more: then there is nothing to try.
//
// Raft does so when a leader hands over: TimeoutNow, here from the node to itself.
// Terms, persisted votes and the comparison of logs decide as always, so it can cost
// no entry. But a candidate that cannot win, for its log is shorter, still ends the
// leadership of one who lives: the caller makes sure that nobody reaches the leader,
// and that the longest log stands first.
func (g *Group) Stand(gone string, term Term) bool {
	inst := g.instance()
	if inst == nil || g.store.stalled() || g.rebuild.under() || g.fenced.Load() != nil || inst.raft.State() != raft.Follower {
		return false
	}
	if l := g.readLeader(inst); l.node != gone || l.term != term || gone == "" {
		return false
	}
	rpc := raft.RPC{
		Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.cfg.Node), Addr: []byte(g.cfg.Node),
		}},
		RespChan: make(chan raft.RPCResponse, 1),
	}
	inst.trans.inbox.offer(rpc, standLimit)
	return true
}
