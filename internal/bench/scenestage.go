package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
)

// stage is one run of a scene.
type stage struct {
	target   *Target
	settings Settings
	scene    Scene
	scale    float64
	length   time.Duration
	clock    clock
	times    times

	hit, bystanders part
	flows           int // so many there are
	talkers         []*talker
	guests          []*guest
	hurry           chan struct{} // closed: those that hardly read read on

	mu      sync.Mutex
	clients []*client.Client
	fans    []*fan // that have connected
	events  []Event
	faults  map[string]int // injected
	over    time.Duration  // when the trouble was
	sights  []sight        // of each second

	cancel  context.CancelCauseFunc
	running sync.WaitGroup // fans and guests
}

func newStage(t *Target, s Settings, sc Scene, scale float64, d time.Duration) *stage {
	s.describe(t, d.Truncate(time.Second), warmUp(d))
	return &stage{
		target: t, settings: s, scene: sc, scale: scale, length: d, clock: startClock(),
		hurry: make(chan struct{}), faults: make(map[string]int), cancel: func(error) {},
	}
}

// crowd is how many of those there are for each scale.
func (g *stage) crowd(n int) int {
	if n == 0 {
		return 0
	}
	return max(1, int(float64(n)*g.scale+0.5))
}

// play lets the scene happen.
func (g *stage) play(ctx context.Context, progress Progress) (*SceneReport, error) {
	ctx, g.cancel = context.WithCancelCause(ctx)
	err := g.perform(ctx, progress)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // of whoever failed first
	}
	if err != nil {
		return nil, err
	}
	return g.report(), nil
}

func (g *stage) perform(ctx context.Context, progress Progress) error {
	g.settle()
	if err := g.openTalkers(ctx); err != nil {
		return err
	}
	if err := g.seatFans(ctx, progress); err != nil {
		return err
	}
	g.times = timesOf(g.clock.now(), g.length)
	g.hit.tally.Store(newTally(g.times.counted))
	g.bystanders.tally.Store(newTally(g.times.counted))
	if err := g.run(ctx, progress); err != nil {
		return err
	}
	progress("waiting for the last message", 1)
	close(g.hurry)
	return g.drain(ctx)
}

// settle makes the rooms and says who publishes what.
func (g *stage) settle() {
	t := g.target
	leader := t.leaders[0]
	g.hit.rooms = t.roomsIn(g.scene.hit, func(p int) bool { return p == 0 || g.scene.spread && t.leaders[p] == leader })
	g.bystanders.rooms = t.roomsIn(bystanderRooms, func(p int) bool { return t.leaders[p] != leader })
	for _, p := range []*part{&g.hit, &g.bystanders} {
		p.flows = make([][]*room, len(p.rooms))
	}
	for n := range g.crowd(g.scene.arrivals) {
		at := n % len(g.hit.rooms)
		g.guests = append(g.guests, &guest{flow: g.hit.flow(at, &g.flows)})
	}
	g.settings.Rooms = len(g.hit.rooms) + len(g.bystanders.rooms)
}

// openTalkers connects the publishers: one for the hit rooms and one for each
// leader of the bystanders.
func (g *stage) openTalkers(ctx context.Context) error {
	byLeader := make(map[string]*talker)
	for _, p := range []*part{&g.hit, &g.bystanders} {
		for i, r := range p.rooms {
			k := byLeader[r.leader]
			if k == nil {
				c, err := g.dial(ctx, r.leader)
				if err != nil {
					return err
				}
				k = &talker{speaker: newSpeaker(c, g.clock, g.settings.Payload), part: p}
				byLeader[r.leader] = k
				g.talkers = append(g.talkers, k)
			}
			k.flows = append(k.flows, p.flow(i, &g.flows))
		}
	}
	for n, v := range g.guests {
		v.fan = newFan(&g.hit, n%len(g.hit.rooms), g.clock) // now that all flows are known
	}
	for _, k := range g.talkers {
		if err := k.greet(ctx); err != nil {
			return err
		}
	}
	g.settings.Clients = len(g.talkers) + len(g.guests)
	return nil
}

func (g *stage) dial(ctx context.Context, first string) (*client.Client, error) {
	c, err := g.target.dial(ctx, first)
	if err == nil {
		g.keep(c)
	}
	return c, err
}

// keep takes note of clients that close shall close.
func (g *stage) keep(c ...*client.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clients = append(g.clients, c...)
}

// seatFans connects the readers, each over a connection of its own, and returns
// when all have had a message. Those of the hit rooms are on all nodes, or in their
// region, the bystanders' on those that lead no hit room.
func (g *stage) seatFans(ctx context.Context, progress Progress) error {
	var fans []*fan
	var at []string
	for i := range max(len(g.hit.rooms), g.crowd(g.scene.readers)) {
		fans = append(fans, newFan(&g.hit, i%len(g.hit.rooms), g.clock))
		if g.scene.region {
			at = append(at, g.target.leaders[0])
		} else {
			at = append(at, g.target.nodes[i%len(g.target.nodes)].Name)
		}
	}
	for i := range bystanderReaders * len(g.bystanders.rooms) {
		fans = append(fans, newFan(&g.bystanders, i%len(g.bystanders.rooms), g.clock))
		at = append(at, g.elsewhere(i))
	}
	clients, err := dialMany(ctx, g.target, len(fans), func(i int) string { return at[i] },
		func(done float64) { progress("connecting", done) })
	g.keep(clients...)
	if err != nil {
		return err
	}
	g.settings.Subs = len(fans) + len(g.guests)
	g.settings.Conns = g.settings.Subs
	g.settings.Stalled = g.crowd(g.scene.slow)
	for i, f := range fans {
		g.seat(ctx, f, clients[i])
	}
	return g.allGreeted(ctx, fans)
}

// elsewhere is the i-th node that leads no hit room, in turn.
func (g *stage) elsewhere(i int) string {
	n := len(g.target.nodes)
	at := g.target.place(g.target.leaders[0])
	return g.target.nodes[(at+1+i%(n-1))%n].Name
}

// seat starts a reader.
func (g *stage) seat(ctx context.Context, f *fan, c *client.Client) {
	g.mu.Lock()
	g.fans = append(g.fans, f)
	g.mu.Unlock()
	g.running.Go(func() { g.fail(f.read(ctx, c)) })
}

func (g *stage) fail(err error) {
	if err != nil {
		g.cancel(err)
	}
}

func (g *stage) allGreeted(ctx context.Context, fans []*fan) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for _, f := range fans {
		select {
		case <-f.first:
		case <-late.C:
			return errSilence
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// run publishes and makes the trouble, and returns when all is acked and the
// trouble is over.
func (g *stage) run(ctx context.Context, progress Progress) error {
	var acts sync.WaitGroup
	act := func(f func() error) {
		acts.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				g.cancel(err)
			}
		})
	}
	for k, p := range g.plans() {
		act(func() error { return k.talk(ctx, p) })
	}
	for _, f := range []func(context.Context) error{g.makeTrouble, g.receive, g.herd, g.watch} {
		act(func() error { return f(ctx) })
	}
	w := g.times
	err := g.clock.sleepUntil(ctx, w.counted.to, func(float64) {
		progress(g.scene.Name, float64(g.clock.now()-w.began)/float64(w.counted.to-w.began))
	})
	acts.Wait()
	return errors.Join(err, ctx.Err())
}

// plans says when each talker's messages are due. Talkers of a part share its rate
// by their rooms.
func (g *stage) plans() map[*talker]*plan {
	chat, w := liveChat(), g.times
	plans := make(map[*talker]*plan)
	for _, k := range g.talkers {
		rooms := len(k.flows)
		share := 1 - hitShare
		if k.part == &g.hit {
			share = hitShare
		}
		mean := g.settings.Rate * share * float64(rooms) / float64(len(k.part.rooms))
		rates := w.calmRates(chat, rooms, mean)
		if k.part == &g.hit && g.scene.surge > 0 {
			rates = w.surgeRates(chat, rooms, mean, g.scene.surge)
		}
		plans[k] = newPlan(w.began, rates)
	}
	return plans
}

// drain returns when all readers have everything, or get nothing any more.
func (g *stage) drain(ctx context.Context) error {
	missing, since := int64(-1), time.Now()
	for {
		sum := g.seen()
		if sum.Missing == 0 {
			return nil
		}
		if sum.Missing != missing {
			missing, since = sum.Missing, time.Now()
		} else if time.Since(since) > patience {
			return nil // the missing messages tell
		}
		if err := pause(ctx, askAgain); err != nil {
			return err
		}
	}
}

// seen is what all readers have found wrong so far.
func (g *stage) seen() (sum Faults) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.fans {
		sum.add(f.faults())
	}
	return sum
}

// close ends everything.
func (g *stage) close() {
	g.cancel(context.Canceled)
	var closing sync.WaitGroup
	for _, c := range g.clients {
		closing.Go(func() { c.Close() })
	}
	closing.Wait()
	g.running.Wait()
}
