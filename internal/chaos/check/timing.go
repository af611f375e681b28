package check

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is the longest time that is told apart in percentiles.
const longest = 10 * time.Minute

// timing is how late things were.
type timing struct {
	lags        *hdrhistogram.Histogram // of live subscriptions, µs
	spreads     *hdrhistogram.Histogram
	worstLag    time.Duration
	longestWait time.Duration
}

func newTiming() timing {
	return timing{
		lags:    hdrhistogram.New(1, longest.Microseconds(), 3),
		spreads: hdrhistogram.New(1, longest.Microseconds(), 3),
	}
}

func (t *timing) lag(d time.Duration)    { record(t.lags, d) }
func (t *timing) spread(d time.Duration) { record(t.spreads, d) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d, 0), longest).Microseconds()) // within its range
}

// Quantiles of a time in milliseconds.
type Quantiles struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

func quantiles(h *hdrhistogram.Histogram) Quantiles {
	if h.TotalCount() == 0 {
		return Quantiles{}
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e3 }
	return Quantiles{h.TotalCount(), at(50), at(99), at(99.9), float64(h.Max()) / 1e3}
}

func millis(ns int64) float64 { return float64(ns/1e3) / 1e3 }
