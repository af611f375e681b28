package peer

import "testing"

// All nodes hear that one is drained, those too that link later; a new process is not.
func TestDrained(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1, n2 := c.start("n1"), c.start("n2")
	drained := func(n *Network) bool { return n.Status()[0].Drained } // n1
	awaitUp(t, n1, "n2")
	n1.SetDrained(true)
	awaitState(t, n2, "n2 hears that n1 is drained", func() bool { return drained(n2) })
	n3 := c.start("n3")
	awaitState(t, n3, "n3 hears it when it comes", func() bool { return drained(n3) })
	n1.SetDrained(false)
	awaitState(t, n2, "n2 hears that it is over", func() bool { return !drained(n2) })
	n1.SetDrained(true)
	awaitState(t, n2, "n1 is drained again", func() bool { return drained(n2) })
	n1.Close()
	c.start("n1")
	awaitState(t, n2, "the new n1 is not drained", func() bool { return !drained(n2) })
	if n1.Status()[0].Drained || n2.Status()[1].Drained {
		t.Error("others are said to be drained")
	}
}
