package partition

import (
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// began is the begin of a period.
var began = epoch.Add(100 * roomPeriod)

// TestHistogramQuantiles: they are told within a bucket, a quarter power of two.
func TestHistogramQuantiles(t *testing.T) {
	const bucket = 1.1893 // 2^(1/4), and some
	rapid.Check(t, func(t *rapid.T) {
		h := histogram{period: roomPeriod, past: &past{}}
		var all []time.Duration
		var sum time.Duration
		for range rapid.IntRange(1, 50).Draw(t, "times") {
			d := time.Duration(rapid.OneOf(rapid.Int64Range(0, 1e6), rapid.Int64Range(0, 900e9)).Draw(t, "duration"))
			n := rapid.IntRange(1, 40).Draw(t, "messages")
			h.add(d, n, began)
			all = append(all, slices.Repeat([]time.Duration{d}, n)...)
			sum += time.Duration(n) * d
		}
		slices.Sort(all)
		w := h.window(began)
		for _, q := range []int{50, 99} {
			got, want := w.quantile(float64(q)/100), all[max(0, (len(all)*q+99)/100-1)]
			if got < want || float64(got) > max(float64(bucketUnit), float64(want)*bucket+1) || got > w.max {
				t.Fatalf("p%d is %v, want %v or up to a quarter power of two more", q, got, want)
			}
		}
		if w.max != all[len(all)-1] || w.total != uint64(len(all)) || h.whole().sum != sum {
			t.Fatalf("max %v, total %d, sum %v of %v", w.max, w.total, h.whole().sum, all)
		}
		limit := rapid.SampledFrom(all).Draw(t, "limit")
		least, most := uint64(0), uint64(0)
		for _, d := range all {
			if d > limit {
				most++
			}
			if float64(d) > max(float64(bucketUnit), float64(limit)*bucket+1) {
				least++
			}
		}
		if over := w.over(limit); over < least || over > most {
			t.Fatalf("%d are over %v, want %d to %d", over, limit, least, most)
		}
	})
}

// TestBucketOf: every duration is in the bucket whose bounds it is between.
func TestBucketOf(t *testing.T) {
	for i, bound := range bounds {
		for _, d := range []time.Duration{bound - 1, bound, bound + 1} {
			want, _ := slices.BinarySearch(bounds[:], d)
			if got := bucketOf(d); got != min(want, buckets-1) {
				t.Errorf("bucketOf(%v) = %d near bound %d, want %d", d, got, i, want)
			}
		}
	}
	if got := bucketOf(365 * 24 * time.Hour); got != buckets-1 {
		t.Errorf("a year is in bucket %d", got)
	}
}

func TestHistogramOfNothing(t *testing.T) {
	h := histogram{period: roomPeriod}
	h.add(time.Second, 0, began)
	if w := h.window(began); w.quantile(0.99) != 0 || w.max != 0 || w.total != 0 {
		t.Errorf("of nothing: %+v", w)
	}
	h.add(-time.Second, 1, began) // clocks differ
	if w := h.window(began); w.quantile(0.99) != 0 || w.total != 1 {
		t.Errorf("of less than nothing: %+v", w)
	}
}

// TestHistogramForgets: what was added counts for one to two periods in the
// window, and for ever in the whole.
func TestHistogramForgets(t *testing.T) {
	for _, tt := range []struct {
		name  string
		looks []time.Duration // since the first; the last is judged
		want  bool
	}{
		{"at once", []time.Duration{0}, true},
		{"after a period", []time.Duration{roomPeriod}, true},
		{"after nearly two", []time.Duration{2*roomPeriod - 1}, true},
		{"after two", []time.Duration{2 * roomPeriod}, false},
		{"after two, with looks between", []time.Duration{roomPeriod, roomPeriod + 1, 2 * roomPeriod}, false},
		{"after nearly two, with looks between", []time.Duration{roomPeriod, roomPeriod + 1, 2*roomPeriod - 1}, true},
		{"after four", []time.Duration{4 * roomPeriod}, false},
	} {
		for _, adding := range []bool{false, true} {
			h := histogram{period: roomPeriod, past: &past{}}
			h.add(time.Second, 1, began)
			var w window
			for i, look := range tt.looks {
				if adding && i > 0 {
					h.add(time.Millisecond, 1, began.Add(look))
				}
				w = h.window(began.Add(look))
			}
			if (w.max >= time.Second) != tt.want {
				t.Errorf("%s, adding %v: max is %v, want it known: %v", tt.name, adding, w.max, tt.want)
			}
			if all := h.whole(); all.counts[bucketOf(time.Second)] != 1 {
				t.Errorf("%s, adding %v: the whole has %v", tt.name, adding, all.counts)
			}
		}
	}
}

// TestHistogramConcurrently: nothing is lost while periods end.
func TestHistogramConcurrently(t *testing.T) {
	h := histogram{period: time.Microsecond, past: &past{}}
	var adding sync.WaitGroup
	for range 4 {
		adding.Go(func() {
			for i := range 5000 {
				h.add(time.Second, 1, began.Add(time.Duration(i)*100*time.Nanosecond))
			}
		})
	}
	adding.Wait()
	if got := h.whole().counts[bucketOf(time.Second)]; got != 20000 {
		t.Errorf("%d of 20000 are counted", got)
	}
}

func BenchmarkHistogramAdd(b *testing.B) {
	h := histogram{period: roomPeriod, past: &past{}}
	b.ReportAllocs()
	for b.Loop() {
		h.add(3*time.Millisecond, 1, began)
	}
}
