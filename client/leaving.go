package client

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// A server that is to have no clients, because it stops or is being drained, asks them
// to leave. A connection that leaves is used only where there is no other, and its node
// is not dialled for a while, but as a leader:
//
//	GoAway -> prepare others -> subscriptions move -> nothing is left: close
//
// As long as no other node takes us everything stays where it is, for a node that is
// being drained serves who has nowhere to go.

// A node that asked us to leave is left alone for minAway, twice as long each time if it
// asks a new connection at once, up to maxAway.
const (
	minAway = time.Second
	maxAway = 15 * time.Second
)

// A connection that leaves looks whether it can, or has, after firstLook, then less and
// less often, but every maxLook.
const (
	firstLook = 50 * time.Millisecond
	maxLook   = 2 * time.Second
)

// awayFor is how long to stay away from a node that has asked that so many times.
func awayFor(times int) time.Duration {
	d := maxAway
	if times < 5 {
		d = min(minAway<<max(times-1, 0), maxAway)
	}
	return d + rand.N(d/4+1)
}

// askedToLeave takes note of it for the node of c.
func (r *router) askedToLeave(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.node(c.node)
	if time.Since(c.born) >= settled {
		n.aways = 0
	}
	n.aways++
	n.awayUntil = time.Now().Add(awayFor(n.aways))
	r.notify()
}

// welcome takes that back: it is another process, or has room again.
func (n *node) welcome() { n.aways, n.awayUntil = 0, time.Time{} }

// leave moves what is on the connection elsewhere within the time the server gives, at
// a random moment of it, and then ends the connection. Connections to where things go
// are made first: nothing that moves shall wait for a handshake. Lanes follow their
// leaders. It tries again as long as there is no other node to go to.
func (c *conn) leave(within time.Duration) {
	at := time.NewTimer(rand.N(within + 1))
	defer at.Stop()
	early := within / 2 // a handshake takes a processor: not those of all clients at once
	for wait := firstLook; ; wait = min(2*wait, maxLook) {
		c.router.prepare(c, within, early)
		select {
		case <-at.C:
		case <-c.quic.Context().Done():
			return
		}
		if c.router.servesBut(c.node) {
			c.moveSubscriptions()
			if c.router.retire(c) {
				c.kill(wire.CodeNone, "asked to leave")
				return
			}
		}
		within, early = minAway, 0
		at.Reset(wait/2 + rand.N(wait))
	}
}

func (c *conn) moveSubscriptions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		s.CancelRead(0)
	}
}

// servesBut tells whether a node other than the named one serves us.
func (r *router) servesBut(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.members {
		if n := r.nodes[other]; other != name && n.serves() {
			return true
		}
	}
	return false
}

// retire takes c, which leaves, out of use, unless something is still on it.
func (r *router) retire(c *conn) bool {
	c.mu.Lock()
	pub := c.pub
	c.mu.Unlock()
	if pub != nil && pub.used() {
		return false // a lane that comes later loses its stream, and goes on elsewhere
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.slots > 0 {
		return false
	}
	n := r.node(c.node)
	n.conns = slices.DeleteFunc(n.conns, func(have *conn) bool { return have == c })
	c.retired = true
	return true
}

// prepare connects to other nodes before that of c is gone, unless there are
// connections: to one for readers, to two for publishes, whose next leader may be
// any. It begins at a random moment of the early time, and returns when it has
// succeeded or the time is over.
func (r *router) prepare(c *conn, within, early time.Duration) {
	ctx, cancel := context.WithTimeout(r.c.ctx, within)
	defer cancel()
	if r.c.pause(ctx, rand.N(early+1)) != nil {
		return
	}
	for _, d := range r.others(c) {
		r.await(ctx, d, nil)
	}
}

// others begins to dial what prepare wants.
func (r *router) others(c *conn) (dials []*dialling) {
	c.mu.Lock()
	want := 1
	if c.pub != nil {
		want = 2
	}
	c.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	names := slices.Clone(r.members)
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	slices.SortStableFunc(names, func(a, b string) int { return r.nodes[a].readiness() - r.nodes[b].readiness() })
	for _, name := range names {
		n := r.nodes[name]
		switch {
		case r.closed || want == 0:
			return dials
		case name == c.node:
		case n.serves():
			want--
		case n.lives() && (n.dial != nil || n.ready()):
			dials = append(dials, r.dial(n))
			want--
		}
	}
	return dials
}

// readiness is 0 for a node with a connection that stays, else 1.
func (n *node) readiness() int {
	if n.serves() {
		return 0
	}
	return 1
}
