package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/admin"
)

// fakeNode is the source behind one node's HTTP.
type fakeNode struct {
	status     admin.NodeStatus
	rooms      []admin.RoomStatus
	mu         sync.Mutex
	partitions []admin.PartitionStatus
	drift      admin.Drift
	transfer   func(partition int, to string) error
	drain      func() error
}

func (f *fakeNode) Ready() error           { return nil }
func (f *fakeNode) Node() admin.NodeStatus { return f.status }

func (f *fakeNode) Partitions() []admin.PartitionStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]admin.PartitionStatus(nil), f.partitions...)
}

func (f *fakeNode) Room(name string) (admin.RoomStatus, error) {
	for _, r := range f.rooms {
		if r.Room == name {
			return r, nil
		}
	}
	return admin.RoomStatus{Room: name, First: 1, Partition: 3}, nil
}

func (f *fakeNode) Rooms(limit int, _ string) []admin.RoomStatus {
	return f.rooms[:min(limit, len(f.rooms))]
}

func (f *fakeNode) Drift(int) admin.Drift { return f.drift }

func (f *fakeNode) Transfer(_ context.Context, partition int, to string) error {
	return f.transfer(partition, to)
}

func (f *fakeNode) Drain(context.Context) error { return f.drain() }
func (f *fakeNode) Undrain() error              { f.drain = nil; return nil }

func (f *fakeNode) setLeader(leader string, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.partitions[0].Leader, f.partitions[0].Term = leader, term
}

// startNode serves a node's HTTP until the test ends.
func startNode(t *testing.T, f *fakeNode, token string) client.Node {
	t.Helper()
	server := httptest.NewServer(admin.New(admin.Config{Source: f, Token: token, Registry: prometheus.NewRegistry()}))
	t.Cleanup(server.Close)
	return client.Node{Name: f.status.Node, Listen: "127.0.0.1:7400", HTTP: server.Listener.Addr().String(), Alive: true}
}

// deadNode has an address where nobody listens.
func deadNode(t *testing.T, name string) client.Node {
	t.Helper()
	server := httptest.NewServer(nil)
	defer server.Close()
	return client.Node{Name: name, Listen: "127.0.0.1:7402", HTTP: server.Listener.Addr().String(), Alive: true}
}

func named(name string) *fakeNode { return &fakeNode{status: admin.NodeStatus{Node: name}} }

// ask runs an operator's command against nodes; it must exit as told.
func ask(t *testing.T, nodes []client.Node, code int, args ...string) result {
	t.Helper()
	got := run(t, nodes, append(args, "--server", "127.0.0.1:1", "--token", "secret")...)
	if got.code != code {
		t.Errorf("roomlog %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got.code, code, got.stdout, got.stderr)
	}
	return got
}

func check(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNodeList(t *testing.T) {
	n1, n2 := named("n1"), named("n2")
	n1.status = admin.NodeStatus{Node: "n1", Leaders: 9, Replicas: 16, Version: "v1", Listen: "127.0.0.1:7400", Peer: "127.0.0.1:7410", HTTP: "127.0.0.1:7420"}
	n2.status = admin.NodeStatus{Node: "n2", Leaders: 7, Replicas: 16, Version: "v1", Listen: "127.0.0.1:7401", Peer: "127.0.0.1:7411", HTTP: "127.0.0.1:7421", Draining: true}
	dead := deadNode(t, "n3")
	unheard, silent := client.Node{Name: "n4", Alive: true}, client.Node{Name: "n5"}
	nodes := []client.Node{silent, unheard, dead, startNode(t, n2, "secret"), startNode(t, n1, "secret")}

	check(t, ask(t, nodes, 0, "node", "list", "-o", "json").stdout, `{"node":"n1","alive":true,"leaders":9,"replicas":16,"version":"v1","listen":"127.0.0.1:7400","peer":"127.0.0.1:7410","http":"127.0.0.1:7420","draining":false}
{"node":"n2","alive":true,"leaders":7,"replicas":16,"version":"v1","listen":"127.0.0.1:7401","peer":"127.0.0.1:7411","http":"127.0.0.1:7421","draining":true}
{"node":"n3","alive":false,"leaders":0,"replicas":0,"version":"","listen":"127.0.0.1:7402","peer":"","http":"`+dead.HTTP+`","draining":false}
{"node":"n4","alive":true,"leaders":0,"replicas":0,"version":"","listen":"","peer":"","http":"","draining":false}
{"node":"n5","alive":false,"leaders":0,"replicas":0,"version":"","listen":"","peer":"","http":"","draining":false}
`)
	text := ask(t, nodes[3:], 0, "node", "list").stdout
	check(t, text, `NODE  ALIVE     LEADERS  REPLICAS  VERSION  LISTEN          PEER            HTTP
n1    yes       9        16        v1       127.0.0.1:7400  127.0.0.1:7410  127.0.0.1:7420
n2    draining  7        16        v1       127.0.0.1:7401  127.0.0.1:7411  127.0.0.1:7421
`)
}

// A node that needs longer than one answer may take is asked again.
func TestNodeDrain(t *testing.T) {
	n1, n2 := named("n1"), named("n2")
	n1.status.Node, n2.status.Node = "n1", "n2"
	asked := 0
	n2.drain = func() error {
		if asked++; asked == 1 {
			return fmt.Errorf("n2 still leads 3 partitions: %w", context.DeadlineExceeded)
		}
		return nil
	}
	n1.drain = func() error { return fmt.Errorf("%w: no other voter is alive", admin.ErrConflict) }
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), deadNode(t, "n3")}
	check(t, ask(t, nodes, 0, "node", "drain", "n2", "-o", "json").stdout, `{"node":"n2","draining":true}
`)
	if asked != 2 {
		t.Errorf("n2 was asked %d times", asked)
	}
	check(t, ask(t, nodes, 0, "node", "drain", "n2", "--undo").stdout, "n2 may lead and serve clients\n")
	if n2.drain != nil {
		t.Error("the drain was not taken back")
	}
	for _, tt := range []struct{ node, want string }{
		{"n1", "roomlog: drain n1: not possible now: no other voter is alive (HTTP 409)"},
		{"n3", "roomlog: drain n3: dial tcp 127.0.0.1:"},
		{"n9", `roomlog: there is no node "n9"; roomlog node list tells which there are`},
	} {
		if got := ask(t, nodes, 1, "node", "drain", tt.node); !strings.Contains(got.stderr, tt.want) {
			t.Errorf("drain %s: %q, want %q", tt.node, got.stderr, tt.want)
		}
	}
	n2.drain = func() error { return fmt.Errorf("n2 still leads 3 partitions: %w", context.DeadlineExceeded) }
	if got := ask(t, nodes, 1, "node", "drain", "n2", "--timeout", "100ms"); !strings.Contains(got.stderr, "the node may go on draining") {
		t.Errorf("given up: %q", got.stderr)
	}
}

func TestNobodyAnswers(t *testing.T) {
	for _, tt := range []struct {
		name string
		node client.Node
		want string
	}{
		{"dead", deadNode(t, "n1"), "n1: dial tcp 127.0.0.1:"},
		{"another token", startNode(t, named("n1"), "other"), "no or a wrong token"},
		{"another node", startNode(t, named("n2"), "secret"), `answers as node "n2"`},
		{"no address", client.Node{Name: "n1"}, "does not know its http address"},
		{"nothing known", client.Node{Name: "n1", HTTP: ":7420"}, "does not know its address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.node.Name = "n1"
			for _, command := range []string{"node list", "partition list", "room list", "room show a", "partition show 0", "partition transfer 0 --to n1", "top --once", "top"} {
				got := ask(t, []client.Node{tt.node}, 1, strings.Fields(command)...)
				if !strings.Contains(got.stderr, "roomlog: no node answered: n1: ") || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
					t.Errorf("%s: %q, %q, want %q", command, got.stdout, got.stderr, tt.want)
				}
			}
		})
	}
	if got := ask(t, []client.Node{}, 1, "node", "list"); !strings.Contains(got.stderr, "knows of no node") {
		t.Errorf("no nodes: %q", got.stderr)
	}
}

func TestHTTPAddress(t *testing.T) {
	for _, tt := range []struct{ listen, http, want string }{
		{"10.0.0.1:7400", "10.0.0.2:7420", "10.0.0.2:7420"},
		{"10.0.0.1:7400", "0.0.0.0:7420", "10.0.0.1:7420"},
		{"[2001:db8::1]:7400", "[::]:7420", "[2001:db8::1]:7420"},
		{"chat.example:7400", ":7420", "chat.example:7420"},
	} {
		if got, err := httpAddress(client.Node{Listen: tt.listen, HTTP: tt.http}); err != nil || got != tt.want {
			t.Errorf("http %s of a node at %s = %s, %v, want %s", tt.http, tt.listen, got, err, tt.want)
		}
	}
}

func TestRoomShow(t *testing.T) {
	leader, follower := threeVoters("n1", "n1", 3, 9, 9, 9), threeVoters("n2", "n1", 3, 9, 9, 9)
	leader.partitions[0].Partition, follower.partitions[0].Partition = 2, 2
	leader.rooms = []admin.RoomStatus{{Room: "a & b", First: 3, Last: 9, Partition: 2, Drift: 1.5, Spread: 0.5, Subscribers: 2, Rate: 4}}
	follower.rooms = []admin.RoomStatus{{Room: "a & b", First: 1, Last: 8, Partition: 2, Drift: 2.5, Spread: 0.25, Subscribers: 3, Rate: 2}}
	nodes := []client.Node{startNode(t, follower, "secret"), startNode(t, leader, "secret"), deadNode(t, "n3")}

	check(t, ask(t, nodes, 0, "room", "show", "a & b", "-o", "json").stdout,
		`{"room":"a & b","first":3,"last":9,"partition":2,"drift":2.5,"spread":0.5,"subscribers":5,"rate":4}`+"\n")
	check(t, ask(t, nodes, 0, "room", "show", "a & b").stdout, `room         a & b
partition    2
messages     3 to 9
rate         4.0/s
subscribers  5
drift        2.5 ms
spread       0.5 ms
`)
	follower.setLeader("", 4)
	leader.setLeader("", 4)
	if got := ask(t, nodes, 0, "room", "show", "a & b"); got.stderr != "roomlog: warning: no leader: this may be out of date\n" || !strings.Contains(got.stdout, "messages     3 to 9\n") {
		t.Errorf("without a leader: %s%s", got.stdout, got.stderr)
	}
	follower.setLeader("n3", 4)
	leader.setLeader("n3", 4)
	if got := ask(t, nodes, 0, "room", "show", "a & b"); !strings.Contains(got.stderr, "no leader") {
		t.Errorf("with a leader that does not answer: %s", got.stderr)
	}
	leader.partitions[0].Partition, follower.partitions[0].Partition = 3, 3
	if got := ask(t, nodes, 0, "room", "show", "unused"); !strings.Contains(got.stdout, "none known") {
		t.Errorf("an unused room without a leader: %s", got.stdout)
	}
	leader.setLeader("n1", 5)
	check(t, ask(t, nodes, 0, "room", "show", "unused", "-o", "json").stdout,
		`{"room":"unused","first":1,"last":0,"partition":3,"drift":0,"spread":0,"subscribers":0,"rate":0}`+"\n")
	if got := ask(t, nodes, 0, "room", "show", "unused"); !strings.Contains(got.stdout, "none yet") || got.stderr != "" {
		t.Errorf("an unused room: %s%s", got.stdout, got.stderr)
	}
}

func TestRoomList(t *testing.T) {
	n1, n2 := named("n1"), named("n2")
	n1.rooms = []admin.RoomStatus{
		{Room: "a", First: 1, Last: 1, Drift: 1, Subscribers: 3, Rate: 1},
		{Room: "b", First: 1, Last: 2, Drift: 9, Subscribers: 2, Rate: 2},
	}
	n2.rooms = []admin.RoomStatus{
		{Room: "b", First: 1, Last: 2, Drift: 1, Subscribers: 2, Rate: 1},
		{Room: "c", First: 1, Last: 3, Drift: 5, Subscribers: 0, Rate: 9},
	}
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), deadNode(t, "n3")}
	for _, tt := range []struct{ args, want string }{
		{"", "a b c"},
		{"--limit 2", "a b"},
		{"--limit 1", "a"},
		{"--top drift", "b c a"},
		{"--top rate", "c b a"},
		{"--top subscribers", "b a c"},
		{"--top subscribers --limit 1", "b"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := ask(t, nodes, 0, append([]string{"room", "list"}, strings.Fields(tt.args)...)...)
			var rooms []string
			for line := range strings.Lines(got.stdout) {
				rooms = append(rooms, strings.Fields(line)[0])
			}
			if strings.Join(rooms, " ") != "ROOM "+tt.want {
				t.Errorf("rooms %q, want %s", rooms, tt.want)
			}
		})
	}
	check(t, ask(t, nodes, 0, "room", "list", "--limit", "2", "-o", "json").stdout,
		`{"room":"a","first":1,"last":1,"partition":0,"drift":1,"spread":0,"subscribers":3,"rate":1}
{"room":"b","first":1,"last":2,"partition":0,"drift":9,"spread":0,"subscribers":4,"rate":2}
`)
}

func TestRoomListWithoutALeader(t *testing.T) {
	n1 := threeVoters("n1", "n1", 3, 9, 9, 9)
	n1.partitions = append(n1.partitions, admin.PartitionStatus{Partition: 1, Term: 3})
	nodes := []client.Node{startNode(t, n1, "secret")}
	if got := ask(t, nodes, 0, "room", "list").stderr; got != "roomlog: warning: 1 of 2 partitions without a leader: this may be out of date\n" {
		t.Errorf("standard error: %q", got)
	}
	n1.partitions = n1.partitions[:1]
	if got := ask(t, nodes, 0, "room", "list").stderr; got != "" {
		t.Errorf("standard error: %q", got)
	}
}

// A room high on the list only when nodes are summed is found: nodes are asked
// for more than is shown.
func TestRoomListAsksForMore(t *testing.T) {
	n1, n2 := named("n1"), named("n2")
	n1.rooms = []admin.RoomStatus{{Room: "x", Subscribers: 5}, {Room: "both", Subscribers: 4}}
	n2.rooms = []admin.RoomStatus{{Room: "y", Subscribers: 5}, {Room: "both", Subscribers: 4}}
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret")}
	got := ask(t, nodes, 0, "room", "list", "--top", "subscribers", "--limit", "1", "-o", "json").stdout
	if !strings.Contains(got, `"room":"both"`) || !strings.Contains(got, `"subscribers":8`) {
		t.Errorf("top room: %s", got)
	}
}

func threeVoters(node, leader string, term, commit, applied, last uint64) *fakeNode {
	f := named(node)
	f.partitions = []admin.PartitionStatus{{Partition: 0, Leader: leader, Term: term, Commit: commit, Applied: applied, First: 1, Last: last,
		Snapshot: 6, Bytes: 2048, Rooms: 4, Voters: []string{"n1", "n2", "n3"}, Voter: true}}
	return f
}

func TestPartitionMerge(t *testing.T) {
	voters := []string{"n1", "n2", "n3"}
	for _, tt := range []struct {
		name     string
		replicas []replica
		down     []string
		want     string // leader term commit, then the replicas
	}{
		{"the leader counts", []replica{
			{"n1", admin.PartitionStatus{Leader: "n2", Term: 5, Commit: 8, Applied: 7, Last: 12, Voter: true}},
			{"n2", admin.PartitionStatus{Leader: "n2", Term: 5, Commit: 10, Applied: 10, Last: 11, Voter: true}},
		}, nil, "n2 5 10: n1 voter 11 3, n2 voter 11 0"}, // never above the leader's last
		{"a follower ahead has no lag below zero", []replica{
			{"n1", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 8, Applied: 8, Last: 9, Voter: true}},
			{"n2", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 9, Applied: 9, Last: 9, Voter: true}},
		}, nil, "n1 5 8: n1 voter 9 0, n2 voter 9 0"},
		{"a deposed leader does not count", []replica{
			{"n1", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 20, Applied: 20, Last: 20, Voter: true}},
			{"n2", admin.PartitionStatus{Leader: "n2", Term: 6, Commit: 10, Applied: 10, Last: 10, Voter: true}},
		}, nil, "n2 6 10: n1 voter 10 0, n2 voter 10 0"},
		{"leader down, named by the furthest", []replica{
			{"n2", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 8, Applied: 8, Last: 8, Voter: true, Voters: voters}},
			{"n3", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 9, Applied: 9, Last: 9, Voter: true, Voters: voters}},
		}, []string{"n1"}, "n1 5 9: n1 voter 0 9 down, n2 voter 8 1, n3 voter 9 0"},
		{"nothing committed since the start", []replica{
			{"n1", admin.PartitionStatus{Term: 5, Last: 8, Voter: true, Voters: voters}},
			{"n2", admin.PartitionStatus{Term: 5, Last: 9, Voter: true, Voters: voters}},
		}, []string{"n3"}, " 5 0: n1 voter 8 0, n2 voter 8 0, n3 voter 0 9 down"},
		{"a follower has more than its leader", []replica{
			{"n1", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 8, Applied: 8, Last: 8, Voter: true, Voters: voters}},
			{"n2", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 8, Applied: 8, Last: 9, Voter: true, Voters: voters}},
		}, []string{"n3"}, "n1 5 8: n1 voter 8 0, n2 voter 8 0, n3 voter 0 8 down"},
		{"an election", []replica{
			{"n2", admin.PartitionStatus{Leader: "", Term: 6, Commit: 8, Applied: 8, Last: 8, Voter: true}},
			{"n3", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 9, Applied: 9, Last: 9, Voter: true}},
		}, nil, " 6 8: n2 voter 8 0, n3 voter 8 0"},
		{"non-voters", []replica{
			{"n1", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 8, Applied: 8, Last: 8, Voter: true, Voters: []string{"n1"}}},
			{"n2", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 2, Applied: 2, Last: 3}},
		}, []string{"n3"}, "n1 5 8: n1 voter 8 0, n2 non-voter 3 6"}, // n3 need not have a replica
		{"a non-voter is down", []replica{
			{"n1", admin.PartitionStatus{Leader: "n1", Term: 5, Commit: 8, Applied: 8, Last: 8, Voter: true, Voters: []string{"n1"}, Nonvoters: []string{"n3"}}},
		}, []string{"n2", "n3"}, "n1 5 8: n1 voter 8 0, n3 non-voter 0 8 down"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := mergePartition(tt.replicas, tt.down)
			var replicas []string
			for _, r := range v.Replicas {
				s := fmt.Sprintf("%s %s %d %d", r.Node, r.Role, r.Match, r.Lag)
				if r.down {
					s += " down"
				}
				replicas = append(replicas, s)
			}
			if got := fmt.Sprintf("%s %d %d: %s", v.Leader, v.Term, v.Commit, strings.Join(replicas, ", ")); got != tt.want {
				t.Errorf("merged %s, want %s", got, tt.want)
			}
		})
	}
}

func TestPartitionListAndShow(t *testing.T) {
	n1, n2 := threeVoters("n1", "n1", 3, 10, 10, 10), threeVoters("n2", "n1", 3, 9, 8, 9)
	for _, f := range []*fakeNode{n1, n2} {
		f.partitions = append([]admin.PartitionStatus{{Partition: 1, Voters: []string{"n1"}}}, f.partitions...)
	}
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), deadNode(t, "n3")}
	const zero = `{"partition":0,"leader":"n1","term":3,"commit":10,"applied":10,"first":1,"last":10,"snapshot":6,"bytes":2048,"rooms":4,"replicas":[` +
		`{"node":"n1","role":"voter","match":10,"lag":0},{"node":"n2","role":"voter","match":9,"lag":2},{"node":"n3","role":"voter","match":0,"lag":10}]}` + "\n"
	list := ask(t, nodes, 0, "partition", "list", "-o", "json").stdout
	if !strings.HasPrefix(list, zero+`{"partition":1,"leader":"",`) || strings.Count(list, "\n") != 2 {
		t.Errorf("partition list:\n%s", list)
	}
	check(t, ask(t, nodes, 0, "partition", "show", "0", "-o", "json").stdout, zero)
	check(t, ask(t, nodes, 0, "partition", "list").stdout, `PARTITION  LEADER  TERM  COMMIT  APPLIED  FIRST  LAST  SIZE   ROOMS  REPLICAS
0          n1      3     10      10       1      10    2 KiB  4      n1, n2 (-2), n3 (down)
1          -       0     0       0        0      0     0 B    0      n1, n2
`)
	check(t, ask(t, nodes, 0, "partition", "show", "0").stdout, `partition  0
leader     n1
term       3
commit     10
applied    10
log        1 to 10, 2 KiB
snapshot   6
rooms      4

REPLICA  ROLE          MATCH  LAG
n1       voter         10     0
n2       voter         9      2
n3       voter (down)  0      10
`)
	if got := ask(t, nodes, 1, "partition", "show", "2"); !strings.Contains(got.stderr, "partition 2: there is none; the cluster has 2, from 0 on") {
		t.Errorf("no such partition: %q", got.stderr)
	}
}

// What is wrong with a replica stands behind its name.
func TestPartitionTroubles(t *testing.T) {
	n1, n2, n3 := threeVoters("n1", "n1", 3, 10, 10, 10), threeVoters("n2", "n1", 3, 10, 9, 10), threeVoters("n3", "", 0, 0, 8, 8)
	n1.partitions[0].Diverged = []string{"n3"}
	n2.partitions[0].Stalled, n2.partitions[0].Diverged = true, []string{"n1", "n3"}
	n3.partitions[0].Fenced, n3.partitions[0].Term = "its hash is odd", 9 // of an election that it could not win
	n3.partitions[0].Voters, n3.partitions[0].Voter = nil, false
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), startNode(t, n3, "secret")}
	check(t, ask(t, nodes, 0, "partition", "list").stdout, `PARTITION  LEADER  TERM  COMMIT  APPLIED  FIRST  LAST  SIZE   ROOMS  REPLICAS
0          n1      3     10      10       1      10    2 KiB  4      n1 (differs from n3), n2 (-1) (stalled, differs from n1 and n3), n3 (-2) (fenced)
`)
	check(t, ask(t, nodes, 0, "partition", "show", "0").stdout, `partition  0
leader     n1
term       3
commit     10
applied    10
log        1 to 10, 2 KiB
snapshot   6
rooms      4

REPLICA  ROLE                                     MATCH  LAG
n1       voter (differs from n3)                  10     0
n2       voter (stalled, differs from n1 and n3)  10     1
n3       voter (fenced)                           8      2

n3 is fenced: its hash is odd
Start it with --rebuild 0 to build its replica anew from the others.
`)
	got := ask(t, nodes, 0, "partition", "show", "0", "-o", "json").stdout
	for _, want := range []string{
		`{"node":"n1","role":"voter","match":10,"lag":0,"diverged":["n3"]}`,
		`{"node":"n2","role":"voter","match":10,"lag":1,"diverged":["n1","n3"],"stalled":true}`,
		`{"node":"n3","role":"voter","match":8,"lag":2,"fenced":"its hash is odd"}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if got := ask(t, nodes, 1, "partition", "transfer", "0", "--to", "n3"); !strings.Contains(got.stderr, "the replica of node n3 cannot lead, it is fenced") {
		t.Errorf("transfer to a fenced replica: %q", got.stderr)
	}
	n3.partitions[0].Fenced, n3.partitions[0].Rebuilding = "", true
	if got := ask(t, nodes, 1, "partition", "transfer", "0", "--to", "n3"); !strings.Contains(got.stderr, "cannot lead, it is rebuilding") {
		t.Errorf("transfer to a replica that is rebuilt: %q", got.stderr)
	}
}

func TestPartitionTransfer(t *testing.T) {
	n1, n2 := threeVoters("n1", "n2", 3, 9, 9, 9), threeVoters("n2", "n2", 3, 9, 9, 9)
	n2.transfer = func(partition int, to string) error {
		if partition != 0 || to != "n1" {
			return fmt.Errorf("asked for partition %d to %s", partition, to)
		}
		n1.setLeader("n1", 4)
		return nil
	}
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), deadNode(t, "n3")}
	got := ask(t, nodes, 0, "partition", "transfer", "0", "--to", "n1", "-o", "json").stdout
	if !strings.HasPrefix(got, `{"partition":0,"leader":"n1","term":4,`) {
		t.Errorf("transfer: %s", got)
	}
	// It leads already: nobody is asked.
	n2.transfer = nil
	ask(t, nodes, 0, "partition", "transfer", "0", "--to", "n1")
}

// The node asked has just lost its leadership: the new leader is asked instead.
func TestPartitionTransferFollowsTheLeader(t *testing.T) {
	n1, n2, n3 := threeVoters("n1", "n2", 3, 9, 9, 9), threeVoters("n2", "n2", 3, 9, 9, 9), threeVoters("n3", "n2", 3, 9, 9, 9)
	n2.transfer = func(int, string) error {
		n3.setLeader("n3", 4)
		return &admin.NotLeaderError{Leader: "n3"}
	}
	n3.transfer = func(int, string) error {
		n1.setLeader("n1", 5)
		return nil
	}
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), startNode(t, n3, "secret")}
	got := ask(t, nodes, 0, "partition", "transfer", "0", "--to", "n1").stdout
	if !strings.Contains(got, "leader     n1\nterm       5\n") {
		t.Errorf("transfer: %s", got)
	}
}

func TestPartitionTransferWithoutALeader(t *testing.T) {
	nodes := []client.Node{startNode(t, threeVoters("n1", "", 3, 9, 9, 9), "secret"), deadNode(t, "n2"), deadNode(t, "n3")}
	got := ask(t, nodes, 1, "partition", "transfer", "0", "--to", "n1", "--timeout", "300ms")
	if !strings.Contains(got.stderr, "partition 0: there is no leader") || strings.Contains(got.stderr, `""`) {
		t.Errorf("stderr %q", got.stderr)
	}
}

// A node that is being drained would give a leadership back: that is said at once.
func TestPartitionTransferToADrainedNode(t *testing.T) {
	n1, n2 := threeVoters("n1", "n2", 3, 9, 9, 9), threeVoters("n2", "n2", 3, 9, 9, 9)
	n1.status.Draining = true
	n2.transfer = func(int, string) error { t.Error("it was tried"); return nil }
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret")}
	got := ask(t, nodes, 1, "partition", "transfer", "0", "--to", "n1")
	if want := "partition 0: n1 is being drained and would give it back: roomlog node drain n1 --undo\n"; !strings.Contains(got.stderr, want) {
		t.Errorf("stderr %q, want %q", got.stderr, want)
	}
}

func TestPartitionTransferRefused(t *testing.T) {
	n1, n2 := threeVoters("n1", "n2", 3, 9, 9, 9), threeVoters("n2", "n2", 3, 9, 9, 9)
	n4 := named("n4")
	n4.partitions = []admin.PartitionStatus{{Partition: 0, Leader: "n2", Term: 3}}
	nodes := []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), deadNode(t, "n3"), startNode(t, n4, "secret")}
	for _, tt := range []struct {
		name, to string
		err      error
		want     string
	}{
		{"unknown node", "n9", nil, `node "n9" has no vote; those that can lead are n1, n2`},
		{"a non-voter", "n4", nil, `node "n4" has no vote`},
		{"a node that is down", "n3", nil, "node n3 does not answer"},
		{"too slow", "n1", context.DeadlineExceeded, "n2 did not hand over to n1: context deadline exceeded (HTTP 504)"},
		{"failed", "n1", errors.New("still catching up"), "n2 did not hand over to n1: still catching up (HTTP 500)"},
		{"nobody leads for long", "n1", &admin.NotLeaderError{}, `still led by "n2", not n1: this node does not lead the partition`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n2.transfer = func(int, string) error { return tt.err }
			got := ask(t, nodes, 1, "partition", "transfer", "0", "--to", tt.to, "--timeout", "300ms")
			if !strings.Contains(got.stderr, tt.want) {
				t.Errorf("stderr %q, want %q", got.stderr, tt.want)
			}
		})
	}
}
