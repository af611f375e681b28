package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// SceneReport is what RunScene measures. Latencies are from when a message was
// due to each of its subscribers, but those that hardly read.
type SceneReport struct {
	Settings
	Scene    string         `json:"scene"`
	Scale    float64        `json:"scale"`
	Surge    float64        `json:"surge,omitempty"` // of the hit rooms' rate, in the busiest second
	Seconds  []Second       `json:"seconds"`
	Events   []Event        `json:"events"`
	Injected map[string]int `json:"faults"`
	Connects *Connects      `json:"connects,omitempty"` // of clients that came during the trouble

	Lost       int64 `json:"lost"` // acked, but never received
	Duplicates int64 `json:"duplicates"`
	Reordered  int64 `json:"reordered"`

	BystanderBefore float64 `json:"bystander_p99_before_ms"`
	BystanderDuring float64 `json:"bystander_p99_during_ms"`
	HitBefore       float64 `json:"hit_p99_before_ms"`
	HitDuring       float64 `json:"hit_p99_during_ms"`
	HitEnd          float64 `json:"hit_p99_end_ms"` // in the last third of the recovery
	SendLate        float64 `json:"send_late_p99_ms"`

	Verdict string `json:"verdict"`
	Why     string `json:"why"`

	Course *Course `json:"-"` // of the bystanders
}

// Second is one of a scene. Latencies are of what was due in it, Delivered counts
// what came in it, to those that hardly read as well.
type Second struct {
	At        int      `json:"t"`
	Hit       Lateness `json:"hit"`
	Bystander Lateness `json:"bystander"`
	Published int64    `json:"published"`
	Delivered int64    `json:"delivered"`
	Cores     *float64 `json:"cpu_cores"` // processors that the servers and the load generator used; null where it is not known
	Nodes     *Nodes   `json:"nodes"`
}

// Lateness is how late messages were, in milliseconds: from when they were due to
// received, and their drift, from when their leader took them to received.
type Lateness struct {
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	Max      float64 `json:"max"`
	DriftP50 float64 `json:"drift_p50"`
	DriftP99 float64 `json:"drift_p99"`
	DriftMax float64 `json:"drift_max"`
}

// Connects is how long clients took to connect, from when they were due, in
// milliseconds.
type Connects struct {
	Clients int     `json:"clients"`
	Failed  int     `json:"failed"`  // clients that were not let in for half a minute
	Retries int     `json:"retries"` // dials that failed
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
}

// Verdicts.
const (
	Contained    = "contained"
	NotContained = "not contained"
)

const (
	bystanderBound = 2 // × the bystanders' p99 before
	recoveryBound  = 3 // × the hit rooms' p99 before
)

func (g *stage) report() *SceneReport {
	w := g.times
	during := window{w.trouble.from, min(g.over, w.counted.to)}
	p99 := func(p *part, w window) float64 { return latencyOf(p.tally.Load().late.between(w)).P99 }
	f := g.seen()
	r := &SceneReport{
		Settings: g.settings, Scene: g.scene.Name, Scale: g.scale, Surge: g.scene.surge,
		Seconds: g.seconds(), Events: g.events, Injected: g.faults, Connects: g.connects(),
		Lost: f.Missing, Duplicates: f.Duplicates, Reordered: f.Reordered,
		BystanderBefore: p99(&g.bystanders, w.before()), BystanderDuring: p99(&g.bystanders, during),
		HitBefore: p99(&g.hit, w.before()), HitDuring: p99(&g.hit, during), HitEnd: p99(&g.hit, w.end()),
		SendLate: g.sendLate(),
		Course:   g.bystanders.tally.Load().late.export("bystanders, due to received"),
	}
	slices.SortFunc(r.Events, func(a, b Event) int { return int((a.At - b.At) * 100) })
	r.judge()
	if blame := g.blame(during); r.bystandersSuffer() && blame != "" {
		r.Why += "; of the bystanders' partitions the nodes say that what takes long is " + blame
	}
	return r
}

// blame is the stage that was most often the cause at bystanders' partitions.
func (g *stage) blame(during window) (stage string) {
	times := make(map[string]int)
	for i, s := range g.sights {
		at := g.times.counted.from + time.Duration(i)*time.Second
		if cause := s.nodes.BystanderCause; during.has(at) && cause != "" {
			if times[cause]++; times[cause] > times[stage] {
				stage = cause
			}
		}
	}
	return stage
}

func (g *stage) seconds() (all []Second) {
	hit, by := g.hit.tally.Load(), g.bystanders.tally.Load()
	for i := range hit.published {
		s := Second{
			At: i, Hit: hit.lateness(i), Bystander: by.lateness(i),
			Published: hit.published[i].Load() + by.published[i].Load(),
			Delivered: hit.delivered[i].Load() + by.delivered[i].Load(),
		}
		if i < len(g.sights) {
			s.Cores, s.Nodes = g.sights[i].cores, g.sights[i].nodes
		}
		all = append(all, s)
	}
	return all
}

func (t *tally) lateness(second int) Lateness {
	from := t.window.from + time.Duration(second)*time.Second
	w := window{from, from + time.Second}
	late, drift := latencyOf(t.late.between(w)), latencyOf(t.drift.between(w))
	return Lateness{late.P50, late.P99, late.Max, drift.P50, drift.P99, drift.Max}
}

func (g *stage) connects() *Connects {
	if len(g.guests) == 0 {
		return nil
	}
	c, h := &Connects{}, newHistogram()
	for _, v := range g.guests {
		c.Retries += max(0, v.tries-1)
		if v.connected == 0 {
			c.Failed++
			continue
		}
		c.Clients++
		_ = h.RecordValue(clamped(v.connected)) // within its range
	}
	l := latencyOf(h)
	c.P50, c.P99, c.Max = l.P50, l.P99, l.Max
	return c
}

func (g *stage) sendLate() float64 {
	sum := newHistogram()
	for _, k := range g.talkers {
		sum.Merge(k.late.total())
	}
	return latencyOf(sum).P99
}

func (r *SceneReport) bystandersSuffer() bool {
	return r.BystanderDuring > bystanderBound*r.BystanderBefore
}

// judge says whether the trouble stayed where it was.
func (r *SceneReport) judge() {
	var bad []string
	if r.Lost+r.Duplicates+r.Reordered > 0 {
		bad = append(bad, fmt.Sprintf("%d messages lost, %d doubled, %d reordered", r.Lost, r.Duplicates, r.Reordered))
	}
	if r.BystanderBefore == 0 || r.BystanderDuring == 0 {
		bad = append(bad, "bystanders got nothing before or during the trouble: give a higher rate or a longer time")
	} else if r.bystandersSuffer() {
		bad = append(bad, fmt.Sprintf("bystanders' p99 rose from %.1f to %.1f ms, to %.1f × what it was",
			r.BystanderBefore, r.BystanderDuring, r.BystanderDuring/r.BystanderBefore))
	}
	if r.HitEnd == 0 || r.HitEnd > recoveryBound*r.HitBefore {
		bad = append(bad, fmt.Sprintf("the hit rooms' p99 was %.1f ms before and is %.1f ms in the end", r.HitBefore, r.HitEnd))
	}
	if c := r.Connects; c != nil && c.Failed > 0 {
		bad = append(bad, fmt.Sprintf("%d of the clients that came were not let in", c.Failed))
	}
	if len(bad) > 0 {
		r.Verdict, r.Why = NotContained, strings.Join(bad, "; ")
		return
	}
	r.Verdict = Contained
	r.Why = fmt.Sprintf("bystanders' p99 was %.1f ms before and %.1f during; nothing lost, doubled or reordered; the hit rooms' p99 was %.1f ms before and is %.1f in the end",
		r.BystanderBefore, r.BystanderDuring, r.HitBefore, r.HitEnd)
}
