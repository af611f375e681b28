package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPace is how much garbage a process lets pile up, as a percentage of what lives
// (GOGC). Each collection marks all that lives: at full load more garbage between
// them saves a tenth of the CPU. One with little to do keeps little: memory is
// what bounds the number of a server's idle clients.
type gcPace struct {
	percent int
	cycles  uint64 // so far
	calm    int    // steps without a collection, at the lowest percentage
}

const (
	gcStep     = time.Second
	minPercent = 40
	maxPercent = 400
	maxGarbage = 256 << 20 // with much that lives; but 100 % are always allowed

	manyCycles = 2 // in a gcStep; 0 are few

	calmSteps = 5 // then unused memory is given back, once
)

// next takes the collections so far and the bytes that lived at the last one. It
// returns what to set now, or false if that need not change.
func (p *gcPace) next(cycles, live uint64) (percent int, changed bool) {
	percent = p.percent
	switch n := cycles - p.cycles; {
	case n > manyCycles:
		percent = min(2*percent, maxPercent)
	case n == 0:
		percent = max(percent*4/5, minPercent)
	}
	percent = min(percent, max(100, int(100*maxGarbage/max(live, 1))))
	if changed = percent != p.percent; changed || cycles > p.cycles+1 { // Go collects once in two minutes anyway
		p.calm = 0
	} else if percent == minPercent && cycles == p.cycles {
		p.calm++
	}
	p.percent, p.cycles = percent, cycles
	return percent, changed
}

// calmed tells, once, that there has been little to do for a while.
func (p *gcPace) calmed() bool { return p.calm == calmSteps }

// paceGC adapts the process's garbage collection until ctx ends. Whoever has set
// GOGC has decided.
func paceGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	samples := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	p := gcPace{percent: 100}
	tick := time.NewTicker(gcStep)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		metrics.Read(samples)
		if percent, changed := p.next(samples[0].Value.Uint64(), samples[1].Value.Uint64()); changed {
			debug.SetGCPercent(percent)
		}
		if p.calmed() {
			debug.FreeOSMemory()
			metrics.Read(samples)
			p.cycles = samples[0].Value.Uint64() // that was our own
			p.calm++                             // and is done once
		}
	}
}
