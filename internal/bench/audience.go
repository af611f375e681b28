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

// audience is the subscribers of a load. Each follows one room, checks every
// message, and records how late those were that a round counts.
type audience struct {
	clock   clock
	rooms   []*room
	clients []*client.Client
	subs    []*subscriber
	round   atomic.Pointer[round]

	hear func(s *subscriber, h header, now time.Duration) // is told of every ordinary message, unless nil; set before follow

	cancel context.CancelFunc // ends all subscribers
	ended  sync.WaitGroup
	failed chan error // the first one's
}

// round is what is counted of a load: the messages due within its window. Its
// mark is the last message of each room; all others of the round come before.
type round struct {
	mark     uint32
	window   window
	recorder recorder
	spreads  *spreads // nil unless wanted

	starting chan struct{} // of the first round: a slot for each subscriber that waits for its mark

	hopeless time.Duration // call stop when a message comes so late; 0: never
	stop     func()

	awaited atomic.Int64  // subscribers that have not seen the mark yet
	all     chan struct{} // closed when there are none
	inTime  atomic.Int64  // messages that came in the window
}

func newRound(mark uint32, w window, subscribers int) *round {
	r := &round{mark: mark, window: w, all: make(chan struct{})}
	r.awaited.Store(int64(subscribers))
	return r
}

// arrive is called for a subscriber that has seen the mark.
func (r *round) arrive() {
	select {
	case <-r.starting:
	default: // not the first round
	}
	if r.awaited.Add(-1) == 0 {
		close(r.all)
	}
}

// subscriber follows one room. All but seen belongs to its goroutine.
type subscriber struct {
	index  int
	client *client.Client
	room   *room
	seen   atomic.Uint64 // messages so far, for whoever waits for them
	marked uint32        // the last mark that arrived

	mu    sync.Mutex // held while a message is dealt with
	check checker
}

func newAudience(rooms []*room) *audience {
	return &audience{clock: startClock(), rooms: rooms, failed: make(chan error, 1), cancel: func() {}}
}

// dial adds n clients. The i-th connects to the node that at names.
func (a *audience) dial(ctx context.Context, t *Target, n int, at func(i int) string, tell func(done float64)) error {
	clients, err := dialMany(ctx, t, n, at, tell)
	a.clients = append(a.clients, clients...)
	return err
}

// dialers is how many handshakes are under way at once: a machine does some two
// thousand a second, and a server refuses none of so few.
const dialers = 8

// dialMany dials n clients, the i-th to the node that at names, as dialEach does.
func dialMany(ctx context.Context, t *Target, n int, at func(i int) string, tell func(done float64)) ([]*client.Client, error) {
	return dialEach(ctx, n, func(ctx context.Context, i int) (*client.Client, error) { return t.dial(ctx, at(i)) }, tell)
}

// dialEach dials n clients and returns them in order, or those it has with an
// error.
func dialEach(ctx context.Context, n int, dial func(ctx context.Context, i int) (*client.Client, error), tell func(done float64)) ([]*client.Client, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu      sync.Mutex
		clients = make([]*client.Client, n)
		next    int
		wg      sync.WaitGroup
	)
	for range min(dialers, n) {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				i := next
				next++
				if i < n {
					tell(float64(i) / float64(n))
				}
				mu.Unlock()
				if i >= n {
					return
				}
				c, err := dial(ctx, i)
				if err != nil {
					cancel(fmt.Errorf("client %d of %d: %w", i+1, n, err))
					return
				}
				mu.Lock()
				clients[i] = c
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(clients, func(c *client.Client) bool { return c == nil }), context.Cause(ctx)
}

// starters is how many subscribers wait for their first message at once. As many
// as there can be, all in one moment, would be a storm, which is not what a
// benchmark of subscribers measures.
const starters = 32

// follow starts n subscribers, and with them those that stall after the first
// message, a few at a time: the first round's mark is there already. The i-th
// follows room i mod their number, with the client that by names; those that
// stall come last. It returns when all have had the mark.
func (a *audience) follow(ctx context.Context, first *round, n, stalled int, by func(i int) int) error {
	following, cancel := context.WithCancel(ctx)
	a.cancel = cancel
	for i := range n {
		a.subs = append(a.subs, &subscriber{index: i, client: a.clients[by(i)], room: a.rooms[i%len(a.rooms)]})
	}
	for i := range n + stalled {
		if err := a.mayStart(ctx, first); err != nil {
			return err
		}
		if i < n {
			a.ended.Go(func() { a.fail(a.read(following, a.subs[i])) })
			continue
		}
		c, r := a.clients[by(i)], a.rooms[(i-n)%len(a.rooms)]
		a.ended.Go(func() { a.fail(a.stall(following, c, r)) })
	}
	return a.await(ctx, first)
}

// mayStart waits until few enough subscribers wait for their first message.
func (a *audience) mayStart(ctx context.Context, first *round) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case first.starting <- struct{}{}:
		return nil
	case err := <-a.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return errSilence
	}
}

// fail keeps the first error.
func (a *audience) fail(err error) {
	if err == nil {
		return
	}
	select {
	case a.failed <- err:
	default:
	}
}

// stall reads one message and no more, until ctx ends.
func (a *audience) stall(ctx context.Context, c *client.Client, r *room) error {
	for _, err := range c.Subscribe(ctx, r.name, client.After(0)) {
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("a subscriber of room %s that was to stall: %w", r.name, err)
		}
		a.round.Load().arrive()
		<-ctx.Done()
		break
	}
	return nil
}

func (a *audience) read(ctx context.Context, s *subscriber) error {
	for m, err := range s.client.Subscribe(ctx, s.room.name, client.After(0)) {
		if err != nil {
			if ctx.Err() != nil {
				return nil // close ends it
			}
			return fmt.Errorf("subscriber %d of room %s: %w", s.index, s.room.name, err)
		}
		if m.Gap != nil {
			continue // its messages are missing, and counted so
		}
		h, err := parseHeader(m.Payload)
		if err == nil && int(h.room) != s.room.index {
			err = fmt.Errorf("a message of room %d", h.room)
		}
		if err != nil {
			return fmt.Errorf("subscriber %d of room %s: %w", s.index, s.room.name, err)
		}
		a.take(s, h)
	}
	return nil
}

// take deals with one message.
func (a *audience) take(s *subscriber, h header) {
	now := a.clock.now()
	s.mu.Lock()
	s.check.see(h.number)
	s.mu.Unlock()
	s.seen.Add(1)
	r := a.round.Load()
	if h.mark != 0 {
		if h.mark == r.mark && s.marked != h.mark {
			s.marked = h.mark // a second one would count for somebody else
			r.arrive()
		}
		return
	}
	if a.hear != nil {
		a.hear(s, h, now)
	}
	if r.window.has(now) {
		r.inTime.Add(1)
	}
	late := now - h.due
	if r.hopeless != 0 && late > r.hopeless {
		r.stop()
	}
	if !r.window.has(h.due) {
		return
	}
	r.recorder.record(s.index, h.due, late)
	if r.spreads != nil {
		r.spreads.take(h, late)
	}
}

// patience is how long subscribers may get nothing while they still miss
// something.
const patience = 15 * time.Second

var errSilence = fmt.Errorf("subscribers wait for messages and have got none for %v", patience)

// await returns when all subscribers have seen the round's mark, or with
// errSilence when none of them has got anything for patience.
func (a *audience) await(ctx context.Context, r *round) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	seen, since := a.seen(), time.Now()
	for {
		select {
		case <-r.all:
			return nil
		case err := <-a.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if now := a.seen(); now != seen {
			seen, since = now, time.Now()
		} else if time.Since(since) > patience {
			return errSilence
		}
	}
}

func (a *audience) seen() (n uint64) {
	for _, s := range a.subs {
		n += s.seen.Load()
	}
	return n
}

// faults tells what has gone wrong so far, at all subscribers together. All that
// was published is missed where it has not come.
func (a *audience) faults() (sum Faults) {
	for _, s := range a.subs {
		s.mu.Lock()
		sum.add(s.check.end(s.room.published))
		s.mu.Unlock()
	}
	return sum
}

func (a *audience) close() {
	a.cancel()
	var closing sync.WaitGroup
	for _, c := range a.clients {
		closing.Go(func() { c.Close() })
	}
	closing.Wait()
	a.ended.Wait()
}

// speaker publishes to an audience. It belongs to one goroutine.
type speaker struct {
	client  *client.Client
	clock   clock
	payload []byte
	late    recorder // how much later than due messages were handed to the SDK
}

func newSpeaker(c *client.Client, clock clock, size int) *speaker {
	return &speaker{client: c, clock: clock, payload: make([]byte, max(size, headerSize))}
}

// say publishes the room's next message.
func (s *speaker) say(ctx context.Context, r *room, due time.Duration, mark uint32) error {
	header{number: r.published, due: due, room: uint32(r.index), mark: mark}.put(s.payload)
	if _, err := s.client.PublishAsync(ctx, r.name, s.payload); err != nil {
		return fmt.Errorf("publish to %s: %w", r.name, err)
	}
	r.published++
	return nil
}

// errStuck: a publisher gets no acks. It is no errSilence: then messages would be missing.
var errStuck = fmt.Errorf("what was published has no ack after %v", patience)

type flusher interface{ Flush(context.Context) error }

// flush returns when all that c has published is acked, or with errStuck: a partition
// may have no leader.
func flush(ctx context.Context, c flusher) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errStuck)
	defer cancel()
	err := c.Flush(ctx)
	if err != nil && context.Cause(ctx) == errStuck {
		return errStuck
	}
	return err
}

// publish puts the round's mark into every room and returns when all that was
// published is acked.
func (s *speaker) publish(ctx context.Context, a *audience, r *round) error {
	for _, room := range a.rooms {
		if err := s.say(ctx, room, 0, r.mark); err != nil {
			return err
		}
	}
	if err := flush(ctx, s.client); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// end is publish, and returns when all subscribers have seen the mark, and with it
// everything before.
func (s *speaker) end(ctx context.Context, a *audience, r *round) error {
	if err := s.publish(ctx, a, r); err != nil {
		return err
	}
	return a.await(ctx, r)
}
