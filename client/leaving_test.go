package client

import (
	"fmt"
	"testing"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// askAway has a node ask its clients to leave, and all that come.
func (n *fakeNode) askAway() {
	n.away.Store(true)
	n.push(&wire.GoAway{Delay: 20})
}

// Where all living nodes ask their clients to leave a client goes on with the
// connections it has, and makes few new ones: readers and reserves find none better.
func TestAllNodesAskToLeave(t *testing.T) {
	f := startFake(t, 3, 1)
	f.nodes[2].kill()
	c := f.dial(t, WithStandby())
	rooms := []string{"a", "b", "c"}
	var seqs []<-chan uint64
	for _, room := range rooms {
		f.append(room, "first")
		seqs = append(seqs, follow(t, c, room))
		expectSeq(t, seqs[len(seqs)-1], 1)
	}
	f.nodes[0].askAway()
	f.nodes[1].askAway()
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for seq := uint64(2); seq < 100; seq++ {
		<-every.C
		for i, room := range rooms {
			f.append(room, "next")
			expectSeq(t, seqs[i], seq)
		}
	}
	came := map[string]int{}
	for len(f.events) > 0 {
		var node string
		if n, _ := fmt.Sscanf(<-f.events, "welcome %s", &node); n == 1 {
			came[node]++
		}
	}
	for node, n := range came {
		if n > 4 {
			t.Errorf("%d connections were made to %s", n, node)
		}
	}
	if len(connections(c)) == 0 {
		t.Error("connected to nobody")
	}
}

// A connection that leaves is ended when nothing is on it any more, and its node is not
// dialled again though it would answer.
func TestLeftConnectionIsClosed(t *testing.T) {
	f := startFake(t, 2, 1)
	f.append("lobby", "a")
	c := f.dial(t)
	seqs := follow(t, c, "lobby")
	expectSeq(t, seqs, 1)
	f.nodes[0].askAway()
	f.await(t, "subscribe n2 lobby 2")
	for ctx := within(t); fmt.Sprint(connections(c)) != "map[n2:1]"; {
		changed := c.router.changes()
		if fmt.Sprint(connections(c)) == "map[n2:1]" {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("connected to %v", connections(c))
		}
	}
	f.append("lobby", "b")
	expectSeq(t, seqs, 2)
	c.router.mu.Lock()
	defer c.router.mu.Unlock()
	if n := c.router.node("n1"); n.ready() || !n.reachable() {
		t.Errorf("n1 can be dialled by who has a choice: %v, as a leader: %v", n.ready(), n.reachable())
	}
}

// A client that can reach only a node that asks it to leave stays, on one connection.
func TestNowhereToGo(t *testing.T) {
	f := startFake(t, 2, 1)
	f.nodes[1].kill()
	f.nodes[0].away.Store(true)
	f.append("lobby", "a")
	c := f.dial(t)
	for i := range 5 {
		seqs := follow(t, c, "lobby")
		expectSeq(t, seqs, 1)
		f.append(fmt.Sprint("room", i), "x")
		if _, err := c.Room(within(t), fmt.Sprint("room", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := connections(c); fmt.Sprint(n) != "map[n1:1]" {
		t.Errorf("connected to %v", n)
	}
}

// Dead nodes in the map do not count among those that it prepares for.
func TestPrepareSkipsDeadNodes(t *testing.T) {
	f := startFake(t, 6, 1)
	c := f.dial(t)
	for _, i := range []int{1, 2, 3, 4} {
		f.nodes[i].kill()
	}
	f.mu.Lock()
	m := f.clusterMap()
	f.mu.Unlock()
	for _, i := range []int{1, 2, 3, 4} {
		m.Nodes[i].Alive = false
	}
	changed := c.router.changes()
	f.nodes[0].push(&m)
	<-changed
	c.router.mu.Lock()
	home := c.router.home
	c.router.mu.Unlock()
	dials := c.router.others(home)
	if len(dials) != 1 {
		t.Fatalf("%d dials have begun", len(dials))
	}
	if _, err := c.router.await(within(t), dials[0], nil); err != nil {
		t.Fatal(err)
	}
	if n := connections(c); n["n6"] != 1 {
		t.Errorf("connected to %v", n)
	}
}

func TestAwayFor(t *testing.T) {
	for times := range 100 {
		least := min(minAway<<min(max(times-1, 0), 10), maxAway)
		if d := awayFor(times); d < least || d > least+least/4 {
			t.Errorf("%d: %v", times, d)
		}
	}
}

// The clients of a node that stops do not all begin their handshakes elsewhere at once,
// but within half of the time that they have.
func TestPrepareIsSpread(t *testing.T) {
	f := startFake(t, 2, 1)
	const clients = 12
	for range clients {
		f.dial(t)
	}
	f.nodes[1].full.set(0)
	f.nodes[0].push(&wire.GoAway{Delay: 1000})
	for range clients {
		f.await(t, "welcome n2")
	}
	var all time.Duration
	for _, pause := range f.nodes[1].full.pauses() {
		all += pause
	}
	if all < 150*time.Millisecond {
		t.Errorf("%d clients connected within %v", clients, all)
	}
}
