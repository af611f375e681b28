package raftlog

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// Links tells about the connections to the other nodes.
type Links interface {
	// Up tells whether node is reachable now.
	Up(node string) bool
	// WaitUp returns nil once node is reachable, or an error when ctx ends.
	WaitUp(ctx context.Context, node string) error
}

var (
	errHeld    = errors.New("raftlog: leadership ended while the peer was away")
	errStalled = errors.New("raftlog: a write of the log is stalled")
)

// transport changes two things in what raft's network transport does.
//
// Heartbeats take the ordinary way. Raft's fast path handles them on the
// connection's goroutine and can raise the term under the leader loop's feet
// (hashicorp/raft#695); without a handler they reach the main loop like every
// other request.
//
// An AppendEntries with entries to a peer whose link is down is held, not
// failed. Each failure doubles the pause before raft's next attempt, up to
// 10 s, and nothing wakes it when the peer is back: the cluster would run on
// two of three for that long, and stop if another node died. Holding keeps the
// failure count low; the link coming up, the end of this leadership, or Close
// releases the call.
//
// And while a write of the log is stalled nothing goes out, heartbeats included:
// the followers must miss their leader.
type transport struct {
	*raft.NetworkTransport
	links   Links
	leader  func() context.Context // ends with the current leadership; nil if not leading
	stalled func() bool
}

// SetHeartbeatHandler refuses the fast path, as raft's interface allows.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(req) {
		if t.stalled() {
			return errStalled
		}
	} else if err := t.hold(string(id)); err != nil {
		return err
	}
	return t.NetworkTransport.AppendEntries(id, target, req, resp)
}

func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := t.hold(string(id)); err != nil {
		return nil, err
	}
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return &pipeline{p, t.stalled}, nil
}

// pipeline breaks off when the log is stalled; replication then goes on by
// single requests, which are held.
type pipeline struct {
	raft.AppendPipeline
	stalled func() bool
}

func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.stalled() {
		return nil, errStalled
	}
	return p.AppendPipeline.AppendEntries(req, resp)
}

func (t *transport) hold(node string) error {
	switch ctx := t.leader(); {
	case t.stalled():
		return errStalled
	case t.links.Up(node):
		return nil
	case ctx == nil || t.links.WaitUp(ctx, node) != nil:
		return errHeld
	}
	return nil
}

// isHeartbeat: raft's heartbeats carry a term and nothing else, while
// replication always names the entry before, but for an empty log.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0
}

// rpcTimeout bounds one request between nodes.
const rpcTimeout = 2 * time.Second

func newTransport(cfg *Config, leader func() context.Context, stalled func() bool) *transport {
	return &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:                  cfg.Streams(),
			MaxPool:                 2,
			MaxRPCsInFlight:         2,
			Timeout:                 rpcTimeout,
			Logger:                  raftLogger(cfg.Logger),
			MsgpackUseNewTimeFormat: true,
		}),
		links:  cfg.Links,
		leader: leader, stalled: stalled,
	}
}
