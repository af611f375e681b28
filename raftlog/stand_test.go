package raftlog

import "testing"

// A follower that stands leads at once, without waiting for heartbeats to be missed;
// it does not stand against anybody but whom it was told.
func TestStand(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("a")
	c.agree("a")
	leader := c.leader()
	_, term := leader.group.Leader()
	if leader.group.Stand(leader.name, term) {
		t.Error("a leader stands against itself")
	}
	for _, name := range c.names {
		if name == leader.name {
			continue
		}
		n := c.nodes[name]
		if n.group.Stand("n9", term) || n.group.Stand("", term) || n.group.Stand(leader.name, term+1) {
			t.Errorf("%s stands against somebody who does not lead", name)
		}
	}
	next := c.names[0]
	if next == leader.name {
		next = c.names[1]
	}
	if !c.nodes[next].group.Stand(leader.name, term) {
		t.Fatalf("%s does not stand against %s, whom it follows", next, leader.name)
	}
	c.await("it leads, in the next term", func() bool {
		node, now := c.nodes[next].group.Leader()
		return node == next && now == term+1 && c.nodes[next].group.Leading()
	})
	c.publish("b")
	c.agree("b")
}
