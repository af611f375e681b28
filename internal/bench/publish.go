package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/client"
)

// PublishReport is what RunPublish measures.
type PublishReport struct {
	Settings
	Acked     float64  `json:"acked_per_s"`
	ServerCPU *float64 `json:"server_cpu_us_per_msg"` // null where it is not known
	ClientCPU *float64 `json:"client_cpu_us_per_msg"`
	Latency            // from the call, or from when it was due, to the ack
	Retries   int64    `json:"retries"` // acks that a retry has brought
	Faults             // of the acks, and of what the rooms hold in the end

	Course *Course `json:"-"` // with Settings.Plot
}

// RunPublish publishes with s.Clients publishers and s.InFlight messages without
// an ack, of all of them together; with s.Rate, so many a second instead. Each
// room belongs to one publisher, or to several if there are more of these; a
// publisher takes its rooms in turn.
func RunPublish(ctx context.Context, t *Target, s Settings, d time.Duration, progress Progress) (*PublishReport, error) {
	s.describe(t, d, warmUp(d))
	l := publishLoad{target: t, settings: s, window: loadWindow(0, d), rooms: t.rooms(s.Rooms)}
	l.recorder.course = newCourse(l.window, s.Plot)
	if err := l.connect(ctx, progress); err != nil {
		return nil, err
	}
	defer l.close()
	report := &PublishReport{Settings: s}
	if err := l.run(ctx, report, progress); err != nil {
		return nil, err
	}
	if err := l.checkRooms(ctx, report); err != nil {
		return nil, err
	}
	report.Course = l.recorder.course.export("publish to ack")
	return report, nil
}

// publishLoad is one run of RunPublish.
type publishLoad struct {
	target     *Target
	settings   Settings
	window     window
	rooms      []*room
	publishers []*publisher

	clock    clock
	recorder recorder
	counted  atomic.Int64 // acks within the window
}

// publisher is a client and its share of the load.
type publisher struct {
	load   *publishLoad
	index  int
	client *client.Client
	rooms  []*room
	window chan struct{}       // a slot for each message without an ack
	lanes  map[int]chan flight // by partition: in the order sent, which is that of the acks

	// Of the collectors, added up when they have ended.
	mu      sync.Mutex
	acked   map[*room]int64
	retries int64
	faults  Faults
}

// flight is a message on its way.
type flight struct {
	pending *client.Pending
	room    *room
	since   time.Duration // when it was sent, or due
}

func (l *publishLoad) connect(ctx context.Context, progress Progress) error {
	for i := range l.settings.Clients {
		progress("connecting", float64(i)/float64(l.settings.Clients))
		p := &publisher{load: l, index: i, acked: make(map[*room]int64), lanes: make(map[int]chan flight)}
		for j := i % len(l.rooms); j < len(l.rooms); j += l.settings.Clients {
			p.rooms = append(p.rooms, l.rooms[j])
		}
		inFlight := share(l.settings.InFlight, l.settings.Clients, i)
		p.window = make(chan struct{}, inFlight)
		for _, r := range p.rooms {
			p.lanes[r.partition] = make(chan flight, inFlight)
		}
		var err error
		if p.client, err = l.target.dial(ctx, p.rooms[0].leader); err != nil {
			l.close()
			return err
		}
		l.publishers = append(l.publishers, p)
	}
	return nil
}

// share is what the i-th of n gets of a whole.
func share(whole, n, i int) int { return (i+1)*whole/n - i*whole/n }

func (l *publishLoad) close() {
	for _, p := range l.publishers {
		p.client.Close()
	}
}

// run loads the cluster until the end of the window and waits for all acks.
func (l *publishLoad) run(ctx context.Context, report *PublishReport, progress Progress) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.clock = startClock()
	var wg sync.WaitGroup
	for _, p := range l.publishers {
		wg.Go(func() {
			if err := p.run(ctx); err != nil {
				cancel(err) // one that fails ends all
			}
		})
	}
	from, to, err := l.target.measure(ctx, l.clock, l.window, func(done float64) { progress("publishing", done) })
	if err != nil {
		cancel(err)
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	n := l.counted.Load()
	cpu := from.per(to, l.window.length(), n)
	report.Acked = cut(float64(n)/l.window.length().Seconds(), 1)
	report.ServerCPU, report.ClientCPU = cutPtr(cpu.servers, 3), cutPtr(cpu.own, 3)
	report.Latency = latencyOf(l.recorder.total())
	return nil
}

// run returns when all that it has sent is acked, or with the first error.
func (p *publisher) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var collectors sync.WaitGroup
	for _, lane := range p.lanes {
		collectors.Go(func() {
			if err := p.collect(ctx, lane); err != nil {
				cancel(err)
			}
		})
	}
	if err := p.send(ctx); err != nil {
		cancel(err)
	}
	for _, lane := range p.lanes {
		close(lane)
	}
	collectors.Wait()
	return context.Cause(ctx)
}

// send publishes until the end of the window.
func (p *publisher) send(ctx context.Context) error {
	payload := make([]byte, p.load.settings.Payload)
	one := func(n int, since time.Duration) error {
		r := p.rooms[n%len(p.rooms)]
		pending, err := p.client.PublishAsync(ctx, r.name, payload)
		if err != nil {
			return err
		}
		p.lanes[r.partition] <- flight{pending, r, since} // has room: it holds as many as the window
		return nil
	}
	if rate := p.load.settings.Rate; rate > 0 {
		s := schedule{rate / float64(p.load.settings.Clients)}
		return s.run(ctx, p.load.clock, s.count(p.load.window.to), func(n int, due time.Duration) error {
			if err := p.slot(ctx); err != nil {
				return err
			}
			return one(n, due)
		})
	}
	for n := 0; ; n++ {
		if err := p.slot(ctx); err != nil {
			return err
		}
		now := p.load.clock.now()
		if now >= p.load.window.to {
			return nil
		}
		if err := one(n, now); err != nil {
			return err
		}
	}
}

// slot waits until one more message may be on its way.
func (p *publisher) slot(ctx context.Context) error {
	select {
	case p.window <- struct{}{}:
		return nil
	default:
	}
	select {
	case p.window <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// collect waits for the acks of one partition, which come in the order sent.
func (p *publisher) collect(ctx context.Context, lane <-chan flight) error {
	var counted, retries int64
	var faults Faults
	acked := make(map[*room]int64, len(p.rooms))
	last := make(map[*room]uint64, len(p.rooms))
	defer func() {
		p.load.counted.Add(counted)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.retries += retries
		p.faults.add(faults)
		for r, n := range acked {
			p.acked[r] += n
		}
	}()
	for f := range lane {
		receipt, err := f.pending.Wait(ctx)
		if err != nil {
			return fmt.Errorf("room %s: %w", f.room.name, err)
		}
		now := p.load.clock.now()
		<-p.window
		acked[f.room]++
		if receipt.Duplicate {
			retries++
		}
		switch {
		case receipt.Seq == last[f.room]:
			faults.Duplicates++
		case receipt.Seq < last[f.room]:
			faults.Reordered++
		}
		last[f.room] = receipt.Seq
		if p.load.window.has(now) {
			counted++
			p.load.recorder.record(p.index+f.room.partition, now, now-f.since)
		}
	}
	return nil
}

// checkRooms compares what the rooms hold with what was acked: nobody else knows
// their names.
func (l *publishLoad) checkRooms(ctx context.Context, report *PublishReport) error {
	acked := make(map[*room]int64)
	for _, p := range l.publishers {
		report.Retries += p.retries
		report.Faults.add(p.faults)
		for r, n := range p.acked {
			acked[r] += n
		}
	}
	for _, r := range l.rooms {
		info, err := l.publishers[0].client.Room(ctx, r.name)
		if err != nil {
			return err
		}
		surplus := int64(info.Last) - acked[r]
		report.Missing += max(0, -surplus)
		report.Duplicates += max(0, surplus)
	}
	return nil
}
