package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/top"
	"github.com/roomlog/roomlog/transport/admin"
)

// hangingNode takes requests and never answers.
func hangingNode(t *testing.T, name string) client.Node {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	return client.Node{Name: name, Listen: "127.0.0.1:7402", HTTP: server.Listener.Addr().String(), Alive: true}
}

// watched are three nodes with one partition; n3 hangs.
func watched(t *testing.T) []client.Node {
	n1, n2 := threeVoters("n1", "n1", 3, 9, 9, 9), threeVoters("n2", "n1", 3, 9, 9, 9)
	room := admin.RoomStatus{Room: "部屋\t🎉", First: 1, Last: 9, Drift: 140, Spread: 3, Subscribers: 2, Rate: 4}
	n1.drift = admin.Drift{Node: "n1", ObjectiveMs: 100, Partitions: []admin.PartitionDrift{{
		Leader: "n1", Leading: true, InObjective: true, P99Ms: 7, MessagesPerS: 12, DeliveriesPerS: 20, Subscribers: 2,
		Stages: admin.StagesDrift{Commit: admin.StageDrift{P99Ms: 5.5, Count: 9}},
	}}, Rooms: []admin.RoomDrift{{RoomStatus: room}}}
	n2.drift = admin.Drift{Node: "n2", ObjectiveMs: 100, Partitions: []admin.PartitionDrift{{
		Leader: "n1", Cause: "write", P99Ms: 140, MessagesPerS: 12, DeliveriesPerS: 30, Subscribers: 2,
		Stages: admin.StagesDrift{Write: admin.StageDrift{P99Ms: 130, Count: 9}},
	}}, Rooms: []admin.RoomDrift{{RoomStatus: room}}, Cursors: []admin.CursorDrift{{Client: "10.0.0.9:5", Room: "部屋\t🎉", Next: 7, Behind: 3, AgeMs: 2500}}}
	return []client.Node{startNode(t, n1, "secret"), startNode(t, n2, "secret"), hangingNode(t, "n3")}
}

func TestTopOnce(t *testing.T) {
	got := ask(t, watched(t), 0, "top", "--once", "--timeout", "200ms")
	lines := strings.Split(got.stdout, "\n")
	for _, want := range []string{
		"! n3 down since ",
		" P LEAD  TERM MSG/S DEL/S SUBS  P50  P99 RECEIVE PROPOSE APPEND COMMIT APPLY WRITE BKLG CAUSE",
		"!0 n1       3    12    50    4    0  140       -       -      -    5.5     -   130    0 write n2",
		"  140    3.0    0    4     4          9    0 部屋·🎉",
		" 2.5s      3          7    0 n2     10.0.0.9:5            部屋·🎉",
	} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Errorf("no line begins with %q in\n%s", want, got.stdout)
		}
	}
	if !strings.Contains(got.stdout, "no answer within 200ms") || !strings.HasPrefix(got.stdout, "roomlog  2/3 nodes  12 msg/s  50 deliveries/s  4 subscribers") {
		t.Errorf("the header:\n%s", got.stdout)
	}
}

func TestTopJSON(t *testing.T) {
	for _, tt := range []struct {
		args  string
		lines int
	}{
		{"--count 2 --interval 100ms", 2}, // the output is no terminal
		{"--count 3 --interval 100ms -o json", 3},
		{"--once -o json", 1},
	} {
		got := ask(t, watched(t), 0, append([]string{"top", "--timeout", "200ms"}, strings.Fields(tt.args)...)...)
		lines := strings.Split(strings.TrimSuffix(got.stdout, "\n"), "\n")
		if len(lines) != tt.lines {
			t.Errorf("top %s: %d lines, want %d", tt.args, len(lines), tt.lines)
		}
		for _, l := range lines {
			var s top.Snapshot
			if err := json.Unmarshal([]byte(l), &s); err != nil {
				t.Fatalf("top %s: %v in %s", tt.args, err, l)
			}
			p := s.Partitions[0]
			if s.Alive != 2 || s.Subscribers != 4 || p.MessagesPerS != 12 || p.Cause != "write" || p.CauseNode != "n2" || p.Term != 3 ||
				p.Stages.Write.P99Ms != 130 || s.Rooms[0].Subscribers != 4 || s.Cursors[0].Node != "n2" || s.Nodes[2].Error != "no answer within 200ms" {
				t.Errorf("top %s: %s", tt.args, l)
			}
		}
	}
}
