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
	var asked sync.WaitGroup
	for _, node := range voters {
		if node == g.cfg.Node || !g.cfg.Links.Up(node) {
			continue
		}
		asked.Add(1)
		g.tasks.Go(func() {
			defer asked.Done()
			// What it answers does not matter, nor that it does not.
			_ = inst.trans.RequestPreVote(raft.ServerID(node), raft.ServerAddress(node), req, &raft.RequestPreVoteResponse{})
		})
	}
	done := make(chan struct{})
	g.tasks.Go(func() {
		asked.Wait()
		close(done)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}
