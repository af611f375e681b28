package transport

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// told keeps which clients have been written to, in that order.
type told struct {
	mu    sync.Mutex
	names []string
}

func (o *told) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := o.names
	o.names = nil
	return fmt.Sprint(names)
}

// listening is a client that only listens.
type listening struct {
	name string
	told *told
}

func (l *listening) Write(b []byte) (int, error) {
	l.told.mu.Lock()
	defer l.told.mu.Unlock()
	l.told.names = append(l.told.names, l.name)
	return len(b), nil
}

// telling is a server that does nothing but tell its clients the map.
func telling(t *testing.T) (*Server, *told, func(name string, publishes bool) *conn) {
	s := &Server{conns: map[*conn]struct{}{}, mapChanged: make(chan struct{}, 1), draining: make(chan struct{})}
	s.fanout.pace = &pace{}
	s.ctx, s.cancel = context.WithCancel(t.Context())
	s.tasks.Go(s.tellMaps)
	o := &told{}
	return s, o, func(name string, publishes bool) *conn {
		c := &conn{server: s, control: newOutbox(&listening{name, o}, func(error) {})}
		if c.publishing.Store(publishes); !publishes {
			c.subscriptions.Store(1)
		}
		_, c.mapVersion = s.currentMap()
		return c
	}
}

func epoch(n uint64) wire.Map { return wire.Map{Epoch: n} }

func TestMapIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, told, client := telling(t)
		want := func(when, names string) {
			t.Helper()
			synctest.Wait()
			if got := told.take(); got != names {
				t.Errorf("%s: told %s, want %s", when, got, names)
			}
		}
		s.SetMap(epoch(1))
		early, late := client("reader", false), client("late", false)
		s.join(early)
		want("a client that knows the map joins", "[]")
		s.SetMap(epoch(2))
		want("the map changes", "[reader]")
		s.join(late)
		want("it has changed since hello", "[late]")
		s.SetMap(epoch(2))
		want("the same again", "[]")
		s.leave(late)
		s.join(client("publisher", true))
		s.SetMap(epoch(3))
		synctest.Wait()
		if got := told.take(); got != "[publisher reader]" && got != "[reader publisher]" { // each writes by itself
			t.Errorf("told %s", got)
		}
		s.cancel()
		s.tasks.Wait()
	})
}

// TestMapOnABusyMachine: rounds keep apart by what they cost, and a change that
// comes meanwhile is told once.
func TestMapOnABusyMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, told, client := telling(t)
		const clients = 100
		for i := range clients {
			s.join(client(fmt.Sprint(i), false))
		}
		s.fanout.pace.busy.Store(true)
		rounds := 0
		for i := range 100 {
			s.SetMap(epoch(uint64(i)))
			time.Sleep(5 * time.Millisecond)
			synctest.Wait()
			told.mu.Lock()
			rounds += len(told.names) / clients
			told.names = nil
			told.mu.Unlock()
		}
		s.join(client("publisher", true))
		homeless := client("waiting", false)
		homeless.subscriptions.Store(0)
		s.join(homeless)
		for i := range 4 {
			s.SetMap(epoch(uint64(500 + i)))
			time.Sleep(tellLook)
			synctest.Wait()
			if got := told.take(); !strings.Contains(got, "publisher") || !strings.Contains(got, "waiting") {
				t.Errorf("of those who publish, and who may wait to, are told at once on a busy machine: %s", got)
			}
		}
		if rounds < 5 || rounds > 11 {
			t.Errorf("%d rounds in half a second, want one every 50 to 70 ms", rounds)
		}
		s.fanout.pace.busy.Store(false)
		time.Sleep(tellLook)
		synctest.Wait()
		told.take()
		s.SetMap(epoch(1000))
		synctest.Wait()
		if n := len(told.names); n != clients+2 {
			t.Errorf("%d of %d clients are told at once when the machine is free again", n, clients+2)
		}
		s.cancel()
		s.tasks.Wait()
	})
}
