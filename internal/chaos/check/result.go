package check

import (
	"cmp"
	"fmt"
	"maps"
	"strconv"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// Outcome is the verdict.
type Outcome string

const (
	Valid   Outcome = "valid"   // no anomaly, and enough was done to find one
	Invalid Outcome = "invalid" // an anomaly
	Vacuous Outcome = "vacuous" // no anomaly, but a floor was missed: nothing is proved
)

// Result is the verdict over a history and what it rests on.
type Result struct {
	Outcome   Outcome               `json:"outcome"`
	Ops       int64                 `json:"ops"` // answered: publishes, head reads, subscriptions, final reads; and polls
	Faults    map[string]int64      `json:"faults"`
	Anomalies map[Name]int64        `json:"anomalies"` // a row for each that is looked for
	History   string                `json:"history"`
	Missed    []string              `json:"missed,omitempty"` // floors
	Findings  []Finding             `json:"findings"`
	Counts    map[history.F]*Counts `json:"counts"`
	Figures   Figures               `json:"figures"`
	Run       *history.Run          `json:"run,omitempty"`
}

// Figures are measured and judge nothing.
type Figures struct {
	Rooms       int       `json:"rooms"`
	Messages    int64     `json:"messages"`
	Duration    float64   `json:"duration_s"`
	RealtimeLag float64   `json:"worst_realtime_lag_ms"` // of any subscription, from ack or subscribe to hand-over
	Drift       Quantiles `json:"drift"`                 // from ack to hand-over, of subscriptions that were there before the publish
	OrderSpread Quantiles `json:"order_spread"`          // between the first and the last of these that had a message
	Judged      float64   `json:"elections_judged_s"`    // of the time: no fault was on or just over
	LongestWait float64   `json:"longest_wait_ms"`       // of a room for a commit with publishes open, with a quorum there
	Linear      Linear    `json:"linearizability"`
	Windows     []Window  `json:"windows"`
}

// Window is what a fault did to commits, from its start to its stop. A time
// is null if what it waits for never came.
type Window struct {
	Fault       string   `json:"fault"`
	Nodes       []string `json:"nodes,omitempty"`
	QuorumLost  bool     `json:"quorum_lost,omitempty"`
	Start       float64  `json:"start_s"`
	Stop        *float64 `json:"stop_s"`
	Effects     int64    `json:"effects"`
	Unavailable float64  `json:"unavailable_ms"`          // the longest that a room with publishes open waited for a commit, from the start on
	AfterStart  *float64 `json:"first_ok_after_start_ms"` // of any room
	AfterStop   *float64 `json:"first_ok_after_stop_ms"`
}

// Unavailable is the longest that a room waited for a commit during or just
// after any of a fault's windows, in milliseconds.
func (r *Result) Unavailable(fault string) (longest float64) {
	for _, w := range r.Figures.Windows {
		if w.Fault == fault {
			longest = max(longest, w.Unavailable)
		}
	}
	return longest
}

// miss adds something that was too little.
func (r *Result) miss(what string) {
	r.Missed = append(r.Missed, what)
	r.conclude()
}

func (r *Result) conclude() {
	switch {
	case len(r.Findings) > 0:
		r.Outcome = Invalid
	case len(r.Missed) > 0:
		r.Outcome = Vacuous
	default:
		r.Outcome = Valid
	}
}

// Result draws the verdict. Nothing may be added afterwards, and it is drawn once.
func (c *Checker) Result() *Result {
	c.judge()
	figures := c.figures()
	figures.Linear = c.judgeLinear()
	r := &Result{
		Ops:       c.answered(),
		Faults:    c.effects(),
		Anomalies: c.tally.counts(),
		Findings:  c.tally.findings(),
		Counts:    c.counts,
		Figures:   figures,
		Missed:    c.missed(),
		Run:       c.run,
	}
	r.conclude()
	return r
}

func (c *Checker) answered() int64 {
	var sum int64
	for f, n := range c.counts {
		if f != history.FLeader && f != history.FReplica {
			sum += n.OK + n.Fail + n.Info
		}
	}
	return sum
}

// effects has a row for every fault that was made or meant.
func (c *Checker) effects() map[string]int64 {
	all := maps.Clone(c.faults.effects)
	if c.run != nil {
		for _, name := range c.run.Nemeses {
			all[name] += 0
		}
	}
	return all
}

// least is what every history must hold.
var least = map[history.F]int64{history.FPublish: 1, history.FPoll: 1, history.FFinal: 1}

// missed tells which floors were not reached.
func (c *Checker) missed() []string {
	var list []string
	ops, faults := c.floors()
	for _, f := range sortedKeys(ops) {
		if had := c.done(f); had < ops[f] {
			list = append(list, fmt.Sprintf("%s: %d ok, floor %d", f, had, ops[f]))
		}
	}
	for _, name := range sortedKeys(faults) {
		if had := c.faults.effects[name]; had < faults[name] {
			list = append(list, fmt.Sprintf("fault %s: took effect %d times, floor %d", name, had, faults[name]))
		}
	}
	for _, r := range c.inOrder {
		if r.unread {
			list = append(list, fmt.Sprintf("final: room %q has acked messages that nobody read, and no final read of it was begun", r.name))
		}
	}
	return list
}

// floors are the highest of all that were given. A fault that was made or
// meant must have taken effect once; nobody makes the machine busy.
func (c *Checker) floors() (map[history.F]int64, map[string]int64) {
	ops, faults := maps.Clone(least), make(map[string]int64)
	for name := range c.effects() {
		faults[name] = 1
	}
	delete(faults, string(history.Starved))
	raise(ops, c.options.Floors.Ops)
	raise(faults, c.options.Floors.Faults)
	if c.run != nil {
		raise(ops, c.run.Floors.Ops)
		raise(faults, c.run.Floors.Faults)
	}
	return ops, faults
}

func raise[K cmp.Ordered](floors, by map[K]int64) {
	for k, n := range by {
		floors[k] = max(floors[k], n)
	}
}

// done is how much of f succeeded.
func (c *Checker) done(f history.F) int64 {
	n := c.counts[f]
	switch {
	case n == nil:
		return 0
	case f == history.FPoll:
		return n.Messages
	}
	return n.OK
}

func (c *Checker) figures() Figures {
	f := Figures{
		Rooms:       len(c.inOrder),
		Messages:    int64(len(c.messages) - 1),
		Duration:    seconds(c.now),
		RealtimeLag: millis(int64(c.timing.worstLag)),
		Drift:       quantiles(c.timing.lags),
		OrderSpread: quantiles(c.timing.spreads),
		Judged:      seconds(c.faults.calm(c.now, c.options.ElectionGrace)),
		LongestWait: millis(int64(c.timing.longestWait)),
		Windows:     []Window{},
	}
	for _, w := range c.faults.windows {
		f.Windows = append(f.Windows, w.figures())
	}
	return f
}

func (w *window) figures() Window {
	known := func(ns int64, as func(int64) float64) *float64 {
		if ns < 0 {
			return nil
		}
		v := as(ns)
		return &v
	}
	return Window{
		Fault: w.fault, Nodes: w.nodes, QuorumLost: w.quorumLost, Effects: w.effects,
		Start: seconds(w.start), Stop: known(w.stop, seconds), Unavailable: millis(w.longest),
		AfterStart: known(w.afterStart, millis), AfterStop: known(w.afterStop, millis),
	}
}

func seconds(ns int64) float64 { return float64(ns/1e6) / 1e3 }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
