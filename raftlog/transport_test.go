package raftlog

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func testTransport(t *testing.T, n *network, node string) *transport {
	t.Helper()
	cfg := &Config{Streams: func() StreamLayer { return n.layer(node) }, Links: links{n, node}, Logger: slog.New(slog.DiscardHandler)}
	trans := newTransport(cfg, testLocal(t), &pusher{})
	t.Cleanup(func() { trans.Close() })
	return trans
}

// testLocal is a replica that leads, with an empty log.
func testLocal(t *testing.T) local {
	return local{
		leader:  func() context.Context { return t.Context() },
		stalled: func() bool { return false },
		retry:   func() {},
		commit:  func() uint64 { return 0 },
		termAt:  func(uint64) (uint64, bool) { return 0, false },
	}
}

// Raft's fast path would handle a heartbeat beside the main loop (#695).
func TestHeartbeatsTakeTheOrdinaryWay(t *testing.T) {
	n := newNetwork(newEvents())
	n.set(func() { n.up["a"], n.up["b"] = true, true })
	from, to := testTransport(t, n, "a"), testTransport(t, n, "b")
	fast := make(chan raft.RPC, 1)
	var asRaft raft.Transport = to
	asRaft.SetHeartbeatHandler(func(rpc raft.RPC) {
		fast <- rpc
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	})

	answer := make(chan error, 1)
	go func() {
		heartbeat := raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("a")}, Term: 4}
		var resp raft.AppendEntriesResponse
		err := from.AppendEntries("b", "b", &heartbeat, &resp)
		if err == nil && resp.Term != 5 {
			err = errors.New("another answer")
		}
		answer <- err
	}()
	select {
	case rpc := <-to.Consumer():
		if req := rpc.Command.(*raft.AppendEntriesRequest); req.Term != 4 {
			t.Errorf("it arrived with term %d", req.Term)
		}
		rpc.Respond(&raft.AppendEntriesResponse{Term: 5}, nil)
	case <-fast:
		t.Error("the heartbeat took the fast path")
	case <-time.After(patience):
		t.Fatal("the heartbeat did not arrive")
	}
	if err := <-answer; err != nil {
		t.Errorf("its answer: %v", err)
	}
}

func TestIsHeartbeat(t *testing.T) {
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")}
	for _, tt := range []struct {
		name string
		req  raft.AppendEntriesRequest
		want bool
	}{
		{name: "heartbeat", req: raft.AppendEntriesRequest{RPCHeader: header, Term: 3}, want: true},
		{name: "entries", req: raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{Index: 1}}}},
		{name: "commit notice", req: raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 1, PrevLogTerm: 1, LeaderCommitIndex: 1}},
		{name: "probe before the first commit", req: raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 1, PrevLogTerm: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := isHeartbeat(&tt.req); got != tt.want {
				t.Errorf("isHeartbeat = %v", got)
			}
		})
	}
}

func TestHold(t *testing.T) {
	type fixture struct {
		net        *network
		trans      *transport
		endLeading context.CancelFunc
		answer     chan error
	}
	for _, tt := range []struct {
		name    string
		follows bool
		release func(*fixture)
		want    error
	}{
		{name: "the peer comes back", release: func(f *fixture) { f.net.set(func() { f.net.up["b"] = true }) }},
		{name: "leadership ends", release: func(f *fixture) { f.endLeading() }, want: errHeld},
		{name: "no leadership", follows: true, release: func(f *fixture) {}, want: errHeld},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				f := &fixture{net: newNetwork(newEvents()), endLeading: cancel, answer: make(chan error, 1)}
				defer cancel()
				f.net.set(func() { f.net.up["a"] = true })
				f.trans = &transport{links: links{f.net, "a"}, local: local{stalled: func() bool { return false }, leader: func() context.Context {
					if tt.follows {
						return nil
					}
					return ctx
				}}}
				go func() { f.answer <- f.trans.hold("b") }()
				synctest.Wait()
				select {
				case err := <-f.answer:
					if !tt.follows {
						t.Fatalf("hold returned %v with the peer away", err)
					}
					f.answer <- err
				default:
				}
				tt.release(f)
				if err := <-f.answer; !errors.Is(err, tt.want) {
					t.Errorf("hold = %v, want %v", err, tt.want)
				}
			})
		})
	}
}

// Requests that wait for a peer end with their leadership and with the group.
func TestHeldRequestsAreReleased(t *testing.T) {
	t.Parallel()
	for name, release := range map[string]func(*cluster, *node){
		"end of leadership": func(c *cluster, n *node) { c.isolate(n.name) },
		"hand-over":         func(c *cluster, n *node) { c.handTo("n2") },
		"Close":             func(c *cluster, n *node) { c.kill(n.name) },
		"restart":           func(c *cluster, n *node) { n.group.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3)
			leader := c.handTo("n1")
			c.separate("n1", "n3")
			c.publish("a")
			c.await("a request to be held", func() bool { return c.net.waitingAt("n1") > 0 })
			if _, err := c.publishWithin(patience, "b"); err != nil {
				t.Errorf("with a peer away: %v", err)
			}
			release(c, leader)
			c.await("the request to be released", func() bool { return c.net.waitingAt("n1") == 0 })
		})
	}
}

// A replica that is being rebuilt neither asks for votes nor gives any, nor is it
// made a candidate; all else reaches raft, in order.
func TestVotesAreBlocked(t *testing.T) {
	n := newNetwork(newEvents())
	n.set(func() { n.up["a"], n.up["b"] = true, true })
	stable := openTestStable(t, filepath.Join(t.TempDir(), "stable.db"))
	if err := stable.group(3).SetUint64(keyTerm, 9); err != nil {
		t.Fatal(err)
	}
	var blocked atomic.Bool
	blocked.Store(true)
	looked := make(chan struct{}, 100) // at blocked
	open := func(node string, votesBlocked func() bool) *transport {
		cfg := &Config{ID: 3, Node: node, Stable: stable, Streams: func() StreamLayer { return n.layer(node) }, Links: links{n, node}, Logger: slog.New(slog.DiscardHandler)}
		l := testLocal(t)
		l.votesBlocked = votesBlocked
		trans := newTransport(cfg, l, &pusher{})
		t.Cleanup(func() { trans.Close() })
		return trans
	}
	a, b := open("a", nil), open("b", func() bool {
		looked <- struct{}{}
		return blocked.Load()
	})
	var _ raft.WithPreVote = b
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")}
	arrived := func() any {
		select {
		case rpc := <-b.Consumer():
			switch rpc.Command.(type) {
			case *raft.RequestVoteRequest:
				rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
			case *raft.RequestPreVoteRequest:
				rpc.Respond(&raft.RequestPreVoteResponse{Granted: true}, nil)
			case *raft.TimeoutNowRequest:
				rpc.Respond(&raft.TimeoutNowResponse{}, nil)
			default:
				rpc.Respond(&raft.AppendEntriesResponse{}, nil)
			}
			return rpc.Command
		case <-time.After(patience):
			return nil
		}
	}

	var vote raft.RequestVoteResponse
	if err := a.RequestVote("b", "b", &raft.RequestVoteRequest{RPCHeader: header, Term: 4}, &vote); err != nil || vote.Granted || vote.Term != 9 {
		t.Errorf("a vote: %+v, %v", vote, err)
	}
	var pre raft.RequestPreVoteResponse
	if err := a.RequestPreVote("b", "b", &raft.RequestPreVoteRequest{RPCHeader: header, Term: 4}, &pre); err != nil || pre.Granted || pre.Term != 9 {
		t.Errorf("a pre-vote: %+v, %v", pre, err)
	}
	if err := a.TimeoutNow("b", "b", &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse)); err == nil || err.Error() != errNoVote.Error() {
		t.Errorf("a hand-over: %v", err)
	}
	if err := b.RequestVote("a", "a", &raft.RequestVoteRequest{RPCHeader: header}, &vote); !errors.Is(err, errNoVote) {
		t.Errorf("it asks for a vote: %v", err)
	}
	// Raft takes "unexpected command" for a yes.
	if err := b.RequestPreVote("a", "a", &raft.RequestPreVoteRequest{RPCHeader: header}, &pre); !errors.Is(err, errNoVote) || strings.Contains(err.Error(), "unexpected command") {
		t.Errorf("it asks for a pre-vote: %v", err)
	}
	for term := range uint64(3) {
		done := beside(func() error {
			return a.AppendEntries("b", "b", &raft.AppendEntriesRequest{RPCHeader: header, Term: term}, new(raft.AppendEntriesResponse))
		})
		if req, ok := arrived().(*raft.AppendEntriesRequest); !ok || req.Term != term {
			t.Errorf("raft was given %+v", req)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}

	blocked.Store(false)
	done := beside(func() error { return a.RequestVote("b", "b", &raft.RequestVoteRequest{RPCHeader: header}, &vote) })
	if _, ok := arrived().(*raft.RequestVoteRequest); !ok || <-done != nil || !vote.Granted {
		t.Errorf("a vote afterwards: %+v", vote)
	}
	done = beside(func() error { return a.RequestPreVote("b", "b", &raft.RequestPreVoteRequest{RPCHeader: header}, &pre) })
	if _, ok := arrived().(*raft.RequestPreVoteRequest); !ok || <-done != nil || !pre.Granted {
		t.Errorf("a pre-vote afterwards: %+v", pre)
	}

	// Close ends it with a request that nobody takes.
	for len(looked) > 0 {
		<-looked
	}
	done = beside(func() error {
		return a.AppendEntries("b", "b", &raft.AppendEntriesRequest{RPCHeader: header}, new(raft.AppendEntriesResponse))
	})
	select {
	case <-looked:
	case <-time.After(patience):
		t.Fatal("the request did not arrive")
	}
	within(t, patience, "Close", func() error { return errors.Join(b.Close(), b.Close()) })
	<-done
}

// beside runs f in a goroutine.
func beside(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// Raft keeps connections for later; when they have ended its requests go by others.
func TestConnectionsThatHaveEnded(t *testing.T) {
	n := newNetwork(newEvents())
	n.set(func() { n.up["a"], n.up["b"] = true, true })
	from, to := testTransport(t, n, "a"), testTransport(t, n, "b")
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")}
	taken := make(chan struct{})
	go func() {
		for {
			var rpc raft.RPC
			select {
			case rpc = <-to.Consumer():
			case <-t.Context().Done():
				return
			}
			taken <- struct{}{}
			switch rpc.Command.(type) {
			case *raft.RequestVoteRequest:
				rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
			case *raft.RequestPreVoteRequest:
				rpc.Respond(&raft.RequestPreVoteResponse{Granted: true}, nil)
			default:
				rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
			}
		}
	}()
	requests := map[string]func() error{
		"vote": func() error {
			return from.RequestVote("b", "b", &raft.RequestVoteRequest{RPCHeader: header, Term: 4}, new(raft.RequestVoteResponse))
		},
		"pre-vote": func() error {
			return from.RequestPreVote("b", "b", &raft.RequestPreVoteRequest{RPCHeader: header, Term: 4}, new(raft.RequestPreVoteResponse))
		},
		"entries": func() error {
			req := &raft.AppendEntriesRequest{RPCHeader: header, Term: 4, PrevLogEntry: 1}
			return from.AppendEntries("b", "b", req, new(raft.AppendEntriesResponse))
		},
	}
	for name, request := range requests {
		var all []<-chan error
		for range maxPool {
			all = append(all, beside(request))
		}
		connected := func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return len(n.conns) == 2*maxPool // both ends
		}
		if !n.events.until(patience, connected) {
			t.Fatalf("%s: the requests do not have a connection each", name)
		}
		for range all {
			<-taken
		}
		for _, done := range all {
			if err := <-done; err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		n.reset()
		done := beside(request)
		select {
		case <-taken:
		case err := <-done:
			t.Fatalf("%s by a connection that has ended: %v", name, err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
