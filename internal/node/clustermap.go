package node

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/transport/peer"
	"github.com/roomlog/roomlog/transport/wire"
)

// streams returns the maker of a group's connections.
func streams(network *peer.Network, group uint32) func() raftlog.StreamLayer {
	return func() raftlog.StreamLayer { return network.Streams(group) }
}

// leaderChanged returns what a partition's group calls, one call at a time,
// when its leader or the term has changed.
func (n *Node) leaderChanged(id int) func(string, raftlog.Term) {
	var known string
	return func(leader string, term raftlog.Term) {
		if leader != known && leader != "" {
			n.log.Info("leader", "partition", id, "leader", leader, "term", term)
			known = leader
		}
		select {
		case n.leaderEvents <- struct{}{}:
		default:
		}
	}
}

// watchCluster tells clients where the partitions are whenever a leader or a
// link has changed.
func (n *Node) watchCluster() {
	for {
		changed := n.network.Changed()
		n.clients.SetMap(n.clusterMap())
		n.keepDrained()
		select {
		case <-n.leaderEvents:
		case <-changed:
		case <-n.drainedAgain():
		case <-n.ctx.Done():
			return
		}
		// Many groups change their leader at once when a node dies.
		select {
		case <-time.After(mapPause):
		case <-n.ctx.Done():
			return
		}
	}
}

// watchDeaths tells clients of each node whose process is gone, or that is silent, at
// once: of one beside the other.
func (n *Node) watchDeaths() {
	known := map[string]bool{}
	for {
		changed := n.network.Changed()
		for _, p := range n.network.Status() {
			if gone(p) && !known[p.Node] {
				n.tasks.Go(func() { n.clients.TellGone(p.Node, func() bool { return n.isGone(p.Node) }) })
			}
			known[p.Node] = gone(p)
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return
		}
	}
}

func gone(p peer.PeerStatus) bool { return p.Dead || p.Silent }

func (n *Node) isGone(node string) bool {
	return slices.ContainsFunc(n.network.Status(), func(p peer.PeerStatus) bool { return p.Node == node && gone(p) })
}

// mapPause is how long changes of the map are gathered before they are told.
const mapPause = 2 * time.Millisecond

// mapEpoch is fixed while members cannot be changed.
const mapEpoch = 1

func (n *Node) clusterMap() wire.Map {
	names := slices.Sorted(maps.Keys(n.cfg.Members))
	m := wire.Map{Epoch: mapEpoch}
	replicas := make([]int, len(names))
	others := map[string]peer.PeerStatus{}
	for _, p := range n.network.Status() {
		others[p.Node] = p
	}
	for i, name := range names {
		replicas[i] = i
		node := wire.Node{Name: name, Listen: n.listen, HTTP: n.httpAt, Alive: true}
		if p, ok := others[name]; ok {
			var told info
			json.Unmarshal(p.Info, &told) // of a node not heard of yet there is nothing
			node.Listen, node.HTTP, node.Alive = told.Listen, told.HTTP, p.Alive
		}
		m.Nodes = append(m.Nodes, node)
	}
	for _, p := range n.partitions {
		leader, term := p.Group().Leader()
		m.Partitions = append(m.Partitions, wire.Placement{
			Term: uint64(term), Leader: slices.Index(names, leader), Replicas: replicas,
		})
	}
	return m
}
