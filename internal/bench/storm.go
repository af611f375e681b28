package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
	ClientCPU  *float64 `json:"client_cpu_s"` // of the clients' process, in the same time
}

const (
	stormBefore   = 5 * time.Second  // the load alone
	stormLimit    = 60 * time.Second // until all have resumed
	bystanderRate = 100              // messages a second
)

// RunStorm has s.Clients subscribers follow s.Rooms rooms, at s.Rate messages a second
// over all of them, all on one node, which then fails. They are a process of their own,
// of binary. Bystanders follow rooms of their own on the other nodes and are led from there.
func RunStorm(ctx context.Context, binary string, t *Target, s Settings, bystanders int, fault Fault, progress Progress) (*StormReport, error) {
	if !t.Local() {
		return nil, errors.New("a node is made to fail: that needs a cluster of its own")
	}
	s.describe(t, 0, stormBefore)
	r := &StormReport{Settings: s, Fault: fault, Bystanders: bystanders, Aside: bystanderRate}
	w := newStorm(t, r)
	defer w.close()
	if err := w.gather(ctx, binary, progress); err != nil {
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

	crowd  *crowdProcess
	aside  *load
	talk   *talk      // to the bystanders
	failed chan error // the publisher's

	failedAt atomic.Int64  // of the bystanders' clock, 0: not yet
	over     chan struct{} // closed when the crowd has resumed, or is not waited for any more
	before   recorder
	during   recorder
}

// newStorm decides which node fails.
func newStorm(t *Target, r *StormReport) *storm {
	return &storm{
		target: t, report: r, victim: t.nodes[0].Name, left: t.nodes[1:],
		failed: make(chan error, 1), over: make(chan struct{}),
	}
}

// gather connects everybody and returns when each subscriber has had a message.
func (w *storm) gather(ctx context.Context, binary string, progress Progress) (err error) {
	layout := w.target.cluster.Layout()
	w.crowd, err = startCrowd(binary, crowdOrder{
		Nodes: w.target.nodes, Leaders: w.target.leaders, CA: layout.CA, Token: layout.Token,
		Victim: w.victim, Settings: w.report.Settings,
	}, progress)
	if err != nil {
		return err
	}
	if err := w.wait(ctx, 0, w.crowd.gathered); err != nil {
		return err
	}
	if err := w.reserves(ctx, progress); err != nil {
		return err
	}
	elsewhere := slices.DeleteFunc(w.target.rooms(w.target.Partitions()), func(r *room) bool { return r.leader == w.victim })
	if len(elsewhere) == 0 {
		return errors.New("all partitions are led by the node that is to fail: take more partitions")
	}
	others := func(ctx context.Context, i int) (*client.Client, error) {
		return w.target.dial(ctx, w.left[i%len(w.left)].Name)
	}
	w.aside, err = assemble(ctx, w.target, elsewhere[:min(len(elsewhere), 2)], w.report.Bystanders, w.report.Payload, others, w.heardAside, progress)
	return err
}

// reserves returns when the clients have their connections in reserve, if they are to, but
// for a few: of others only the crowd's publisher has connected to the nodes that are left.
func (w *storm) reserves(ctx context.Context, progress Progress) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stormLimit, errors.New("the clients have no connections in reserve after a minute"))
	defer cancel()
	for w.report.Standby {
		admitted, _, err := w.handshakes(ctx)
		if err != nil || admitted >= int64(w.report.Clients) {
			return err
		}
		progress("connecting in reserve", float64(admitted)/float64(w.report.Clients))
		if err := w.wait(ctx, askAgain, nil); err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
	}
	return nil
}

func (w *storm) close() {
	w.talk.close()
	if w.aside != nil {
		w.aside.close()
		w.aside.audience.close()
	}
	if w.crowd != nil {
		w.crowd.close()
	}
}

// run makes the node fail in the middle of the talk.
func (w *storm) run(ctx context.Context, progress Progress) error {
	w.talk = startTalk(ctx, w.aside, bystanderRate, func(err error) { w.failed <- err })
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
	progress("the storm", 0.5)
	if err := w.strike(ctx); err != nil {
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

// strike makes the node fail and returns when the crowd has resumed, or has had its time.
func (w *storm) strike(ctx context.Context) error {
	defer close(w.over)
	failed := time.Now()
	w.failedAt.Store(int64(w.aside.audience.clock.now()))
	err := w.inject()
	if err == nil {
		err = w.crowd.tell(crowdWord{Failed: failed})
	}
	if err == nil {
		err = w.wait(ctx, stormLimit, w.target.cluster.Ended(w.victim))
	}
	if err != nil {
		return err
	}
	ended := time.Now()
	w.report.Ended = cut(float64(ended.Sub(failed))/1e6, 1)
	if err := w.crowd.tell(crowdWord{Ended: ended}); err != nil {
		return err
	}
	return w.wait(ctx, stormLimit, w.crowd.resumed)
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

// wait waits for d (0: without end) or until early is closed, or returns what has failed.
func (w *storm) wait(ctx context.Context, d time.Duration, early <-chan struct{}) error {
	var late <-chan time.Time
	if d > 0 {
		late = time.After(d)
	}
	var lost chan error // a bystander's
	if w.aside != nil {
		lost = w.aside.audience.failed
	}
	select {
	case <-late:
		return nil
	case <-early:
		return nil
	case err := <-w.failed:
		return err
	case err := <-w.crowd.failed:
		return err
	case err := <-lost:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heardAside records how late a message came to a bystander.
func (w *storm) heardAside(s *subscriber, h header, now time.Duration) {
	failed := time.Duration(w.failedAt.Load())
	into := &w.before
	if failed != 0 && h.due >= failed {
		select {
		case <-w.over:
			return
		default:
		}
		into = &w.during
	}
	into.record(s.index, h.due, now-h.due)
}

// finish waits for the last message of both audiences and tells what was found.
func (w *storm) finish(ctx context.Context, progress Progress) error {
	progress("waiting for the last message", 1)
	if err := w.crowd.tell(crowdWord{Finish: true}); err != nil {
		return err
	}
	faults, err := w.aside.finish(ctx, w.talk)
	if err != nil {
		return err
	}
	r := w.report
	select {
	case c := <-w.crowd.reported:
		faults.add(c.Faults)
		r.Unresumed = c.Unresumed
		r.Resumed50, r.Resumed99, r.ResumedMax = c.Resumed.P50, c.Resumed.P99, c.Resumed.Max
		r.Silence50, r.Silence99, r.SilenceMax = c.Silence.P50, c.Silence.P99, c.Silence.Max
	case err := <-w.crowd.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	r.Lost, r.Duplicates, r.Reordered = faults.Missing, faults.Duplicates, faults.Reordered
	before, during := latencyOf(w.before.total()), latencyOf(w.during.total())
	r.P50Before, r.P99Before = before.P50, before.P99
	r.P50During, r.P99During = during.P50, during.P99
	return nil
}

// usage is CPU time so far, of the nodes that are left and of the crowd.
func (w *storm) usage() (usage, error) {
	u := usage{at: w.aside.audience.clock.now(), known: true}
	var err error
	if u.own, err = processCPU(w.crowd.cmd.Process.Pid); err != nil {
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
