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

	"github.com/roomlog/roomlog/raftlog/segment"
	"github.com/roomlog/roomlog/raftlog/vfs"
)

// StreamLayer makes and takes a group's connections.
type StreamLayer = raft.StreamLayer

// Config is what a group is made of.
type Config struct {
	ID     uint32   // the group's number, the same on all nodes
	Node   string   // this node's name
	Voters []string // names of the nodes that hold the group from the start
	// Nonvoters hold it too, and serve readers: they get what is committed, count for
	// no majority and are never elected.
	Nonvoters []string
	Dir       string // the group's own folder
	Machine   StateMachine
	Stable    *StableStore // shared by all groups of the node

	// Streams makes the group's connections; it is called again if raft has to
	// be restarted. Addresses are node names.
	Streams func() StreamLayer
	Links   Links
	// Push tells another node that the entry of this group at index, which has that
	// term, is committed: its Group.Pushed is to be called with this node's name.
	// It must not block, and returns false if the node cannot be told now. A push
	// may get lost, and only the newest of a group counts. nil: nobody is told, and
	// learns of the last commits from raft some time later.
	Push func(node string, index Index, term Term) bool

	// Beat carries a heartbeat of this node to another, whose Group.Beaten is to be
	// called with this node's name, and returns what that answered. It may take its
	// time, up to BeatEvery, unless hurry is true. HurryBeats asks not to let those
	// wait any longer that have been called. nil, both: heartbeats go over Streams.
	Beat       func(ctx context.Context, node string, term Term, hurry bool) (BeatAnswer, error)
	HurryBeats func()

	Heartbeat time.Duration // heartbeat and election timeout; default 500 ms
	RingBytes int64         // newest entries kept in memory; default 8 MiB

	FS           vfs.FS // default vfs.OS
	SegmentBytes int64  // size of a log segment; default 64 MiB
	// Space is asked before the log takes room from the disk. An error refuses
	// the write and nothing else: a leader steps down, a follower answers no,
	// and both go on when there is room again. nil: never refuses.
	Space func(bytes int64) error

	// Rebuild discards the replica in Dir, damaged or not, and builds it anew
	// from the other voters, all of whom must answer Ask.
	Rebuild bool
	// Ask asks another voter about this group; it is needed for Rebuild only.
	Ask func(ctx context.Context, node string) (PeerState, error)

	// LeaderChanged is called, from one goroutine at a time, after the known
	// leader or its term has changed; "" means that none is known. It must
	// return promptly and not call Close: roles are not followed meanwhile.
	LeaderChanged func(leader string, term Term)
	// Fatal is told of an error after which the process must end. It must not
	// call Close: raft is waiting for it.
	Fatal func(error)

	// Slow, if not nil, is called when raft's loop has taken entries, before they
	// are written to the log: for tests of a slow loop.
	Slow func()

	Logger *slog.Logger

	// For tests.
	wrapLog       func(raft.LogStore) raft.LogStore // what raft sees of the log
	commitTimeout time.Duration                     // of raft; default commitTimeout
}

// PeerState is the group as one of its voters sees it.
type PeerState struct {
	Leader string // "" while unknown
	Term   Term
	Last   Index // of the voter's log
}

// The rest of raft's settings. maxAppendEntries bounds a catch-up request:
// entries of up to 256 KiB leave no gain in more of them.
const (
	defaultHeartbeat = 500 * time.Millisecond
	defaultRing      = 8 << 20
	commitTimeout    = time.Second
	maxAppendEntries = 64
	never            = 10 * 365 * 24 * time.Hour
)

// Group is this node's replica of a Raft group.
type Group struct {
	cfg   Config
	log   *slog.Logger
	store *logStore
	snaps *snapshotStore
	fsm   *fsm

	pusher    *pusher
	verifying atomic.Int32 // calls of Confirm under way

	rebuild *rebuild // nil: none was under way when the group was opened

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.RWMutex
	current *instance
	leading *leading      // nil unless this node leads
	led     chan struct{} // closed and renewed when leader changes

	leader atomic.Pointer[leadership]
	fenced atomic.Pointer[string] // why, once it is
	quiet  atomic.Uint64          // CaughtUp found no command from the applied index up to here

	damage     chan *DamageError // found while the log was read
	barriers   sharedBarrier
	stuck      stuckTransfer
	retry      chan struct{} // one token: a follower lacks entries and raft waits
	restarting sync.Mutex    // held by restart, Fence and Close
	saving     sync.Mutex    // held by SaveSnapshot and Trim
}

// instance is one life of raft over the group's stores. There is a second only
// after a stuck leadership transfer.
type instance struct {
	raft    *raft.Raft
	trans   *transport
	began   time.Time
	done    chan struct{} // closed when this instance is to be left
	watched chan struct{} // closed when its roles are followed no more
}

type leadership struct {
	node string
	term Term
}

// Open opens or creates the replica in cfg.Dir and starts it. It fails with a
// *DamageError if files are not as they were written, and with a *FencedError
// if the replica was fenced.
func Open(cfg Config) (*Group, error) {
	g := newGroup(cfg)
	if err := g.open(); err != nil {
		g.cancel()
		return nil, fmt.Errorf("group %d: %w", cfg.ID, err)
	}
	return g, nil
}

func newGroup(cfg Config) *Group {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = defaultHeartbeat
	}
	if cfg.RingBytes == 0 {
		cfg.RingBytes = defaultRing
	}
	if cfg.commitTimeout == 0 {
		cfg.commitTimeout = commitTimeout
	}
	if cfg.FS == nil {
		cfg.FS = vfs.OS
	}
	g := &Group{
		cfg: cfg, log: cfg.Logger, fsm: &fsm{machine: cfg.Machine, group: cfg.ID},
		damage: make(chan *DamageError, 1), retry: make(chan struct{}, 1),
		led: make(chan struct{}),
	}
	if cfg.Push == nil {
		cfg.Push = func(string, Index, Term) bool { return false }
	}
	g.pusher = &pusher{send: cfg.Push, stalled: func() bool { return g.store.stalled() }}
	g.fsm.news = g.tellCommit
	g.stuck.limit = 3 * cfg.Heartbeat
	g.leader.Store(&leadership{})
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

func (g *Group) open() (err error) {
	if g.rebuild, err = openRebuild(&g.cfg); err != nil { // may end a fence
		return err
	}
	if err := checkFence(g.cfg.FS, g.cfg.Dir); err != nil {
		return err
	}
	if err := g.openStores(); err != nil {
		return err
	}
	if err = g.checkStable(); err == nil {
		err = g.begin()
	}
	if err != nil {
		return errors.Join(err, g.store.Close(true))
	}
	g.tasks.Go(g.fenceIfDamaged)
	return nil
}

// fenceIfDamaged fences the replica when a read of the log finds damage: others
// have what it lacks, and it must not go on as if nothing were missing.
func (g *Group) fenceIfDamaged() {
	select {
	case damage := <-g.damage:
		g.log.Error("the log is damaged", "err", damage)
		if err := g.Fence(damage.Error()); err != nil {
			g.log.Error("the damaged replica could not be fenced", "err", err)
		}
	case <-g.ctx.Done():
	}
}

// openStores opens log and snapshots, and checks that they meet.
func (g *Group) openStores() error {
	store, err := openLogStore(segment.Options{
		FS: g.cfg.FS, Dir: filepath.Join(g.cfg.Dir, logDir), Group: g.cfg.ID,
		SegmentBytes: g.cfg.SegmentBytes, Space: g.cfg.Space,
	}, g.cfg.RingBytes, g.cfg.Fatal)
	if err != nil {
		return err
	}
	snaps := &snapshotStore{
		fs: g.cfg.FS, dir: filepath.Join(g.cfg.Dir, snapshotsDir), group: g.cfg.ID,
		log: store, applied: g.fsm.applied.Load, confBy: g.fsm.confBy, fatal: g.cfg.Fatal, logger: g.log,
	}
	g.fsm.failed = snaps.failed
	g.fsm.watch, g.fsm.committed, store.slow = &store.watch, g.committed, g.cfg.Slow
	if err := snaps.open(); err != nil {
		return errors.Join(err, store.Close(true))
	}
	store.damaged = func(damage *DamageError) {
		select {
		case g.damage <- damage:
		default: // one is enough
		}
	}
	g.store, g.snaps = store, snaps
	return nil
}

// Names within Config.Dir.
const (
	logDir       = "log"
	snapshotsDir = "snapshots"
	rebuildFile  = "REBUILD" // there while the replica is being rebuilt
)

func (g *Group) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(g.cfg.Node)
	c.HeartbeatTimeout = g.cfg.Heartbeat
	c.ElectionTimeout = g.cfg.Heartbeat
	c.LeaderLeaseTimeout = g.cfg.Heartbeat * 7 / 10
	c.CommitTimeout = g.cfg.commitTimeout
	c.MaxAppendEntries = maxAppendEntries
	c.BatchApplyCh = true
	c.TrailingLogs = math.MaxUint64 // raft never compacts by itself
	c.SnapshotThreshold = math.MaxUint64
	c.SnapshotInterval = never
	c.NoLegacyTelemetry = true
	c.Logger = raftLogger(g.log)
	return c
}

// checkStable finds that a replica has lost its term and vote, without which it
// could vote twice, or its log, without which it could elect who lacks entries.
func (g *Group) checkStable() error {
	stable := g.cfg.Stable.group(g.cfg.ID)
	exists, err := stable.exists()
	if err != nil {
		return err
	}
	last, err := g.store.LastIndex()
	if err != nil {
		return err
	}
	boundary, _ := g.store.Boundary()
	empty := last == 0 && boundary == 0 && g.snaps.newest() == 0
	if !exists {
		if !empty {
			return &DamageError{Path: g.cfg.Stable.path, Reason: fmt.Sprintf("term and vote of group %d are missing, which has a log or snapshots", g.cfg.ID)}
		}
		return nil
	}
	term, err := stable.GetUint64(keyTerm)
	if err != nil && err.Error() != "not found" {
		return err
	}
	// The first entry of a log is written in term 1, before there is an election.
	if empty && term > 1 && g.rebuild == nil {
		return &DamageError{Path: g.cfg.Dir, Reason: fmt.Sprintf("group %d has been in term %d and has no log: it is missing", g.cfg.ID, term)}
	}
	return nil
}

// bootstrap writes the first configuration of a new replica. All nodes of a
// new cluster write the same.
func (g *Group) bootstrap() error {
	stable := g.cfg.Stable.group(g.cfg.ID)
	if err := g.forgetHalfBootstrap(stable); err != nil {
		return err
	}
	exists, err := raft.HasExistingState(g.store, stable, g.snaps)
	if err != nil || exists {
		return err
	}
	var servers []raft.Server
	for _, v := range g.cfg.Voters {
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	for _, v := range g.cfg.Nonvoters {
		servers = append(servers, raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(v), Address: raft.ServerAddress(v)})
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(g.cfg.Node))
	return raft.BootstrapCluster(g.raftConfig(), g.store, stable, g.snaps, trans,
		raft.Configuration{Servers: servers})
}

// forgetHalfBootstrap undoes a bootstrap that ended between its two writes:
// term 1, and then the configuration as entry 1. Left as it is, the replica
// would wait for others to tell it who they are, and if all are in this state
// for ever. Elections begin with term 2, so nobody has been promised anything.
func (g *Group) forgetHalfBootstrap(stable groupStable) error {
	last, err := g.store.LastIndex()
	boundary, _ := g.store.Boundary()
	if err != nil || last > 0 || boundary > 0 {
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
	trans := newTransport(&g.cfg, local{
		leader: g.leadingContext, stalled: g.store.stalled, votesBlocked: g.rebuild.votesBlocked(),
		verifying: func() bool { return g.verifying.Load() > 0 },
		retry:     g.retryReplication, commit: g.committed, termAt: g.store.termAt,
	}, g.pusher)
	g.store.inbox.Store(trans.inbox)
	var log raft.LogStore = g.store
	if g.cfg.wrapLog != nil {
		log = g.cfg.wrapLog(log)
	}
	g.snaps.setStarting(true)
	r, err := g.newRaft(log, trans)
	if err != nil {
		trans.Close()
		if fault := g.snaps.startFault(); fault != nil {
			err = fault
		}
		return err
	}
	g.snaps.setStarting(false)
	inst := &instance{raft: r, trans: trans, began: time.Now(), done: make(chan struct{}), watched: make(chan struct{})}
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

// newRaft starts raft. It reads the log then and panics when that fails.
func (g *Group) newRaft(log raft.LogStore, trans *transport) (r *raft.Raft, err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case error:
			err = v
		default:
			panic(v)
		}
	}()
	return raft.NewRaft(g.raftConfig(), g.fsm, log, g.cfg.Stable.group(g.cfg.ID), g.snaps, trans)
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

// committed is the newest index that is known to be committed, 0 while raft does
// not run.
func (g *Group) committed() uint64 {
	if inst := g.instance(); inst != nil {
		return inst.raft.CommitIndex()
	}
	return 0
}

// Applied is the newest index that the StateMachine has been given.
func (g *Group) Applied() Index { return Index(g.fsm.applied.Load()) }

// Close stops the replica. Proposals that wait get ErrUnknown.
func (g *Group) Close() error {
	g.cancel()
	g.pusher.close()
	g.restarting.Lock()
	err := g.stop()
	g.restarting.Unlock() // a task may be waiting for it
	g.tasks.Wait()
	return errors.Join(err, g.store.Close(g.fenced.Load() != nil))
}
