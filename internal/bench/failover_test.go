package bench

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestGapsOf(t *testing.T) {
	var pauses []time.Duration
	if g := gapsOf(nil); g != (Gaps{}) {
		t.Errorf("of nothing: %+v", g)
	}
	for i := range 200 {
		pauses = append(pauses, time.Duration(200-i)*time.Millisecond)
	}
	if g := gapsOf(pauses); g != (Gaps{Min: 1, P50: 100, P99: 198, Max: 200}) {
		t.Errorf("of 1 to 200 ms: %+v", g)
	}
	if g := gapsOf([]time.Duration{1234567 * time.Nanosecond}); g != (Gaps{1.2, 1.2, 1.2, 1.2}) {
		t.Errorf("of one: %+v", g)
	}
}

// A pulse's pause begins before it is restarted: with what came last.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pulse
		for range 30 {
			p.beat(time.Hour)
			time.Sleep(10 * time.Millisecond)
		}
		if d := p.pause(); d != 10*time.Millisecond || !p.flows() {
			t.Errorf("the longest pause was %v, flows: %v", d, p.flows())
		}
		p.restart()
		time.Sleep(time.Second)
		if p.flows() {
			t.Error("it flows, and nothing has come for a second")
		}
		for range flowMessages {
			p.beat(time.Hour)
		}
		if d := p.pause(); d != 1010*time.Millisecond || !p.flows() {
			t.Errorf("the longest pause was %v, flows: %v", d, p.flows())
		}
	})
}

// A pulse of messages that wait is told how long, and only since it was restarted.
func TestPulseOfWaits(t *testing.T) {
	p := pulse{waits: true}
	p.beat(time.Second)
	p.restart()
	for _, took := range []time.Duration{3, 7, 5} {
		p.beat(took * time.Millisecond)
	}
	if d := p.pause(); d != 7*time.Millisecond {
		t.Errorf("the longest wait was %v, not 7ms", d)
	}
}

func TestReaderSees(t *testing.T) {
	r := reader{last: 10}
	for _, seq := range []uint64{11, 12, 12, 15, 13, 16} {
		r.see(seq, 0)
	}
	if last, faults := r.seen(); last != 16 || faults != (Faults{Missing: 2, Duplicates: 1, Reordered: 1}) {
		t.Errorf("up to %d, with %+v", last, faults)
	}
}
