package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// plotStep is the resolution of a course that is plotted.
const plotStep = 100 * time.Millisecond

// course keeps how latencies went over time: a histogram for each step.
type course struct {
	mu    sync.Mutex
	from  time.Duration
	step  time.Duration
	steps []*hdrhistogram.Histogram
}

// newCourse makes one for a plot, if that is wanted.
func newCourse(w window, wanted bool) *course {
	if !wanted {
		return nil
	}
	return courseOf(w, plotStep)
}

func courseOf(w window, step time.Duration) *course {
	return &course{from: w.from, step: step, steps: make([]*hdrhistogram.Histogram, (w.length()+step-1)/step)}
}

func (c *course) record(at time.Duration, us int64) {
	i := int((at - c.from) / c.step)
	if at < c.from || i >= len(c.steps) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.steps[i] == nil {
		c.steps[i] = hdrhistogram.New(1, longest.Microseconds(), 2)
	}
	_ = c.steps[i].RecordValue(us) // within its range
}

// between is what was recorded in the steps that begin within w.
func (c *course) between(w window) *hdrhistogram.Histogram {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := newHistogram()
	for i, h := range c.steps {
		if h != nil && w.has(c.from+time.Duration(i)*c.step) {
			sum.Merge(h)
		}
	}
	return sum
}

// Course is how latencies went over time: a point for each step, a tenth of a
// second, in which there were some.
type Course struct {
	What   string
	Points []Point
}

// Point is what a step of a course came to: the time since the measuring began,
// in seconds, and latencies in milliseconds.
type Point struct{ At, P50, P99, Max float64 }

// export makes a Course of c, nil of nil.
func (c *course) export(what string) *Course {
	if c == nil {
		return nil
	}
	out := &Course{What: what}
	for i, h := range c.steps {
		if h == nil {
			continue
		}
		l := latencyOf(h)
		out.Points = append(out.Points, Point{At: (time.Duration(i) * c.step).Seconds(), P50: l.P50, P99: l.P99, Max: l.Max})
	}
	return out
}
