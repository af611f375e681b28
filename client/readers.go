package client

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// forReader returns a connection that has room for one more subscription to a
// room of the partition, and takes that room; giveBack returns it. It prefers
// the node asked for, then the connection that Dial made, then others that
// live, then nodes not yet connected; nodes to avoid come last.
func (r *router) forReader(ctx context.Context, partition int, prefer string, avoid map[string]time.Time) (*conn, error) {
	var err error = errNoNode
	for {
		c, d := r.pickForReader(partition, prefer, avoid)
		switch {
		case c != nil:
			return c, nil
		case d == nil:
			r.explore(0)
			return nil, err
		}
		if _, err = r.await(ctx, d, nil); err != nil {
			if ctx.Err() != nil || r.c.ctx.Err() != nil {
				return nil, err
			}
			prefer = ""
		}
	}
}

func (r *router) pickForReader(partition int, prefer string, avoid map[string]time.Time) (*conn, *dialling) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil
	}
	names := r.readersOrder(partition, prefer)
	now := time.Now()
	good, bad := names[:0:0], names[:0:0]
	for _, name := range names {
		if now.Before(avoid[name]) {
			bad = append(bad, name)
		} else {
			good = append(good, name)
		}
	}
	for _, names := range [][]string{good, bad} {
		for _, name := range names {
			n := r.nodes[name]
			if c := n.takeSlot(); c != nil {
				return c, nil
			}
			full := len(n.conns) > 0 && !n.conns[0].leaving.Load()
			if (full || name == prefer) && (n.dial != nil || n.ready()) {
				return nil, r.dial(n)
			}
		}
		for _, name := range names {
			if n := r.nodes[name]; n.dial != nil || n.ready() {
				return nil, r.dial(n)
			}
		}
	}
	return takeLeaving(r.nodes, names), nil
}

// takeLeaving takes room at a node that wants us to leave: it serves until we can.
func takeLeaving(nodes map[string]*node, names []string) *conn {
	for _, name := range names {
		for _, c := range nodes[name].conns {
			if c.hasRoom() {
				c.slots++
				return c
			}
		}
	}
	return nil
}

// readersOrder returns the replicas of a partition in the order in which a
// subscription wants them. mu must be held.
func (r *router) readersOrder(partition int, prefer string) []string {
	names := slices.Clone(r.replicas[partition])
	if len(names) == 0 {
		names = slices.Clone(r.members)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	rank := func(name string) int {
		n := r.nodes[name]
		switch {
		case name == prefer:
			return 0
		case len(n.conns) > 0 && n.conns[0].leaving.Load():
			return 5 // it drains
		case r.home != nil && r.home.node == name:
			return 1
		case len(n.conns) > 0:
			return 2
		case n.lives():
			return 3
		}
		return 4
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	if prefer != "" && r.nodes[prefer] != nil && !slices.Contains(names, prefer) {
		names = slices.Insert(names, 0, prefer)
	}
	return names
}

// takeSlot takes room for a subscription on one of n's connections.
func (n *node) takeSlot() *conn {
	for _, c := range n.conns {
		if !c.leaving.Load() && c.hasRoom() {
			c.slots++
			return c
		}
	}
	return nil
}

// hasRoom tells whether c can take one more subscription. router.mu must be held.
func (c *conn) hasRoom() bool {
	return uint64(c.slots) < min(c.limits.Subscriptions, maxStreams/2)
}

// giveBack returns the room that forReader took. full: the server will take no
// more than it has now.
func (r *router) giveBack(c *conn, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.slots--
	if full {
		c.limits.Subscriptions = uint64(max(c.slots, 1))
	}
}
