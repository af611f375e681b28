package transport

import (
	"testing"
	"testing/synctest"
	"time"
)

// steps is how often a load must last until the spacing is as wanted, at most n.
func steps(l load, s, ceiling time.Duration, n int, wanted func(time.Duration) bool) (int, time.Duration) {
	for i := range n {
		if wanted(s) {
			return i, s
		}
		s = l.next(s, ceiling)
	}
	return n, s
}

func TestPace(t *testing.T) {
	const ceiling = 60 * time.Millisecond
	atCeiling := func(s time.Duration) bool { return s == ceiling }
	doubled := func(s time.Duration) bool { return s == 2*ceiling }
	none := func(s time.Duration) bool { return s == 0 }
	for _, tt := range []struct {
		name   string
		load   load
		from   time.Duration
		wanted func(time.Duration) bool
		most   int // steps of 50 ms
	}{
		{"a busy server", load{own: 0.31, flushes: 0.1}, 0, atCeiling, 12},
		{"a machine that others load", load{own: 0.05, all: 0.9, flushes: 0.1}, 0, atCeiling, 12},
		{"late by itself", load{late: 6 * time.Millisecond, flushes: 0.1}, 0, atCeiling, 12},
		{"a free server", load{own: 0.1, all: 0.5, flushes: 0.1}, ceiling, none, 15},
		{"a free server stays so", load{own: 0.2, all: 0.6, late: time.Millisecond, flushes: 0.1}, 0, none, 0},
		{"busy with other things", load{own: 0.4, all: 1, flushes: 0.01}, 0, none, 0},
		{"not busy with flushes any more", load{own: 0.4, all: 1, flushes: 0.01}, ceiling, none, 15},
		{"some flushes", load{own: 0.4, all: 1, flushes: 0.04}, ceiling, atCeiling, 0},
		{"an overloaded machine", load{own: 0.3, all: 0.99, flushes: 0.1}, 0, doubled, 16},
		{"no longer overloaded", load{own: 0.3, all: 0.7, flushes: 0.1}, 2 * ceiling, func(s time.Duration) bool { return s <= ceiling }, 4},
		{"nearly overloaded", load{own: 0.3, all: 0.9, flushes: 0.1}, 2 * ceiling, doubled, 0},
		{"neither busy nor free", load{own: 0.27, flushes: 0.1}, ceiling, atCeiling, 0},
	} {
		if n, s := steps(tt.load, tt.from, ceiling, 100, tt.wanted); n > tt.most {
			t.Errorf("%s: %v after %d steps, want at most %d", tt.name, s, n, tt.most)
		}
	}
	for s := time.Duration(0); s < ceiling; s = (load{own: 1, flushes: 0.5}).next(s, ceiling) {
		if s > steepFrom && s < steepTo {
			t.Errorf("a spacing of %v, where it saves little", s)
		}
	}
	if s := (load{own: 1, flushes: 0.5}).next(25*time.Millisecond, 30*time.Millisecond); s > 30*time.Millisecond {
		t.Errorf("a spacing of %v beyond the ceiling", s)
	}
}

func TestPaceWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace{}
		if w := p.wait(time.Now()); w > 0 {
			t.Errorf("without spacing a flush waits %v", w)
		}
		p.spacing.Store(int64(50 * time.Millisecond))
		last := time.Now()
		time.Sleep(20 * time.Millisecond)
		if w := p.wait(last); w != 30*time.Millisecond {
			t.Errorf("a flush waits %v, want 30 ms", w)
		}
		time.Sleep(time.Second)
		if w := p.wait(last); w > 0 {
			t.Errorf("the first flush in a second waits %v", w)
		}
	})
}

func TestCPUTimes(t *testing.T) {
	before := cpuTimes{own: time.Second, busy: 100, all: 1000}
	l := cpuTimes{own: 3 * time.Second, busy: 115, all: 1020}.since(before, time.Hour)
	if l.all != 0.75 || l.own <= 0 || l.own > 0.001 {
		t.Errorf("load = %+v, want all 0.75 and own hardly anything", l)
	}
	if l := (cpuTimes{}).since(cpuTimes{}, time.Second); l.all != 0 {
		t.Errorf("a machine that is not known is loaded by %v", l.all)
	}
	if before := readCPU(); before.own < 0 {
		t.Errorf("%+v", before)
	}
}
