package transport

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

func askToWatch(t *testing.T, c *conn, leaders bool) {
	t.Helper()
	w := wire.Watch{Leaders: leaders}
	if err := c.controlFrame(wire.TypeWatch, wire.Append(nil, &w)[2:]); err != nil {
		t.Fatal(err)
	}
}

func always() bool { return true }

// TestGoneIsTold: to those who have asked for it, and to nobody else.
func TestGoneIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, told, client := telling(t)
		watching, reader, left := client("watching", false), client("reader", false), client("left", false)
		for _, c := range []*conn{watching, reader, left} {
			s.join(c)
		}
		askToWatch(t, watching, false)
		askToWatch(t, left, true)
		s.leave(left)
		s.TellGone("n2", always)
		synctest.Wait()
		if got := told.take(); got != "[watching]" {
			t.Errorf("told %s", got)
		}
		s.cancel()
		s.tasks.Wait()
	})
}

// TestGoneIsToldInTurns: a crowd is told some at a time, and the server's end does
// not wait for that.
func TestGoneIsToldInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, told, client := telling(t)
		const clients = 5 * goneAtOnce
		for i := range clients {
			c := client(fmt.Sprint(i), false)
			s.join(c)
			askToWatch(t, c, false)
		}
		began := time.Now()
		s.TellGone("n2", always)
		synctest.Wait()
		if took := time.Since(began); took != 4*gonePause || len(told.names) != clients {
			t.Errorf("told %d of %d in %v", len(told.names), clients, took)
		}
		told.take()
		left := 2
		s.TellGone("n2", func() bool { left--; return left >= 0 })
		synctest.Wait()
		if n := len(told.names); n != 2*goneAtOnce {
			t.Errorf("told %d that a node is gone that has come back after %d", n, 2*goneAtOnce)
		}
		s.cancel()
		began = time.Now()
		s.TellGone("n3", always)
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
		s.tasks.Wait()
	})
}

// TestSpareWaitsForNothing: a connection in reserve hears of a new map in its turn, but
// that of a publisher at once.
func TestSpareWaitsForNothing(t *testing.T) {
	var c conn
	for _, tt := range []struct {
		what string
		do   func()
		want bool
	}{
		{"idle", func() {}, true},
		{"in reserve of a reader", func() { askToWatch(t, &c, false) }, false},
		{"in reserve of a publisher", func() { askToWatch(t, &c, true) }, true},
		{"reads, and publishes elsewhere", func() { c.subscriptions.Store(1) }, true},
		{"reads", func() { askToWatch(t, &c, false) }, false},
		{"publishes", func() { c.publishing.Store(true) }, true},
	} {
		if tt.do(); c.mayWait() != tt.want {
			t.Errorf("%s: may wait: %v", tt.what, !tt.want)
		}
	}
	if err := c.controlFrame(wire.TypeWatch, nil); err == nil {
		t.Error("watch without a body")
	}
	if err := c.controlFrame(wire.TypeDetach, []byte{1}); err == nil {
		t.Error("detach on the control stream")
	}
}
