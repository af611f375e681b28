package raftlog

import (
	"strings"
	"testing"
)

// A leader whose disk hangs keeps its raft busy in the write, where it can
// neither hand over nor step down: the others must miss it and elect, and its
// process must end. The test takes some seconds of real time.
func TestStalledDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("before")
	stuck := c.leader()
	stuck.group.store.mu.Lock() // the next write waits here
	proposal := stuck.group.Propose([]byte("stuck"))

	var next *node
	c.await("another node leads", func() bool {
		for _, n := range c.others(stuck) {
			if n.group.Leading() {
				next = n
			}
		}
		return next != nil
	})
	if stuck.group.Leading() {
		t.Error("the stalled node still says that it leads")
	}
	if leader, _ := stuck.group.Leader(); leader == stuck.name {
		t.Error("the stalled node still names itself the leader")
	}
	if _, err := next.group.Propose([]byte("elsewhere")).Wait(t.Context()); err != nil {
		t.Errorf("propose elsewhere: %v", err)
	}
	c.await("the stalled node is told to end", func() bool { return len(c.fatals()) > 0 })
	if fatal := c.fatals(); len(fatal) != 1 || !strings.Contains(fatal[0].Error(), "disk hangs") {
		t.Errorf("Fatal was told %v, want one disk that hangs", fatal)
	}
	c.forgive()

	stuck.group.store.mu.Unlock() // had the process lived on
	if _, err := proposal.Wait(t.Context()); err == nil {
		t.Log("the stuck entry was committed after all") // it may be: its leader never knew
	}
	c.publish("after")
	c.agree("after")
}
