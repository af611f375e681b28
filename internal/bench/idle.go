package bench

import (
	"context"
	"time"
)

// IdleReport is what RunIdle measures. What is not known of servers elsewhere is
// null.
type IdleReport struct {
	Settings
	RSSPerConn *float64 `json:"rss_kib_per_conn"` // what the servers have grown by, of all together, for each connection
	RSSBefore  *float64 `json:"rss_before_mb"`    // of all servers, 10^6 bytes, before the first connection
	RSSAfter   *float64 `json:"rss_after_mb"`
	ServerCPU  *float64 `json:"server_cpu_cores"` // while all are idle, of all servers together
	Connects   float64  `json:"connects_per_s"`   // while the connections were made
	ConnectCPU *float64 `json:"server_cpu_ms_per_connect"`
	Faults              // each subscriber gets a message before and one after
}

// RunIdle connects s.Subs subscribers, each over a connection of its own, and
// measures what they cost while nothing happens.
//
// Servers' memory is read before and after when it has come to rest: garbage of
// the handshakes is collected first, on both occasions, as Go would do by
// itself after two minutes.
func RunIdle(ctx context.Context, t *Target, s Settings, d time.Duration, progress Progress) (*IdleReport, error) {
	s.describe(t, d, 0)
	a := newAudience(t.rooms(s.Rooms))
	defer a.close()
	l, err := startLoad(ctx, t, a, MinPayload, progress)
	if err != nil {
		return nil, err
	}
	defer l.close()
	i := idle{load: l, report: &IdleReport{Settings: s}}
	if err := i.run(ctx, d); err != nil {
		return nil, err
	}
	return i.report, nil
}

// idle is one run of RunIdle.
type idle struct {
	*load
	report *IdleReport
}

func (i *idle) run(ctx context.Context, d time.Duration) error {
	// The first message opens rooms and sessions before anything is measured.
	first, err := i.greet(ctx, i.report.Subs)
	if err != nil {
		return err
	}
	before, err := i.rest(ctx)
	if err != nil {
		return err
	}
	if err := i.connect(ctx, first); err != nil {
		return err
	}
	after, err := i.rest(ctx)
	if err != nil {
		return err
	}
	if err := i.watch(ctx, d); err != nil {
		return err
	}
	i.fillMemory(before, after)
	last := i.newRound(window{}, i.report.Subs)
	i.audience.round.Store(last)
	if err := i.speaker.end(ctx, i.audience, last); err != nil && err != errSilence {
		return err // after errSilence the missing messages tell
	}
	i.report.Faults = i.audience.faults()
	return nil
}

// connect makes all connections and returns when each subscriber has got the
// first message.
func (i *idle) connect(ctx context.Context, first *round) error {
	t, n, c := i.target, i.report.Subs, i.audience.clock
	from, err := t.usage(c.now())
	if err != nil {
		return err
	}
	at := func(i int) string { return t.nodes[i%len(t.nodes)].Name }
	if err := i.audience.dial(ctx, t, n, at, func(done float64) { i.progress("connecting", done) }); err != nil {
		return err
	}
	i.progress("subscribing", 0)
	if err := i.audience.follow(ctx, first, n, 0, func(i int) int { return i }); err != nil {
		return err
	}
	to, err := t.usage(c.now())
	if err != nil {
		return err
	}
	took := to.at - from.at
	i.report.Connects = cut(float64(n)/took.Seconds(), 1)
	if cpu := from.per(to, took, int64(n)).servers; cpu != nil {
		ms := *cpu / 1e3
		i.report.ConnectCPU = cutPtr(&ms, 3)
	}
	return nil
}

// watch measures the CPU time of d.
func (i *idle) watch(ctx context.Context, d time.Duration) error {
	c := i.audience.clock
	began := c.now()
	tell := func(float64) { i.progress("idle", float64(c.now()-began)/float64(d)) }
	from, to, err := i.target.measure(ctx, c, window{began, began + d}, tell)
	if err != nil {
		return err
	}
	if from.known {
		cores := cut(float64(to.servers-from.servers)/float64(to.at-from.at), 4)
		i.report.ServerCPU = &cores
	}
	return nil
}

func (i *idle) fillMemory(before, after int64) {
	if !i.target.Local() {
		return
	}
	mb := func(bytes int64) *float64 { v := cut(float64(bytes)/1e6, 1); return &v }
	i.report.RSSBefore, i.report.RSSAfter = mb(before), mb(after)
	kib := cut(float64(after-before)/1024/float64(i.report.Subs), 2)
	i.report.RSSPerConn = &kib
}

// Memory is at rest when it has hardly fallen for some looks, or some time has
// passed: Go gives back to the system slowly what it has freed.
const (
	restLook  = 300 * time.Millisecond
	restLooks = 6
	restLimit = 30 * time.Second
)

// rest has the servers collect their garbage and returns their memory when it
// hardly falls any more; 0 if it is not known.
func (i *idle) rest(ctx context.Context) (int64, error) {
	if !i.target.Local() {
		return 0, nil
	}
	for _, n := range i.target.nodes {
		if err := i.target.ops.collectGarbage(ctx, n); err != nil {
			return 0, err
		}
	}
	c := i.audience.clock
	began := c.now()
	var last []int64
	for {
		bytes, err := sumOf(i.target, residentBytes)
		if err != nil {
			return 0, err
		}
		if last = append(last, bytes); atRest(last) || c.now()-began > restLimit {
			return bytes, nil
		}
		i.progress("waiting until memory is at rest", float64(c.now()-began)/float64(restLimit))
		if err := c.sleepUntil(ctx, c.now()+restLook, nil); err != nil {
			return 0, err
		}
	}
}

// atRest tells whether memory has fallen by less than half a percent over the last
// looks. That it grows a little is what servers do.
func atRest(looks []int64) bool {
	if len(looks) < restLooks {
		return false
	}
	before, now := looks[len(looks)-restLooks], looks[len(looks)-1]
	return before-now < before/200
}
