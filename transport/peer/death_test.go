package peer

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// deaths gathers what a Network is told of dead nodes.
func deaths(into chan string) func(*Config) {
	return func(cfg *Config) { cfg.OnDead = func(node string) { into <- node } }
}

// A node whose process is gone is dead to all who had a link to it, and they agree;
// one that has never been linked is not; one that comes again is alive.
func TestDeathIsSeen(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	dead1, dead2 := make(chan string, 9), make(chan string, 9)
	n1, n2, n3 := c.start("n1", deaths(dead1)), c.start("n2", deaths(dead2)), c.start("n3")
	for _, n := range []*Network{n1, n2} {
		awaitUp(t, n, "n3")
	}
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	if dead, err := n1.AskDead(soon(t), "n2", "n3"); err != nil || dead {
		t.Errorf("a living node is dead to another: %v, %v", dead, err)
	}
	if dead, err := n1.AskDead(soon(t), "n2", "nobody"); err != nil || dead {
		t.Errorf("a stranger is dead: %v, %v", dead, err)
	}
	n3.Close()
	for _, dead := range []chan string{dead1, dead2} {
		select {
		case node := <-dead:
			if node != "n3" {
				t.Errorf("%s is dead, want n3", node)
			}
		case <-soon(t).Done():
			t.Fatal("nobody finds n3 dead")
		}
	}
	if dead, err := n1.AskDead(soon(t), "n2", "n3"); err != nil || !dead {
		t.Errorf("n3 is not dead to n2: %v, %v", dead, err)
	}
	if _, err := n1.AskDead(soon(t), "n3", "n2"); !errors.Is(err, ErrLinkDown) {
		t.Errorf("a dead node was asked: %v", err)
	}
	c.start("n3")
	awaitUp(t, n2, "n3")
	if dead, err := n1.AskDead(soon(t), "n2", "n3"); err != nil || dead {
		t.Errorf("n3 is there again, and dead to n2: %v, %v", dead, err)
	}
	if len(dead1)+len(dead2) > 0 {
		t.Errorf("n3 has died once, and is told of again")
	}
}

// A dead node that links to us is news.
func TestLinkEndsDeath(t *testing.T) {
	n := newNetwork(Config{Node: "n1", Members: map[string]string{"n1": "a:1", "n2": "b:1"}}, defaultTiming, nil)
	p := n.peers["n2"]
	p.dead = true
	changed := n.Changed()
	n.linkedBy(p, &session{})
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
	if p.dead {
		t.Error("it is dead still")
	}
}

// A link that ends while its node lives is no death.
func TestCutLinkIsNoDeath(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	dead := make(chan string, 9)
	n1 := c.start("n1", deaths(dead))
	c.start("n2")
	for range 3 {
		awaitUp(t, n1, "n2")
		n1.mu.Lock()
		s := n1.peers["n2"].out
		n1.mu.Unlock()
		s.raw.Close()
		<-s.ctx.Done()
	}
	awaitUp(t, n1, "n2")
	if len(dead) > 0 {
		t.Error("a node that was there all the time was found dead")
	}
}

// How often a port is looked at that neither answers nor refuses.
func TestLookForDeath(t *testing.T) {
	n := newNetwork(Config{Node: "n1", Members: map[string]string{"n1": "a:1", "n2": "b:1"}}, defaultTiming, nil)
	p := n.peers["n2"]
	try, looks := 1, 0
	for ; try > 0; looks++ {
		try = n.lookForDeath(p, &net.OpError{Err: errors.New("no route")}, try)
	}
	if looks != deathLooks || p.dead {
		t.Errorf("%d looks, dead: %v", looks, p.dead)
	}
	p.in = &session{}
	if next := n.lookForDeath(p, &net.OpError{Err: syscall.ECONNREFUSED}, 3); next != 4 || p.dead {
		t.Errorf("a node that is linked to us is dead, for its port refuses: %d, dead: %v", next, p.dead)
	}
	p.in = nil
	if next := n.lookForDeath(p, &net.OpError{Err: syscall.ECONNREFUSED}, 3); next != 0 || !p.dead {
		t.Errorf("a port that refuses is looked at again: %d, dead: %v", next, p.dead)
	}
	if d := deathLook * deathLooks; d > 100*time.Millisecond {
		t.Errorf("a link is not dialed as usual for %v", d)
	}
}
