package client

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// follow reads a room until the test ends.
func follow(t *testing.T, c *Client, room string) <-chan uint64 {
	t.Helper()
	seqs := make(chan uint64, 1024)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		defer close(seqs)
		for m, err := range c.Subscribe(ctx, room) {
			if err != nil {
				return
			}
			seqs <- m.Seq
		}
	}()
	return seqs
}

func expectSeq(t *testing.T, seqs <-chan uint64, want uint64) {
	t.Helper()
	select {
	case got := <-seqs:
		if got != want {
			t.Fatalf("seq %d came, want %d", got, want)
		}
	case <-time.After(quiteLong):
		t.Fatalf("seq %d has not come", want)
	}
}

// TestStandby: a client in reserve hears that the node of a silent room is gone, and
// reads on elsewhere at once. The node does not even refuse: without the notice that
// would be noticed after 12 s at the earliest.
func TestStandby(t *testing.T) {
	f := startFake(t, 2, 1)
	f.append("lobby", "a")
	c := f.dial(t, WithStandby())
	f.await(t, "watch n2 false")
	seqs := follow(t, c, "lobby")
	expectSeq(t, seqs, 1)
	began := time.Now()
	f.nodes[0].mute.Store(true)
	f.nodes[1].push(&wire.Gone{Node: "n1"})
	f.await(t, "subscribe n2 lobby 2")
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("went on after %v", took)
	}
	f.append("lobby", "b")
	expectSeq(t, seqs, 2)
}

// TestGoneIsWrong: a node that answers is not left, whatever others say.
func TestGoneIsWrong(t *testing.T) {
	f := startFake(t, 2, 1)
	f.append("lobby", "a")
	c := f.dial(t, WithStandby())
	f.await(t, "watch n2 false")
	seqs := follow(t, c, "lobby")
	expectSeq(t, seqs, 1)
	c.router.mu.Lock()
	home := c.router.home
	c.router.mu.Unlock()
	for range 3 {
		answered := home.alive.nextPong()
		f.nodes[1].push(&wire.Gone{Node: "nobody"})
		f.nodes[1].push(&wire.Gone{Node: "n1"})
		select {
		case <-answered:
		case <-home.quic.Context().Done():
			t.Fatal("the connection has ended")
		case <-time.After(quiteLong):
			t.Fatal("n1 is not asked")
		}
	}
	f.append("lobby", "b")
	expectSeq(t, seqs, 2)
	if n := connections(c); fmt.Sprint(n) != "map[n1:1 n2:1]" {
		t.Errorf("connected to %v", n)
	}
}

// TestGoneIsLate: a node that has come back before a Gone arrives is dialled all the
// same, when no map has said that it is dead.
func TestGoneIsLate(t *testing.T) {
	r := newRouter(&Client{cfg: config{log: slog.New(slog.DiscardHandler)}}, nil)
	r.learn(&wire.Map{Nodes: []wire.Node{{Name: "n1", Listen: "a:1", Alive: true}, {Name: "n2", Alive: true}}}, "n2")
	lives := func(ago time.Duration) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		n := r.node("n1")
		n.goneAt = n.goneAt.Add(-ago)
		return n.lives()
	}
	r.gone("n1", "n2")
	if lives(0) {
		t.Error("chosen at once after it was said to be gone")
	}
	if _, wait := r.spare(&spareDial{}); wait > goneLasts {
		t.Errorf("is looked at again after %v", wait)
	}
	if !lives(goneLasts) {
		t.Error("gone for good, by a word that may be late")
	}
}

// connections counts a client's connections to each node.
func connections(c *Client) map[string]int {
	c.router.mu.Lock()
	defer c.router.mu.Unlock()
	n := map[string]int{}
	for conn := range c.router.conns {
		n[conn.node]++
	}
	return n
}

// TestDoubt: a map that tells that a node is not alive has it asked.
func TestDoubt(t *testing.T) {
	f := startFake(t, 2, 2)
	c := f.dial(t)
	room := ""
	for i := 0; room == "" || wire.PartitionOf(room, 2) != 1; i++ {
		room = fmt.Sprint("room", i)
	}
	if _, err := c.Publish(within(t), room, []byte("x")); err != nil { // connects to n2, who leads
		t.Fatal(err)
	}
	f.mu.Lock()
	m := f.clusterMap()
	f.mu.Unlock()
	m.Nodes[1].Alive = false
	began := time.Now()
	f.nodes[0].push(&m)
	f.await(t, "ping n2")
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("asked after %v, as if the map had said nothing", took)
	}
}

// TestStandbyIsReplaced: when the node in reserve is lost another one is connected;
// nodes that are not alive are left alone.
func TestStandbyIsReplaced(t *testing.T) {
	f := startFake(t, 4, 1)
	c := f.dial(t, WithStandby())
	c.router.publishing() // who only reads has time
	other := 0
	for other == 0 {
		c.router.mu.Lock()
		for i, n := range f.nodes[1:] {
			if len(c.router.node(n.name).conns) > 0 {
				other = 1 + i
			}
		}
		changed := c.router.changed
		c.router.mu.Unlock()
		if other == 0 {
			<-changed
		}
	}
	f.mu.Lock()
	m := f.clusterMap()
	f.mu.Unlock()
	third := other%3 + 1
	last := third%3 + 1
	m.Nodes[other].Alive, m.Nodes[third].Alive = false, false
	f.nodes[0].push(&m)
	f.nodes[other].kill()
	f.await(t, fmt.Sprintf("watch n%d true", last+1))
	if n := connections(c); len(n) != 2 || n["n1"] != 1 || n[f.nodes[last].name] != 1 {
		t.Errorf("connected to %v", n)
	}
}

// TestGoneIsTold: of a node that is gone its connection is asked, and the others have time,
// but not anew as long as it is told again.
func TestGoneIsTold(t *testing.T) {
	r := newRouter(&Client{cfg: config{log: slog.New(slog.DiscardHandler)}}, nil)
	conns := map[string]*conn{}
	for _, name := range []string{"n1", "n2"} {
		c := &conn{node: name}
		c.alive.init()
		conns[name], r.conns[c], r.node(name).alive = c, struct{}{}, true
	}
	r.gone("n1", "n2")
	if p := conns["n1"].alive.patience(); p != goneAfter {
		t.Errorf("the one that is gone has %v", p)
	}
	if p := conns["n2"].alive.patience(); p != maxPatience {
		t.Errorf("the other one has %v", p)
	}
	conns["n2"].alive.crowdedAt.Store(int64(nanos() - crowdLasts))
	r.gone("n1", "n2")
	if p := conns["n2"].alive.patience(); p == maxPatience {
		t.Error("what is told again counts as news")
	}
}

// TestStandbySpread: who only reads has half a minute to replace its connection in
// reserve, and hurries once it publishes.
func TestStandbySpread(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // of the rare dial: a wait may be next to nothing
	r := newRouter(&Client{ctx: ctx, cfg: config{log: slog.New(slog.DiscardHandler)}}, nil)
	for _, name := range []string{"n1", "n2"} {
		n := r.node(name)
		n.listen, n.alive = "127.0.0.1:1", true
		r.members = append(r.members, name)
	}
	waits := func() (longest time.Duration) {
		for range 1000 {
			_, wait := r.spare(&spareDial{had: true})
			longest = max(longest, wait)
		}
		return longest
	}
	if d := waits(); d < readersSpread/2 || d > readersSpread {
		t.Errorf("a reader waits up to %v", d)
	}
	late := spareDial{had: true, at: time.Now().Add(readersSpread)}
	r.publishing()
	if d := waits(); d < publishersSpread/2 || d > publishersSpread {
		t.Errorf("a publisher waits up to %v", d)
	}
	if _, d := r.spare(&late); d > publishersSpread {
		t.Errorf("a reader that publishes by now waits %v", d)
	}
}

// TestStandbyOfPublisher: who publishes hears of new leaders at once over the
// connection in reserve, which a second leader's makes needless.
func TestStandbyOfPublisher(t *testing.T) {
	f := startFake(t, 3, 1)
	c := f.dial(t, WithStandby())
	if _, err := c.Publish(within(t), "lobby", []byte("x")); err != nil {
		t.Fatal(err)
	}
	f.await(t, "watch n1 true")
	for len(connections(c)) < 2 {
		changed := c.router.changes()
		if len(connections(c)) < 2 {
			<-changed
		}
	}
	f.lead(0, 1, true)
	f.nodes[0].kill()
	f.tell()
	r, err := c.Publish(within(t), "lobby", []byte("y"))
	if err != nil || r.Seq != 2 || r.Duplicate {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestNoStandby: without the option there is one connection, and no server is asked
// for what an older one would refuse.
func TestNoStandby(t *testing.T) {
	f := startFake(t, 2, 1)
	c := f.dial(t)
	if _, err := c.Publish(within(t), "lobby", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n := connections(c); fmt.Sprint(n) != "map[n1:1]" {
		t.Errorf("connected to %v", n)
	}
	for len(f.events) > 0 {
		if e := <-f.events; len(e) > 5 && e[:5] == "watch" {
			t.Error(e)
		}
	}
}
