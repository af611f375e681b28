package raftlog

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"
)

// Prepare makes the connections to the other voters that this replica will need when
// it leads, and returns when it has them or ctx ends. An election would wait for
// their handshakes. What goes over them is a request for a pre-vote in term 0, which
// changes nothing and which nobody grants; raft keeps the connections for what it has
// to send next.
func (g *Group) Prepare(ctx context.Context) {
	inst := g.instance()
	if inst == nil || g.rebuild.under() || g.fenced.Load() != nil {
		return
	}
	req := &raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.cfg.Node), Addr: []byte(g.cfg.Node),
	}}
	voters, _ := servers(inst.raft)
	done := make(chan struct{})
	if !g.spawn(inst, func() {
		defer close(done)
		var asked sync.WaitGroup
		defer asked.Wait()
		for _, node := range voters {
			if node == g.cfg.Node || !g.cfg.Links.Up(node) {
				continue
			}
			asked.Go(func() {
				// What it answers does not matter, nor that it does not.
				_ = inst.trans.RequestPreVote(raft.ServerID(node), raft.ServerAddress(node), req, &raft.RequestPreVoteResponse{})
			})
		}
	}) {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// spawn starts a task that the group's end waits for, unless inst has ended: tasks
// that come from outside must not begin while Close waits.
func (g *Group) spawn(inst *instance, task func()) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.current != inst || g.ctx.Err() != nil {
		return false
	}
	g.tasks.Go(task)
	return true
}
