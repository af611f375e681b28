package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	warmUp   = time.Second
	limit    = 3 * time.Minute  // of a benchmark, beside the time measured
	patience = 30 * time.Second // what has not come so long after the end is missing
)

// load is one run of a row.
type load struct {
	row
	*cluster
	publishers []*publisher

	began    time.Time
	from, to time.Duration // the window that is counted
	counted  atomic.Int64  // acks, or with subscribers messages received, in the window
	acked    atomic.Int64
	received atomic.Int64 // the first time, by all subscribers
	repeated atomic.Int64 // received again, or behind a younger one
	latency  histogram
	late     histogram // how much later than due a message was published: part of its latency
}

// publisher is a connection and its share of the load.
type publisher struct {
	load     *load
	js       jetstream.JetStream
	subjects []string
	slots    chan struct{} // one for each message without an ack
}

// measure runs a benchmark on servers of its own.
func measure(ctx context.Context, server string, r row, d time.Duration) (rep report, err error) {
	limited, cancel := context.WithTimeoutCause(ctx, d+limit, fmt.Errorf("it takes more than %v", d+limit))
	defer cancel()
	running, fail := context.WithCancelCause(limited)
	c, err := start(server, fail)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	l := &load{row: r, cluster: c, from: warmUp, to: warmUp + d}
	rep, err = l.measure(running)
	if cause := context.Cause(running); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w\nthe ends of the servers' logs:\n%s", err, c.tails())
	}
	return rep, err
}

func (l *load) measure(ctx context.Context) (report, error) {
	if err := l.createStreams(ctx, l.streams); err != nil {
		return nil, err
	}
	for i := range l.clients {
		if err := l.connect(i); err != nil {
			return nil, fmt.Errorf("publisher %d: %w", i, err)
		}
	}
	for i := range l.subs {
		if err := l.subscribe(ctx, i); err != nil {
			return nil, fmt.Errorf("subscriber %d: %w", i, err)
		}
	}
	a, b, err := l.run(ctx)
	if err != nil {
		return nil, err
	}
	held, err := l.held(ctx)
	if err != nil {
		return nil, err
	}
	return l.report(a, b, held), nil
}

// connect adds the i-th publisher, at the server that leads its first stream. Each
// subject belongs to one publisher; a publisher takes its subjects in turn.
func (l *load) connect(i int) (err error) {
	p := &publisher{load: l, slots: make(chan struct{}, l.inFlight)}
	for s := i; s < l.subjects; s += l.clients {
		p.subjects = append(p.subjects, fmt.Sprintf("s%d.%d", s%l.streams, s))
	}
	p.js, err = l.dial(i%l.streams%nodes,
		jetstream.WithPublishAsyncMaxPending(l.inFlight+1), // never reached: it would not wait long
		jetstream.WithPublishAsyncAckHandler(func(jetstream.JetStream, *nats.Msg, *jetstream.PubAck) {
			p.ack(l.now())
			<-p.slots
		}),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
			l.fail(fmt.Errorf("publish: %w", err))
		}))
	l.publishers = append(l.publishers, p)
	return err
}

// subscribe adds the i-th subscriber. The first is not at the server that leads.
func (l *load) subscribe(ctx context.Context, i int) error {
	js, err := l.dial((i + 1) % nodes)
	if err != nil {
		return err
	}
	consumer, err := js.OrderedConsumer(ctx, "s0", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	var next uint64 // the message due
	_, err = consumer.Consume(func(m jetstream.Msg) {
		now := l.now()
		number, due := binary.LittleEndian.Uint64(m.Data()), time.Duration(binary.LittleEndian.Uint64(m.Data()[8:]))
		if number < next {
			l.repeated.Add(1)
			return
		}
		next = number + 1
		l.received.Add(1)
		if l.counts(now) {
			l.counted.Add(1)
		}
		if l.counts(due) {
			l.latency.record(now - due)
		}
	})
	return err
}

func (l *load) now() time.Duration { return time.Since(l.began) }

func (l *load) counts(t time.Duration) bool { return l.from <= t && t < l.to }

// run publishes until the window ends, and returns what was used until its begin
// and its end when all has arrived.
func (l *load) run(ctx context.Context) (a, b usage, err error) {
	l.began = time.Now()
	var sending sync.WaitGroup
	for _, p := range l.publishers {
		sending.Go(func() {
			if err := p.run(ctx); err != nil {
				l.fail(fmt.Errorf("publish: %w", err))
			}
		})
	}
	a, err = l.usageAt(ctx, l.from)
	if err == nil {
		b, err = l.usageAt(ctx, l.to)
	}
	if err != nil {
		l.fail(err)
	}
	sending.Wait()
	for l.received.Load() < l.due() && l.now() < l.to+patience && ctx.Err() == nil {
		_ = l.sleepUntil(ctx, l.now()+50*time.Millisecond)
	}
	return a, b, context.Cause(ctx)
}

func (l *load) usageAt(ctx context.Context, at time.Duration) (usage, error) {
	if err := l.sleepUntil(ctx, at); err != nil {
		return usage{}, err
	}
	return l.usage(l.now())
}

func (l *load) sleepUntil(ctx context.Context, at time.Duration) error {
	nap := at - l.now()
	if nap <= 0 {
		return context.Cause(ctx)
	}
	select {
	case <-time.After(nap):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// due is how many messages all subscribers shall get.
func (l *load) due() int64 { return l.acked.Load() * int64(l.subs) }

// run publishes until the window ends, and returns when all is acked.
func (p *publisher) run(ctx context.Context) error {
	l, payload := p.load, make([]byte, p.load.payload)
	for n := 0; ; n++ {
		due := l.now()
		if l.rate > 0 {
			due = time.Duration(n) * time.Second / time.Duration(l.rate)
			if err := l.sleepUntil(ctx, due); err != nil {
				return err
			}
			payload = make([]byte, l.payload) // the SDK keeps it until the ack
			binary.LittleEndian.PutUint64(payload, uint64(n))
			binary.LittleEndian.PutUint64(payload[8:], uint64(due))
		}
		if due >= l.to {
			return p.fill(ctx, cap(p.slots))
		}
		if err := p.publish(ctx, n, due, payload); err != nil {
			return err
		}
	}
}

func (p *publisher) publish(ctx context.Context, n int, due time.Duration, payload []byte) error {
	l, subject := p.load, p.subjects[n%len(p.subjects)]
	if l.inFlight == 0 {
		if _, err := p.js.Publish(ctx, subject, payload); err != nil {
			return err
		}
		now := l.now()
		p.ack(now)
		if l.counts(now) {
			l.latency.record(now - due)
		}
		return nil
	}
	if err := p.fill(ctx, 1); err != nil {
		return err
	}
	if l.rate > 0 && l.counts(due) {
		l.late.record(l.now() - due)
	}
	_, err := p.js.PublishAsync(subject, payload)
	return err
}

// fill takes n slots, each as soon as there is one.
func (p *publisher) fill(ctx context.Context, n int) error {
	for range n {
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("wait for acks: %w", context.Cause(ctx))
		}
	}
	return nil
}

func (p *publisher) ack(now time.Duration) {
	p.load.acked.Add(1)
	if p.load.subs == 0 && p.load.counts(now) {
		p.load.counted.Add(1)
	}
}

// held is how many messages the streams hold.
func (l *load) held(ctx context.Context) (n int64, err error) {
	for i := range l.streams {
		stream, err := l.publishers[0].js.Stream(ctx, fmt.Sprintf("s%d", i))
		if err != nil {
			return 0, err
		}
		n += int64(stream.CachedInfo().State.Msgs)
	}
	return n, nil
}

// report divides what was used between a and b, which may lie some milliseconds
// off the window, by what came in the window.
func (l *load) report(a, b usage, held int64) report {
	window, n := l.to-l.from, l.counted.Load()
	rate, per := "acked_per_s", "msg"
	switch {
	case l.subs > 1:
		rate, per = "deliveries_per_s", "delivery"
	case l.rate > 0 || l.inFlight == 0:
		rate = "achieved_per_s"
	}
	scale := float64(window) / float64(b.at-a.at) / float64(max(n, 1)) / 1e3
	rep := report{
		rate:                       cut(float64(n) / window.Seconds()),
		"server_cpu_us_per_" + per: cut(float64(b.servers-a.servers) * scale),
		"client_cpu_us_per_" + per: cut(float64(b.own-a.own) * scale),
		"missing":                  float64(max(0, l.acked.Load()-held) + l.due() - l.received.Load()),
		"duplicates":               float64(max(0, held-l.acked.Load()) + l.repeated.Load()),
	}
	l.latency.put(rep, "p50_ms", 50)
	l.latency.put(rep, "p99_ms", 99)
	l.latency.put(rep, "p999_ms", 99.9)
	l.late.put(rep, "send_late_p99_ms", 99)
	return rep
}

// cut leaves a figure three digits behind the point.
func cut(v float64) float64 { return math.Round(v*1e3) / 1e3 }

// histogram takes latencies, up to ten minutes, from many goroutines.
type histogram struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // nil: nothing yet
}

func (h *histogram) record(took time.Duration) {
	const longest = 10 * time.Minute
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.h == nil {
		h.h = hdrhistogram.New(1, longest.Microseconds(), 3)
	}
	_ = h.h.RecordValue(min(max(took, 0), longest).Microseconds()) // within its range
}

// put adds a percentile, in ms, if there is one.
func (h *histogram) put(rep report, name string, percentile float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.h != nil {
		rep[name] = float64(h.h.ValueAtPercentile(percentile)) / 1e3
	}
}
