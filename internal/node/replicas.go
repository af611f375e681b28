package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/transport/peer"
)

// Retention says how much of each partition is kept; zero: no such limit.
type Retention = partition.Retention

// Policy keeps the rooms whose names begin with a prefix for a shorter time.
type Policy = partition.Policy

// DamagedError: replicas on this node must not run as they are. They can be
// rebuilt from the other nodes, if those are a majority.
type DamagedError struct {
	Partitions []int // which; all if what they share is damaged
	All        bool
	Voters     int  // in the cluster
	Rebuilds   bool // CanRebuild: the others are a majority
	Err        error
}

// CanRebuild tells whether the voters can build the replicas of a node anew: without
// it they must be a majority.
func CanRebuild(node string, voters []string) bool {
	others := len(voters)
	if slices.Contains(voters, node) {
		others--
	}
	return others > len(voters)/2
}

func (e *DamagedError) Error() string { return e.Err.Error() }
func (e *DamagedError) Unwrap() error { return e.Err }

// Rebuild is what Config.Rebuild must name, as a user writes it: "3,5" or "all".
func (e *DamagedError) Rebuild() string {
	if e.All {
		return "all"
	}
	var numbers []string
	for _, id := range e.Partitions {
		numbers = append(numbers, strconv.Itoa(id))
	}
	return strings.Join(numbers, ",")
}

// openPartitions opens all replicas, some at once. The error of damage names all
// that are damaged.
func (n *Node) openPartitions() error {
	if n.network == nil {
		return nil // its error is told already
	}
	if err := n.askFirst(); err != nil {
		return err
	}
	if err := n.openStable(); err != nil {
		return err
	}
	metrics := partition.NewMetrics()
	n.partitions = make([]*partition.Partition, n.cfg.Partitions)
	errs := make([]error, n.cfg.Partitions)
	each(n.cfg.Partitions, func(id int) { n.partitions[id], errs[id] = n.openPartition(id, metrics) })
	if err := n.whatFailed(errs); err != nil {
		return err
	}
	n.opened.Store(true)
	n.metrics = metrics.Collectors()
	return nil
}

func (n *Node) openPartition(id int, metrics *partition.Metrics) (*partition.Partition, error) {
	var slow func(partition.Stage)
	if n.cfg.Slow != nil {
		slow = func(s partition.Stage) { n.cfg.Slow(id, s) }
	}
	p, err := partition.Open(partition.Config{
		Group: raftlog.Config{
			ID: uint32(id), Node: n.cfg.Name, Voters: n.cfg.Voters(), Nonvoters: n.cfg.Nonvoters,
			Dir: n.data.partition(id), Stable: n.stable,
			Streams: streams(n.network, uint32(id)), Links: n.network, Push: n.push(id),
			Beat: n.beat(id), HurryBeats: n.network.HurryBeats,
			Heartbeat: n.cfg.Heartbeat, RingBytes: n.cfg.TailBytes,
			FS: n.cfg.FS, SegmentBytes: n.cfg.SegmentBytes, Space: n.space.take,
			Rebuild: slices.Contains(n.cfg.Rebuild, id), Ask: n.ask(id),
			LeaderChanged: n.leaderChanged(id), Fatal: n.fail, Logger: n.log.With("partition", id),
		},
		QueueBytes: n.cfg.QueueBytes, TailBytes: n.cfg.TailBytes, SessionTTL: n.cfg.SessionTTL,
		Retention: n.cfg.Retention, Full: n.space.nearlyFull,
		Objective: n.cfg.Objective, Ahead: n.clockAhead, Slow: slow,
		Marked:  func(index raftlog.Index, hash uint64) { n.marked(id, uint64(index), hash) },
		Metrics: metrics, Logger: n.log,
	})
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", id, err)
	}
	return p, nil
}

// each calls f for 0 to n-1, as many at once as there are CPUs for, and returns
// when all calls have.
func each(n int, f func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}

// whatFailed makes one error of those of the partitions: of damage, only if
// nothing else is wrong.
func (n *Node) whatFailed(errs []error) error {
	damaged := n.damaged()
	var damages, others []error
	for id, err := range errs {
		switch {
		case err == nil:
		case isDamage(err):
			damaged.Partitions = append(damaged.Partitions, id)
			damages = append(damages, err)
		default:
			others = append(others, err)
		}
	}
	switch {
	case len(others) > 0:
		return errors.Join(append(others, damages...)...)
	case len(damages) > 0:
		damaged.Err = errors.Join(damages...)
		return damaged
	}
	return nil
}

func (n *Node) damaged() *DamagedError {
	voters := n.cfg.Voters()
	return &DamagedError{Voters: len(voters), Rebuilds: CanRebuild(n.cfg.Name, voters)}
}

func isDamage(err error) bool {
	_, damaged := errors.AsType[*raftlog.DamageError](err)
	_, fenced := errors.AsType[*raftlog.FencedError](err)
	return damaged || fenced
}

// openStable opens the file with all partitions' terms and votes. A damaged one
// is put aside if all partitions are to be rebuilt.
func (n *Node) openStable() (err error) {
	path := n.data.stable()
	n.stable, err = raftlog.OpenStable(path)
	if err == nil || !isDamage(err) {
		return err
	}
	damaged := n.damaged()
	damaged.All, damaged.Err = true, err
	for id := range n.cfg.Partitions {
		if damaged.Partitions = append(damaged.Partitions, id); !slices.Contains(n.cfg.Rebuild, id) {
			return damaged
		}
	}
	aside := path + ".damaged"
	n.log.Warn("put the damaged terms and votes aside", "file", path, "as", aside, "err", err)
	if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	n.stable, err = raftlog.OpenStable(path)
	return err
}

// closePartitions closes what was opened.
func (n *Node) closePartitions() error {
	n.opened.Store(false)
	errs := make([]error, len(n.partitions))
	each(len(n.partitions), func(id int) {
		if p := n.partitions[id]; p != nil {
			errs[id] = p.Close()
		}
	})
	return errors.Join(errs...)
}

// askFirst makes sure, before a rebuild removes anything, that the others are there
// and have what is to be rebuilt: each of them names a leader of each partition.
// Nodes that are all started with --rebuild by mistake so lose nothing.
func (n *Node) askFirst() error {
	ctx, cancel := context.WithTimeout(n.ctx, rebuildPatience)
	defer cancel()
	for _, id := range n.cfg.Rebuild {
		for _, other := range n.cfg.Voters() {
			if other == n.cfg.Name {
				continue
			}
			if err := n.namesLeader(ctx, other, id); err != nil {
				return fmt.Errorf("nothing was removed: %s must be up and know a leader of partition %d before it is rebuilt here: %w", other, id, err)
			}
		}
	}
	return nil
}

// rebuildPatience is how long the others have to answer before a rebuild begins.
const rebuildPatience = 10 * time.Second

// namesLeader asks another node until it names a leader of partition id.
func (n *Node) namesLeader(ctx context.Context, other string, id int) error {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		st, err := n.ask(id)(ctx, other)
		switch {
		case err == nil && st.Leader != "":
			return nil
		case err == nil:
			err = errors.New("it knows of no leader")
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// askTimeout is how long another node has to say how it sees a group.
const askTimeout = 2 * time.Second

// ask returns what asks another voter of a group about it.
func (n *Node) ask(id int) func(context.Context, string) (raftlog.PeerState, error) {
	return func(ctx context.Context, node string) (raftlog.PeerState, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		st, err := n.network.Ask(ctx, node, uint32(id))
		return raftlog.PeerState{Leader: st.Leader, Term: raftlog.Term(st.Term), Last: raftlog.Index(st.Last)}, err
	}
}

// push returns what tells another node that an entry of a group is committed.
func (n *Node) push(id int) func(string, raftlog.Index, raftlog.Term) bool {
	return func(node string, index raftlog.Index, term raftlog.Term) bool {
		return n.network.SendPush(node, peer.Push{Group: uint32(id), Index: uint64(index), Term: uint64(term)})
	}
}

// pushed takes such news from another node. What comes before all partitions are
// open is dropped: its sender tells again when its requests are answered.
func (n *Node) pushed(node string, p peer.Push) {
	if n.opened.Load() && int64(p.Group) < int64(len(n.partitions)) {
		n.partitions[p.Group].Group().Pushed(node, raftlog.Index(p.Index), raftlog.Term(p.Term))
	}
}

// beat returns what carries a group's heartbeats to other nodes.
func (n *Node) beat(id int) func(context.Context, string, raftlog.Term, bool) (raftlog.BeatAnswer, error) {
	return func(ctx context.Context, node string, term raftlog.Term, hurry bool) (raftlog.BeatAnswer, error) {
		a, err := n.network.Beat(ctx, node, peer.Beat{Group: uint32(id), Term: uint64(term)}, hurry)
		return raftlog.BeatAnswer{Term: raftlog.Term(a.Term), Last: raftlog.Index(a.Last), OK: a.OK}, err
	}
}

// beaten takes a heartbeat of another node.
func (n *Node) beaten(node string, b peer.Beat, answer func(peer.BeatAnswer, bool)) {
	if !n.opened.Load() || int64(b.Group) >= int64(len(n.partitions)) {
		answer(peer.BeatAnswer{}, false)
		return
	}
	n.partitions[b.Group].Group().Beaten(node, raftlog.Term(b.Term), func(a raftlog.BeatAnswer, known bool) {
		answer(peer.BeatAnswer{Term: uint64(a.Term), Last: uint64(a.Last), OK: a.OK}, known)
	})
}

// groupState tells another node how this one sees a group; nothing before all are
// open, and nothing of a replica that has nothing to say.
func (n *Node) groupState(group uint32) (peer.State, bool) {
	if !n.opened.Load() || int64(group) >= int64(len(n.partitions)) {
		return peer.State{}, false
	}
	st, err := n.partitions[group].Group().PeerState()
	if err != nil {
		return peer.State{}, false
	}
	return peer.State{Leader: st.Leader, Term: uint64(st.Term), Last: uint64(st.Last), Draining: n.draining.Load()}, true
}
