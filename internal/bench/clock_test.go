package bench

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestScheduleStall: a send that takes long delays those behind it, but when they
// were due stays what it was, so that the stall shows in their latencies too.
func TestScheduleStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := schedule{rate: 10}, startClock()
		var due, sent []time.Duration
		err := s.run(t.Context(), c, 8, func(n int, at time.Duration) error {
			due, sent = append(due, at), append(sent, c.now())
			if n == 2 {
				time.Sleep(350 * time.Millisecond)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		ms := func(values ...int) (all []time.Duration) {
			for _, v := range values {
				all = append(all, time.Duration(v)*time.Millisecond)
			}
			return all
		}
		if want := ms(0, 100, 200, 300, 400, 500, 600, 700); !slices.Equal(due, want) {
			t.Errorf("due %v, want %v", due, want)
		}
		if want := ms(0, 100, 200, 550, 550, 550, 600, 700); !slices.Equal(sent, want) {
			t.Errorf("sent %v, want %v", sent, want)
		}
	})
}

func TestScheduleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := schedule{rate: 1}, startClock()
		broken := errors.New("broken")
		if err := s.run(t.Context(), c, 5, func(int, time.Duration) error { return broken }); err != broken {
			t.Errorf("a failed send: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		sent := 0
		err := s.run(ctx, c, 5, func(int, time.Duration) error { sent++; return nil })
		if !errors.Is(err, context.DeadlineExceeded) || sent != 3 {
			t.Errorf("sent %d, %v; want 3 until the context ended", sent, err)
		}
	})
}

// TestScheduleCount: count and due agree, whatever rounding does.
func TestScheduleCount(t *testing.T) {
	for _, rate := range []float64{0.3, 1, 3, 7, 1000, 333333} {
		for _, end := range []time.Duration{0, 1, time.Second / 3, time.Second, 11 * time.Second} {
			s := schedule{rate}
			n := s.count(end)
			if n > 0 && s.due(n-1) >= end || s.due(n) < end {
				t.Errorf("rate %v, end %v: %d messages, the last due %v, the next %v", rate, end, n, s.due(n-1), s.due(n))
			}
		}
	}
}

func TestWindow(t *testing.T) {
	w := window{from: time.Second, to: 3 * time.Second}
	for at, want := range map[time.Duration]bool{
		time.Second - 1: false, time.Second: true, 3*time.Second - 1: true, 3 * time.Second: false,
	} {
		if w.has(at) != want {
			t.Errorf("%v counts: %v", at, !want)
		}
	}
}
