package client

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

// A connection in reserve that is lost is replaced at a random moment of its spread: the
// clients of a node that has died must not all connect to others at once. There are
// few who publish and may be thousands who read, and these are in no hurry.
const (
	publishersSpread = time.Second
	readersSpread    = 30 * time.Second
)

// WithStandby keeps a connection in reserve: whatever the client does, it is connected
// to two living nodes, if there are two. It costs the second node 50 to 80 KiB of
// memory and a ping every 12 to 15 s. When the process of a node dies the other one
// says so within milliseconds: subscriptions go on there, without a silence that has to
// be noticed first and without a handshake, and publishes at whoever leads next. The one
// in reserve is then replaced within a second, or 30 s if the client only reads; until then
// it goes on as one without reserve does when its node fails, too. A
// client that publishes to the leaders of several partitions has such connections
// anyway, and gets no further one.
//
// Servers that do not know of it refuse the connection.
func WithStandby() Option { return func(c *config) { c.standby = true } }

// keepStandby dials another node whenever fewer than two are connected.
func (r *router) keepStandby() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var dial spareDial
	for {
		changed := r.changes()
		d, wait := r.spare(&dial)
		var done chan struct{}
		if d != nil {
			done = d.done
		}
		timer.Reset(wait)
		select {
		case <-done:
		case <-changed:
		case <-timer.C:
		case <-r.c.ctx.Done():
			return
		}
	}
}

// spareDial is when the next connection in reserve may be dialled.
type spareDial struct {
	had bool      // there has been one
	at  time.Time // zero while none is missing
}

// spare makes a second node be connected if it is time for that. It returns the
// attempt, if one is under way, and when to look again if nothing changes.
func (r *router) spare(dial *spareDial) (*dialling, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := time.Hour
	connected := 0
	var free []*node
	for _, name := range r.members {
		n := r.nodes[name]
		switch {
		case n.dial != nil:
			return n.dial, wait
		case n.serves():
			connected++
		case n.alive && !n.lives():
			wait = min(wait, time.Until(n.goneAt.Add(goneLasts)))
		case !n.alive || n.address() == "":
		case n.ready():
			free = append(free, n)
		default:
			wait = min(wait, max(time.Until(n.retryAt), time.Until(n.awayUntil)))
		}
	}
	if connected >= 2 || r.closed {
		*dial = spareDial{had: true}
		return nil, time.Hour
	}
	if dial.at.IsZero() {
		if dial.at = time.Now(); dial.had {
			dial.at = dial.at.Add(rand.N(r.standbySpread()))
		}
	} else if latest := time.Now().Add(r.standbySpread()); dial.at.After(latest) {
		dial.at = latest // it publishes by now
	}
	early := time.Until(dial.at)
	switch {
	case len(free) == 0:
		return nil, wait
	case early > 0:
		return nil, early
	}
	return r.dial(free[rand.N(len(free))]), wait
}

// standbySpread is within how long a connection in reserve is replaced. mu must be held.
func (r *router) standbySpread() time.Duration {
	if r.publishes {
		return publishersSpread
	}
	return readersSpread
}

// serves tells whether n is connected and not about to leave. r.mu must be held.
func (n *node) serves() bool {
	c := n.live()
	return c != nil && !c.leaving.Load()
}

// publishing says that lanes wait for leaders from now on.
func (r *router) publishing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.publishes {
		return
	}
	r.publishes = true
	for c := range r.conns {
		r.watchOver(c)
	}
	r.notify()
}

// watchOver has the server of c tell of nodes that are gone, and at once of new
// leaders, if we publish. mu must be held.
func (r *router) watchOver(c *conn) {
	if !r.c.cfg.standby {
		return
	}
	err := c.control.TryWriteAll(wire.Append(nil, &wire.Watch{Leaders: r.publishes}))
	if err == quic.ErrWouldBlock {
		r.c.cfg.log.Debug("server takes nothing more", "node", c.node) // it is as good as dead
	}
}

// goneLasts is how long a Gone counts: longer than a busy server takes to tell a map,
// and maps know whether it still holds. A late one may come when the node is back.
const goneLasts = 3 * time.Second

// lives tells whether n is alive by what the others say. r.mu must be held.
func (n *node) lives() bool { return n.alive && time.Since(n.goneAt) >= goneLasts }

// gone: a server says that the process of a node is gone. It may be wrong, or late:
// the node has a moment to show that it lives.
func (r *router) gone(name, from string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.nodes[name]
	if n == nil {
		return
	}
	r.c.cfg.log.Debug("node is said to be gone", "node", name, "from", from)
	news := n.lives()
	n.goneAt = time.Now()
	for c := range r.conns {
		switch {
		case c.node == name:
			c.alive.gone()
		case news: // it may be told for as long as the node is down
			c.alive.crowded()
		}
	}
	r.notify()
}

// doubt asks whether n lives: another node has lost it. r.mu must be held.
func (n *node) doubt() {
	for _, c := range n.conns {
		c.alive.doubt()
	}
}

// living returns those of the nodes that are alive by what the maps say, all if none
// is. mu must be held.
func (r *router) living(names []string) []string {
	alive := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !r.node(name).lives() })
	if len(alive) == 0 {
		return names
	}
	return alive
}
