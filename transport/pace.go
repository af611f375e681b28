package transport

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// pace decides how far apart the flushes of a connection must be. A flush costs
// 20 to 45 µs whatever is in it, so when there is no time for all of them fewer and
// fuller ones are the cure. While the processors are free there is no spacing, nor
// where flushes are few: processors that are busy otherwise gain nothing by it.
type pace struct {
	ceiling time.Duration
	metrics *Metrics
	spacing atomic.Int64
	flushes atomic.Int64 // so far
	busy    atomic.Bool  // so are the processors, or other work comes late
}

// load is what is known of a moment of the machine, as shares of all processors:
// what this process uses, what everybody does (0 where that is not known), and what
// this process's flushes may use. Late is how much later than it should the moment
// has come.
type load struct {
	own, all float64
	flushes  float64
	late     time.Duration
}

const (
	paceStep = 50 * time.Millisecond

	// Of these the spacing grows. Below easier of them it shrinks.
	ownLimit  = 0.30
	allLimit  = 0.85
	lateLimit = 5 * time.Millisecond
	easier    = 0.8

	// Of this the spacing grows beyond its ceiling, up to overCeiling times that: with
	// too much to do for all processors everything waits anyhow, and longer.
	overLimit   = 0.95
	overCeiling = 2

	// A flush takes about so long. Spacing grows only while flushes are more than
	// manyFlushes of all processors, and shrinks where they are less than half of it.
	flushTime   = 30 * time.Microsecond
	manyFlushes = 0.05

	// Between these two each flush is acknowledged by itself, and little saved.
	steepFrom = 20 * time.Millisecond
	steepTo   = 40 * time.Millisecond
)

// pressure is beyond 1 when there is more to do than is good.
func (l load) pressure() float64 {
	return max(l.own/ownLimit, l.all/allLimit, float64(l.late)/float64(lateLimit))
}

// next is the spacing after one of s, a paceStep later.
func (l load) next(s, ceiling time.Duration) time.Duration {
	pressure := l.pressure()
	grows, shrinks := pressure > 1, pressure < easier
	if over := l.all / overLimit; s >= ceiling {
		grows, shrinks = over > 1, shrinks || s > ceiling && over < easier
		ceiling *= overCeiling
	}
	switch {
	case grows && l.flushes > manyFlushes:
		if s = s*6/5 + time.Millisecond; s > steepFrom && s < steepTo {
			s = steepTo
		}
	case shrinks, l.flushes < manyFlushes/2:
		if s = (s - time.Millisecond) * 5 / 6; s > steepFrom && s < steepTo {
			s = steepFrom
		}
	}
	if s < time.Millisecond {
		return 0
	}
	return min(s, ceiling)
}

// wait is how long a connection that was flushed at last has to wait.
func (p *pace) wait(last time.Time) time.Duration {
	s := time.Duration(p.spacing.Load())
	if s == 0 {
		return 0
	}
	return s - time.Since(last)
}

// flushed counts a flush.
func (p *pace) flushed() {
	p.flushes.Add(1)
	p.metrics.flushes.Inc()
}

// run looks at the machine until ctx ends.
func (p *pace) run(ctx context.Context) {
	timer := time.NewTimer(paceStep)
	defer timer.Stop()
	before, then, flushes := readCPU(), time.Now(), p.flushes.Load()
	all := 0.0
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		cpu, now := readCPU(), time.Now()
		l := cpu.since(before, now.Sub(then))
		l.late = now.Sub(then) - paceStep
		all += (l.all - all) / 4 // of a few ticks only
		l.all = all
		n := p.flushes.Load()
		l.flushes = float64(n-flushes) * float64(flushTime) / float64(now.Sub(then)) / float64(runtime.NumCPU())
		flushes = n
		p.set(l)
		before, then = cpu, now
		timer.Reset(paceStep)
	}
}

func (p *pace) set(l load) {
	s := l.next(time.Duration(p.spacing.Load()), p.ceiling)
	p.spacing.Store(int64(s))
	p.busy.Store(l.pressure() > 1)
	p.metrics.spacing.Set(s.Seconds())
	p.metrics.cpu.Set(l.own)
}

// cpuTimes are processor times up to a moment.
type cpuTimes struct {
	own       time.Duration // of this process
	busy, all uint64        // of the machine, in ticks; all 0: not known
}

func (c cpuTimes) since(before cpuTimes, passed time.Duration) (l load) {
	l.own = float64(c.own-before.own) / float64(passed) / float64(runtime.NumCPU())
	if all := c.all - before.all; c.all > before.all && before.all > 0 {
		l.all = float64(c.busy-before.busy) / float64(all)
	}
	return l
}
