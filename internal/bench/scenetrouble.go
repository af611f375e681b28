package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/faultnet"
)

// Event is something that happened in a scene.
type Event struct {
	At   float64 `json:"t"` // seconds since the measuring began
	What string  `json:"what"`
}

// note keeps an event.
func (g *stage) note(format string, args ...any) {
	at := g.clock.now() - g.times.counted.from
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, Event{cut(at.Seconds(), 2), fmt.Sprintf(format, args...)})
}

// injected counts a fault.
func (g *stage) injected(what string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults[what] += n
}

// makeTrouble does what the scene has in store for the nodes.
func (g *stage) makeTrouble(ctx context.Context) error {
	w := g.times.trouble
	if err := g.clock.sleepUntil(ctx, w.from, nil); err != nil {
		return err
	}
	if g.scene.surge > 0 {
		g.note("the surge begins")
	}
	if g.scene.trouble != nil {
		if err := g.scene.trouble(g, ctx); err != nil {
			return err
		}
	}
	g.over = max(w.to, g.clock.now())
	return nil
}

// killLeader kills the node that leads the hit rooms when a third of the trouble
// has passed, and starts it again after another third.
func (g *stage) killLeader(ctx context.Context) error {
	w, c := g.times.trouble, g.target.cluster
	third := (w.to - w.from) / 3
	if err := g.clock.sleepUntil(ctx, w.from+third, nil); err != nil {
		return err
	}
	leaders, err := g.target.ops.settled(ctx)
	if err != nil {
		return err
	}
	node := leaders[g.hit.rooms[0].partition]
	g.note("%s, which leads the hit rooms, is killed", node)
	g.injected("kill", 1)
	if err := c.Kill(node); err != nil {
		return err
	}
	if err := g.clock.sleepUntil(ctx, w.from+2*third, nil); err != nil {
		return err
	}
	return g.bringBack(ctx, node)
}

// restartNodes stops and starts one node after the other.
func (g *stage) restartNodes(ctx context.Context) error {
	for _, n := range g.target.nodes {
		g.note("%s is told to stop", n.Name)
		g.injected("restart", 1)
		if err := g.target.cluster.Terminate(n.Name); err != nil {
			return err
		}
		if err := g.bringBack(ctx, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// A slow link: what a continent away is like, on a line that is too thin for the
// surge.
const (
	slowDelay  = 40 * time.Millisecond // each way
	slowJitter = 20 * time.Millisecond
	slowRate   = 1 << 20 // bytes a second, to each host and from each
)

// slowLink makes the link of the node that leads the hit rooms slow, to its clients
// and to the other nodes, until the trouble is over.
func (g *stage) slowLink(ctx context.Context) error {
	node, network := g.target.leaders[0], g.target.net.Net
	slow := faultnet.Fault{Delay: slowDelay, Jitter: slowJitter, Ordered: true, Rate: slowRate}
	from, to := slow, slow
	from.From, to.To = []string{node}, []string{node}
	out, in := network.Inject(from), network.Inject(to)
	g.note("the link of %s is slow: %v to %v more each way, %d KiB/s", node, slowDelay, slowDelay+slowJitter, slowRate>>10)
	g.injected("slow link", 1)
	err := g.clock.sleepUntil(ctx, g.times.trouble.to, nil)
	out.Off()
	in.Off()
	slowed := out.Count() + in.Count()
	g.note("the link of %s is as before; %d packets were slowed", node, slowed)
	if err == nil && slowed == 0 {
		err = fmt.Errorf("the slow link of %s has met no packet", node)
	}
	return err
}

// bringBack starts a node whose process ends and waits until it is ready.
func (g *stage) bringBack(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	c := g.target.cluster
	select {
	case <-c.Ended(node):
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", node, ctx.Err())
	}
	if err := c.Start(node); err != nil {
		return err
	}
	if err := c.WaitReady(ctx, node); err != nil {
		return err
	}
	g.note("%s is ready again", node)
	return nil
}

// herd lets readers come that hardly read.
func (g *stage) herd(ctx context.Context) error {
	n := g.crowd(g.scene.slow)
	if n == 0 {
		return nil
	}
	if err := g.clock.sleepUntil(ctx, g.times.trouble.from, nil); err != nil {
		return err
	}
	clients, err := dialMany(ctx, g.target, n, func(i int) string { return g.target.nodes[i%len(g.target.nodes)].Name }, func(float64) {})
	for i, c := range clients {
		g.keep(c)
		f := newFan(&g.hit, i%len(g.hit.rooms), g.clock)
		f.hurry = g.hurry
		g.seat(ctx, f, c)
	}
	g.note("%d readers have come that hardly read", len(clients))
	g.injected("slow reader", len(clients))
	return err
}

// guest comes during the trouble: it connects, subscribes to a room and publishes
// a message a second to it.
type guest struct {
	fan  *fan
	flow *room

	connected time.Duration // how long it took from when it was due; 0: not yet
	tries     int
}

// receive lets the guests in, as many a second as the chat's surge has messages,
// in the first half of the trouble. It returns when they have said everything.
func (g *stage) receive(ctx context.Context) error {
	if len(g.guests) == 0 {
		return nil
	}
	w := g.times.trouble
	p := newPlan(w.from, liveChat().total(max(1, seconds(w.from, w.to)/2), float64(len(g.guests))))
	var visits sync.WaitGroup
	defer visits.Wait()
	return onTime(ctx, g.clock, min(p.count(), len(g.guests)), p.due, func(n int, due time.Duration) error {
		if n == 0 {
			g.note("the first of %d guests comes", len(g.guests))
		}
		visits.Go(func() { g.fail(g.visit(ctx, n, due)) })
		return nil
	})
}

// visit is what a guest does that comes at due, until the trouble is over.
func (g *stage) visit(ctx context.Context, n int, due time.Duration) error {
	v := g.guests[n]
	c := g.letIn(ctx, v, n)
	if c == nil {
		return nil // counted as one that has never connected
	}
	now := g.clock.now()
	v.connected, v.fan.since = now-due, now
	g.seat(ctx, v.fan, c)
	k := &talker{speaker: newSpeaker(c, g.clock, g.settings.Payload), part: &g.hit, flows: []*room{v.flow}}
	each := plan{from: due}
	for range seconds(due, g.times.trouble.to) {
		each.sums = append(each.sums, float64(len(each.sums)+1))
	}
	return k.talk(ctx, &each)
}

// letIn connects a guest, however often that must be tried, or returns nil when
// it has tried for long enough.
func (g *stage) letIn(ctx context.Context, v *guest, n int) *client.Client {
	ctx, cancel := context.WithTimeout(ctx, faultLimit)
	defer cancel()
	for {
		v.tries++
		c, err := g.dial(ctx, g.target.nodes[n%len(g.target.nodes)].Name)
		if err == nil {
			return c
		}
		if pause(ctx, askAgain) != nil {
			g.note("a guest gives up after %d tries: %v", v.tries, err)
			return nil
		}
	}
}
