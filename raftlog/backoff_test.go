package raftlog

import (
	"fmt"
	"testing"
	"time"
)

// Raft's replication to a peer that is away pauses longer after each failure,
// up to 10 s, and nothing wakes it. This test is slow on purpose: only after
// about 10 s of real time is that pause so long that the peer's return and the
// loss of the third node would stop a cluster that falls into the trap.
func TestPeerThatWasAwayIsReplicatedToAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	leader := c.handTo("n1")
	c.publish("before")
	c.kill("n2")
	away := time.NewTimer(10500 * time.Millisecond)
	defer away.Stop()
	every := time.NewTicker(200 * time.Millisecond)
	defer every.Stop()
	for i, done := 0, false; !done; i++ {
		select {
		case <-every.C:
			c.publish(fmt.Sprintf("away %d", i))
		case <-away.C:
			done = true
		}
	}
	c.await("n2 to be waited for", func() bool { return c.net.waitingAt(leader.name) > 0 })

	c.open("n2")
	c.await("n2 to hear of a leader", func() bool { name, _ := c.nodes["n2"].group.Leader(); return name != "" })
	c.kill("n3")
	if _, err := c.publishWithin(4*time.Second, "after"); err != nil {
		t.Fatalf("with n2 back and n3 dead nothing is committed: %v", err)
	}
	c.open("n3")
	c.agree("after")
}

// Connections that end cost no time, though raft, which finds out with the next
// entry, would wait for another one.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	c := newPushCluster(t, nil)
	for i := range 3 {
		data := fmt.Sprintf("%d", i)
		c.publish(data)
		c.agree(data)
		c.net.reset()
	}
}

// A follower that lacks many entries gets all of them, though nothing new comes.
func TestLaggardNeedsNothingNew(t *testing.T) {
	t.Parallel()
	c := newPushCluster(t, nil)
	c.handTo("n1")
	c.publish("first")
	c.agree("first")
	c.separate("n1", "n3")
	var all []*Proposal
	for i := range 10 * maxAppendEntries {
		all = append(all, c.nodes["n1"].group.Propose(fmt.Appendf(nil, "%d", i)))
	}
	for _, p := range all {
		if _, err := p.Wait(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	c.heal()
	c.agree(fmt.Sprint(len(all) - 1))
}
