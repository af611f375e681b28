package bench

import (
	"sync"
	"testing"
	"time"
)

// TestRecorder: what goroutines record in their shards is all in the total, and
// in the course where it belongs.
func TestRecorder(t *testing.T) {
	w := window{time.Second, 3 * time.Second}
	r := recorder{course: newCourse(w, true)}
	var wg sync.WaitGroup
	for by := range 20 {
		wg.Go(func() {
			for i := 1; i <= 50; i++ {
				at := w.from + time.Duration(by)*plotStep
				r.record(by, at, time.Duration(i+50*by)*time.Millisecond)
			}
		})
	}
	wg.Wait()
	h := r.total()
	l := latencyOf(h)
	if n := h.TotalCount(); n != 1000 {
		t.Errorf("%d recorded, want 1000", n)
	}
	near := func(got, want float64) bool { return got > want*0.998 && got < want*1.002 }
	if !near(l.P50, 500) || !near(l.P99, 990) || !near(l.P999, 999) || !near(l.Max, 1000) {
		t.Errorf("latencies 1 to 1000 ms gave %+v", l)
	}
	c := r.course.export("x")
	if len(c.Points) != 20 || c.Points[3].At != 0.3 || c.Points[3].Max < 199 || c.Points[3].Max > 202 {
		t.Errorf("course %+v", c)
	}
}

func TestRecorderEdges(t *testing.T) {
	var r recorder
	r.record(0, 0, -time.Second) // clocks do not run backwards, but a figure must not be lost
	r.record(0, 0, 2*longest)
	h := r.total()
	if h.TotalCount() != 2 || h.Min() != 0 || h.Max() < longest.Microseconds() {
		t.Errorf("%d recorded, from %d to %d µs", h.TotalCount(), h.Min(), h.Max())
	}
	if c := (*course)(nil).export("x"); c != nil {
		t.Errorf("a course nobody wanted: %+v", c)
	}
}

func TestShare(t *testing.T) {
	for _, tt := range []struct{ whole, n int }{{10, 3}, {3, 3}, {512, 64}, {4096, 1}, {4099, 64}} {
		sum := 0
		for i := range tt.n {
			s := share(tt.whole, tt.n, i)
			if s < tt.whole/tt.n || s > tt.whole/tt.n+1 {
				t.Errorf("%d of %d: part %d is %d", tt.whole, tt.n, i, s)
			}
			sum += s
		}
		if sum != tt.whole {
			t.Errorf("%d in %d parts make %d", tt.whole, tt.n, sum)
		}
	}
}
