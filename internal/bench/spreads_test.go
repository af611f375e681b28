package bench

import (
	"sync"
	"testing"
	"time"
)

func TestSpreadOf(t *testing.T) {
	var hundred []time.Duration
	for i := range 101 {
		hundred = append(hundred, time.Duration(100-i)*time.Millisecond)
	}
	for _, tt := range []struct {
		name string
		took []time.Duration
		want time.Duration
	}{
		{"one", []time.Duration{7}, 0},
		{"two", []time.Duration{9, 2}, 0},
		{"three", []time.Duration{9, 2, 5}, 4},
		{"0 to 100 ms", hundred, 49 * time.Millisecond},
	} {
		if got := spreadOf(tt.took); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestSpreads: each message that all subscribers of its room have gives one
// spread; what lies outside of the round, or comes again, gives none.
func TestSpreads(t *testing.T) {
	rooms := []*room{{index: 0, published: 5}, {index: 1, published: 9}}
	a := newAudience(rooms)
	const subs = 30 // 15 in each room
	for i := range subs {
		a.subs = append(a.subs, &subscriber{index: i, room: rooms[i%2]})
	}
	const n = 7 // four in room 0, three in room 1
	s := newSpreads(a, n)
	var wg sync.WaitGroup
	for i := range subs {
		wg.Go(func() {
			r := rooms[i%2]
			for m := range uint64(n/2 + 3) {
				took := time.Duration(i/2) * time.Millisecond // p50 7 ms, p99 14 ms
				s.take(header{room: uint32(r.index), number: r.published - 1 + m}, took)
				if m == 2 {
					s.take(header{room: uint32(r.index), number: r.published - 1 + m}, took)
				}
			}
		})
	}
	wg.Wait()
	h := s.recorder.total()
	if h.TotalCount() != n {
		t.Errorf("%d spreads of %d messages", h.TotalCount(), n)
	}
}

// TestSpreadIncomplete: a message that one subscriber lacks gives no spread.
func TestSpreadIncomplete(t *testing.T) {
	r := &room{}
	a := newAudience([]*room{r})
	a.subs = []*subscriber{{room: r}, {room: r}, {room: r}}
	s := newSpreads(a, 1)
	for _, took := range []time.Duration{3 * time.Millisecond, time.Millisecond} {
		s.take(header{}, took)
	}
	if n := s.recorder.total().TotalCount(); n != 0 {
		t.Errorf("%d spreads while one subscriber lacks the message", n)
	}
	s.take(header{}, 9*time.Millisecond)
	if h := s.recorder.total(); h.TotalCount() != 1 || h.Max() < 5990 || h.Max() > 6010 {
		t.Errorf("%d spreads, the largest %d µs; want one of 6 ms", h.TotalCount(), h.Max())
	}
}
