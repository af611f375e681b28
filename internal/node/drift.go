package node

import (
	"cmp"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

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

var (
	inObjective = partitionDesc("in_objective", "1 while this node's replica keeps the drift objective, 0 while it does not.")
	backlog     = partitionDesc("backlog_seconds", "Age of the oldest message that a subscription of this node's replica has not been handed.")
	stageTimes  = prometheus.NewDesc("roomlog_stage_seconds",
		"How long messages took in each stage, on this node's replica.", []string{"partition", "stage"}, nil)
	roomDrift = prometheus.NewDesc("roomlog_worst_room_drift_seconds",
		"p99 age of a room's messages when handed to connections of this node, of the rooms where it is worst.", []string{"room"}, nil)
	roomSpread = prometheus.NewDesc("roomlog_worst_room_spread_seconds",
		"p99 minus p50 of these ages, of the same rooms.", []string{"room"}, nil)
)

// worstRooms is how many rooms metrics name: there can be millions of rooms, and a
// time series each would be too much for anybody.
const worstRooms = 10

// driftMetrics reads how late messages are when it is asked for.
type driftMetrics struct{ node *Node }

func (driftMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{inObjective, backlog, stageTimes, roomDrift, roomSpread} {
		to <- d
	}
}

func (m driftMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, label string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	var rooms []partition.RoomStatus
	for _, p := range m.node.partitions {
		st, worst, _ := p.Drift(worstRooms)
		rooms = partition.WorstRooms(append(rooms, worst...), worstRooms)
		label := strconv.Itoa(p.ID())
		keeps := 0.0
		if st.InObjective {
			keeps = 1
		}
		gauge(inObjective, keeps, label)
		gauge(backlog, st.Backlog.Seconds(), label)
		for s := range partition.Stages {
			if count, sum, upTo := p.StageTimes(s); count > 0 {
				to <- prometheus.MustNewConstHistogram(stageTimes, count, sum.Seconds(), upTo, label, s.String())
			}
		}
	}
	for _, r := range rooms {
		gauge(roomDrift, r.Drift.Seconds(), r.Room)
		gauge(roomSpread, r.Spread.Seconds(), r.Room)
	}
}
