package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/wire"
)

// terms are those of all partitions with their leaders, as one node sees them.
func terms(c *Cluster, name string) string {
	var all []string
	for _, p := range c.Node(name).Partitions() {
		all = append(all, fmt.Sprintf("%d:%s/%d", p.Partition, p.Leader, p.Term))
	}
	return strings.Join(all, " ")
}

// counted reads a metric of a node, which has no labels.
func counted(c *Cluster, name, metric string) (value float64) {
	c.tb.Helper()
	resp, err := http.Get("http://" + c.HTTP(name) + "/metrics")
	c.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	c.must(err)
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, metric+" %g", &value); n == 1 {
			return value
		}
	}
	c.tb.Fatalf("%s has no metric %s", name, metric)
	return 0
}

// follow reads a room through a client that is connected to a node first, until ctx
// ends, and tells of each seq.
func follow(ctx context.Context, c *Cluster, room, first string, seen chan<- uint64) {
	for m, err := range c.Client("r-"+first, first).Subscribe(ctx, room) {
		if err != nil {
			if ctx.Err() == nil {
				c.tb.Errorf("a subscriber of %s: %v", first, err)
			}
			return
		}
		seen <- m.Seq
	}
}

// A drained node leads nothing and serves nobody, takes no leadership, and does so
// again when it is told; nothing is lost. It is not drained where nobody else can
// lead, and does not insist when nobody else is left.
func TestDrain(t *testing.T) {
	t.Parallel()
	c := Start(t, 3, 4, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	room := "lobby"
	drained := c.Leader(room)
	p := &Publisher{Name: "p", Client: c.Client("p", drained), History: &c.History}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	seen := make(chan uint64, 1<<16)
	go follow(reading, c, room, drained, seen)
	await := func(n int) {
		t.Helper()
		for range n {
			select {
			case <-seen:
			case <-ctx.Done():
				t.Fatal("the subscriber gets nothing more")
			}
		}
	}
	p.Stream(2*time.Millisecond, room)
	defer p.Halt()
	await(20)
	c.must(c.Node(drained).Drain(ctx))
	if st := c.Node(drained).Node(); st.Leaders != 0 || !st.Draining {
		t.Errorf("%s leads %d partitions, draining %v", drained, st.Leaders, st.Draining)
	}
	c.Until("its subscriber has gone", func() bool {
		st, err := c.Node(drained).Room(room)
		return err == nil && st.Subscribers == 0
	})
	await(200)

	// It gets no leadership from a node that is drained, too, nor keeps one.
	second := c.Leader(room)
	c.must(c.Node(second).Drain(ctx))
	for _, name := range []string{drained, second} {
		if st := c.Node(name).Node(); st.Leaders != 0 {
			t.Errorf("%s leads %d partitions", name, st.Leaders)
		}
	}
	third := c.Leader(room)
	conflict := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, admin.ErrConflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
	conflict("a drained node was given a partition", c.Node(third).Transfer(ctx, 0, drained))

	// Where all are drained they lead and serve as ever, and give back what they lead as
	// soon as another node is there.
	c.Stop(third)
	c.Until("somebody leads, though drained", func() bool { return c.Leader(room) != "" })
	await(200)
	conflict("who has only a drained node beside it was drained", c.Node(second).Drain(ctx))
	c.Run(third)
	c.Until("the node that is not drained leads all", func() bool {
		return c.Node(third).Node().Leaders == 4 && c.Node(drained).Node().Leaders == 0
	})
	c.must(c.Node(second).Undrain())
	c.Until(second+" is given a partition", func() bool { return c.Node(third).Transfer(ctx, 0, second) == nil })
	c.Until("it may lead again", func() bool { return c.Node(second).Node().Leaders == 1 })

	c.Kill(second)
	c.Stop(third)
	c.Until("it is alone", func() bool { return linked(c, drained) == 0 })
	conflict("the last node was drained", c.Node(drained).Drain(ctx))
	c.Run(second)
	await(200)
	p.Halt()
	c.must(p.Wait())
	stop()
}

// What is no death changes neither leaders nor terms: one follower's link is cut; one
// finds the port closed, and the others do not agree; all links are cut for a moment.
func TestFalseAlarms(t *testing.T) {
	t.Parallel()
	const heartbeat = 4 * time.Second // never missed here
	c := Start(t, 3, 4, func(cfg *node.Config) { cfg.Heartbeat = heartbeat })
	leader := c.Leader("lobby")
	for id := range 4 {
		c.Until("one node leads all", func() bool {
			st := c.Node(leader).Partitions()[id]
			if st.Leader != leader && st.Leader != "" {
				c.Node(st.Leader).Transfer(t.Context(), id, leader)
			}
			return st.Leader == leader
		})
	}
	var followers []string
	for _, name := range c.Names() {
		if name != leader {
			followers = append(followers, name)
		}
	}
	for _, name := range followers {
		c.Until(name+" knows", func() bool { return terms(c, name) == terms(c, leader) })
	}
	before := terms(c, leader)
	publisher := c.Client("p", leader)
	unchanged := func(what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := publisher.Publish(ctx, "lobby", []byte(what)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, name := range c.Names() {
			c.Until(what+": "+name+" is linked again", func() bool { return linked(c, name) == 2 })
			if now := terms(c, name); now != before {
				t.Errorf("%s: %s sees %s, before %s", what, name, now, before)
			}
		}
	}
	there, back := c.members[followers[0]].links[leader], c.members[leader].links[followers[0]]

	there.cut()
	c.Until("the link is down", func() bool { return linked(c, followers[0]) == 1 })
	there.heal()
	unchanged("one link was cut")

	back.cut()
	there.refuse()
	c.Until("one follower raises an alarm, and the other one does not agree", func() bool {
		return counted(c, followers[0], "roomlog_failover_refused_total") == 1
	})
	there.listen(t)
	back.heal()
	unchanged("one follower raised an alarm")

	c.Cut(leader)
	for _, name := range followers {
		c.Until("the leader's links are down", func() bool { return linked(c, name) == 1 })
	}
	c.Heal(leader)
	unchanged("all links were cut")
	for _, name := range followers {
		if n := counted(c, name, "roomlog_failover_stands_total"); n != 0 {
			t.Errorf("%s stood %v times", name, n)
		}
	}
}

// linked is how many links of a node are up.
func linked(c *Cluster, name string) (up int) {
	for _, p := range c.Node(name).Node().Peers {
		if p.Alive {
			up++
		}
	}
	return up
}

// In a cluster of five a majority of the voters agrees that the leader is gone, and
// one of them leads each partition long before heartbeats are missed.
func TestFiveVoters(t *testing.T) {
	t.Parallel()
	const heartbeat = 4 * time.Second
	c := Start(t, 5, 4, func(cfg *node.Config) { cfg.Heartbeat = heartbeat })
	killed := c.Leader("lobby")
	led := map[int]bool{}
	for _, p := range c.Node(killed).Partitions() {
		led[p.Partition] = p.Leader == killed
	}
	began := time.Now()
	for _, l := range c.members[killed].links {
		l.cut()
	}
	for name, m := range c.members {
		if name != killed {
			m.links[killed].refuse()
		}
	}
	c.Kill(killed)
	for _, name := range c.Names() {
		if name == killed {
			continue
		}
		c.Until(name+" follows others", func() bool {
			for _, p := range c.Node(name).Partitions() {
				if led[p.Partition] && (p.Leader == "" || p.Leader == killed) {
					return false
				}
			}
			return true
		})
	}
	if took := time.Since(began); took > heartbeat/2 {
		t.Errorf("others led %v after %s was killed, as if heartbeats had been missed", took, killed)
	}
}

// A drained node goes on to serve a client that has nowhere else to go; a node that
// stops sends it away. Who stops does not drain, nor take that back.
func TestDrainedServesWhoStays(t *testing.T) {
	t.Parallel()
	c := Start(t, 3, 4, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	drained := c.Names()[0]
	reader := c.DialRaw(drained).Open(&wire.Subscribe{Room: "lobby", Next: 1})
	reader.Expect(wire.TypeSubscribed)
	c.must(c.Node(drained).Drain(ctx))
	publisher := c.Client("p", c.Names()[1])
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for range 30 { // longer than clients have to leave
		<-every.C
		_, err := publisher.Publish(ctx, "lobby", []byte("x"))
		c.must(err)
		reader.Expect(wire.TypeDeliver)
	}
	n := c.Node(drained)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.Stop(drained)
	}()
	reader.Expect(wire.TypeRedirect)
	if !errors.Is(n.Undrain(), admin.ErrConflict) {
		t.Error("a node that stops is no longer drained")
	}
	<-stopped
	if err := n.Undrain(); !errors.Is(err, admin.ErrConflict) {
		t.Errorf("a node that has stopped is no longer drained: %v", err)
	}
	if err := n.Drain(ctx); !errors.Is(err, admin.ErrConflict) {
		t.Errorf("a node that has stopped was drained: %v", err)
	}
}
