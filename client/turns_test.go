package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A turn is given on when it is done, or after a while: a server that is silent keeps
// no other handshake waiting.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := make(turns, 2)
		var done [2]func()
		for i := range done {
			var err error
			if done[i], err = all.take(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		third, err := all.take(t.Context())
		if waited := time.Since(began); err != nil || waited != turnLasts {
			t.Errorf("the third of two waited %v, %v; want %v", waited, err, turnLasts)
		}
		done[0]() // it has lost its turn already: nothing is given back twice
		done[1]()
		if len(all) != 1 {
			t.Errorf("%d turns are taken, want 1", len(all))
		}
		third()
		third()
		if len(all) != 0 {
			t.Errorf("%d turns are taken, want none", len(all))
		}
	})
}

func TestTurnOfOneWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := make(turns, 1)
		done, err := all.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		ctx, cancel := context.WithTimeout(t.Context(), turnLasts/2)
		defer cancel()
		if _, err := all.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the end of its time", err)
		}
	})
}

// From half to one and a half of the time, which doubles up to 2 s.
func TestRefusedFor(t *testing.T) {
	for times, middle := range map[int]time.Duration{
		1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 5: 1600 * time.Millisecond,
		6: 2 * time.Second, 1000: 2 * time.Second,
	} {
		low, high := time.Hour, time.Duration(0)
		for range 1000 {
			d := refusedFor(times)
			low, high = min(low, d), max(high, d)
		}
		if low < middle/2 || high > middle*3/2 || low > middle*6/10 || high < middle*14/10 {
			t.Errorf("after %d: %v to %v, want %v to %v", times, low, high, middle/2, middle*3/2)
		}
	}
}

// A row of refusals ends when a node has not been tried for long.
func TestRefusalsAreForgotten(t *testing.T) {
	r := newRouter(nil, nil)
	n := &node{}
	for range 4 {
		r.keepAway(n, "a:1")
	}
	if n.refused != 4 || n.fails != 4 {
		t.Errorf("%d refusals in a row and %d failures, want 4", n.refused, n.fails)
	}
	n.retryAt = time.Now().Add(-2 * maxRefused)
	if r.keepAway(n, "a:1"); n.refused != 1 {
		t.Errorf("%d refusals in a row, want 1: the others are long ago", n.refused)
	}
}

// Dial comes back to a server that is full, later each time.
func TestDialServerThatIsFull(t *testing.T) {
	f := startFake(t, 1, 1)
	f.nodes[0].full.set(3)
	f.dial(t)
	pauses := f.nodes[0].full.pauses()
	if len(pauses) != 3 {
		t.Fatalf("pauses %v, want 3", pauses)
	}
	for i, p := range pauses {
		if least := minRefused << i / 2; p < least {
			t.Errorf("came back after %v the %d. time, want %v at least", p, i+1, least)
		}
	}
}

// A subscription whose node has died tries the others, and comes back to those that
// are full without spinning.
func TestSubscribeWhenNodesAreFull(t *testing.T) {
	f := startFake(t, 3, 1)
	f.append("lobby", "one")
	c := f.dial(t)
	home := c.router.home.node
	var full []*fullness
	for _, n := range f.nodes {
		if n.name != home {
			n.full.set(3)
			full = append(full, &n.full)
		}
	}
	for m, err := range c.Subscribe(within(t), "lobby") {
		if err != nil {
			t.Fatal(err)
		}
		if m.Seq == 2 {
			break
		}
		for _, n := range f.nodes {
			if n.name == home {
				n.kill()
			}
		}
		f.append("lobby", "two")
	}
	asked := 0
	for _, n := range full {
		n.mu.Lock()
		asked += len(n.asked)
		n.mu.Unlock()
		for i, p := range n.pauses() {
			if least := minRefused << i / 2; p < least {
				t.Errorf("a node was asked again after %v, want %v at least", p, least)
			}
		}
	}
	if asked < 5 || asked > 7 {
		t.Errorf("two nodes that refuse 3 each were asked %d times, want 5 to 7", asked)
	}
}
