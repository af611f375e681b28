package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// Receipt says where a message got to. Duplicate: a retry found it in the log
// already; Seq and Time are those it got at first.
type Receipt struct {
	Room      string
	Seq       uint64
	Time      time.Time
	Duplicate bool
}

// PublishOption changes one publish.
type PublishOption func(*publishConfig)

type publishConfig struct{ publisher string }

// As stores another publisher name with the message than the one given to
// Dial, at most 64 bytes.
func As(publisher string) PublishOption {
	return func(c *publishConfig) { c.publisher = publisher }
}

// Publish appends a message to a room and waits until it is durable. It
// retries until ctx ends. A room name is 1 to 255 bytes of UTF-8 without
// control characters; a payload has at most 1 MiB and may be empty.
func (c *Client) Publish(ctx context.Context, room string, payload []byte, opts ...PublishOption) (Receipt, error) {
	p, err := c.publish(ctx, room, payload, false, opts)
	if err != nil {
		return Receipt{}, err
	}
	<-p.Done() // ctx ends it too
	return p.result()
}

// PublishAsync is Publish without the wait. The payload is copied. It blocks
// while 8,192 messages or 16 MiB are outstanding. ctx bounds the whole publish,
// not only this call.
func (c *Client) PublishAsync(ctx context.Context, room string, payload []byte, opts ...PublishOption) (*Pending, error) {
	return c.publish(ctx, room, payload, true, opts)
}

// Flush waits until every publish made so far has its answer. It returns the
// first failure among those of PublishAsync since the last Flush; Publish has
// told its own. If ctx ends first, a later Flush takes over.
func (c *Client) Flush(ctx context.Context) error { return c.out.flush(ctx) }

// Pending is a publish under way.
type Pending struct {
	lane    *lane
	gen     *generation
	ends    *deadline // the ctx that bounds it, nil if it has no end
	room    string
	name    string
	payload []byte // the caller's own while Publish waits, else a copy
	async   bool

	// Guarded by lane.mu.
	maybe    bool // an attempt without a definite answer: it may be in the log
	acked    bool // the server has answered
	finished bool // the caller has an answer
	dup      bool
	seq      uint64
	time     int64
	err      error
	done     chan struct{} // made when asked for
}

// own makes the payload the SDK's own: the caller is about to have its back.
func (p *Pending) own() {
	if !p.async {
		p.payload = slices.Clone(p.payload)
	}
}

// Done returns a channel that is closed when the outcome is known.
func (p *Pending) Done() <-chan struct{} {
	p.lane.mu.Lock()
	defer p.lane.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
		if p.finished {
			close(p.done)
		}
	}
	return p.done
}

// Wait returns the outcome. Its ctx bounds only the wait.
func (p *Pending) Wait(ctx context.Context) (Receipt, error) {
	p.lane.mu.Lock()
	finished := p.finished
	p.lane.mu.Unlock()
	if finished {
		return p.result()
	}
	select {
	case <-p.Done():
		return p.result()
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	}
}

func (p *Pending) result() (Receipt, error) {
	p.lane.mu.Lock()
	defer p.lane.mu.Unlock()
	if p.err != nil {
		return Receipt{}, p.err
	}
	return Receipt{Room: p.room, Seq: p.seq, Time: time.Unix(0, p.time).UTC(), Duplicate: p.dup}, nil
}

// publish puts a message into its partition's lane.
func (c *Client) publish(ctx context.Context, room string, payload []byte, async bool, opts []PublishOption) (*Pending, error) {
	if err := badRoom(room); err != nil {
		return nil, err
	}
	if len(payload) > wire.MaxPayload {
		return nil, fmt.Errorf("%w: payload has %d bytes, at most %d are allowed", ErrTooLarge, len(payload), wire.MaxPayload)
	}
	name, err := publisher(opts)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := c.lane(wire.PartitionOf(room, len(c.lanes)))
	if err != nil {
		return nil, err
	}
	gen, err := c.out.acquire(ctx, len(payload))
	if err != nil {
		if o := l.overloaded(); o != nil && err != ErrClosed {
			err = errors.Join(err, o)
		}
		return nil, err
	}
	return l.push(ctx, gen, room, name, payload, async)
}

func publisher(opts []PublishOption) (string, error) {
	if len(opts) == 0 {
		return "", nil
	}
	var cfg publishConfig
	for _, opt := range opts {
		opt(&cfg)
	}
	return cfg.publisher, wire.CheckName(cfg.publisher)
}
