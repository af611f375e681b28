package peer

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// A process that is killed shows at once: the kernel resets its connections and
// refuses new ones. A vanished host, a cut link or a hung process shows neither, but
// its silence does (silence.go). A link that ends while its node lives is dialed anew with
// success. So a node counts as dead when its link has ended and its port refuses, and
// its own link to us has ended, too: a proxy or a firewall may refuse in its name,
// while it leads by what it has dialed.
const (
	deathLook  = 2 * time.Millisecond // between two looks at a port that neither answers nor refuses
	deathLooks = 20

	// verdictWait is how long who is asked about a node waits to find out itself.
	verdictWait = 30 * time.Millisecond
)

// lookForDeath takes the error of a try to dial a link that has ended, and returns
// the number of the next try, or 0 if no more are to be made in a hurry.
func (n *Network) lookForDeath(p *peer, err error, try int) (next int) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED) && n.foundDead(p):
		return 0
	case try >= deathLooks:
		return 0
	}
	return try + 1
}

// foundDead returns false, and does nothing, while p's own link is up.
func (n *Network) foundDead(p *peer) bool {
	n.mu.Lock()
	if p.in != nil {
		n.mu.Unlock()
		return false
	}
	p.dead = true
	n.announce()
	n.mu.Unlock()
	n.metrics.deaths.WithLabelValues(p.name).Inc()
	n.tellDead(p)
	return true
}

func (n *Network) tellDead(p *peer) {
	if n.cfg.OnDead != nil {
		n.wg.Go(func() { n.cfg.OnDead(p.name) })
	}
}

// seesDead tells whether a node's port refuses this one, too, or nothing comes from it
// here either. It waits for a moment if that is not known yet.
func (n *Network) seesDead(ctx context.Context, node string) bool {
	ctx, cancel := context.WithTimeout(ctx, verdictWait)
	defer cancel()
	for {
		n.mu.Lock()
		p, changed := n.peers[node], n.changed
		dead := p != nil && (p.dead || n.silentEnough(p))
		n.mu.Unlock()
		if dead || p == nil {
			return dead
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
