package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/peer"
	"github.com/roomlog/roomlog/transport/wire"
)

var _ admin.Source = (*Node)(nil)

// Ready returns nil when every partition has a leader and this node has caught
// up, else what is missing.
func (n *Node) Ready() error {
	for _, p := range n.partitions {
		st := p.Group().Status()
		switch {
		case st.Fenced != "":
			return fmt.Errorf("partition %d is fenced on this node: %s; start it with --rebuild %d", p.ID(), st.Fenced, p.ID())
		case st.Rebuilding:
			return fmt.Errorf("partition %d is being rebuilt from the other nodes", p.ID())
		case st.Leader == "":
			return fmt.Errorf("partition %d has no known leader", p.ID())
		case !p.Group().CaughtUp():
			return fmt.Errorf("partition %d is catching up: %d of %d entries applied", p.ID(), st.Applied, st.Commit)
		}
	}
	return nil
}

// Node tells about this node and how it sees the others.
func (n *Node) Node() admin.NodeStatus {
	listen, peerAddr, httpAddr := n.Addrs()
	st := admin.NodeStatus{
		Node: n.cfg.Name, Version: n.cfg.Version, Listen: listen, Peer: peerAddr, HTTP: httpAddr,
		Replicas: len(n.partitions), Started: n.started, Draining: n.draining.Load(),
	}
	for _, p := range n.partitions {
		if p.Group().Leading() {
			st.Leaders++
		}
	}
	for _, p := range n.network.Status() {
		st.Peers = append(st.Peers, admin.PeerStatus{Node: p.Node, Alive: p.Alive, OffsetMs: p.OffsetMs, RTTMs: p.RTTMs})
	}
	return st
}

// Partitions returns this node's replicas.
func (n *Node) Partitions() []admin.PartitionStatus {
	out := make([]admin.PartitionStatus, 0, len(n.partitions))
	for _, p := range n.partitions {
		st := p.Status()
		out = append(out, admin.PartitionStatus{
			Partition: p.ID(), Leader: st.Leader, Term: uint64(st.Term),
			Commit: uint64(st.Commit), Applied: uint64(st.Applied), First: uint64(st.First), Last: uint64(st.Last),
			Snapshot: uint64(st.SnapshotIndex), Bytes: st.Bytes, Rooms: st.Rooms, Voters: st.Voters, Nonvoters: st.Nonvoters, Voter: st.Voter,
			Hash: fmt.Sprintf("%016x", st.Hash), Sessions: st.Sessions, QueueBytes: st.QueueBytes,
			Diverged: n.marks.diverged(p.ID()), Fenced: st.Fenced, Stalled: st.Stalled, Rebuilding: st.Rebuilding,
		})
	}
	return out
}

// Room tells about one room.
func (n *Node) Room(name string) (admin.RoomStatus, error) {
	if err := wire.CheckRoom(name); err != nil {
		return admin.RoomStatus{}, err
	}
	return roomStatus(n.partitions[wire.PartitionOf(name, len(n.partitions))].Room(name)), nil
}

// Rooms returns at most limit rooms: by name, or those with the most of order.
func (n *Node) Rooms(limit int, order string) []admin.RoomStatus {
	var all []partition.RoomStatus
	for _, p := range n.partitions {
		all = append(all, p.Rooms()...)
	}
	slices.SortFunc(all, func(a, b partition.RoomStatus) int {
		most := 0
		switch order {
		case "drift":
			most = cmp.Compare(b.Drift, a.Drift)
		case "rate":
			most = cmp.Compare(b.Rate, a.Rate)
		case "subscribers":
			most = cmp.Compare(b.Subscribers, a.Subscribers)
		}
		return cmp.Or(most, cmp.Compare(a.Room, b.Room))
	})
	out := make([]admin.RoomStatus, min(limit, len(all)))
	for i := range out {
		out[i] = roomStatus(all[i])
	}
	return out
}

func roomStatus(r partition.RoomStatus) admin.RoomStatus {
	return admin.RoomStatus{
		Room: r.Room, First: uint64(r.First), Last: uint64(r.Last), Partition: r.Partition,
		Drift: milliseconds(r.Drift), Spread: milliseconds(r.Spread), Subscribers: r.Subscribers, Rate: r.Rate,
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Transfer hands leadership of a partition to node to.
func (n *Node) Transfer(ctx context.Context, id int, to string) error {
	if id < 0 || id >= len(n.partitions) {
		return fmt.Errorf("partition %d: %w", id, admin.ErrNotFound)
	}
	if _, ok := n.cfg.Members[to]; !ok {
		return fmt.Errorf("node %q: %w", to, admin.ErrNotFound)
	}
	g := n.partitions[id].Group()
	if leader, _ := g.Leader(); !g.Leading() {
		return &admin.NotLeaderError{Leader: leader}
	} else if to == n.cfg.Name {
		return nil
	}
	if !n.network.Up(to) {
		return fmt.Errorf("node %s is not reachable from the leader %s", to, n.cfg.Name)
	}
	if n.another(func(p peer.PeerStatus) bool { return p.Node == to && p.Drained }) {
		return fmt.Errorf("%w: %s is being drained and would give partition %d back", admin.ErrConflict, to, id)
	}
	n.prepare(ctx, to, id)
	err := n.partitions[id].HandOver(ctx, to)
	switch leader, _ := g.Leader(); {
	case errors.Is(err, raftlog.ErrNotLeader):
		return &admin.NotLeaderError{Leader: leader}
	case errors.Is(err, raftlog.ErrTransferring):
		return fmt.Errorf("%w: %w", admin.ErrConflict, err)
	}
	return err
}
