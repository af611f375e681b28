package chaos

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/client"
)

var clientFaults = []Nemesis{
	{"reconnect-storm", "many clients connect to one node, subscribe, vanish and come again, all at once", onClients, false, strikeReconnectStorm},
	{"slow-reader-herd", "many clients subscribe to all rooms on one node and hardly read", onClients, false, strikeSlowReaderHerd},
}

const (
	stormClients = 60
	herdClients  = 30
)

func strikeReconnectStorm(ctx context.Context, e *episode) (int, error) {
	node := e.aLeader(ctx)
	e.began(node)
	var connected atomic.Int64
	ctx, cancel := context.WithTimeout(ctx, e.hold)
	defer cancel()
	var crowd sync.WaitGroup
	for i := range stormClients {
		crowd.Go(func() {
			for ctx.Err() == nil {
				if e.visit(ctx, node, e.load.rooms[i%len(e.load.rooms)]) {
					connected.Add(1)
				} else {
					_ = wait(ctx, again)
				}
			}
		})
	}
	crowd.Wait()
	return int(connected.Load()), nil
}

// visit connects, reads the first messages of a room and vanishes.
func (e *episode) visit(ctx context.Context, node, room string) bool {
	c, err := e.dialOnly(ctx, "visitor", node)
	if err != nil {
		return false
	}
	defer c.Close()
	had := 0
	for _, err := range c.Subscribe(ctx, room) {
		if had++; err != nil || had == 5 {
			return err == nil
		}
	}
	return false
}

func strikeSlowReaderHerd(ctx context.Context, e *episode) (int, error) {
	node := e.aLeader(ctx)
	e.began(node)
	var read atomic.Int64
	ctx, cancel := context.WithTimeout(ctx, 2*e.hold)
	defer cancel()
	var herd sync.WaitGroup
	for range herdClients {
		herd.Go(func() {
			c, err := e.dialOnly(ctx, "slow", node)
			if err != nil {
				return
			}
			defer c.Close()
			var streams sync.WaitGroup
			for _, room := range e.load.rooms {
				streams.Go(func() { readSlowly(ctx, c, room, &read) })
			}
			streams.Wait()
		})
	}
	herd.Wait()
	return int(read.Load()), nil
}

// readSlowly takes a message now and then.
func readSlowly(ctx context.Context, c *client.Client, room string, read *atomic.Int64) {
	for _, err := range c.Subscribe(ctx, room) {
		if err != nil {
			return
		}
		read.Add(1)
		if wait(ctx, 200*time.Millisecond) != nil {
			return
		}
	}
}
