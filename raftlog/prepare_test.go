package raftlog

import (
	"context"
	"testing"
)

// A replica that is to lead soon connects to the other voters, and nothing else
// changes.
func TestPrepare(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("a")
	c.agree("a")
	leader := c.leader()
	_, term := leader.group.Leader()
	heir := c.others(leader)[0]
	connected := func() map[string]bool {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		to := map[string]bool{}
		for _, way := range c.net.conns {
			if way[0] == heir.name {
				to[way[1]] = true
			}
		}
		return to
	}
	heir.group.Prepare(soon(t))
	if got := connected(); len(got) != 2 {
		t.Errorf("%s is connected to %v, not to both others", heir.name, got)
	}
	for _, n := range c.alive() {
		if node, now := n.group.Leader(); node != leader.name || now != term {
			t.Errorf("%s follows %q in term %d, not %s in %d", n.name, node, now, leader.name, term)
		}
	}
	c.handTo(heir.name)
	c.publish("b")
	c.agree("b")
}

// AwaitLeader returns with the next leader, or with its context.
func TestAwaitLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("a")
	leader := c.leader()
	for _, n := range c.alive() {
		n.group.AwaitLeader(soon(t)) // there is one
	}
	heir := c.others(leader)[0]
	if err := leader.group.Transfer(soon(t), heir.name); err != nil {
		t.Fatal(err)
	}
	leader.group.AwaitLeader(soon(t))
	if node, _ := leader.group.Leader(); node != heir.name {
		t.Errorf("the old leader was told of %q, not of %s", node, heir.name)
	}
	c.kill(heir.name)
	c.kill(c.others(leader)[0].name)
	c.await("nobody leads", func() bool { node, _ := leader.group.Leader(); return node == "" })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	leader.group.AwaitLeader(ended)
}

// What comes from outside begins no task in a group that has ended or was restarted,
// whose end may be waiting for the last one.
func TestNoTaskAfterTheEnd(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("a")
	heir := c.others(c.leader())[0].group
	inst := heir.instance()
	ran := make(chan bool, 1)
	if !heir.spawn(inst, func() { ran <- true }) {
		t.Fatal("no task begins in a group that runs")
	}
	<-ran
	heir.cancel() // Close has begun
	if heir.spawn(inst, func() {}) {
		t.Error("a task began in a group that ends")
	}
	if heir.spawn(&instance{}, func() {}) {
		t.Error("a task began for an instance that is not the group's")
	}
}
