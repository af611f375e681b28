package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
)

// load is everybody who uses the cluster in a run:
//
//	publishers  messages to all rooms
//	readers     all rooms with the SDK, from their start, wherever it can
//	witnesses   all rooms over the wire, one on each node
//	seekers     subscribe anew, all the time
//	headers     ask for the rooms' heads, for the publishers
type load struct {
	rec    *recorder
	rooms  []string
	names  []string // of the nodes
	filler int      // bytes in each message

	witnesses  []*witness
	ours       []*client.Client // of publishers
	clients    []*client.Client // of readers
	stop       func()           // publishing
	publishers sync.WaitGroup
	reading    context.CancelFunc
	readers    sync.WaitGroup
}

// workload says how much of each there is.
type workload struct {
	rooms      int
	publishers int
	seekers    int
	rate       float64 // messages a second, of all publishers together
	filler     int
}

// startLoad returns when everybody is at work.
func startLoad(ctx context.Context, c *cluster, rec *recorder, w workload, seed uint64) (*load, error) {
	stopped := make(chan struct{})
	l := &load{rec: rec, names: c.names, filler: w.filler, stop: sync.OnceFunc(func() { close(stopped) })}
	for i := range w.rooms {
		l.rooms = append(l.rooms, fmt.Sprintf("room/%d", i+1))
	}
	reading, cancel := context.WithCancel(ctx)
	l.reading = cancel
	for _, node := range c.names {
		wit := newWitness(l, c, node)
		l.witnesses = append(l.witnesses, wit)
		l.readers.Go(func() { wit.run(reading) })
		cl, err := l.dial(ctx, c, node)
		if err != nil {
			return l, err
		}
		r := &reader{load: l, node: node, client: cl}
		l.readers.Go(func() { r.run(reading) })
	}
	for i := range w.publishers {
		cl, err := c.dial(ctx, "chaos", c.names[i%len(c.names)])
		if err != nil {
			return l, err
		}
		l.ours = append(l.ours, cl)
		p := &publisher{
			load: l, process: rec.newProcess(), rng: stream(seed, 200+i), client: cl,
			every: time.Duration(float64(time.Second) * float64(w.publishers) / w.rate),
		}
		l.publishers.Go(func() { p.run(ctx, stopped) })
		h := &header{load: l, process: p.process, rng: stream(seed, 100+i), client: cl}
		l.publishers.Go(func() { h.run(ctx, stopped) })
	}
	for i := range w.seekers {
		s := &seeker{load: l, rng: stream(seed, 300+i), dial: func(ctx context.Context, first string) (*client.Client, error) {
			return c.dial(ctx, "seeker", first)
		}}
		l.readers.Go(func() { s.run(reading) })
	}
	l.readers.Go(func() { rec.flush(reading) })
	return l, nil
}

// stream is a source of chance of its own.
func stream(seed uint64, n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }

func (l *load) dial(ctx context.Context, c *cluster, node string) (*client.Client, error) {
	cl, err := c.dial(ctx, "chaos", node)
	if err == nil {
		l.clients = append(l.clients, cl)
	}
	return cl, err
}

func newWitness(l *load, c *cluster, node string) *witness {
	n, _ := c.procs.Layout().Node(node)
	return &witness{load: l, node: node, addr: n.Listen, token: c.procs.Layout().Token, tls: c.tls, last: map[string]uint64{}}
}

// flows waits until some publishes have been acked.
func (l *load) flows(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	for before := l.rec.progress(); l.rec.progress() < before+50; {
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("publishes do not flow: %w", err)
		}
	}
	return nil
}

// endPublishing stops the publishers and waits until each publish has an outcome. With
// their clients go the publishes whose outcome nobody waits for any more.
func (l *load) endPublishing() {
	l.stop()
	l.publishers.Wait()
	for _, c := range l.ours {
		c.Close()
	}
}

// close ends what is still under way. It may be called again.
func (l *load) close() {
	l.endPublishing()
	l.reading()
	l.readers.Wait()
	for _, c := range l.clients {
		c.Close()
	}
}

// seen tells whether all witnesses have read a room up to a seq.
func (l *load) seen(room string, last uint64) bool {
	for _, w := range l.witnesses {
		w.mu.Lock()
		had := w.last[room]
		w.mu.Unlock()
		if had < last {
			return false
		}
	}
	return true
}
