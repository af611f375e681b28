package partition

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var began = time.Unix(1700000000, 0)

// TestAgesQuantiles: p99 and p50 are told within a bucket, a quarter power of two.
func TestAgesQuantiles(t *testing.T) {
	const bucket = 1.1893 // 2^(1/4), and some
	rapid.Check(t, func(t *rapid.T) {
		var a ages
		var all []time.Duration
		for range rapid.IntRange(1, 50).Draw(t, "deliveries") {
			age := time.Duration(rapid.OneOf(rapid.Int64Range(0, 1e6), rapid.Int64Range(0, 900e9)).Draw(t, "age"))
			n := rapid.IntRange(1, 40).Draw(t, "messages")
			a.add(age, n, began)
			all = append(all, slices.Repeat([]time.Duration{age}, n)...)
		}
		slices.Sort(all)
		p99, spread := a.drift(began)
		within := func(what string, got time.Duration, q float64) {
			i := max(0, (len(all)*int(q*100)+99)/100-1)
			want := max(all[i], ageUnit)
			if got < want || float64(got) > float64(want)*bucket+1 {
				t.Fatalf("%s is %v, want %v or up to a quarter power of two more", what, got, want)
			}
		}
		within("p99", p99, 0.99)
		within("p50", p99-spread, 0.5)
	})
}

func TestAgesEdges(t *testing.T) {
	for _, tt := range []struct {
		name        string
		age         time.Duration
		least, most time.Duration
	}{
		{"none", 0, ageUnit, ageUnit},
		{"the smallest bucket", ageUnit, ageUnit, ageUnit},
		{"the next", ageUnit + 1, ageUnit + 1, ageUnit * 12 / 10},
		{"a year", 365 * 24 * time.Hour, 15 * time.Minute, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a ages
			a.add(tt.age, 1, began)
			if p99, spread := a.drift(began); p99 < tt.least || p99 > tt.most || spread != 0 {
				t.Errorf("got %v, %v, want %v to %v", p99, spread, tt.least, tt.most)
			}
		})
	}
	var a ages
	if p99, spread := a.drift(began); p99 != 0 || spread != 0 {
		t.Errorf("of nothing: %v, %v", p99, spread)
	}
}

// TestAgesForget: what was delivered counts for one to two periods.
func TestAgesForget(t *testing.T) {
	for _, tt := range []struct {
		name  string
		looks []time.Duration // since the first delivery; the last is judged
		want  bool
	}{
		{"at once", []time.Duration{0}, true},
		{"after a period", []time.Duration{agesPeriod}, true},
		{"after nearly two", []time.Duration{2 * agesPeriod}, true},
		{"after two", []time.Duration{2*agesPeriod + 1}, false},
		{"after two, with looks between", []time.Duration{agesPeriod + 1, agesPeriod + 2, 2*agesPeriod + 1}, false},
		{"after two, with a late look between", []time.Duration{2*agesPeriod - 1, 2*agesPeriod + 1}, false},
		{"after nearly two, with looks between", []time.Duration{agesPeriod + 1, 2 * agesPeriod}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a ages
			a.add(time.Second, 1, began)
			var p99 time.Duration
			for _, look := range tt.looks {
				p99, _ = a.drift(began.Add(look))
			}
			if (p99 > 0) != tt.want {
				t.Errorf("p99 is %v, want one: %v", p99, tt.want)
			}
		})
	}
}
