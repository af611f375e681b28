package clustertest

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/wire"
)

// listen subscribes to room at a node, from its start, until the test ends, and
// returns once it has had message seq. Unlike the SDK it goes nowhere else, even
// if the node sends it away.
func (c *Cluster) listen(node, room string, seq uint64) {
	c.tb.Helper()
	r := c.DialRaw(node)
	had, ended := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	tell := sync.OnceFunc(func() { close(had) })
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if str, err := r.conn.OpenStreamSync(ctx); err == nil {
				readUntil(str, room, seq, tell)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	c.tb.Cleanup(func() { cancel(); r.Close(); <-ended })
	select {
	case <-had:
	case <-time.After(patience):
		c.tb.Fatalf("%s does not deliver message %d", node, seq)
	}
}

// readUntil subscribes on a stream and reads till it ends; it tells of seq.
func readUntil(str *quic.Stream, room string, seq uint64, tell func()) {
	str.Write(wire.Append(nil, &wire.Subscribe{Room: room, Next: 1}))
	in := wire.NewReader(str, wire.MaxDeliverFrame)
	for {
		typ, body, err := in.Next()
		if err != nil {
			return
		}
		var d wire.Deliver
		if typ == wire.TypeDeliver && wire.ParseDeliver(body, &d) == nil && d.First == seq {
			tell()
		}
	}
}

// TestDrift: every stage of every message is counted where it happens.
func TestDrift(t *testing.T) {
	c := Start(t, 3, 1, func(cfg *node.Config) { cfg.Objective = 10 * time.Second })
	leader := c.Leader("lobby")
	p := &Publisher{Name: "p", Client: c.Client("p"), History: &c.History}
	c.must(p.Send("lobby", 10))
	c.must(p.Wait())
	for _, name := range c.Names() {
		c.listen(name, "lobby", 1) // there before the reader, as a rule: history
		c.listen(name, "lobby", 1)
	}
	const n = 100
	for range n {
		c.must(p.Send("lobby", 10))
	}
	c.must(p.Wait())
	for _, name := range c.Names() {
		var d admin.Drift
		var got admin.PartitionDrift
		c.Until("all is delivered and counted", func() bool {
			d = c.Node(name).Drift(10)
			got = d.Partitions[0]
			return got.Stages.Write.Count >= 2*n && got.Stages.Apply.Count > n
		})
		if d.Node != name || d.ObjectiveMs != 10_000 || got.Leader != leader || got.Leading != (name == leader) || got.Subscribers != 2 {
			t.Errorf("%s: %+v", name, d)
		}
		if !got.InObjective || got.Cause != "" || got.P99Ms <= 0 || got.P99Ms < got.P50Ms {
			t.Errorf("%s: %+v", name, got)
		}
		s := got.Stages
		if s.Write.Count > 2*n+2 || s.Append.Count < n || s.Append.MaxMs <= 0 || s.Apply.MaxMs <= 0 {
			t.Errorf("%s: %+v", name, s)
		}
		for _, stage := range []admin.StageDrift{s.Receive, s.Propose, s.Commit} {
			if name == leader && stage.Count < n || name != leader && stage.Count != 0 {
				t.Errorf("%s, leading %v: %+v", name, name == leader, s)
			}
		}
		if len(d.Rooms) != 1 || d.Rooms[0].Room != "lobby" || d.Rooms[0].Subscribers != 2 || d.Rooms[0].Last != n+1 || d.Rooms[0].Drift <= 0 {
			t.Errorf("%s: %+v", name, d.Rooms)
		}
		if name != leader && d.OffsetErrorMs <= 0 || name == leader && d.OffsetErrorMs != 0 {
			t.Errorf("%s: the error of the clock's offset is %v", name, d.OffsetErrorMs)
		}
	}
	metrics := c.get(leader, "/metrics")
	for _, want := range []string{
		`roomlog_partition_in_objective{partition="0"} 1`, `roomlog_partition_backlog_seconds{partition="0"} 0`,
		`roomlog_worst_room_drift_seconds{room="lobby"} `, `roomlog_worst_room_spread_seconds{room="lobby"} `,
		`roomlog_stage_seconds_count{partition="0",stage="write"} 20`, `roomlog_stage_seconds_sum{partition="0",stage="commit"} `,
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
