package transport

import (
	"context"
	"math"
	"net"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

var testBounds = bounds{first: 100, least: 20, most: 200, burst: 2, underWay: 8, late: 4 * time.Millisecond}

func client(i int) net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10_000 + i} }

// TestAdmit: a story of clients; each step is so long after the one before.
func TestAdmit(t *testing.T) {
	type step struct {
		what   string
		after  time.Duration
		client int
		done   int // of those under way, before
		want   bool
	}
	for name, story := range map[string][]step{
		"a burst, then the rate": {
			{"one of two", 0, 1, 0, true},
			{"two of two", 0, 2, 2, true},
			{"no token", 0, 3, 1, false},
			{"not yet", 9 * time.Millisecond, 4, 0, false},
			{"a hundredth of a second is a token", 2 * time.Millisecond, 5, 0, true},
			{"a second is no more than the burst", time.Second, 6, 1, true},
			{"that", 0, 7, 1, true},
			{"and no more", 0, 8, 1, false},
		},
		"the second packet of one refused": {
			{"1", 0, 1, 0, true},
			{"2", 0, 2, 2, true},
			{"refused", 0, 3, 0, false},
			{"its second packet, though there is a token", 50 * time.Millisecond, 3, 1, false},
			{"another takes that", 0, 4, 0, true},
			{"it comes again", 50 * time.Millisecond, 3, 0, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdmission(testBounds, NewMetrics())
			now := time.Unix(1000, 0)
			for _, s := range story {
				now = now.Add(s.after)
				for range s.done {
					underWay(a).done()
				}
				if got := a.admit(client(s.client), false, now); got != s.want {
					t.Errorf("%s: admitted %v, want %v", s.what, got, s.want)
				}
			}
		})
	}
}

// TestBurst: more may begin at once while nothing is late.
func TestBurst(t *testing.T) {
	a := newAdmission(testBounds, NewMetrics())
	a.bounds.underWay = 100
	now := time.Unix(1000, 0)
	for i, step := range []struct {
		late time.Duration
		want int
	}{{time.Millisecond, 6}, {9 * time.Millisecond, 2}, {0, 6}} {
		a.adjust(step.late, now)
		now = now.Add(time.Second)
		n := 0
		for a.admit(client(100*i+n), false, now) {
			n++
		}
		if n != step.want {
			t.Errorf("after a step that was %v late %d begin at once, want %d", step.late, n, step.want)
		}
	}
}

// TestUnderWay: invented addresses get half of the places, and one host no more than a
// quarter of the rest.
func TestUnderWay(t *testing.T) {
	b := testBounds
	b.burst = 100
	a := newAdmission(b, NewMetrics())
	now := time.Unix(1000, 0)
	at := func(ip string) net.Addr { return &net.UDPAddr{IP: net.ParseIP(ip), Port: 1000 + int(now.Unix())} }
	for _, step := range []struct {
		from     string
		verified bool
		want     bool
		what     string
	}{
		{"10.0.0.1", false, true, "one of the first half"},
		{"10.0.0.1", false, true, "another of that host"},
		{"10.0.0.1", false, true, "three"},
		{"10.0.0.2", false, true, "four"},
		{"10.0.0.3", false, false, "the second half is for verified ones"},
		{"10.0.0.1", true, false, "of a host that has a quarter already"},
		{"2001:db8::1", true, true, "verified"},
		{"2001:db8::2", true, true, "of the same /64"},
		{"2001:db8::3", true, false, "which has its quarter"},
		{"2001:db8:0:1::3", true, true, "of another /64"},
		{"10.0.0.4", true, true, "eight"},
		{"10.0.0.5", true, false, "no more than that"},
	} {
		now = now.Add(time.Second)
		if got := a.admit(at(step.from), step.verified, now); got != step.want {
			t.Errorf("%s: admitted %v, want %v", step.what, got, step.want)
		}
		if want := a.underWay >= 4; a.verify(nil) != want {
			t.Errorf("%s: the next are verified: %v, with %d under way", step.what, !want, a.underWay)
		}
	}
	a.ends(hostOf(at("10.0.0.4")))
	if !a.admit(at("10.0.0.5"), true, now.Add(time.Second)) {
		t.Error("one has ended, and there is no place")
	}
	if len(a.hosts) != 5 {
		t.Errorf("%d hosts are remembered, want 5", len(a.hosts))
	}
}

// A handshake ends once, however often it is said.
func TestHandshakeDone(t *testing.T) {
	a := newAdmission(testBounds, NewMetrics())
	a.admit(client(1), false, time.Now())
	a.admit(client(2), false, time.Now())
	h := underWay(a)
	h.done()
	h.done()
	if a.underWay != 1 {
		t.Errorf("%d are under way, want 1", a.underWay)
	}
}

func underWay(a *admission) *handshake {
	return &handshake{admission: a, host: hostOf(client(0)), late: time.AfterFunc(time.Hour, func() {})}
}

// One that never ends does not count for ever; one that is given up not even so long.
func TestHandshakeIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(testBounds, NewMetrics())
		begin := func(i int) (gone context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := a.begin(ctx, &quic.ClientInfo{RemoteAddr: client(i)}); err != nil {
				t.Fatal(err)
			}
			return cancel
		}
		defer begin(1)()
		gone := begin(2)
		if _, err := a.begin(t.Context(), &quic.ClientInfo{RemoteAddr: client(3)}); err != errHandshakeRefused {
			t.Errorf("one beyond the burst: %v", err)
		}
		for _, step := range []struct {
			what string
			do   func()
			want int
		}{
			{"two", func() {}, 2},
			{"one has gone", gone, 1},
			{"not yet late", func() { time.Sleep(slowHandshake - 1) }, 1},
			{"late", func() { time.Sleep(time.Nanosecond) }, 0},
		} {
			step.do()
			synctest.Wait()
			a.mu.Lock()
			n := a.underWay
			a.mu.Unlock()
			if n != step.want {
				t.Errorf("%s: %d are under way, want %d", step.what, n, step.want)
			}
		}
	})
}

// TestAdjust: the rate falls while goroutines are later than usual, and rises while
// they are not and clients are refused.
func TestAdjust(t *testing.T) {
	const late, soon = 9 * time.Millisecond, time.Millisecond
	for _, tt := range []struct {
		name    string
		rate    float64
		refused bool
		usual   time.Duration
		late    time.Duration
		want    float64
	}{
		{"nothing happens", 100, false, 0, soon, 100},
		{"late", 100, true, 0, late, 75},
		{"late, nobody refused", 100, false, 0, late, 75},
		{"just not late", 100, false, 0, 4 * time.Millisecond, 100},
		{"no slower than that", 22, true, 0, late, 20},
		{"refused", 100, true, 0, soon, 115},
		{"no faster than that", 190, true, 0, soon, 200},
		{"slow, and nobody is refused any more", 50, false, 0, soon, 57.5},
		{"usually it is as late", 100, true, 5 * time.Millisecond, late, 115},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAdmission(testBounds, NewMetrics())
			a.rate, a.wanted, a.usual, a.begun = tt.rate, tt.refused, tt.usual, 1
			if a.adjust(tt.late, time.Now()); math.Abs(a.rate-tt.want) > 0.001 {
				t.Errorf("rate %v, want %v", a.rate, tt.want)
			}
			if a.wanted || a.begun != 0 {
				t.Error("the next step begins with what was in this one")
			}
		})
	}
}

// What is usual is learnt while there are few handshakes.
func TestUsualDelay(t *testing.T) {
	a := newAdmission(testBounds, NewMetrics())
	now := time.Unix(1000, 0)
	for i := range 100 {
		now = now.Add(time.Second)
		a.admit(client(i), false, now)
		a.adjust(8*time.Millisecond, now)
		underWay(a).done()
	}
	if a.usual < 7*time.Millisecond || a.usual > 8*time.Millisecond {
		t.Errorf("usual is %v, want almost 8 ms", a.usual)
	}
	usual := a.usual
	a.rate, a.bounds.burst = 1000, 100
	now = now.Add(time.Second)
	for i := range fewBegun + 1 {
		a.admit(client(i), false, now)
	}
	a.adjust(time.Second, now)
	a.adjust(time.Second, now) // still under way
	if a.usual != usual {
		t.Errorf("usual has become %v by handshakes", a.usual)
	}
}

func TestBoundsOf(t *testing.T) {
	b := testBounds.of(4, 0)
	if b != (bounds{first: 400, least: 80, most: 800, burst: 8, underWay: 32, late: 4 * time.Millisecond}) {
		t.Errorf("of four processors: %+v", b)
	}
	if b := testBounds.of(4, 30); b.first != 30 || b.least != 30 || b.most != 30 {
		t.Errorf("with a fixed rate: %+v", b)
	}
}

// However many are refused, few are remembered, and none for long.
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	now := time.Unix(1000, 0)
	for i := range 3 * maxRefusals {
		r.add(client(i), now)
	}
	if n := len(r.young) + len(r.old); n > 2*maxRefusals {
		t.Errorf("%d are remembered", n)
	}
	last := client(3*maxRefusals - 1)
	if !r.has(last, now.Add(refusalLasts)) {
		t.Error("the last one is forgotten at once")
	}
	if r.has(last, now.Add(2*refusalLasts)) {
		t.Errorf("the last one is remembered after %v", 2*refusalLasts)
	}
}

func TestQuantile(t *testing.T) {
	inf := math.Inf(1)
	h := &metrics.Float64Histogram{Buckets: []float64{0, 0.001, 0.002, 0.004, inf}, Counts: []uint64{100, 90, 10, 0}}
	for _, tt := range []struct {
		name   string
		before []uint64
		q      float64
		want   time.Duration
	}{
		{"half", nil, 0.5, time.Millisecond},
		{"all", nil, 1, 4 * time.Millisecond},
		{"new: nine of ten", []uint64{100, 0, 0, 0}, 0.9, 2 * time.Millisecond},
		{"new: more than that", []uint64{100, 0, 0, 0}, 0.91, 4 * time.Millisecond},
		{"nothing new", []uint64{100, 90, 10, 0}, 0.9, 0},
	} {
		if got := quantile(h, tt.before, tt.q); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	h.Counts[3] = 1
	if got := quantile(h, nil, 1); got != 4*time.Millisecond {
		t.Errorf("beyond the last edge: %v, want that edge", got)
	}
}
