package raftlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
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
	errNoVote  = errors.New("raftlog: a replica that is being rebuilt does not take part in elections")
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
//
// A replica that is being rebuilt takes no part in elections: nothing that asks
// for a vote goes out, or comes in as far as raft.
//
// Beside it goes what push.go is about: the pusher sees what raft tells its
// followers, and the inbox gives raft what other nodes push. And polls, of poll.go,
// see who answers.
type transport struct {
	*raft.NetworkTransport
	local
	links  Links
	votes  *voteBlock // nil: votes are free
	pusher *pusher
	inbox  *inbox
	polls  polls
	beat   func(ctx context.Context, node string, term Term, hurry bool) (BeatAnswer, error) // Config.Beat

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
}

// local is what a transport has to know of its own replica.
type local struct {
	leader  func() context.Context // ends with the current leadership; nil if not leading
	stalled func() bool
	// verifying tells whether somebody waits for the answers to the next heartbeats.
	verifying func() bool
	retry     func() // makes raft replicate anew; must not block
	// votesBlocked is nil, or tells whether the replica must not vote; once it has
	// told false it does so for ever.
	votesBlocked func() bool
	commit       func() uint64                               // up to where raft knows of commits
	termAt       func(index uint64) (term uint64, held bool) // of an entry of the log
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
	t.pusher.sending(string(id), req)
	var err error
	if t.beat != nil && isHeartbeat(req) {
		err = t.heartbeat(string(id), req, resp)
	} else {
		err = request(func() error { return t.NetworkTransport.AppendEntries(id, target, req, resp) })
	}
	t.pusher.answered(string(id), req, err)
	if err == nil && resp.Success {
		t.polls.answered(string(id), Term(req.Term))
	}
	t.failed(string(id), req, err)
	return err
}

// failed has the log grow when a request with entries has failed and the peer is
// there: raft would try again with the next entry, or after its commit timeout.
func (t *transport) failed(node string, req *raft.AppendEntriesRequest, err error) {
	if err != nil && len(req.Entries) > 0 && t.links.Up(node) {
		t.retry()
	}
}

// InstallSnapshot counts as contact with the leader, too.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if t.stalled() {
		return errStalled
	}
	return t.NetworkTransport.InstallSnapshot(id, target, req, resp, data)
}

// AppendEntriesPipeline is refused. In a pipeline raft sends 64 entries for each
// that is new, or for each commit timeout: a follower that lags when nothing more
// is published would take that long to catch up. Single requests follow each other
// until it has, and with packed entries two in flight gain nothing.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
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

// maxPool is how many connections to a node raft keeps for later requests.
const maxPool = 2

// request makes a request again for as long as the connections that it went by turn
// out to have ended. Raft keeps some, and does not notice when their link ends: an
// election would fail once for each of them.
func request(make func() error) (err error) {
	for range 1 + maxPool {
		if err = make(); !hasEnded(err) {
			return err
		}
	}
	return err
}

// hasEnded tells that a connection was closed, at either end.
func hasEnded(err error) bool {
	for _, end := range []error{net.ErrClosed, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

func newTransport(cfg *Config, l local, p *pusher) *transport {
	t := &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:                  cfg.Streams(),
			MaxPool:                 maxPool,
			MaxRPCsInFlight:         1,
			Timeout:                 rpcTimeout,
			Logger:                  raftLogger(cfg.Logger),
			MsgpackUseNewTimeFormat: true,
		}),
		local: l, links: cfg.Links, pusher: p, beat: cfg.Beat,
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if l.votesBlocked != nil {
		t.votes = &voteBlock{blocked: l.votesBlocked, node: cfg.Node, stable: cfg.Stable.group(cfg.ID)}
	}
	t.inbox = newInbox(t.NetworkTransport.Consumer(), t.votes, l)
	return t
}

// Consumer returns the requests for raft, in the order in which they came.
func (t *transport) Consumer() <-chan raft.RPC { return t.inbox.out }

func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.votes != nil && t.votes.blocked() {
		return errNoVote
	}
	return request(func() error { return t.NetworkTransport.RequestVote(id, target, req, resp) })
}

func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.votes != nil && t.votes.blocked() {
		return errNoVote
	}
	return request(func() error { return t.NetworkTransport.RequestPreVote(id, target, req, resp) })
}

// Close ends the transport and returns when its inbox has ended. It may be
// called more than once.
func (t *transport) Close() error {
	t.cancel()
	err := t.NetworkTransport.Close()
	t.inbox.close()
	return err
}

// voteBlock answers what must not reach raft while votes are blocked.
type voteBlock struct {
	blocked func() bool
	node    string
	stable  groupStable
}

// answers returns false for a request that raft is to have.
func (b *voteBlock) answers(rpc raft.RPC) bool { return b.blocked() && b.answer(rpc) }

// answer refuses a vote and a hand-over of leadership, and returns false for any
// other request. It names the replica's term, as raft does: a candidate behind it
// learns of it.
func (b *voteBlock) answer(rpc raft.RPC) bool {
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest:
	case *raft.TimeoutNowRequest:
		rpc.Respond(nil, errNoVote)
		return true
	default:
		return false
	}
	term, err := b.stable.GetUint64(keyTerm)
	if err != nil {
		rpc.Respond(nil, fmt.Errorf("%w: %w", errNoVote, err))
		return true
	}
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(b.node), Addr: []byte(b.node)}
	if _, ok := rpc.Command.(*raft.RequestVoteRequest); ok {
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: header, Term: term}, nil)
	} else {
		rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: header, Term: term}, nil)
	}
	return true
}
