package bench

import (
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/trace"
	"github.com/roomlog/roomlog/transport/admin"
)

// TestLiveChat: the timings that the program carries are those of the trace.
func TestLiveChat(t *testing.T) {
	const name = "../../testdata/traces/live-stream.csv.gz"
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := trace.NewReader(name, f)
	if err != nil {
		t.Fatal(err)
	}
	var counts []float64
	for m, err := r.Next(); err == nil; m, err = r.Next() {
		for second := int(m.At / time.Second); len(counts) <= second; {
			counts = append(counts, 0)
		}
		counts[m.At/time.Second]++
	}
	c := liveChat()
	if !slices.Equal(c.quiet, counts[6600:6960]) || !slices.Equal(c.burst, counts[6982:7222]) {
		t.Errorf("the stretches differ from the trace's")
	}
	if c.burst[0] != slices.Max(counts) {
		t.Errorf("the burst begins with %v messages, the busiest second has %v", c.burst[0], slices.Max(counts))
	}
}

func TestStretchesRefuse(t *testing.T) {
	for _, text := range []string{"calm\n1 2x", "calm\n1 -2", "calm\n70000"} {
		if got, err := stretches(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestChatScales(t *testing.T) {
	c := liveChat()
	for _, streams := range []int{1, 8} {
		rates, sum := c.calm(400, streams, 50), 0.0 // longer than the stretch: it begins again
		for _, r := range rates {
			sum += r
		}
		if len(rates) != 400 || math.Abs(sum-400*50) > 1e-6 {
			t.Errorf("%d streams: %d seconds, %v messages", streams, len(rates), sum)
		}
	}
	if one, many := slices.Max(c.calm(360, 1, 50)), slices.Max(c.calm(360, 8, 50)); many > one*0.6 {
		t.Errorf("the busiest second of 8 streams has %v, that of one %v: they are not at different places", many, one)
	}
	if surge := c.surge(10, 2000); surge[0] != 2000 || slices.Max(surge) != 2000 {
		t.Errorf("surge %v", surge)
	}
}

func TestPlan(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, tt := range []struct {
		name  string
		rates []float64
		want  []time.Duration
	}{
		{"nothing", nil, nil},
		{"evenly within its second", []float64{2, 4}, []time.Duration{ms(250), ms(750), ms(1125), ms(1375), ms(1625), ms(1875)}},
		{"a second without", []float64{1, 0, 1}, []time.Duration{ms(500), ms(2500)}},
		{"parts of messages add up", []float64{0.25, 0.25, 0.25, 0.25}, []time.Duration{2 * time.Second}},
		{"less than half a one", []float64{0.4}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlan(time.Second, tt.rates)
			var due []time.Duration
			for n := range p.count() {
				due = append(due, (p.due(n) - time.Second).Round(time.Microsecond))
			}
			if !slices.Equal(due, tt.want) {
				t.Errorf("due %v, want %v", due, tt.want)
			}
		})
	}
}

// TestTimes: the surge falls into the trouble, whatever the length.
func TestTimes(t *testing.T) {
	for _, d := range []time.Duration{LeastScene, 20 * time.Second, 31500 * time.Millisecond} {
		w := timesOf(3*time.Second+7, d)
		if w.counted.length() != d.Truncate(time.Second) || w.trouble.length() < 2*time.Second || w.trouble.to >= w.counted.to {
			t.Errorf("%v: %+v", d, w)
		}
		rates := w.surgeRates(liveChat(), 1, 10, 100)
		busiest := w.began + time.Duration(slices.Index(rates, slices.Max(rates)))*time.Second
		if busiest != w.trouble.from || len(rates) != seconds(w.began, w.counted.to) {
			t.Errorf("%v: of %d seconds the busiest begins at %v, the trouble at %v", d, len(rates), busiest, w.trouble.from)
		}
	}
}

// sceneMessage is one as a subscriber gets it.
func sceneMessage(flow *room, number uint64, due time.Duration) client.Message {
	payload := make([]byte, headerSize)
	header{number: number, due: due, room: uint32(flow.index)}.put(payload)
	return client.Message{Time: time.Now(), Payload: payload}
}

// TestFan: each publisher's messages are checked on their own, what was there
// before the subscriber has no latency, and one that hardly reads has none.
func TestFan(t *testing.T) {
	p := &part{rooms: []*room{{name: "r"}}, flows: make([][]*room, 1)}
	n := 5
	a, b := p.flow(0, &n), p.flow(0, &n)
	if a.index != 5 || b.index != 6 || n != 7 {
		t.Fatalf("flows %d and %d", a.index, b.index)
	}
	a.published, b.published = 3, 2
	counted := newTally(window{0, 10 * time.Second})
	p.tally.Store(counted)
	c := startClock()
	f, slow := newFan(p, 0, c), newFan(p, 0, c)
	f.since, slow.hurry = 2*time.Second, make(chan struct{})
	for _, m := range []client.Message{
		sceneMessage(a, 0, time.Second), // before it came
		sceneMessage(b, 0, 3*time.Second), sceneMessage(a, 1, 3*time.Second), sceneMessage(b, 0, 3*time.Second),
	} {
		if err := f.take(m); err != nil {
			t.Fatal(err)
		}
		if err := slow.take(m); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := f.faults(), (Faults{Missing: 2, Duplicates: 1}); got != want {
		t.Errorf("faults %+v, want %+v", got, want)
	}
	if n := counted.late.between(counted.window).TotalCount(); n != 3 {
		t.Errorf("%d latencies", n)
	}
	if n := counted.delivered[0].Load(); n != 8 {
		t.Errorf("%d were delivered", n)
	}
	if err := f.take(sceneMessage(&room{index: 9}, 0, 0)); err == nil {
		t.Error("a message of another room was taken")
	}
	if err := f.take(client.Message{Payload: []byte("hello")}); err == nil {
		t.Error("somebody else's message was taken")
	}
}

func TestJudge(t *testing.T) {
	good := SceneReport{BystanderBefore: 10, BystanderDuring: 20, HitBefore: 5, HitDuring: 500, HitEnd: 15}
	for _, tt := range []struct {
		name   string
		change func(*SceneReport)
		why    string // "": contained
	}{
		{"at the bounds", func(*SceneReport) {}, ""},
		{"bystanders suffer", func(r *SceneReport) { r.BystanderDuring = 20.1 }, "bystanders' p99 rose from 10.0 to 20.1 ms, to 2.0 ×"},
		{"no recovery", func(r *SceneReport) { r.HitEnd = 15.1 }, "the hit rooms' p99 was 5.0 ms before and is 15.1 ms in the end"},
		{"nothing comes in the end", func(r *SceneReport) { r.HitEnd = 0 }, "is 0.0 ms in the end"},
		{"one lost", func(r *SceneReport) { r.Lost = 1 }, "1 messages lost"},
		{"one doubled", func(r *SceneReport) { r.Duplicates = 1 }, "1 doubled"},
		{"one reordered", func(r *SceneReport) { r.Reordered = 1 }, "1 reordered"},
		{"all let in", func(r *SceneReport) { r.Connects = &Connects{Clients: 9} }, ""},
		{"one not let in", func(r *SceneReport) { r.Connects = &Connects{Clients: 9, Failed: 1} }, "1 of the clients that came were not let in"},
		{"no bystanders before", func(r *SceneReport) { r.BystanderBefore = 0 }, "bystanders got nothing"},
		{"no bystanders during", func(r *SceneReport) { r.BystanderDuring = 0 }, "bystanders got nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := good
			tt.change(&r)
			r.judge()
			want := NotContained
			if tt.why == "" {
				want = Contained
			}
			if r.Verdict != want || !strings.Contains(r.Why, tt.why) || r.Why == "" {
				t.Errorf("%s: %s", r.Verdict, r.Why)
			}
		})
	}
}

// TestNodesHear: the worst counts, and the leader knows the cause.
func TestNodesHear(t *testing.T) {
	hit, by := &part{rooms: []*room{{partition: 0}}}, &part{rooms: []*room{{partition: 1}, {partition: 2}}}
	var said Nodes
	for _, d := range []admin.Drift{
		{Partitions: []admin.PartitionDrift{{Partition: 0, P99Ms: 150, Cause: "leader"}, {Partition: 1, P99Ms: 20}, {Partition: 2, P99Ms: 30}}},
		{Partitions: []admin.PartitionDrift{{Partition: 0, P99Ms: 140, Cause: "append"}, {Partition: 1, P99Ms: 200, Cause: "write"}, {Partition: 3, P99Ms: 999}}},
		{Partitions: []admin.PartitionDrift{{Partition: 0, P99Ms: 1, Cause: "commit"}, {Partition: 2, P99Ms: 10}}},
		{},
	} {
		said.hear(hit, by, d)
	}
	if want := (Nodes{Hit: 150, HitCause: "append", Bystander: 200, BystanderCause: "write"}); said != want {
		t.Errorf("%+v, want %+v", said, want)
	}
}

func TestBlame(t *testing.T) {
	g := &stage{times: times{counted: window{0, 9 * time.Second}}}
	for _, cause := range []string{"write", "write", "append", "", "append", "write", "write"} {
		g.sights = append(g.sights, sight{nodes: &Nodes{BystanderCause: cause}})
	}
	during := window{2 * time.Second, 6 * time.Second}
	if got := g.blame(during); got != "append" {
		t.Errorf("blamed %q", got)
	}
	if got := g.blame(window{3 * time.Second, 4 * time.Second}); got != "" {
		t.Errorf("blamed %q, and nothing took long", got)
	}
}

func TestScenesNeedACluster(t *testing.T) {
	running := &Target{leaders: make([]string, 3)}
	local := &Target{leaders: make([]string, 3), cluster: &devcluster.Cluster{}}
	for _, tt := range []struct {
		target     *Target
		name, want string
	}{
		{running, "sports-final", "needs a cluster of its own"},
		{local, "regional-spike", "needs a cluster on a network of its own"},
	} {
		sc, ok := SceneNamed(tt.name)
		if !ok {
			t.Fatalf("there is no scene %q", tt.name)
		}
		_, err := RunScene(t.Context(), tt.target, Settings{}, sc, 1, LeastScene, func(string, float64) {})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, ok := SceneNamed("moon-landing"); ok {
		t.Error("there is a scene that nobody knows")
	}
}
