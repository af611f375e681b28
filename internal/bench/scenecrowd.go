package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/client"
)

// part is the hit rooms or the bystanders, with their publishers and readers.
type part struct {
	rooms []*room
	flows [][]*room // of each room: what each of its publishers sends, numbered on its own
	tally atomic.Pointer[tally]
}

// flow adds one to a room. It has a place in the part of its own, which its
// messages name, and no reader may have started yet.
func (p *part) flow(room int, index *int) *room {
	f := *p.rooms[room]
	f.index = *index
	*index++
	p.flows[room] = append(p.flows[room], &f)
	return &f
}

// has tells whether one of its rooms is in a partition.
func (p *part) has(partition int) bool {
	return slices.ContainsFunc(p.rooms, func(r *room) bool { return r.partition == partition })
}

// tally is what is counted, second by second.
type tally struct {
	window    window
	late      *course // from due to received
	drift     *course // from when the leader took it to received
	published []atomic.Int64
	delivered []atomic.Int64
}

func newTally(w window) *tally {
	n := seconds(w.from, w.to)
	return &tally{
		window: w, late: courseOf(w, time.Second), drift: courseOf(w, time.Second),
		published: make([]atomic.Int64, n), delivered: make([]atomic.Int64, n),
	}
}

// count adds one to the second of at.
func (t *tally) count(seconds []atomic.Int64, at time.Duration) {
	if t != nil && t.window.has(at) {
		seconds[int((at-t.window.from)/time.Second)].Add(1)
	}
}

// talker publishes, each message to the next of its flows. It belongs to one
// goroutine.
type talker struct {
	*speaker
	part  *part
	flows []*room
}

func (k *talker) say(ctx context.Context, n int, due time.Duration) error {
	if t := k.part.tally.Load(); t != nil {
		t.count(t.published, due)
		if now := k.clock.now(); t.window.has(due) {
			k.late.record(0, due, now-due)
		}
	}
	return k.speaker.say(ctx, k.flows[n%len(k.flows)], due, 0)
}

// greet opens rooms and sessions before anything is measured.
func (k *talker) greet(ctx context.Context) error {
	for n := range k.flows {
		if err := k.say(ctx, n, 0); err != nil {
			return err
		}
	}
	return k.flush(ctx)
}

func (k *talker) flush(ctx context.Context) error {
	if err := flush(ctx, k.client); err != nil {
		return fmt.Errorf("publish to %s: %w", k.flows[0].name, err)
	}
	return nil
}

// talk publishes what the plan says and returns when all is acked.
func (k *talker) talk(ctx context.Context, p *plan) error {
	if err := onTime(ctx, k.clock, p.count(), p.due, func(n int, due time.Duration) error { return k.say(ctx, n, due) }); err != nil {
		return err
	}
	return k.flush(ctx)
}

// fan reads a room and checks it, each of its flows on its own.
type fan struct {
	part  *part
	room  int // place in the part
	clock clock

	hurry <-chan struct{} // not nil: it hardly reads until this is closed, and no latency is taken of it
	since time.Duration   // what was due before was there before it

	first chan struct{} // closed with its first message
	mu    sync.Mutex
	check map[uint32]*checker
}

func newFan(p *part, room int, c clock) *fan {
	f := &fan{part: p, room: room, clock: c, first: make(chan struct{}), check: make(map[uint32]*checker)}
	for _, flow := range p.flows[room] {
		f.check[uint32(flow.index)] = &checker{}
	}
	return f
}

// idleReader is how long a reader that hardly reads takes for a message.
const idleReader = time.Second

// read follows the room until ctx ends.
func (f *fan) read(ctx context.Context, c *client.Client) error {
	name, first := f.part.rooms[f.room].name, f.first
	for m, err := range c.Subscribe(ctx, name, client.After(0)) {
		if ctx.Err() != nil {
			return nil // the scene is over
		}
		if err == nil && m.Gap == nil { // what a gap leaves out is missing, and counted so
			err = f.take(m)
		}
		if err != nil {
			return fmt.Errorf("a subscriber of %s: %w", name, err)
		}
		if first != nil {
			close(first)
			first = nil
		}
		f.dawdle(ctx)
	}
	return nil
}

func (f *fan) take(m client.Message) error {
	now := f.clock.now()
	h, err := parseHeader(m.Payload)
	if err != nil {
		return err
	}
	f.mu.Lock()
	check := f.check[h.room]
	if check != nil {
		check.see(h.number)
	}
	f.mu.Unlock()
	if check == nil {
		return fmt.Errorf("a message of flow %d, which is not the room's", h.room)
	}
	t := f.part.tally.Load()
	if t == nil {
		return nil
	}
	t.count(t.delivered, now)
	if f.hurry == nil && h.due >= f.since {
		t.late.record(h.due, clamped(now-h.due))
		t.drift.record(h.due, clamped(time.Since(m.Time)))
	}
	return nil
}

// clamped is a latency as histograms take it.
func clamped(took time.Duration) int64 { return min(max(took, 0), longest).Microseconds() }

// dawdle lets one that hardly reads wait.
func (f *fan) dawdle(ctx context.Context) {
	if f.hurry == nil {
		return
	}
	nap := time.NewTimer(idleReader)
	defer nap.Stop()
	select {
	case <-f.hurry:
	case <-nap.C:
	case <-ctx.Done():
	}
}

// faults tells what it has not seen, or seen twice, or in the wrong order. Nobody
// publishes any more.
func (f *fan) faults() (sum Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, flow := range f.part.flows[f.room] {
		sum.add(f.check[uint32(flow.index)].end(flow.published))
	}
	return sum
}
