package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// FanoutReport is what RunFanout measures. Latencies are from when a message was
// due to each of its subscribers.
type FanoutReport struct {
	Settings
	Deliveries float64 `json:"deliveries_per_s"`
	Latency
	Spread    float64  `json:"spread_ms"`     // p99 - p50 of a message among the subscribers of its room: the median over all messages
	SpreadP99 float64  `json:"spread_p99_ms"` // the same: p99 over all messages
	ServerCPU *float64 `json:"server_cpu_us_per_delivery"`
	ClientCPU *float64 `json:"client_cpu_us_per_delivery"`
	RSS       *float64 `json:"rss_mb"` // of all servers, 10^6 bytes, at the end
	SendLate  float64  `json:"send_late_p99_ms"`
	Faults             // of all subscribers but those that have stopped reading

	Searched []Step  `json:"searched,omitempty"` // by RunFanoutSearch
	Course   *Course `json:"-"`
}

// fanout is subscribers and a publisher, ready.
type fanout struct {
	*load
	settings Settings
	seen     Faults // of the rounds before
}

// startFanout connects s.Conns clients, spread over the nodes, and subscribes s.Subs
// times with them; then s.Stalled more, which stop reading after one message.
func startFanout(ctx context.Context, t *Target, s Settings, progress Progress) (f *fanout, err error) {
	a := newAudience(t.rooms(s.Rooms))
	f = &fanout{settings: s}
	defer func() {
		if err != nil {
			f.close(a)
		}
	}()
	at := func(i int) string { return t.nodes[i%len(t.nodes)].Name }
	tell := func(done float64) { progress("connecting", done) }
	if err := a.dial(ctx, t, s.Conns+s.Stalled, at, tell); err != nil {
		return f, err
	}
	if f.load, err = startLoad(ctx, t, a, s.Payload, progress); err != nil {
		return f, err
	}
	first, err := f.greet(ctx, s.Subs+s.Stalled)
	if err != nil {
		return f, err
	}
	return f, a.follow(ctx, first, s.Subs, s.Stalled, func(i int) int {
		if i < s.Subs {
			return i % s.Conns
		}
		return s.Conns + i - s.Subs
	})
}

func (f *fanout) close(a *audience) {
	if f.load != nil {
		f.load.close()
	}
	a.close()
}

// RunFanout publishes s.Rate messages a second, over all rooms, to s.Subs
// subscribers.
func RunFanout(ctx context.Context, t *Target, s Settings, d time.Duration, progress Progress) (*FanoutReport, error) {
	s.describe(t, d, warmUp(d))
	f, err := startFanout(ctx, t, s, progress)
	if err != nil {
		return nil, err
	}
	defer f.close(f.audience)
	m, err := f.measure(ctx, order{rate: s.Rate, duration: d, course: s.Plot, spread: true})
	if err != nil {
		return nil, err
	}
	return f.report(s, m), nil
}

// report makes a report of a round; its faults are those since the last report.
func (f *fanout) report(s Settings, m *measured) *FanoutReport {
	cpu := m.cpu(m.round.inTime.Load())
	spread := latencyOf(m.round.spreads.recorder.total())
	r := &FanoutReport{
		Settings: s, Deliveries: m.perSecond(), Latency: m.latency(),
		Spread: spread.P50, SpreadP99: spread.P99,
		ServerCPU: cutPtr(cpu.servers, 3), ClientCPU: cutPtr(cpu.own, 3),
		SendLate: m.sendLate, Faults: f.newFaults(),
		Course: m.round.recorder.course.export("due to received"),
	}
	if f.target.Local() {
		mb := cut(float64(m.resident)/1e6, 1)
		r.RSS = &mb
	}
	return r
}

func (f *fanout) newFaults() Faults {
	before := f.seen
	f.seen = f.audience.faults()
	return Faults{
		Missing:    f.seen.Missing - before.Missing,
		Duplicates: f.seen.Duplicates - before.Duplicates,
		Reordered:  f.seen.Reordered - before.Reordered,
	}
}

// Step is a rate that a search has tried.
type Step struct {
	Rate       float64 `json:"rate"`
	P99        float64 `json:"p99_ms"`
	Deliveries float64 `json:"deliveries_per_s"`
	Held       bool    `json:"held"`
}

// RunFanoutSearch looks for the highest rate at which the p99 latency is at most
// limit and nothing goes wrong. It begins with s.Rate, doubles or halves it until
// that is between two tries, and then narrows that to a tenth. It returns the
// report of the highest rate that held; Settings.Rate is that rate.
func RunFanoutSearch(ctx context.Context, t *Target, s Settings, d, limit time.Duration, progress Progress) (*FanoutReport, error) {
	s.describe(t, d, warmUp(d))
	s.Limit = float64(limit) / 1e6
	f, err := startFanout(ctx, t, s, progress)
	if err != nil {
		return nil, err
	}
	defer f.close(f.audience)
	var best *FanoutReport
	var steps []Step
	err = search(s.Rate, func(rate float64) (bool, error) {
		r, err := f.try(ctx, rate, d, limit)
		if err != nil {
			return false, err
		}
		held := r.P99 <= s.Limit && r.Faults == Faults{}
		steps = append(steps, Step{Rate: rate, P99: r.P99, Deliveries: r.Deliveries, Held: held})
		if held {
			best = r // a higher rate than any before: search tries no lower one once one has held
		}
		return held, nil
	})
	if err == nil && best == nil {
		err = fmt.Errorf("no rate holds: even %v messages a second are received with a p99 of %.0f ms",
			steps[len(steps)-1].Rate, steps[len(steps)-1].P99)
	}
	if err != nil {
		return nil, err
	}
	best.Searched = steps
	return best, nil
}

// try measures one rate. A round that is hopeless ends early and reports the
// latencies of what has come.
func (f *fanout) try(ctx context.Context, rate float64, d, limit time.Duration) (*FanoutReport, error) {
	s := f.settings
	s.Rate = rate
	m, err := f.measure(ctx, order{rate: rate, duration: d, spread: true, hopeless: 8 * limit})
	if err != nil && !errors.Is(err, errHopeless) {
		return nil, err
	}
	r := f.report(s, m)
	if err != nil {
		r.P99 = max(r.P99, float64(8*limit)/1e6)
	}
	return r, nil
}

// search finds the highest rate that holds, to a tenth: it doubles or halves
// first until one holds and twice that does not, then bisects. Below a message
// in ten seconds it gives up.
func search(first float64, holds func(rate float64) (bool, error)) error {
	const least, near = 0.1, 1.1
	low, high := 0.0, 0.0 // the highest that held, the lowest that did not
	for rate := first; ; {
		held, err := holds(rate)
		if err != nil {
			return err
		}
		if held {
			low = rate
		} else {
			high = rate
		}
		switch {
		case high == 0:
			rate *= 2
		case low == 0:
			if rate /= 2; rate < least {
				return nil
			}
		case high/low <= near:
			return nil
		default:
			rate = roundRate((low + high) / 2)
		}
	}
}

// roundRate leaves three digits: figures people can say.
func roundRate(rate float64) float64 {
	unit := 1.0
	for rate/unit >= 1000 {
		unit *= 10
	}
	for rate/unit < 100 {
		unit /= 10
	}
	return cut(rate/unit, 0) * unit
}
