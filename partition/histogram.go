package partition

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// histogram counts durations over a sliding window, the current period and the
// one before it, in buckets that grow by a quarter power of two from 16 µs on.
// Adding takes no lock but when a period ends. Safe for concurrent use.
type histogram struct {
	period time.Duration
	slots  [2]histogramSlot // of even and of odd periods
	turn   sync.Mutex
	past   *past // nil: what has left the window is forgotten
}

type histogramSlot struct {
	period atomic.Int64 // its number, from 1
	max    atomic.Int64
	sum    atomic.Int64
	counts [buckets]atomic.Uint32
}

// past is what has left the window, for those who count from the start.
type past struct {
	counts [buckets]uint64
	sum    time.Duration
}

const (
	buckets    = 105 // up to 16 µs · 2^26 = 18 minutes
	bucketUnit = 16 * time.Microsecond
)

// bounds are the buckets' upper ends, which belong to them.
var bounds = func() (b [buckets]time.Duration) {
	for i := range b {
		b[i] = time.Duration(float64(bucketUnit) * math.Exp2(float64(i)/4))
	}
	return b
}()

func bucketOf(d time.Duration) int {
	if d <= bucketUnit {
		return 0
	}
	if d > bounds[buckets-1] {
		return buckets - 1
	}
	i := 4*bits.Len64(uint64((d-1)/bucketUnit)) - 3
	for bounds[i] < d {
		i++
	}
	return i
}

// epoch makes times that a change of the wall clock does not touch.
var epoch = time.Now()

func (h *histogram) number(now time.Time) int64 { return int64(now.Sub(epoch)/h.period) + 1 }

// add counts n messages that took d.
func (h *histogram) add(d time.Duration, n int, now time.Time) {
	if n == 0 {
		return
	}
	number := h.number(now)
	s := &h.slots[number&1]
	if s.period.Load() < number {
		h.begin(s, number)
	}
	d = max(0, d)
	s.counts[bucketOf(d)].Add(uint32(n))
	s.sum.Add(int64(d) * int64(n))
	for old := s.max.Load(); int64(d) > old && !s.max.CompareAndSwap(old, int64(d)); {
		old = s.max.Load()
	}
}

// begin empties a slot for a new period. Who adds at the same moment may be
// counted to either period.
func (h *histogram) begin(s *histogramSlot, number int64) {
	h.turn.Lock()
	defer h.turn.Unlock()
	if s.period.Load() >= number {
		return
	}
	for i := range s.counts {
		n := s.counts[i].Swap(0)
		if h.past != nil {
			h.past.counts[i] += uint64(n)
		}
	}
	sum := s.sum.Swap(0)
	if h.past != nil {
		h.past.sum += time.Duration(sum)
	}
	s.max.Store(0)
	s.period.Store(number)
}

// window returns what was counted in the last period to twice that.
func (h *histogram) window(now time.Time) (w window) {
	number := h.number(now)
	for i := range h.slots {
		s := &h.slots[i]
		if p := s.period.Load(); p == 0 || p < number-1 {
			continue
		}
		for b := range s.counts {
			n := uint64(s.counts[b].Load())
			w.counts[b] += n
			w.total += n
		}
		w.max = max(w.max, time.Duration(s.max.Load()))
	}
	return w
}

// whole returns all that was ever counted, if past is kept.
func (h *histogram) whole() (all past) {
	h.turn.Lock()
	defer h.turn.Unlock()
	all = *h.past
	for i := range h.slots {
		s := &h.slots[i]
		for b := range s.counts {
			all.counts[b] += uint64(s.counts[b].Load())
		}
		all.sum += time.Duration(s.sum.Load())
	}
	return all
}

// window is what a histogram holds at one moment.
type window struct {
	counts [buckets]uint64
	total  uint64
	max    time.Duration
}

// quantile returns what the share q of the durations does not exceed, at most a
// quarter power of two more than exactly that; 0 if there are none.
func (w *window) quantile(q float64) time.Duration {
	if w.total == 0 {
		return 0
	}
	want := uint64(math.Ceil(q * float64(w.total)))
	sum := uint64(0)
	for i, n := range w.counts {
		if sum += n; sum >= want && i < buckets-1 {
			return min(bounds[i], w.max)
		}
	}
	return w.max
}

// over counts the durations beyond d, but for those that share its bucket.
func (w *window) over(d time.Duration) (n uint64) {
	for i := bucketOf(d) + 1; i < buckets; i++ {
		n += w.counts[i]
	}
	return n
}
