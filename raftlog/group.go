package raftlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// StreamLayer makes and takes a group's connections.
type StreamLayer = raft.StreamLayer

// Config is what a group is made of.
type Config struct {
	ID      uint32   // the group's number, the same on all nodes
	Node    string   // this node's name
	Voters  []string // names of the nodes that hold the group from the start
	Dir     string   // the group's own folder
	Machine StateMachine
	Stable  *StableStore // shared by all groups of the node

	// Streams makes the group's connections; it is called again if raft has to
	// be restarted. Addresses are node names.
	Streams func() StreamLayer
	Links   Links

	Heartbeat time.Duration // heartbeat and election timeout; default 500 ms
	RingBytes int64         // newest entries kept in memory; default 8 MiB

	// LeaderChanged is called, from one goroutine at a time, after the known
	// leader or its term has changed; "" means that none is known. It must
	// return promptly and not call Close: roles are not followed meanwhile.
	LeaderChanged func(leader string, term Term)
	// Fatal is told of an error after which the process must end. It must not
	// call Close: raft is waiting for it.
	Fatal func(error)

	Logger *slog.Logger
}

// The rest of raft's settings. maxAppendEntries bounds a catch-up request:
// entries of up to 256 KiB leave no gain in more of them.
const (
	defaultHeartbeat = 500 * time.Millisecond
	defaultRing      = 8 << 20
	commitTimeout    = 50 * time.Millisecond
	maxAppendEntries = 64
	never            = 10 * 365 * 24 * time.Hour
)

// Group is this node's replica of a Raft group.
type Group struct {
	cfg   Config
	log   *slog.Logger
	store *logStore
	fsm   *fsm

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.RWMutex
	current *instance
	leading *leading // nil unless this node leads

	leader atomic.Pointer[leadership]
	quiet  atomic.Uint64 // CaughtUp found no command from the applied index up to here

	barriers   sharedBarrier
	stuck      stuckTransfer
	restarting sync.Mutex // held by restart and Close
}

// instance is one life of raft over the group's stores. There is a second only
// after a stuck leadership transfer.
type instance struct {
	raft    *raft.Raft
	trans   *transport
	done    chan struct{} // closed when this instance is to be left
	watched chan struct{} // closed when its roles are followed no more
}

type leadership struct {
	node string
	term Term
}

// Open opens or creates the replica in cfg.Dir and starts it.
func Open(cfg Config) (*Group, error) {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = defaultHeartbeat
	}
	if cfg.RingBytes == 0 {
		cfg.RingBytes = defaultRing
	}
	g := &Group{cfg: cfg, log: cfg.Logger, fsm: &fsm{machine: cfg.Machine}}
	g.stuck.limit = 3 * cfg.Heartbeat
	g.leader.Store(&leadership{})
	g.ctx, g.cancel = context.WithCancel(context.Background())

	store, err := openLogStore(filepath.Join(cfg.Dir, "log.db"), cfg.RingBytes, cfg.Fatal)
	if err != nil {
		return nil, err
	}
	g.store = store
	if err := g.bootstrap(); err != nil {
		store.Close()
		return nil, fmt.Errorf("group %d: %w", cfg.ID, err)
	}
	if err := g.start(); err != nil {
		store.Close()
		return nil, fmt.Errorf("group %d: %w", cfg.ID, err)
	}
	return g, nil
}

func (g *Group) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(g.cfg.Node)
	c.HeartbeatTimeout = g.cfg.Heartbeat
	c.ElectionTimeout = g.cfg.Heartbeat
	c.LeaderLeaseTimeout = g.cfg.Heartbeat / 2
	c.CommitTimeout = commitTimeout
	c.MaxAppendEntries = maxAppendEntries
	c.BatchApplyCh = true
	c.TrailingLogs = math.MaxUint64 // raft never compacts by itself
	c.SnapshotThreshold = math.MaxUint64
	c.SnapshotInterval = never
	c.NoLegacyTelemetry = true
	c.Logger = raftLogger(g.log)
	return c
}

// bootstrap writes the first configuration of a new replica. All nodes of a
// new cluster write the same.
func (g *Group) bootstrap() error {
	stable := g.cfg.Stable.group(g.cfg.ID)
	if err := g.forgetHalfBootstrap(stable); err != nil {
		return err
	}
	exists, err := raft.HasExistingState(g.store, stable, raft.NewDiscardSnapshotStore())
	if err != nil || exists {
		return err
	}
	var servers []raft.Server
	for _, v := range g.cfg.Voters {
		servers = append(servers, raft.Server{ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(g.cfg.Node))
	return raft.BootstrapCluster(g.raftConfig(), g.store, stable, raft.NewDiscardSnapshotStore(), trans,
		raft.Configuration{Servers: servers})
}

// forgetHalfBootstrap undoes a bootstrap that ended between its two writes:
// term 1, and then the configuration as entry 1. Left as it is, the replica
// would wait for others to tell it who they are, and if all are in this state
// for ever. Elections begin with term 2, so nobody has been promised anything.
func (g *Group) forgetHalfBootstrap(stable groupStable) error {
	last, err := g.store.LastIndex()
	if err != nil || last > 0 {
		return err
	}
	term, err := stable.GetUint64(keyTerm)
	if err != nil && err.Error() != "not found" {
		return err
	}
	if term != 1 {
		return nil
	}
	return stable.SetUint64(keyTerm, 0)
}

// keyTerm is under which name raft keeps its term.
var keyTerm = []byte("CurrentTerm")

// start runs a raft instance over the group's stores.
func (g *Group) start() error {
	trans := newTransport(&g.cfg, g.leadingContext, g.store.stalled)
	r, err := raft.NewRaft(g.raftConfig(), g.fsm, g.store, g.cfg.Stable.group(g.cfg.ID), raft.NewDiscardSnapshotStore(), trans)
	if err != nil {
		trans.Close()
		return err
	}
	inst := &instance{raft: r, trans: trans, done: make(chan struct{}), watched: make(chan struct{})}
	events := make(chan raft.Observation, 64)
	r.RegisterObserver(raft.NewObserver(events, false, isRoleChange))

	g.mu.Lock()
	g.current = inst
	g.mu.Unlock()
	g.tasks.Go(func() {
		defer close(inst.watched)
		g.watch(inst, events)
	})
	return nil
}

// stop ends the running instance and returns when its goroutines have ended.
func (g *Group) stop() error {
	g.mu.Lock()
	inst := g.current
	g.current = nil
	g.endLeading() // releases held requests, which raft's end waits for
	g.mu.Unlock()
	if inst == nil {
		return nil
	}
	close(inst.done)
	ended := inst.raft.Shutdown()
	err := inst.trans.Close() // cuts short the requests under way
	<-inst.watched
	return errors.Join(err, ended.Error())
}

// instance returns the running instance, or nil while there is none.
func (g *Group) instance() *instance {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.current
}

// Read returns entries from index on, at least one and up to about maxBytes,
// none beyond what the StateMachine has been given. Configuration entries and
// no-ops are left out, so indexes may jump. next is where to go on; if nothing
// has been applied from index on, next is index and there are no entries.
func (g *Group) Read(from Index, maxBytes int) (entries []Entry, next Index, err error) {
	applied := Index(g.fsm.applied.Load())
	for next = max(from, 1); next <= applied && maxBytes > 0; next++ {
		var l raft.Log
		if err := g.store.GetLog(uint64(next), &l); err != nil {
			if errors.Is(err, raft.ErrLogNotFound) {
				err = ErrNotFound
			}
			return nil, next, fmt.Errorf("read entry %d: %w", next, err)
		}
		if l.Type == raft.LogCommand {
			entries = append(entries, Entry{Index: next, Term: Term(l.Term), Data: l.Data})
			maxBytes -= len(l.Data)
		}
	}
	return entries, next, nil
}

// Applied is the newest index that the StateMachine has been given.
func (g *Group) Applied() Index { return Index(g.fsm.applied.Load()) }

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
	First, Last Index // held in this replica's log
	Bytes       int64 // on disk
	Voters      []string
	Voter       bool // this node is one of them
}

// Status returns the state of this replica.
func (g *Group) Status() Status {
	st := Status{Applied: g.Applied(), Bytes: g.store.size()}
	if g.CaughtUp() {
		st.Applied = max(st.Applied, Index(g.quiet.Load())) // nothing there was to be applied
	}
	st.Leader, _ = g.Leader()
	if first, err := g.store.FirstIndex(); err == nil {
		st.First = Index(first)
	}
	inst := g.instance()
	if inst == nil {
		return st
	}
	r := inst.raft
	st.Term, st.Commit, st.Last = Term(r.CurrentTerm()), Index(r.CommitIndex()), Index(r.LastIndex())
	if future := r.GetConfiguration(); future.Error() == nil {
		for _, server := range future.Configuration().Servers {
			if server.Suffrage == raft.Voter {
				st.Voters = append(st.Voters, string(server.ID))
				st.Voter = st.Voter || string(server.ID) == g.cfg.Node
			}
		}
	}
	return st
}

// Close stops the replica. Proposals that wait get ErrUnknown.
func (g *Group) Close() error {
	g.cancel()
	g.restarting.Lock()
	defer g.restarting.Unlock()
	err := g.stop()
	g.tasks.Wait()
	return errors.Join(err, g.store.Close())
}
