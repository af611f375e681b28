package top

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/roomlog/roomlog/transport/admin"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// snapshotOf is what a State of n1, n2, n3 makes of answers.
func snapshotOf(answers ...Answer) Snapshot {
	s := NewState([]string{"n1", "n2", "n3"}, noon)
	for _, a := range answers {
		s.Add(a)
	}
	return s.Snapshot(noon.Add(time.Minute))
}

// says is an answer with one partition.
func says(node string, st admin.PartitionStatus, d admin.PartitionDrift) Answer {
	return Answer{Node: node, At: noon, Partitions: []admin.PartitionStatus{st}, Drift: admin.Drift{
		Node: node, ObjectiveMs: 100, Partitions: []admin.PartitionDrift{d},
	}}
}

func led(leader string, term uint64) admin.PartitionStatus {
	return admin.PartitionStatus{Leader: leader, Term: term}
}

var errGone = errors.New("connection refused")

func TestPartitionOfReplicas(t *testing.T) {
	stage := func(p99 float64) admin.StageDrift { return admin.StageDrift{P99Ms: p99, Count: 1} }
	in := admin.PartitionDrift{InObjective: true}
	out := func(cause string, p99 float64) admin.PartitionDrift {
		return admin.PartitionDrift{Cause: cause, P99Ms: p99}
	}
	for _, tt := range []struct {
		name    string
		answers []Answer
		want    Partition
	}{
		{
			name: "rates and subscribers are summed, messages are the leader's, the rest is the worst's",
			answers: []Answer{
				says("n1", led("n1", 3), admin.PartitionDrift{InObjective: true, Leading: true, P50Ms: 2, P99Ms: 9, MessagesPerS: 10, DeliveriesPerS: 20, Subscribers: 2, BacklogMs: 1}),
				says("n2", led("n1", 3), admin.PartitionDrift{InObjective: true, P50Ms: 3, P99Ms: 8, MessagesPerS: 11, DeliveriesPerS: 30, Subscribers: 3, BacklogMs: 4}),
			},
			want: Partition{Leader: "n1", Led: true, Term: 3, MessagesPerS: 10, DeliveriesPerS: 50, Subscribers: 5, InObjective: true, P50Ms: 3, P99Ms: 9, BacklogMs: 4},
		},
		{
			name: "publish stages are the leader's, write is the worst replica's",
			answers: []Answer{
				says("n1", led("n2", 3), admin.PartitionDrift{InObjective: true, Stages: admin.StagesDrift{Append: stage(90), Apply: stage(90), Write: stage(7)}}),
				says("n2", led("n2", 3), admin.PartitionDrift{InObjective: true, Stages: admin.StagesDrift{Receive: stage(1), Propose: stage(2), Append: stage(3), Commit: stage(4), Apply: stage(5), Write: stage(6)}}),
			},
			want: Partition{Leader: "n2", Led: true, Term: 3, InObjective: true, Stages: admin.StagesDrift{
				Receive: stage(1), Propose: stage(2), Append: stage(3), Commit: stage(4), Apply: stage(5), Write: stage(7)}},
		},
		{
			name: "while the leader is down no stage of it is known, and the fastest replica tells the rate",
			answers: []Answer{
				{Node: "n1", Err: errGone},
				says("n2", led("n1", 3), admin.PartitionDrift{InObjective: true, MessagesPerS: 4, Stages: admin.StagesDrift{Append: stage(3), Write: stage(1)}}),
				says("n3", led("n1", 3), admin.PartitionDrift{InObjective: true, MessagesPerS: 5}),
			},
			want: Partition{Leader: "n1", Term: 3, InObjective: true, MessagesPerS: 5, Stages: admin.StagesDrift{Write: stage(1)}},
		},
		{
			name:    "the higher term knows the leader",
			answers: []Answer{says("n1", led("n1", 3), in), says("n2", led("n2", 4), in)},
			want:    Partition{Leader: "n2", Led: true, Term: 4, InObjective: true},
		},
		{
			name:    "of one term it is the replica that knows a leader",
			answers: []Answer{says("n1", led("", 4), in), says("n2", led("n2", 4), in), says("n3", led("", 4), in)},
			want:    Partition{Leader: "n2", Led: true, Term: 4, InObjective: true},
		},
		{
			name:    "a fenced replica is not believed",
			answers: []Answer{says("n1", admin.PartitionStatus{Leader: "n1", Term: 9, Fenced: "differs"}, in), says("n2", led("n2", 4), in)},
			want:    Partition{Leader: "n2", Led: true, Term: 4, InObjective: true, Trouble: []string{"n1 fenced"}},
		},
		{
			name:    "the leader's own cause comes first",
			answers: []Answer{says("n1", led("n1", 1), out("commit", 200)), says("n2", led("n1", 1), out("write", 900)), says("n3", led("n1", 1), out("leader", 950))},
			want:    Partition{Leader: "n1", Led: true, Term: 1, Cause: "commit", CauseNode: "n1", P99Ms: 950},
		},
		{
			name:    "then that of the worst replica",
			answers: []Answer{says("n1", led("n1", 1), in), says("n2", led("n1", 1), out("write", 300)), says("n3", led("n1", 1), out("apply", 400))},
			want:    Partition{Leader: "n1", Led: true, Term: 1, Cause: "apply", CauseNode: "n3", P99Ms: 400},
		},
		{
			name:    "that it is the leader, if nobody knows more",
			answers: []Answer{{Node: "n1", Err: errGone}, says("n2", led("n1", 1), out("leader", 300)), says("n3", led("n1", 1), in)},
			want:    Partition{Leader: "n1", Term: 1, Cause: "leader", CauseNode: "n1", P99Ms: 300},
		},
		{
			name: "trouble",
			answers: []Answer{
				says("n1", admin.PartitionStatus{Leader: "n1", Stalled: true, Rebuilding: true}, in),
				says("n2", admin.PartitionStatus{Leader: "n1", Diverged: []string{"n1"}}, in),
			},
			want: Partition{Leader: "n1", Led: true, InObjective: true, Trouble: []string{"n1 stalled", "n1 rebuilding", "n2 differs"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want.Trouble == nil {
				tt.want.Trouble = []string{}
			}
			got := snapshotOf(tt.answers...).Partitions
			if len(got) != 1 || !reflect.DeepEqual(got[0], tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestPartitionWithoutDriftIsInOrder(t *testing.T) {
	a := says("n1", led("n1", 1), admin.PartitionDrift{})
	a.Drift.Partitions = nil
	if s := snapshotOf(a); s.OutOfObjective != 0 || !s.Partitions[0].ok() {
		t.Errorf("%+v", s.Partitions)
	}
}

func TestTotals(t *testing.T) {
	a := says("n1", led("n1", 1), admin.PartitionDrift{InObjective: true, MessagesPerS: 1, DeliveriesPerS: 2, Subscribers: 3, P99Ms: 4})
	a.Partitions = append(a.Partitions, admin.PartitionStatus{Partition: 1, Leader: "n1"})
	a.Drift.Partitions = append(a.Drift.Partitions, admin.PartitionDrift{Partition: 1, Cause: "append", MessagesPerS: 10, DeliveriesPerS: 20, Subscribers: 30, P99Ms: 140})
	a.Drift.OffsetErrorMs, a.Status = 0.5, admin.NodeStatus{Version: "v1", Leaders: 2, Replicas: 2}
	b := Answer{Node: "n2", At: noon, Drift: admin.Drift{ObjectiveMs: 80, OffsetErrorMs: 0.2}}
	s := snapshotOf(a, b, Answer{Node: "n3", Err: errGone})
	if s.Alive != 2 || s.MessagesPerS != 11 || s.DeliveriesPerS != 22 || s.Subscribers != 33 || s.ObjectiveMs != 80 ||
		s.OutOfObjective != 1 || s.OffsetErrorMs != 0.5 || s.Worst == nil || *s.Worst != (Worst{1, 140}) {
		t.Errorf("%+v, worst %+v", s, s.Worst)
	}
	if n := s.Nodes[0]; n != (Node{Node: "n1", Alive: true, Version: "v1", Leaders: 2, Replicas: 2}) {
		t.Errorf("n1: %+v", n)
	}
	if quiet := snapshotOf(says("n1", led("n1", 1), admin.PartitionDrift{InObjective: true})); quiet.Worst != nil {
		t.Errorf("nothing measured, but the worst is %+v", quiet.Worst)
	}
}

func TestDownSince(t *testing.T) {
	s := NewState([]string{"n1"}, noon)
	look := func() Node { return s.Snapshot(noon).Nodes[0] }
	if n := look(); n.Alive || n.Error != "" || !n.Since.Equal(noon) {
		t.Errorf("before any answer: %+v", n)
	}
	s.Add(Answer{Node: "n1", At: noon.Add(time.Second), Err: errGone})
	if n := look(); n.Alive || n.Error != "connection refused" || !n.Since.Equal(noon) {
		t.Errorf("down from the start: %+v", n)
	}
	s.Add(Answer{Node: "n1", At: noon.Add(2 * time.Second)})
	if n := look(); !n.Alive || n.Since != nil || n.Error != "" {
		t.Errorf("up: %+v", n)
	}
	for range 2 {
		s.Add(Answer{Node: "n1", At: noon.Add(9 * time.Second), Err: errGone})
		if n := look(); n.Alive || !n.Since.Equal(noon.Add(2*time.Second)) {
			t.Errorf("down again: %+v", n)
		}
	}
}

func TestRoomsAndCursors(t *testing.T) {
	room := func(name string, last uint64, drift, spread, rate, backlog float64, subscribers int) Room {
		return Room{RoomStatus: admin.RoomStatus{Room: name, First: last, Last: last, Drift: drift, Spread: spread, Rate: rate, Subscribers: subscribers}, BacklogMs: backlog}
	}
	a, b := Answer{Node: "n1", At: noon}, Answer{Node: "n2", At: noon}
	a.Drift.Rooms = []Room{room("x", 5, 2, 9, 4, 0, 1), room("calm", 1, 0, 0, 0, 0, 1)}
	b.Drift.Rooms = []Room{room("y", 1, 3, 0, 0, 0, 7), room("x", 6, 4, 8, 3, 5, 2), room("late", 1, 0, 0, 0, 1, 1)}
	cursor := func(client string, age float64, behind uint64) admin.CursorDrift {
		return admin.CursorDrift{Client: client, AgeMs: age, Behind: behind}
	}
	a.Drift.Cursors = []admin.CursorDrift{cursor("c", 5, 1), cursor("d", 5, 3)}
	for range 30 {
		a.Drift.Cursors = append(a.Drift.Cursors, cursor("z", 1, 1))
	}
	b.Drift.Cursors = []admin.CursorDrift{cursor("a", 9, 1), cursor("b", 5, 1)}
	s := snapshotOf(a, b)
	if want := []Room{room("x", 6, 4, 9, 4, 5, 3), room("y", 1, 3, 0, 0, 0, 7), room("late", 1, 0, 0, 0, 1, 1), room("calm", 1, 0, 0, 0, 0, 1)}; !reflect.DeepEqual(s.Rooms, want) {
		t.Errorf("rooms\n%+v, want\n%+v", s.Rooms, want)
	}
	var order string
	for _, c := range s.Cursors[:5] {
		order += c.Client + "@" + c.Node + " "
	}
	if want := "a@n2 d@n1 b@n2 c@n1 z@n1 "; order != want || len(s.Cursors) != kept {
		t.Errorf("%d cursors: %s, want %s", len(s.Cursors), order, want)
	}
	if a.Err = errGone; len(snapshotOf(a).Rooms)+len(snapshotOf(a).Cursors) > 0 {
		t.Error("a node that is down counts")
	}
}
