package peer

import (
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// quietNetwork is one that runs nothing but what a test calls.
func quietNetwork(t *testing.T, silentAfter time.Duration) (n *Network, dead func() []string) {
	t.Helper()
	told := make(chan string, 9)
	n = newNetwork(Config{
		Node: "n1", Members: map[string]string{"n1": "a:1", "n2": "a:2", "n3": "a:3"},
		SilentAfter: silentAfter, OnDead: func(node string) { told <- node },
	}, defaultTiming, (*net.TCPListener)(nil))
	return n, func() (nodes []string) {
		n.wg.Wait()
		for len(told) > 0 {
			nodes = append(nodes, <-told)
		}
		slices.Sort(nodes)
		return nodes
	}
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 500 * time.Millisecond
		n, dead := quietNetwork(t, limit)
		n2 := n.peers["n2"]
		last := n.now()
		look := func(d time.Duration) []string {
			t.Helper()
			for until := n.now() + int64(d); n.now() < until; {
				time.Sleep(limit / silenceLooks)
				last = n.lookForSilences(last)
			}
			return dead()
		}
		expect := func(what string, got []string, want ...string) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v are dead, want %v", what, got, want)
			}
		}
		expect("nobody was ever heard", look(2*limit))
		n.heardFrom(n2)
		expect("not long enough", look(limit-limit/silenceLooks))
		if !n.seesDead(n.ctx, "n2") {
			t.Error("nearly silent, and no reason to agree with another node")
		}
		n.heardFrom(n2)
		expect("heard again", look(limit*verdictShare/10-limit/silenceLooks))
		if n.silentEnough(n2) {
			t.Error("a verdict on who may still lead")
		}
		expect("silent", look(limit), "n2")
		if s := n.Status()[0]; s.Node != "n2" || !s.Silent || s.Dead {
			t.Errorf("%+v", s)
		}
		expect("told once", look(5*limit))
		n.heardFrom(n2)
		expect("there again", look(limit/2))
		if n.Status()[0].Silent {
			t.Error("n2 is heard, and silent")
		}
		expect("silent again", look(limit), "n2")
	})
}

// Who was asleep itself hears nobody for that long: nobody else is to blame.
func TestSilenceOfASleeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 500 * time.Millisecond
		n, dead := quietNetwork(t, limit)
		n.heardFrom(n.peers["n2"])
		last := n.now()
		time.Sleep(3 * limit)
		if last = n.lookForSilences(last); len(dead()) > 0 || n.silentEnough(n.peers["n2"]) {
			t.Error("n2 is dead to one that slept")
		}
		for range silenceLooks {
			time.Sleep(limit / silenceLooks)
			last = n.lookForSilences(last)
		}
		if !slices.Equal(dead(), []string{"n2"}) {
			t.Error("n2 is silent, and nobody says so")
		}
	})
}
