package top

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/roomlog/roomlog/transport/admin"
)

// kept is how many rooms and cursors a Snapshot holds at most.
const kept = 20

// Snapshot is the cluster as its nodes tell it. Times are milliseconds, rates per
// second. Nodes that are down count for nothing.
type Snapshot struct {
	Time           time.Time   `json:"time"`
	Alive          int         `json:"alive"` // nodes
	MessagesPerS   float64     `json:"messages_per_s"`
	DeliveriesPerS float64     `json:"deliveries_per_s"`
	Subscribers    int         `json:"subscribers"`
	ObjectiveMs    float64     `json:"objective_ms"`     // the strictest
	OutOfObjective int         `json:"out_of_objective"` // partitions
	Worst          *Worst      `json:"worst"`            // null while no message is measured
	OffsetErrorMs  float64     `json:"offset_error_ms"`  // the worst: ages may be off by so much
	Nodes          []Node      `json:"nodes"`
	Partitions     []Partition `json:"partitions"` // by number
	Rooms          []Room      `json:"rooms"`      // the worst, at most 20
	Cursors        []Cursor    `json:"cursors"`    // the slowest, at most 20
}

// Worst is the partition with the highest p99.
type Worst struct {
	Partition int     `json:"partition"`
	P99Ms     float64 `json:"p99_ms"`
}

// Node is one node.
type Node struct {
	Node     string     `json:"node"`
	Alive    bool       `json:"alive"`
	Since    *time.Time `json:"since,omitempty"` // of one that is down: its last answer or, without one, the first question
	Error    string     `json:"error,omitempty"` // "" with one that has not answered yet
	Version  string     `json:"version"`
	Leaders  int        `json:"leaders"`
	Replicas int        `json:"replicas"`
}

// Partition is one partition. Messages and the stages are its leader's, but write
// and the percentiles are those of the worst replica.
type Partition struct {
	Partition      int               `json:"partition"`
	Leader         string            `json:"leader"` // "" while unknown
	Led            bool              `json:"led"`    // the leader is known and answers
	Term           uint64            `json:"term"`
	MessagesPerS   float64           `json:"messages_per_s"` // while it is not led: of the replica that applies most
	DeliveriesPerS float64           `json:"deliveries_per_s"`
	Subscribers    int               `json:"subscribers"`
	InObjective    bool              `json:"in_objective"`
	Cause          string            `json:"cause"`      // a stage; "leader" for one of the leader's of which it does not say itself
	CauseNode      string            `json:"cause_node"` // whose stage it is
	P50Ms          float64           `json:"p50_ms"`
	P99Ms          float64           `json:"p99_ms"`
	BacklogMs      float64           `json:"backlog_ms"`
	Stages         admin.StagesDrift `json:"stages"`  // all but write are empty while it is not led
	Trouble        []string          `json:"trouble"` // what is wrong with replicas: "n2 stalled"
}

// Room is a room with subscribers; Drift and Spread are the worst node's.
type Room = admin.RoomDrift

// Cursor is a subscriber that lacks messages.
type Cursor struct {
	admin.CursorDrift
	Node string `json:"node"` // that serves it
}

// State holds what each node said last. It is not safe for concurrent use.
type State struct {
	nodes []string
	began time.Time
	last  map[string]Answer
	heard map[string]time.Time // the last answer without an error
}

// NewState returns the State of nodes that are asked from now on.
func NewState(nodes []string, now time.Time) *State {
	return &State{nodes: nodes, began: now, last: map[string]Answer{}, heard: map[string]time.Time{}}
}

// Add takes an answer in the place of the node's last one.
func (s *State) Add(a Answer) {
	s.last[a.Node] = a
	if a.Err == nil {
		s.heard[a.Node] = a.At
	}
}

// complete tells whether every node has answered or been given up.
func (s *State) complete() bool { return len(s.last) == len(s.nodes) }

// answered tells whether a node has ever answered.
func (s *State) answered() bool { return len(s.heard) > 0 }

// failures are the errors of the nodes that have answered last with one.
func (s *State) failures() []string {
	var out []string
	for _, node := range s.nodes {
		if err := s.last[node].Err; err != nil {
			out = append(out, fmt.Sprintf("%s: %v", node, err))
		}
	}
	return out
}

// replica is a partition as one node sees it; drift is empty for a moment after
// it has got the partition.
type replica struct {
	node   string
	status admin.PartitionStatus
	drift  admin.PartitionDrift
}

// Snapshot merges what the nodes said last.
func (s *State) Snapshot(now time.Time) Snapshot {
	out := Snapshot{Time: now, Nodes: []Node{}, Partitions: []Partition{}, Rooms: []Room{}, Cursors: []Cursor{}}
	byNumber := map[int][]replica{}
	rooms := map[string]*Room{}
	for _, name := range s.nodes {
		n := s.node(name)
		out.Nodes = append(out.Nodes, n)
		if !n.Alive {
			continue
		}
		out.Alive++
		a := s.last[name]
		out.addNode(a.Drift)
		addReplicas(byNumber, a)
		for _, r := range a.Drift.Rooms {
			mergeRoom(rooms, r)
		}
		for _, c := range a.Drift.Cursors {
			out.Cursors = append(out.Cursors, Cursor{c, name})
		}
	}
	for _, replicas := range byNumber {
		out.addPartition(mergePartition(replicas))
	}
	for _, r := range rooms {
		out.Rooms = append(out.Rooms, *r)
	}
	out.sort()
	return out
}

func (s *State) node(name string) Node {
	a, asked := s.last[name]
	n := Node{Node: name, Alive: asked && a.Err == nil}
	if n.Alive {
		n.Version, n.Leaders, n.Replicas = a.Status.Version, a.Status.Leaders, a.Status.Replicas
		return n
	}
	since := s.began
	if at, ok := s.heard[name]; ok {
		since = at
	}
	n.Since = &since
	if a.Err != nil {
		n.Error = a.Err.Error()
	}
	return n
}

func (s *Snapshot) addNode(d admin.Drift) {
	if s.ObjectiveMs == 0 || d.ObjectiveMs > 0 && d.ObjectiveMs < s.ObjectiveMs {
		s.ObjectiveMs = d.ObjectiveMs
	}
	s.OffsetErrorMs = max(s.OffsetErrorMs, d.OffsetErrorMs)
}

func (s *Snapshot) addPartition(p Partition) {
	s.Partitions = append(s.Partitions, p)
	s.MessagesPerS += p.MessagesPerS
	s.DeliveriesPerS += p.DeliveriesPerS
	s.Subscribers += p.Subscribers
	if !p.InObjective {
		s.OutOfObjective++
	}
}

// sort puts partitions in order, of rooms and cursors the worst first, and keeps
// no more of these than are told.
func (s *Snapshot) sort() {
	slices.SortFunc(s.Partitions, func(a, b Partition) int { return cmp.Compare(a.Partition, b.Partition) })
	for _, p := range s.Partitions {
		if p.P99Ms > 0 && (s.Worst == nil || p.P99Ms > s.Worst.P99Ms) {
			s.Worst = &Worst{p.Partition, p.P99Ms}
		}
	}
	slices.SortFunc(s.Rooms, func(a, b Room) int {
		return cmp.Or(cmp.Compare(b.Drift, a.Drift), cmp.Compare(b.BacklogMs, a.BacklogMs), cmp.Compare(a.Room, b.Room))
	})
	slices.SortFunc(s.Cursors, func(a, b Cursor) int {
		return cmp.Or(cmp.Compare(b.AgeMs, a.AgeMs), cmp.Compare(b.Behind, a.Behind), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Room, b.Room))
	})
	s.Rooms = s.Rooms[:min(kept, len(s.Rooms))]
	s.Cursors = s.Cursors[:min(kept, len(s.Cursors))]
}

func addReplicas(byNumber map[int][]replica, a Answer) {
	drift := map[int]admin.PartitionDrift{}
	for _, d := range a.Drift.Partitions {
		drift[d.Partition] = d
	}
	for _, st := range a.Partitions {
		d, ok := drift[st.Partition]
		if !ok {
			d.InObjective = true // nothing is known against it
		}
		byNumber[st.Partition] = append(byNumber[st.Partition], replica{a.Node, st, d})
	}
}

// mergePartition makes one Partition of its replicas.
func mergePartition(replicas []replica) Partition {
	p := Partition{Partition: replicas[0].status.Partition, InObjective: true, Trouble: []string{}}
	p.Term, p.Leader = leaderOf(replicas)
	for _, r := range replicas {
		d := r.drift
		p.DeliveriesPerS += d.DeliveriesPerS
		p.Subscribers += d.Subscribers
		p.InObjective = p.InObjective && d.InObjective
		p.P50Ms, p.P99Ms = max(p.P50Ms, d.P50Ms), max(p.P99Ms, d.P99Ms)
		p.BacklogMs = max(p.BacklogMs, d.BacklogMs)
		p.Trouble = append(p.Trouble, troubles(r)...)
	}
	p.Cause, p.CauseNode = causeOf(replicas, p.Leader)
	if i := slices.IndexFunc(replicas, func(r replica) bool { return r.node == p.Leader }); i >= 0 {
		p.Led, p.Stages, p.MessagesPerS = true, replicas[i].drift.Stages, replicas[i].drift.MessagesPerS
	}
	for _, r := range replicas {
		p.Stages.Write = worseStage(p.Stages.Write, r.drift.Stages.Write)
		if !p.Led {
			p.MessagesPerS = max(p.MessagesPerS, r.drift.MessagesPerS)
		}
	}
	return p
}

// leaderOf believes the replica of the highest term that knows a leader, and one
// that was stopped for good only if there is no other.
func leaderOf(replicas []replica) (term uint64, leader string) {
	best := slices.MaxFunc(replicas, func(a, b replica) int {
		return cmp.Or(
			cmpBool(a.status.Fenced == "", b.status.Fenced == ""),
			cmp.Compare(a.status.Term, b.status.Term),
			cmpBool(a.status.Leader != "", b.status.Leader != ""),
		)
	})
	return best.status.Term, best.status.Leader
}

// causeOf tells which stage is to blame, and on which node: what a leader says of
// itself before what others say of themselves, of these the worst. "leader" alone
// says least: one of the leader's stages, but the leader is in its objective by itself,
// or has not answered.
func causeOf(replicas []replica, leader string) (cause, node string) {
	var out []replica
	for _, r := range replicas {
		if !r.drift.InObjective {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return "", ""
	}
	blamed := slices.MaxFunc(out, func(a, b replica) int {
		return cmp.Or(
			cmpBool(a.drift.Cause != "leader", b.drift.Cause != "leader"),
			cmpBool(a.node == leader, b.node == leader),
			cmp.Compare(a.drift.P99Ms, b.drift.P99Ms),
		)
	})
	if blamed.drift.Cause == "leader" {
		return "leader", leader
	}
	return blamed.drift.Cause, blamed.node
}

func worseStage(a, b admin.StageDrift) admin.StageDrift {
	if cmp.Or(cmp.Compare(a.P99Ms, b.P99Ms), cmp.Compare(a.Count, b.Count)) >= 0 {
		return a
	}
	return b
}

// troubles says in some words what is wrong with a replica.
func troubles(r replica) []string {
	var out []string
	st := r.status
	for _, t := range []struct {
		is   bool
		word string
	}{
		{st.Fenced != "", "fenced"}, {len(st.Diverged) > 0, "differs"}, {st.Stalled, "stalled"}, {st.Rebuilding, "rebuilding"},
	} {
		if t.is {
			out = append(out, r.node+" "+t.word)
		}
	}
	return out
}

// mergeRoom adds one node's view: the replica with the most messages tells first
// and last, the worst-off subscribers tell the rest.
func mergeRoom(rooms map[string]*Room, r Room) {
	m := rooms[r.Room]
	if m == nil {
		rooms[r.Room] = &r
		return
	}
	if r.Last > m.Last {
		m.First, m.Last, m.Partition = r.First, r.Last, r.Partition
	}
	m.Subscribers += r.Subscribers
	m.Drift, m.Spread = max(m.Drift, r.Drift), max(m.Spread, r.Spread)
	m.Rate, m.BacklogMs = max(m.Rate, r.Rate), max(m.BacklogMs, r.BacklogMs)
}

func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
