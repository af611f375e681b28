package node

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/roomlog/roomlog/transport/peer"
)

// A message's time is its leader's clock. A node whose clock is off by more
// than maxClockOffset from a majority that agrees among itself leads nothing.
const (
	maxClockOffset = time.Second
	clockCheck     = time.Second
)

// watchClock hands this node's leaderships over while its clock is off.
func (n *Node) watchClock() {
	tick := time.NewTicker(clockCheck)
	defer tick.Stop()
	wasOff := false
	voters := n.cfg.Voters()
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		others := slices.DeleteFunc(n.network.Status(), func(p peer.PeerStatus) bool { return !slices.Contains(voters, p.Node) })
		to, offset, off := clockMajority(others, len(voters))
		if off && !wasOff {
			n.log.Warn("this node's clock is off, it hands its leaderships over", "majority_is_ahead_by", offset, "to", to)
		} else if wasOff && !off {
			n.log.Info("this node's clock agrees with the majority again")
		}
		if wasOff = off; off {
			n.handOverTo(to)
		}
	}
}

func (n *Node) handOverTo(to string) {
	ctx, cancel := context.WithTimeout(n.staying, handOver)
	defer cancel()
	for _, p := range n.partitions {
		if !p.Group().Leading() {
			continue
		}
		if err := n.handPartitionOver(ctx, p, to, true); err != nil {
			n.log.Warn("leadership was not handed over", "partition", p.ID(), "err", err)
		}
	}
}

// clockMajority tells whether a majority of the voters, without this node,
// have clocks within maxClockOffset of each other and all further than that
// from this one's; and one of them, with how far it is ahead: one that is drained,
// which would give back what it gets, only if all of them are.
func clockMajority(others []peer.PeerStatus, voters int) (node string, offset time.Duration, off bool) {
	limit := float64(maxClockOffset.Milliseconds())
	for _, a := range others {
		agree := 0
		for _, b := range others {
			measured := b.Alive && b.RTTMs > 0
			if measured && math.Abs(b.OffsetMs) > limit && math.Abs(a.OffsetMs-b.OffsetMs) <= limit {
				agree++
			}
		}
		if a.Alive && a.RTTMs > 0 && math.Abs(a.OffsetMs) > limit && agree > voters/2 {
			node, offset, off = a.Node, time.Duration(a.OffsetMs*float64(time.Millisecond)), true
			if !a.Drained {
				break
			}
		}
	}
	return node, offset, off
}

// clockAhead tells how far another node's clock is ahead of this one's.
func (n *Node) clockAhead(node string) time.Duration {
	for _, p := range n.network.Status() {
		if p.Node == node {
			return time.Duration(p.OffsetMs * float64(time.Millisecond))
		}
	}
	return 0
}
