package main

import "testing"

func TestGCPace(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name   string
		from   int
		cycles uint64 // a second
		live   uint64
		want   int // in the end
	}{
		{"full load", 100, 10, 20 * mib, maxPercent},
		{"full load with much that lives", 100, 10, 128 * mib, 200},
		{"more lives than may be garbage", 400, 10, 1 << 30, 100},
		{"little to do", 400, 0, 57 * mib, minPercent},
		{"some load", 300, 1, 20 * mib, 300},
		{"as much as is many", 150, manyCycles, 20 * mib, 150},
		{"nothing lives", 100, 10, 0, maxPercent},
	} {
		p := gcPace{percent: tt.from}
		var got int
		for i := range uint64(20) {
			got, _ = p.next((i+1)*tt.cycles, tt.live)
		}
		if _, changed := p.next(21*tt.cycles, tt.live); got != tt.want || changed {
			t.Errorf("%s: %d %%, still changing: %v, want %d %%", tt.name, got, changed, tt.want)
		}
	}
}

func TestGCCalm(t *testing.T) {
	p := gcPace{percent: 100}
	calmed := 0
	steps := func(n int, cycle uint64) {
		for range n {
			p.next(p.cycles+cycle, 1<<20)
			if p.calmed() {
				calmed++
			}
		}
	}
	for i, tt := range []struct {
		steps int
		cycle uint64
		want  int // in all
	}{{30, 1, 0}, {50, 0, 1}, {1, 1, 1}, {20, 0, 1}, {1, 2, 1}, {calmSteps - 1, 0, 1}, {20, 0, 2}} {
		if steps(tt.steps, tt.cycle); calmed != tt.want {
			t.Errorf("%d: calmed %d times, want %d", i, calmed, tt.want)
		}
	}
}
