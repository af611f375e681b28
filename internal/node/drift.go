package node

import (
	"cmp"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/admin"
)

// Drift tells how late messages are on this node, with at most limit rooms and
// cursors, the worst first.
func (n *Node) Drift(limit int) admin.Drift {
	out := admin.Drift{
		Node: n.cfg.Name, ObjectiveMs: milliseconds(cmp.Or(n.cfg.Objective, partition.DefaultObjective)),
		Partitions: []admin.PartitionDrift{}, Rooms: []admin.RoomDrift{}, Cursors: []admin.CursorDrift{},
	}
	var rooms []partition.RoomStatus
	var cursors []partition.CursorStatus
	leaders := map[string]bool{}
	for _, p := range n.partitions {
		st, worst, slowest := p.Drift(limit)
		leaders[st.Leader] = true
		out.Partitions = append(out.Partitions, partitionDrift(st))
		rooms = partition.WorstRooms(append(rooms, worst...), limit)
		cursors = partition.SlowestCursors(append(cursors, slowest...), limit)
	}
	for _, r := range rooms {
		out.Rooms = append(out.Rooms, admin.RoomDrift{RoomStatus: roomStatus(r), BacklogMs: milliseconds(r.Backlog)})
	}
	for _, c := range cursors {
		out.Cursors = append(out.Cursors, admin.CursorDrift{
			Client: c.Client, Room: c.Room, Partition: c.Partition, Next: uint64(c.Next), Behind: c.Behind, AgeMs: milliseconds(c.Age),
		})
	}
	for _, peer := range n.network.Status() {
		if leaders[peer.Node] {
			out.OffsetErrorMs = max(out.OffsetErrorMs, peer.RTTMs/2)
		}
	}
	return out
}

func partitionDrift(st partition.DriftStatus) admin.PartitionDrift {
	out := admin.PartitionDrift{
		Partition: st.Partition, Leader: st.Leader, Leading: st.Leading, InObjective: st.InObjective, Cause: st.Cause,
		P50Ms: milliseconds(st.P50), P99Ms: milliseconds(st.P99),
		MessagesPerS: st.MessagesPerSecond, DeliveriesPerS: st.DeliveriesPerSecond,
		Subscribers: st.Subscribers, BacklogMs: milliseconds(st.Backlog),
	}
	stage := func(s partition.Stage) admin.StageDrift {
		d := st.Stages[s]
		return admin.StageDrift{P50Ms: milliseconds(d.P50), P99Ms: milliseconds(d.P99), MaxMs: milliseconds(d.Max), Count: d.Count}
	}
	out.Stages = admin.StagesDrift{
		Receive: stage(partition.Receive), Propose: stage(partition.Propose), Append: stage(partition.Append),
		Commit: stage(partition.Commit), Apply: stage(partition.Apply), Write: stage(partition.Write),
	}
	return out
}
