package peer

import (
	"time"
)

// A host that vanishes, a link that is cut and a process that hangs show no refusal.
// But nothing comes from them any more, where something came every quarter of a second
// at least: pings and pongs on two links, and beats. So a node also counts as dead when
// it has been silent for Config.SilentAfter; asked by another one, when it has been
// silent for long enough that it must have given up its leaderships.
//
// Who was asleep itself cannot tell silence from its own sleep: then the time begins
// anew for all.
const (
	silenceLooks = 20 // in the time after which a node is silent
	verdictShare = 7  // tenths of it make a verdict: the lease of leaders (raftlog)
)

// now is the time since the Network began: it never goes back.
func (n *Network) now() int64 { return int64(time.Since(n.began)) }

// heardFrom says that something has come from a node on a link.
func (n *Network) heardFrom(p *peer) { p.heard.Store(n.now()) }

// watchSilence tells OnDead of each node that falls silent, once until it is heard again.
func (n *Network) watchSilence() {
	ticker := time.NewTicker(n.cfg.SilentAfter / silenceLooks)
	defer ticker.Stop()
	last := n.now()
	for {
		select {
		case <-ticker.C:
			last = n.lookForSilences(last)
		case <-n.ctx.Done():
			return
		}
	}
}

// lookForSilences takes when it was called last, and returns when it is now.
func (n *Network) lookForSilences(last int64) (now int64) {
	now = n.now()
	asleep := time.Duration(now-last) > n.cfg.SilentAfter/4
	for _, p := range n.peers {
		if asleep && p.heard.Load() > 0 {
			n.heardFrom(p)
		}
		n.lookForSilence(p)
	}
	return now
}

func (n *Network) lookForSilence(p *peer) {
	silent := n.silentFor(p) >= n.cfg.SilentAfter
	n.mu.Lock()
	news := silent && !p.silent && !p.dead
	if p.silent != silent {
		p.silent = silent
		n.announce()
	}
	n.mu.Unlock()
	if news {
		n.metrics.silences.WithLabelValues(p.name).Inc()
		n.tellDead(p)
	}
}

// silentFor is how long nothing has come from a node; 0 if nothing ever has.
func (n *Network) silentFor(p *peer) time.Duration {
	heard := p.heard.Load()
	if heard == 0 {
		return 0
	}
	return time.Duration(n.now() - heard)
}

// silentEnough tells whether a node has been silent for long enough to agree with one
// who finds it dead.
func (n *Network) silentEnough(p *peer) bool {
	return n.cfg.SilentAfter > 0 && n.silentFor(p) >= n.cfg.SilentAfter*verdictShare/10
}
