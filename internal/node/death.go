package node

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// A leader whose process is gone is replaced without waiting for heartbeats to be
// missed. Its link's end and a port that refuses tell (transport/peer). Raft's own
// checks keep this safe whoever stands; what must not happen is that a living
// leader is deposed, or that those who follow stand against each other. So first a
// majority of the voters must find the port closed, and then of each group the
// replica with the longest log stands, at once; the others only if it has not led
// after a while. A vanished host or a cut link shows nothing: heartbeats decide.
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
	if len(led) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, standBudget)
	defer cancel()
	others := n.agreeDead(ctx, gone)
	if voters := n.cfg.Voters(); 1+len(others) <= len(voters)/2 {
		n.log.Warn("a node's port refuses, but too few others find so: heartbeats decide", "node", gone, "others", others)
		return
	}
	n.log.Info("a node is gone: its partitions elect", "node", gone, "partitions", len(led), "agreed", others)
	var replaced sync.WaitGroup
	for id, term := range led {
		replaced.Go(func() { n.replace(ctx, id, gone, term, others) })
	}
	replaced.Wait()
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

// agreeDead returns other voters that find a node's port closed, too, as soon as
// they make a majority with this one.
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
	first := n.standsFirst(ctx, g, id, others)
	pause := max(standPause, n.cfg.Heartbeat/8)
	for try := range standTries {
		if !first || try > 0 {
			select {
			case <-time.After(pause + rand.N(pause)):
			case <-ctx.Done():
				return
			}
		}
		if !g.Stand(gone, term) {
			return // somebody leads, or it is not ours to lead
		}
	}
}

// standsFirst tells whether this replica's log is the longest; of equal ones the
// group decides, so that not one node gets all. Who does not hear from the others
// does not: they may be standing.
func (n *Node) standsFirst(ctx context.Context, g *raftlog.Group, id int, others []string) bool {
	mine, err := g.PeerState()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, deathTalk)
	defer cancel()
	for _, other := range others {
		st, err := n.ask(id)(ctx, other)
		if err != nil || (st.Last > mine.Last || st.Last == mine.Last && rank(id, other) > rank(id, n.cfg.Name)) {
			return false
		}
	}
	return true
}

func rank(group int, node string) uint32 {
	h := fnv.New32a()
	h.Write([]byte{byte(group), byte(group >> 8)})
	h.Write([]byte(node))
	return h.Sum32()
}
