package chaos

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/chaos/history"
)

// reader follows all rooms with one client of the SDK from their start, which goes
// on wherever it can.
type reader struct {
	load   *load
	node   string // where it begins
	client *client.Client
}

func (r *reader) run(ctx context.Context) {
	var rooms sync.WaitGroup
	for _, room := range r.load.rooms {
		rooms.Go(func() { r.follow(ctx, room) })
	}
	rooms.Wait()
}

// follow reads a room until ctx ends. An error that is not ctx's ends the
// subscription; the history has it, and the reader goes on behind what it had.
func (r *reader) follow(ctx context.Context, room string) {
	for after := uint64(0); ctx.Err() == nil; {
		s := r.load.rec.subscribing(room, r.node, place{after: after})
		for m, err := range r.client.Subscribe(ctx, room, client.After(after)) {
			if err != nil {
				s.end(err)
				break
			}
			s.got(m)
			after = m.Seq
		}
		s.end(ctx.Err())
		_ = wait(ctx, again)
	}
}

// seeker subscribes anew all the time, on any node, for the publisher who had the last
// ack: behind its message, or from now on. What a replica answers then depends on what
// it knows.
type seeker struct {
	load *load
	rng  *rand.Rand
	dial func(ctx context.Context, first string) (*client.Client, error)
}

const (
	seekEvery = 150 * time.Millisecond
	seekFor   = 300 * time.Millisecond
)

func (s *seeker) run(ctx context.Context) {
	clients := map[string]*client.Client{}
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	for wait(ctx, seekEvery) == nil {
		node := s.load.names[s.rng.IntN(len(s.load.names))]
		if clients[node] == nil {
			c, err := s.dial(ctx, node)
			if err != nil {
				continue // the node is down; and all others, if the SDK can reach none
			}
			clients[node] = c
		}
		s.seek(ctx, clients[node], node, s.load.rooms[s.rng.IntN(len(s.load.rooms))])
		if s.rng.IntN(8) == 0 { // it then begins at its node again
			clients[node].Close()
			delete(clients, node)
		}
	}
}

// seek subscribes once.
func (s *seeker) seek(ctx context.Context, c *client.Client, node, room string) {
	ctx, cancel := context.WithTimeout(ctx, seekFor)
	defer cancel()
	last := s.load.rec.acked(room)
	at, option := place{now: true, whose: last.process}, client.FromNow()
	if s.rng.IntN(3) > 0 {
		at, option = place{after: last.seq, whose: last.process}, client.After(last.seq)
	}
	sub := s.load.rec.subscribing(room, node, at)
	for m, err := range c.Subscribe(ctx, room, option) {
		if err != nil {
			sub.end(err)
			return
		}
		if sub.got(m); s.rng.IntN(20) == 0 {
			break
		}
	}
	sub.end(nil)
}

// header asks leaders for rooms' heads all the time, for a publisher.
type header struct {
	load    *load
	process history.Process
	rng     *rand.Rand
	client  *client.Client
}

const headEvery = 100 * time.Millisecond

func (h *header) run(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(headEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
		room := h.load.rooms[h.rng.IntN(len(h.load.rooms))]
		h.load.rec.asking(h.process, room)
		ask, cancel := context.WithTimeout(ctx, publishPatience)
		info, err := h.client.Room(ask, room)
		cancel()
		h.load.rec.told(h.process, room, info, err)
	}
}
