package bench

import (
	"math"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// newHistogram counts microseconds, up to longest, to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, longest.Microseconds(), 3)
}

// longest is the longest latency that is told apart; what took longer counts as
// that.
const longest = 10 * time.Minute

// recorder takes latencies from many goroutines. Each names a shard, so that
// they do not wait for each other.
type recorder struct {
	shards [16]shard
	course *course // nil unless wanted
}

type shard struct {
	mu   sync.Mutex
	hist *hdrhistogram.Histogram // nil: nothing yet
}

// record takes the latency of a message that was due, or sent, at.
func (r *recorder) record(by int, at, took time.Duration) {
	us := min(max(took, 0), longest).Microseconds()
	s := &r.shards[by%len(r.shards)]
	s.mu.Lock()
	if s.hist == nil {
		s.hist = newHistogram()
	}
	_ = s.hist.RecordValue(us) // within its range
	s.mu.Unlock()
	if r.course != nil {
		r.course.record(at, us)
	}
}

// total is all that was recorded. Nobody may record any more.
func (r *recorder) total() *hdrhistogram.Histogram {
	sum := newHistogram()
	for i := range r.shards {
		if h := r.shards[i].hist; h != nil {
			sum.Merge(h)
		}
	}
	return sum
}

// Latency is how long messages took, in milliseconds.
type Latency struct {
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	ms := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1e3 }
	return Latency{P50: ms(50), P99: ms(99), P999: ms(99.9), Max: float64(h.Max()) / 1e3}
}

// cut rounds a figure to what it is good for.
func cut(v float64, digits int) float64 {
	f := math.Pow10(digits)
	return math.Round(v*f) / f
}

func cutPtr(v *float64, digits int) *float64 {
	if v == nil {
		return nil
	}
	r := cut(*v, digits)
	return &r
}
