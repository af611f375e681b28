package node

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/transport/peer"
)

// A leader whose process is gone is replaced without waiting for heartbeats to be
// missed. Its link's end and a port that refuses tell (transport/peer). Raft's own
// checks keep this safe whoever stands; what must not happen is that a living
// leader is deposed, or that those who follow stand against each other. So first a
// majority of the voters must find the port closed, and then of each group the
// replica with the longest log stands, at once; the others only if it has not led
// after a while.
//
// A vanished host, a cut link and a hung process show themselves by silence alone. That
// of a heartbeat timeout, for a majority, leads to the same: its lease is over by then.
// Raft by itself would look only after one to two timeouts, each follower by its own clock, and
// vote when most have.
const (
	deathTalk = 200 * time.Millisecond // for asking the others, in all

	standPause  = 60 * time.Millisecond // then whoever is second stands, or up to twice as long; an eighth of long heartbeats
	standTries  = 4
	standBudget = 2 * time.Second
)

// died replaces a node as leader. It runs in a goroutine of the network.
func (n *Node) died(gone string) {
	if !n.opened.Load() || !slices.Contains(n.cfg.Voters(), n.cfg.Name) {
		return
	}
	led := n.ledBy(gone)
	if len(led) == 0 || n.cfg.HeartbeatsOnly {
		return
	}
	n.deaths.alarms.Inc()
	ctx, cancel := context.WithTimeout(n.ctx, standBudget)
	defer cancel()
	others := n.agreeDead(ctx, gone)
	if voters := n.cfg.Voters(); 1+len(others) <= len(voters)/2 {
		n.deaths.refused.Inc()
		n.log.Warn("a node is gone or silent, but too few others find so: heartbeats decide", "node", gone, "others", others)
		return
	}
	n.deaths.agreed.Inc()
	if !n.deaths.allows(gone, time.Now()) { // what others did not agree to counts for nothing
		n.deaths.limited.Inc()
		n.log.Warn("a node dies again and again: heartbeats decide", "node", gone, "partitions", len(led))
		return
	}
	n.log.Info("a node is gone or silent: its partitions elect", "node", gone, "partitions", len(led), "agreed", others)
	var replaced sync.WaitGroup
	for id, term := range led {
		replaced.Go(func() { n.replace(ctx, id, gone, term, others) })
	}
	replaced.Wait()
}

// leastSilence is what a silence must last at least: two pings of a link may be late.
const leastSilence = 500 * time.Millisecond

// silentAfter is how long nothing may come from a node until it counts as gone.
func (n *Node) silentAfter() time.Duration {
	if n.cfg.HeartbeatsOnly {
		return 0
	}
	return max(n.cfg.Heartbeat, leastSilence)
}

// ledBy returns the partitions that a node leads, as far as is known here, with the
// term.
func (n *Node) ledBy(node string) map[int]raftlog.Term {
	led := map[int]raftlog.Term{}
	for id, p := range n.partitions {
		if leader, term := p.Group().Leader(); leader == node {
			led[id] = term
		}
	}
	return led
}

// agreeDead returns other voters that find a node gone or silent, too, as soon as they
// make a majority with this one.
func (n *Node) agreeDead(ctx context.Context, gone string) (agreed []string) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithTimeout(ctx, deathTalk)
	defer cancel()
	voters := n.cfg.Voters()
	verdicts := make(chan string, len(voters)) // "" is a no
	asked := 0
	for _, other := range voters {
		if other == gone || other == n.cfg.Name {
			continue
		}
		asked++
		running.Go(func() {
			if dead, err := n.network.AskDead(ctx, other, gone); err != nil || !dead {
				other = ""
			}
			verdicts <- other
		})
	}
	for ; asked > 0 && 1+len(agreed) <= len(voters)/2; asked-- {
		if other := <-verdicts; other != "" {
			agreed = append(agreed, other)
		}
	}
	return agreed
}

// replace stands for election in one group: at once if no other voter's log is
// longer, else when nobody leads after a while.
func (n *Node) replace(ctx context.Context, id int, gone string, term raftlog.Term, others []string) {
	g := n.partitions[id].Group()
	first := n.standsFirst(ctx, g, id, gone, others)
	pause := max(standPause, n.cfg.Heartbeat/8)
	stood := false
	for try := range standTries {
		if !first || try > 0 {
			select {
			case <-time.After(pause + rand.N(pause)):
			case <-ctx.Done():
				return
			}
		}
		if !g.Stand(gone, term) {
			break // somebody leads, or it is not ours to lead
		}
		stood = true
		n.deaths.stood.Inc()
	}
	if stood && g.Leading() {
		n.deaths.won.Inc()
	}
}

// standsFirst tells whether this replica's log is the longest; of equal ones a node
// that is not being drained, or else the group decides, so that not one node gets all. Who does not hear from the others
// does not: they may be standing.
func (n *Node) standsFirst(ctx context.Context, g *raftlog.Group, id int, gone string, agreed []string) bool {
	mine, err := g.PeerState()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, deathTalk)
	defer cancel()
	// All are asked, not only who has agreed: in a cluster of five each may have another
	// majority in mind, and of two who stand at once often neither is elected.
	for _, other := range n.cfg.Voters() {
		if other == gone || other == n.cfg.Name {
			continue
		}
		st, err := n.askState(ctx, other, id)
		switch {
		case err != nil && slices.Contains(agreed, other):
			return false
		case err == nil && n.goesBefore(other, st, id, uint64(mine.Last)):
			return false
		}
	}
	return true
}

// goesBefore tells whether another voter is to stand before this one, whose log ends
// at last.
func (n *Node) goesBefore(other string, st peer.State, id int, last uint64) bool {
	drained := n.draining.Load()
	switch {
	case st.Last != last:
		return st.Last > last
	case st.Draining != drained:
		return drained
	}
	return rank(id, other) > rank(id, n.cfg.Name)
}

func rank(group int, node string) uint32 {
	h := fnv.New32a()
	h.Write([]byte{byte(group), byte(group >> 8)})
	h.Write([]byte(node))
	return h.Sum32()
}

// A node that dies, comes back and leads again and again shall not keep the others
// busy with elections: each death of a node is worth an election at once, as long as
// there are not more than deathBurst of them and then one in each deathPause.
const (
	deathBurst = 5
	deathPause = 2 * time.Second
)

// deaths counts alarms and what became of them, and bounds how often a node's death
// is acted upon.
type deaths struct {
	alarms, limited, refused, agreed prometheus.Counter
	stood, won                       prometheus.Counter

	mu   sync.Mutex
	paid map[string]time.Time // up to when a node's deaths are paid for, one deathPause each
}

func newDeaths() *deaths {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "roomlog", Subsystem: "failover", Name: name, Help: help})
	}
	return &deaths{
		alarms:  counter("alarms_total", "Links that ended with a port that refuses, of nodes that led partitions."),
		limited: counter("limited_total", "Alarms that were left to heartbeats: the node had died too often of late."),
		refused: counter("refused_total", "Alarms with which too few other voters agreed."),
		agreed:  counter("agreed_total", "Alarms with which a majority of the voters agreed."),
		stood:   counter("stands_total", "Elections of a partition that this node stood for after an alarm."),
		won:     counter("wins_total", "Partitions that this node leads for having stood."),
		paid:    map[string]time.Time{},
	}
}

func (d *deaths) collectors() []prometheus.Collector {
	return []prometheus.Collector{d.alarms, d.limited, d.refused, d.agreed, d.stood, d.won}
}

// allows tells whether a node's death at now is to be acted upon.
func (d *deaths) allows(node string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	paid := d.paid[node]
	if paid.Before(now) {
		paid = now
	}
	if paid = paid.Add(deathPause); paid.Sub(now) > deathBurst*deathPause {
		return false
	}
	d.paid[node] = paid
	return true
}
