package bench

import (
	"errors"
	"math"
	"testing"
)

func TestSearch(t *testing.T) {
	for _, tt := range []struct {
		name     string
		first    float64
		capacity float64
		tries    int // at most
	}{
		{"begins below", 100, 1370, 9},
		{"begins above", 1000, 37, 11},
		{"begins at it", 100, 100, 6},
		{"nothing holds", 1, 0, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			best, tries, lower := 0.0, 0, 0
			err := search(tt.first, func(rate float64) (bool, error) {
				tries++
				if best != 0 && rate <= best {
					lower++
				}
				if rate <= tt.capacity {
					best = rate
				}
				return rate <= tt.capacity, nil
			})
			if err != nil || tries > tt.tries {
				t.Errorf("%d tries, %v", tries, err)
			}
			if best > tt.capacity || best < tt.capacity/1.11 {
				t.Errorf("found %v of %v", best, tt.capacity)
			}
			if lower > 0 {
				t.Errorf("%d tries below one that had held", lower)
			}
		})
	}
}

func TestSearchFails(t *testing.T) {
	broken := errors.New("broken")
	if err := search(1, func(float64) (bool, error) { return false, broken }); err != broken {
		t.Errorf("%v", err)
	}
}

func TestRoundRate(t *testing.T) {
	for rate, want := range map[float64]float64{1234: 1230, 150: 150, 1.2345: 1.23, 0.15: 0.15, 98765: 98800, 999.9: 1000} {
		if got := roundRate(rate); math.Abs(got-want) > want/1e6 {
			t.Errorf("%v became %v, want %v", rate, got, want)
		}
	}
}
