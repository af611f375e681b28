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
	Retries   int64    `json:"retries"`   // acks that a retry has brought
	Elections int      `json:"elections"` // while it was loaded
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
	before, err := t.ops.terms(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.run(ctx, report, progress); err != nil {
		return nil, err
	}
	after, err := t.ops.terms(ctx)
	if err != nil {
		return nil, err
	}
	report.Elections = after - before
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
	rooms  []*feed
	window chan struct{} // a slot for each message without an ack
	lanes  []chan flight // one for each partition: in the order sent, which is that of the acks
}

// feed is what one publisher sends to one room. All but lane belongs to that
// lane's collector.
type feed struct {
	*room
	lane    chan<- flight
	acked   int64
	retries int64
	last    uint64 // the seq of the last ack
	faults  Faults
}

// flight is a message on its way.
type flight struct {
	pending *client.Pending
	feed    *feed
	since   time.Duration // when it was sent, or due
}

func (l *publishLoad) connect(ctx context.Context, progress Progress) error {
	for i := range l.settings.Clients {
		progress("connecting", float64(i)/float64(l.settings.Clients))
		p := &publisher{load: l, index: i}
		p.share()
		var err error
		if p.client, err = l.target.dial(ctx, p.rooms[0].leader); err != nil {
			l.close()
			return err
		}
		l.publishers = append(l.publishers, p)
	}
	return nil
}

// share takes the publisher's rooms, and its part of what may be in flight.
func (p *publisher) share() {
	s, rooms := p.load.settings, p.load.rooms
	inFlight := share(s.InFlight, s.Clients, p.index)
	p.window = make(chan struct{}, inFlight)
	lanes := make(map[int]chan flight) // by partition
	for i := p.index % len(rooms); i < len(rooms); i += s.Clients {
		r := rooms[i]
		if lanes[r.partition] == nil {
			lanes[r.partition] = make(chan flight, inFlight)
			p.lanes = append(p.lanes, lanes[r.partition])
		}
		p.rooms = append(p.rooms, &feed{room: r, lane: lanes[r.partition]})
	}
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
		f := p.rooms[n%len(p.rooms)]
		pending, err := p.client.PublishAsync(ctx, f.name, payload)
		if err != nil {
			return fmt.Errorf("publish to %s: %w", f.name, err)
		}
		f.lane <- flight{pending, f, since} // has room: it holds as many as the window
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
	var counted int64
	defer func() { p.load.counted.Add(counted) }()
	for f := range lane {
		receipt, err := f.pending.Wait(ctx)
		if err != nil {
			return fmt.Errorf("publish to %s: %w", f.feed.name, err)
		}
		now := p.load.clock.now()
		<-p.window
		f.feed.ack(receipt)
		if p.load.window.has(now) {
			counted++
			p.load.recorder.record(p.index+f.feed.partition, now, now-f.since)
		}
	}
	return nil
}

// ack takes the room's next receipt. Those of one client have rising seqs.
func (f *feed) ack(r client.Receipt) {
	f.acked++
	if r.Duplicate {
		f.retries++
	}
	switch {
	case r.Seq == f.last:
		f.faults.Duplicates++
	case r.Seq < f.last:
		f.faults.Reordered++
	}
	f.last = r.Seq
}

// checkRooms compares what the rooms hold with what was acked: nobody else knows
// their names.
func (l *publishLoad) checkRooms(ctx context.Context, report *PublishReport) error {
	acked := make(map[*room]int64)
	for _, p := range l.publishers {
		for _, f := range p.rooms {
			report.Retries += f.retries
			report.Faults.add(f.faults)
			acked[f.room] += f.acked
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
