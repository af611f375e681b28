package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/roomlog/roomlog/client"
)

// Modes of RunLatency.
const (
	EndToEnd = "e2e"  // from when a message was due to its subscriber
	Sync     = "sync" // one message on its way: from publish to ack
)

// LatencyReport is what RunLatency measures. Faults are those of the subscribers
// or, in mode sync, of the acks.
type LatencyReport struct {
	Settings
	Latency
	Achieved  float64  `json:"achieved_per_s"` // messages received, or acked
	ServerCPU *float64 `json:"server_cpu_us_per_msg"`
	ClientCPU *float64 `json:"client_cpu_us_per_msg"`
	SendLate  float64  `json:"send_late_p99_ms"` // part of the latencies: how late the load generator was itself
	Faults

	Course *Course `json:"-"` // with Settings.Plot
}

// RunLatency measures how long a message takes. In mode e2e a publisher on the
// node that leads the room sends s.Rate messages a second, and a subscriber for
// each room is on another node. In mode sync a publisher has one message on its
// way, at s.Rate if that is given.
func RunLatency(ctx context.Context, t *Target, s Settings, d time.Duration, progress Progress) (*LatencyReport, error) {
	s.describe(t, d, warmUp(d))
	if s.Mode == Sync {
		return runSync(ctx, t, s, d, progress)
	}
	return runEndToEnd(ctx, t, s, d, progress)
}

func runEndToEnd(ctx context.Context, t *Target, s Settings, d time.Duration, progress Progress) (*LatencyReport, error) {
	a := newAudience(t.rooms(s.Rooms))
	defer a.close()
	at := func(i int) string { return t.nodes[i].Name }
	if err := a.dial(ctx, t, len(t.nodes), at, func(done float64) { progress("connecting", done) }); err != nil {
		return nil, err
	}
	l, err := startLoad(ctx, t, a, s.Payload, progress)
	if err != nil {
		return nil, err
	}
	defer l.close()
	first, err := l.greet(ctx, s.Rooms)
	if err != nil {
		return nil, err
	}
	away := func(i int) int { return t.other(a.rooms[i].leader) }
	if err := a.follow(ctx, first, s.Rooms, 0, away); err != nil {
		return nil, err
	}
	m, err := l.measure(ctx, order{rate: s.Rate, duration: d, course: s.Plot})
	if err != nil {
		return nil, err
	}
	cpu := m.cpu(m.due)
	return &LatencyReport{
		Settings: s, Latency: m.latency(), Achieved: m.perSecond(),
		ServerCPU: cutPtr(cpu.servers, 2), ClientCPU: cutPtr(cpu.own, 2),
		SendLate: m.sendLate, Faults: a.faults(),
		Course: m.round.recorder.course.export("due to received"),
	}, nil
}

// other is the place of a node that is not the one named, if there is one.
func (t *Target) other(node string) int {
	return (t.place(node) + 1) % len(t.nodes)
}

func runSync(ctx context.Context, t *Target, s Settings, d time.Duration, progress Progress) (*LatencyReport, error) {
	rooms := t.rooms(s.Rooms)
	c, err := t.dial(ctx, rooms[0].leader)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	l := syncLoad{client: c, rooms: rooms, payload: make([]byte, s.Payload), checks: make([]checker, len(rooms))}
	l.recorder.course = newCourse(loadWindow(0, d), s.Plot)
	report := &LatencyReport{Settings: s}
	if err := l.measure(ctx, t, report, loadWindow(0, d), progress); err != nil {
		return nil, err
	}
	for i, r := range rooms {
		info, err := c.Room(ctx, r.name)
		if err != nil {
			return nil, err
		}
		report.Faults.add(l.checks[i].end(r.published))
		report.Duplicates += max(0, int64(info.Last-r.published))
		report.Missing += max(0, int64(r.published-info.Last))
	}
	report.Course = l.recorder.course.export("publish to ack")
	return report, nil
}

// syncLoad has one message on its way. All belongs to the goroutine that
// publishes, until it has ended.
type syncLoad struct {
	client   *client.Client
	clock    clock
	rooms    []*room
	checks   []checker // of the acks, by room
	payload  []byte
	window   window
	recorder recorder
	late     recorder
	counted  int64
}

func (l *syncLoad) measure(ctx context.Context, t *Target, report *LatencyReport, w window, progress Progress) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.clock, l.window = startClock(), w
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.publish(ctx, report.Rate); err != nil {
			cancel(err)
		}
	}()
	from, to, err := t.measure(ctx, l.clock, w, func(done float64) { progress("publishing", done) })
	if err != nil {
		cancel(err)
	}
	<-done
	if err := context.Cause(ctx); err != nil {
		return err
	}
	cpu := from.per(to, w.length(), l.counted)
	report.Achieved = cut(float64(l.counted)/w.length().Seconds(), 1)
	report.Latency = latencyOf(l.recorder.total())
	report.SendLate = latencyOf(l.late.total()).P99
	report.ServerCPU, report.ClientCPU = cutPtr(cpu.servers, 2), cutPtr(cpu.own, 2)
	return nil
}

// publish goes on until the end of the window.
func (l *syncLoad) publish(ctx context.Context, rate float64) error {
	if rate > 0 {
		s := schedule{rate}
		return s.run(ctx, l.clock, s.count(l.window.to), func(n int, due time.Duration) error {
			if l.window.has(due) {
				l.late.record(0, due, l.clock.now()-due)
			}
			return l.one(ctx, n, due)
		})
	}
	for n := 0; ; n++ {
		now := l.clock.now()
		if now >= l.window.to {
			return nil
		}
		if err := l.one(ctx, n, now); err != nil {
			return err
		}
	}
}

func (l *syncLoad) one(ctx context.Context, n int, since time.Duration) error {
	i := n % len(l.rooms)
	r := l.rooms[i]
	receipt, err := l.client.Publish(ctx, r.name, l.payload)
	if err != nil {
		return fmt.Errorf("publish to %s: %w", r.name, err)
	}
	now := l.clock.now()
	l.checks[i].see(receipt.Seq - 1)
	r.published++
	if l.window.has(now) {
		l.counted++
		l.recorder.record(0, now, now-since)
	}
	return nil
}
