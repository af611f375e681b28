package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/client"
)

// StormReport is what RunStorm measures. Counts of handshakes are of the nodes that
// are left.
type StormReport struct {
	Settings
	Fault      Fault   `json:"fault"`
	Bystanders int     `json:"bystanders"`      // subscribers on other nodes
	Aside      float64 `json:"bystanders_rate"` // messages a second, over the rooms that they follow

	Resumed50  float64 `json:"resumed_50_ms"` // from the fault until a client of the node has the first message published after the node had ended
	Resumed99  float64 `json:"resumed_99_ms"`
	ResumedMax float64 `json:"resumed_max_ms"`
	Unresumed  int     `json:"unresumed"`     // clients that have never got one
	Ended      float64 `json:"ended_ms"`      // from the fault until the process has ended: a draining node takes its time
	Silence50  float64 `json:"silence_50_ms"` // the longest that a client had no message, from the fault until it resumed
	Silence99  float64 `json:"silence_99_ms"`
	SilenceMax float64 `json:"silence_max_ms"`

	P50Before float64 `json:"bystander_p50_before_ms"` // from when a message was due to a subscriber elsewhere
	P99Before float64 `json:"bystander_p99_before_ms"`
	P50During float64 `json:"bystander_p50_during_ms"` // from the fault until the last client has resumed
	P99During float64 `json:"bystander_p99_during_ms"`

	Lost       int64    `json:"lost"` // published, but never received
	Duplicates int64    `json:"duplicates"`
	Reordered  int64    `json:"reordered"`
	Admitted   int64    `json:"handshakes_admitted"`
	Refused    int64    `json:"handshakes_refused"`
	ServerCPU  *float64 `json:"server_cpu_s"` // of the nodes left, from the fault until the last client has resumed
	ClientCPU  *float64 `json:"client_cpu_s"` // of the load generator, in the same time
}

const (
	stormBefore   = 5 * time.Second  // the load alone
	stormLimit    = 60 * time.Second // until all have resumed
	bystanderRate = 100              // messages a second
)

// RunStorm has s.Clients subscribers follow s.Rooms rooms, at s.Rate messages a second
// over all of them, all on one node, which then fails. Bystanders follow
// rooms of their own on the other nodes and are led from there.
func RunStorm(ctx context.Context, t *Target, s Settings, bystanders int, fault Fault, progress Progress) (*StormReport, error) {
	if !t.Local() {
		return nil, errors.New("a node is made to fail: that needs a cluster of its own")
	}
	s.describe(t, 0, stormBefore)
	r := &StormReport{Settings: s, Fault: fault, Bystanders: bystanders, Aside: bystanderRate}
	w := newStorm(t, r)
	defer w.close()
	if err := w.gather(ctx, progress); err != nil {
		return nil, err
	}
	return r, w.run(ctx, progress)
}

// storm is one run of RunStorm.
type storm struct {
	target *Target
	report *StormReport
	left   []client.Node // nodes that do not fail
	victim string

	crowd, aside *load
	talking      chan struct{} // closed when the talk has ended
	stop         func()        // ends the talk
	abandon      func()        // and what of it has not been sent yet
	failed       chan error    // the first one's

	failedAt atomic.Int64 // of the crowd's clock, 0: not yet
	endedAt  atomic.Int64 // when the process was gone, likewise
	mu       sync.Mutex
	refugees []refugee     // by subscriber
	awaited  int           // that have not resumed
	all      chan struct{} // closed when awaited falls to 0
	before   recorder
	during   recorder
}

// refugee is a subscriber of the node that fails.
type refugee struct {
	heard   time.Duration // the last message
	silence time.Duration // the longest, from the fault on
	resumed time.Duration // 0: not yet
}

// newStorm decides which node fails.
func newStorm(t *Target, r *StormReport) *storm {
	return &storm{
		target: t, report: r, victim: t.nodes[0].Name, left: t.nodes[1:],
		failed:   make(chan error, 1),
		refugees: make([]refugee, r.Clients), awaited: r.Clients, all: make(chan struct{}),
	}
}

// gather connects everybody and returns when each subscriber has had a message.
func (w *storm) gather(ctx context.Context, progress Progress) (err error) {
	s := w.report.Settings
	there := func(ctx context.Context, _ int) (*client.Client, error) { return w.target.dialOnly(ctx, w.victim) }
	if w.crowd, err = w.assemble(ctx, w.target.rooms(s.Rooms), s.Clients, there, w.heard, progress); err != nil {
		return err
	}
	elsewhere := slices.DeleteFunc(w.target.rooms(w.target.Partitions()), func(r *room) bool { return r.leader == w.victim })
	if len(elsewhere) == 0 {
		return errors.New("all partitions are led by the node that is to fail: take more partitions")
	}
	others := func(ctx context.Context, i int) (*client.Client, error) {
		return w.target.dial(ctx, w.left[i%len(w.left)].Name)
	}
	w.aside, err = w.assemble(ctx, elsewhere[:min(len(elsewhere), 2)], w.report.Bystanders, others, w.heardAside, progress)
	return err
}

// assemble is a load with an audience of n.
func (w *storm) assemble(ctx context.Context, rooms []*room, n int, dial func(context.Context, int) (*client.Client, error),
	hear func(*subscriber, header, time.Duration), progress Progress) (l *load, err error) {
	a := newAudience(rooms)
	a.hear = hear
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.clients, err = dialEach(ctx, n, dial, func(done float64) { progress("connecting", done) }); err != nil {
		return nil, err
	}
	if l, err = startLoad(ctx, w.target, a, w.report.Payload, progress); err != nil {
		return nil, err
	}
	first, err := l.greet(ctx, n)
	if err == nil {
		err = a.follow(ctx, first, n, 0, func(i int) int { return i })
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (w *storm) close() {
	if w.talking != nil {
		w.abandon()
		<-w.talking
	}
	for _, l := range []*load{w.crowd, w.aside} {
		if l != nil {
			l.close()
			l.audience.close()
		}
	}
}

// run makes the node fail in the middle of the talk.
func (w *storm) run(ctx context.Context, progress Progress) error {
	w.talk(ctx)
	progress("before the storm", 0)
	if err := w.wait(ctx, stormBefore, nil); err != nil {
		return err
	}
	admitted, refused, err := w.handshakes(ctx)
	if err != nil {
		return err
	}
	from, err := w.usage()
	if err != nil {
		return err
	}
	w.failedAt.Store(int64(w.crowd.audience.clock.now()))
	if err := w.inject(); err != nil {
		return err
	}
	progress("the storm", 0.5)
	if err := w.wait(ctx, stormLimit, w.target.cluster.Ended(w.victim)); err != nil {
		return err
	}
	w.endedAt.Store(int64(w.crowd.audience.clock.now()))
	if err := w.wait(ctx, stormLimit, w.all); err != nil {
		return err
	}
	to, err := w.usage()
	if err != nil {
		return err
	}
	if err := w.finish(ctx, progress); err != nil {
		return err
	}
	r := w.report
	r.Duration = cut((to.at - from.at).Seconds(), 3)
	r.ServerCPU, r.ClientCPU = cpuSeconds(to.servers-from.servers), cpuSeconds(to.own-from.own)
	r.Admitted, r.Refused, err = w.handshakes(ctx)
	r.Admitted, r.Refused = r.Admitted-admitted, r.Refused-refused
	return err
}

func cpuSeconds(d time.Duration) *float64 {
	s := cut(d.Seconds(), 3)
	return &s
}

// inject makes the node fail.
func (w *storm) inject() error {
	switch w.report.Fault {
	case FaultKill:
		return w.target.cluster.Kill(w.victim)
	case FaultDrain:
		return w.target.cluster.Terminate(w.victim)
	}
	return fmt.Errorf("there is no storm by %q", w.report.Fault)
}

// talk publishes to both audiences until stop. What is sent outlives that: it is
// checked like the rest.
func (w *storm) talk(ctx context.Context) {
	sending, abandon := context.WithCancel(ctx)
	talking, stop := context.WithCancel(sending)
	w.stop, w.abandon, w.talking = stop, abandon, make(chan struct{})
	speak := func(l *load, rate float64) {
		from := clock{l.audience.clock.began.Add(l.audience.clock.now())}
		began := from.began.Sub(l.audience.clock.began)
		w.note(schedule{rate}.run(talking, from, math.MaxInt32, func(i int, due time.Duration) error {
			if talking.Err() != nil {
				return talking.Err()
			}
			return l.speaker.say(sending, l.audience.rooms[i%len(l.audience.rooms)], began+due, 0)
		}))
	}
	var speakers sync.WaitGroup
	speakers.Go(func() { speak(w.crowd, w.report.Rate) })
	speakers.Go(func() { speak(w.aside, bystanderRate) })
	go func() {
		speakers.Wait()
		close(w.talking)
	}()
}

// fallSilent ends the talk. A publisher that cannot get rid of its messages is given
// patience: a partition may have no leader.
func (w *storm) fallSilent() error {
	w.stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-w.talking:
		return nil
	case <-late.C:
		return errStuck
	}
}

func (w *storm) note(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	select {
	case w.failed <- err:
	default:
	}
}

// wait waits for d or until early is closed, or returns what has failed.
func (w *storm) wait(ctx context.Context, d time.Duration, early <-chan struct{}) error {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-late.C:
		return nil
	case <-early:
		return nil
	case err := <-w.failed:
		return err
	case err := <-w.crowd.audience.failed:
		return err
	case err := <-w.aside.audience.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heard takes note of the silences of a subscriber of the crowd, and of the first
// message that it gets of those published after the node had ended: until then that may still
// serve. What came before it has come in order, or is missing.
func (w *storm) heard(s *subscriber, h header, now time.Duration) {
	failed, ended := time.Duration(w.failedAt.Load()), time.Duration(w.endedAt.Load())
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &w.refugees[s.index]
	if failed != 0 && r.resumed == 0 {
		r.silence = max(r.silence, now-max(r.heard, failed))
	}
	r.heard = now
	if ended == 0 || h.due < ended || r.resumed != 0 {
		return
	}
	r.resumed = now - failed
	if w.awaited--; w.awaited == 0 {
		close(w.all)
	}
}

// heardAside records how late a message came to a bystander. Both clocks are one.
func (w *storm) heardAside(s *subscriber, h header, now time.Duration) {
	due := w.aside.audience.clock.began.Add(h.due).Sub(w.crowd.audience.clock.began)
	failed := time.Duration(w.failedAt.Load())
	into := &w.before
	if failed != 0 && due >= failed {
		select {
		case <-w.all:
			return // the storm is over
		default:
		}
		into = &w.during
	}
	into.record(s.index, h.due, now-h.due)
}

// finish ends the talk, waits for the last message of both audiences and tells what
// was found.
func (w *storm) finish(ctx context.Context, progress Progress) error {
	if err := w.fallSilent(); err != nil {
		return err
	}
	progress("waiting for the last message", 1)
	var faults Faults
	for _, l := range []*load{w.crowd, w.aside} {
		last := l.newRound(window{}, len(l.audience.subs))
		l.audience.round.Store(last)
		if err := l.speaker.end(ctx, l.audience, last); err != nil && err != errSilence {
			return err // after errSilence the missing messages tell
		}
		faults.add(l.audience.faults())
	}
	r := w.report
	r.Lost, r.Duplicates, r.Reordered = faults.Missing, faults.Duplicates, faults.Reordered
	w.tellRefugees()
	before, during := latencyOf(w.before.total()), latencyOf(w.during.total())
	r.P50Before, r.P99Before = before.P50, before.P99
	r.P50During, r.P99During = during.P50, during.P99
	return nil
}

// tellRefugees tells how the crowd fared.
func (w *storm) tellRefugees() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var resumed, silences []time.Duration
	for _, r := range w.refugees {
		if r.resumed != 0 {
			resumed, silences = append(resumed, r.resumed), append(silences, r.silence)
		}
	}
	r := w.report
	r.Unresumed = r.Clients - len(resumed)
	r.Ended = cut(float64(w.endedAt.Load()-w.failedAt.Load())/1e6, 1)
	g := gapsOf(resumed)
	r.Resumed50, r.Resumed99, r.ResumedMax = g.P50, g.P99, g.Max
	g = gapsOf(silences)
	r.Silence50, r.Silence99, r.SilenceMax = g.P50, g.P99, g.Max
}

// usage is CPU time so far, of the nodes that are left.
func (w *storm) usage() (usage, error) {
	u := usage{at: w.crowd.audience.clock.now(), known: true}
	var err error
	if u.own, err = ownCPU(); err != nil {
		return u, err
	}
	for _, n := range w.left {
		pid, ok := w.target.cluster.PID(n.Name)
		if !ok {
			return u, fmt.Errorf("%s has ended while it was measured", n.Name)
		}
		used, err := processCPU(pid)
		if err != nil {
			return u, err
		}
		u.servers += used
	}
	return u, nil
}

// handshakes are those that the nodes left have admitted and refused so far.
func (w *storm) handshakes(ctx context.Context) (admitted, refused int64, err error) {
	for _, n := range w.left {
		metrics, err := w.target.ops.metrics(ctx, n)
		if err != nil {
			return 0, 0, err
		}
		admitted += int64(metrics["roomlog_handshakes_admitted_total"])
		refused += int64(metrics["roomlog_handshakes_refused_total"])
	}
	return admitted, refused, nil
}
