package clustertest

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/admin"
)

// listen subscribes to room at a node, from its start, until the test ends, and
// returns once it has had message seq.
func (c *Cluster) listen(node, room string, seq uint64) {
	c.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cl, had, done := c.Client("", node), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range cl.Subscribe(ctx, room, client.FromStart()) {
			if err == nil && m.Seq == seq {
				close(had)
			}
		}
	}()
	c.tb.Cleanup(func() { cancel(); <-done })
	<-had
}

// TestDrift: every stage of every message is counted where it happens.
func TestDrift(t *testing.T) {
	c := Start(t, 3, 1, nil)
	leader := c.Leader("lobby")
	p := &Publisher{Name: "p", Client: c.Client("p"), History: &c.History}
	c.must(p.Send("lobby", 10))
	c.must(p.Wait())
	for _, node := range c.Names() {
		c.listen(node, "lobby", 1) // there before the reader, as a rule: history
		c.listen(node, "lobby", 1)
	}
	const n = 100
	for range n {
		c.must(p.Send("lobby", 10))
	}
	c.must(p.Wait())
	for _, node := range c.Names() {
		var d admin.Drift
		var got admin.PartitionDrift
		c.Until("all is delivered and counted", func() bool {
			d = c.Node(node).Drift(10)
			got = d.Partitions[0]
			return got.Stages.Write.Count >= 2*n && got.Stages.Apply.Count > n
		})
		if d.Node != node || d.ObjectiveMs != 100 || got.Leader != leader || got.Leading != (node == leader) || got.Subscribers != 2 {
			t.Errorf("%s: %+v", node, d)
		}
		if !got.InObjective || got.Cause != "" || got.P99Ms <= 0 || got.P99Ms < got.P50Ms {
			t.Errorf("%s: %+v", node, got)
		}
		s := got.Stages
		if s.Write.Count > 2*n+2 || s.Append.Count < n || s.Append.MaxMs <= 0 || s.Apply.MaxMs <= 0 {
			t.Errorf("%s: %+v", node, s)
		}
		for _, stage := range []admin.StageDrift{s.Receive, s.Propose, s.Commit} {
			if node == leader && stage.Count < n || node != leader && stage.Count != 0 {
				t.Errorf("%s, leading %v: %+v", node, node == leader, s)
			}
		}
		if len(d.Rooms) != 1 || d.Rooms[0].Room != "lobby" || d.Rooms[0].Subscribers != 2 || d.Rooms[0].Last != n+1 || d.Rooms[0].Drift <= 0 {
			t.Errorf("%s: %+v", node, d.Rooms)
		}
		if node != leader && d.OffsetErrorMs <= 0 || node == leader && d.OffsetErrorMs != 0 {
			t.Errorf("%s: the error of the clock's offset is %v", node, d.OffsetErrorMs)
		}
	}
	metrics := c.get(leader, "/metrics")
	for _, want := range []string{
		`roomlog_partition_in_objective{partition="0"} 1`, `roomlog_partition_backlog_seconds{partition="0"} 0`,
		`roomlog_worst_room_drift_seconds{room="lobby"} 0.`, `roomlog_worst_room_spread_seconds{room="lobby"} `,
		`roomlog_stage_seconds_count{partition="0",stage="write"} 20`, `roomlog_stage_seconds_sum{partition="0",stage="commit"} 0.`,
		`roomlog_stage_seconds_bucket{partition="0",stage="append",le="16.777216"} 10`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics:\n%s", want, metrics)
		}
	}
	checkDriftJSON(t, c.get(leader, "/v1/drift?limit=1"))
}

// get asks a node over HTTP.
func (c *Cluster) get(node, path string) string {
	c.tb.Helper()
	req, err := http.NewRequestWithContext(c.tb.Context(), "GET", "http://"+c.HTTP(node)+path, nil)
	c.must(err)
	req.Header.Set("Authorization", "Bearer "+Token)
	resp, err := http.DefaultClient.Do(req)
	c.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	c.must(err)
	return string(body)
}

// checkDriftJSON compares the names in an answer with what others rely on.
func checkDriftJSON(t *testing.T, body string) {
	t.Helper()
	keys := func(v any) string { return strings.Join(slices.Sorted(maps.Keys(v.(map[string]any))), " ") }
	var d map[string]any
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	p := d["partitions"].([]any)[0].(map[string]any)
	stages := p["stages"].(map[string]any)
	for _, tt := range []struct{ what, got, want string }{
		{"drift", keys(d), "cursors node objective_ms offset_error_ms partitions rooms"},
		{"a partition", keys(p), "backlog_ms cause deliveries_per_s in_objective leader leading messages_per_s p50_ms p99_ms partition stages subscribers"},
		{"stages", keys(stages), "append apply commit propose receive write"},
		{"a stage", keys(stages["write"]), "count max_ms p50_ms p99_ms"},
		{"a room", keys(d["rooms"].([]any)[0]), "backlog_ms drift first last partition rate room spread subscribers"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s has %s, want %s", tt.what, tt.got, tt.want)
		}
	}
}
