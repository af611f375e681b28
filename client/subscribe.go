package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"sync"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// Message is one message of a room or, if Gap is set, a range of seqs that the
// subscriber cannot have; Seq is then the last of them. Payload belongs to the
// receiver.
type Message struct {
	Room      string
	Seq       uint64
	Time      time.Time
	Publisher string
	Payload   []byte
	Gap       *Gap
}

// Gap is the range of seqs From to To, and why it cannot be had.
type Gap struct {
	From, To uint64
	Reason   Reason
}

// Reason says why a subscriber cannot have a range of seqs.
type Reason = wire.Reason

// ReasonTrimmed: retention has removed the messages.
const ReasonTrimmed = wire.ReasonTrimmed

// SubscribeOption says where a subscription starts.
type SubscribeOption func(*place)

// place is a start before it has become a seq.
type place struct {
	next uint64 // 0: the oldest message still held
	ask  bool   // ask the leader:
	now  bool   //   for the room's last seq
	time time.Time
	end  bool // behind the last seq that there can be
}

// After starts behind seq, the last message that the caller has dealt with.
func After(seq uint64) SubscribeOption {
	return func(p *place) { *p = place{next: seq + 1, end: seq == math.MaxUint64} }
}

// FromStart starts at the oldest message still held, as does no option.
func FromStart() SubscribeOption { return func(p *place) { *p = place{} } }

// FromNow starts behind the last message at the time of the first look: once
// Subscribe has found it, nothing published later is missed.
func FromNow() SubscribeOption { return func(p *place) { *p = place{ask: true, now: true} } }

// FromTime starts at the first message published at t or later, even if t has
// yet to come.
func FromTime(t time.Time) SubscribeOption {
	return func(p *place) { *p = place{ask: true, time: t} }
}

// Subscribe yields the room's messages in order, each once, as they are
// published. When a node fails it carries on elsewhere, behind the last message
// yielded. Leaving the loop or ending ctx ends the subscription. An error is
// yielded at most once, as the last: ctx.Err(), ErrClosed, ErrBadRoom,
// ErrDenied, a *BeyondHeadError, or what servers have sent against the protocol
// again and again. While the loop's body is busy the server
// waits, and nothing is queued.
func (c *Client) Subscribe(ctx context.Context, room string, opts ...SubscribeOption) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		s := &subscription{c: c, ctx: ctx, room: room}
		for _, opt := range opts {
			opt(&s.place)
		}
		if err := s.run(yield); err != nil && err != errLeft {
			yield(Message{}, err)
		}
	}
}

var (
	errLeft  = errors.New("loop left") // by the caller
	errOrder = errors.New("server does not keep the order")
)

const (
	// helloBudget is how long a node may take to begin a subscription or answer
	// a query: one that lags waits 2 s itself before it sends us away.
	helloBudget = 5 * time.Second

	// avoidFor is how long a node that could not serve a subscription is
	// tried last.
	avoidFor = time.Second

	// hardTries is how often something that should not happen is tried again.
	hardTries = 5
)

// subscription follows one room. It belongs to the goroutine of the loop.
type subscription struct {
	c         *Client
	ctx       context.Context
	room      string
	place     place
	partition int

	next    uint64 // the seq expected, 0: not known yet
	from    int64  // what is older is left out until something is not; 0: nothing is
	resumed bool   // a server has begun to serve it
	tries   int    // attempts since the last message
	hard    int    // of these, how many failed as they should not
	prefer  string
	avoid   map[string]time.Time
	names   internedName
}

func (s *subscription) run(yield func(Message, error) bool) error {
	if err := badRoom(s.room); err != nil {
		return err
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	s.partition = wire.PartitionOf(s.room, len(s.c.lanes))
	s.avoid = make(map[string]time.Time)
	if err := s.resolve(); err != nil {
		return err
	}
	for {
		err := s.attempt(yield)
		if err == nil || err == errLeft {
			return err
		}
		wait, err := s.judge(err)
		if err != nil {
			return err
		}
		if wait > 0 {
			if err := s.c.pause(s.ctx, wait); err != nil {
				return err
			}
		}
	}
}

// resolve makes a seq of the place, once.
func (s *subscription) resolve() error {
	s.next = s.place.next
	if s.place.end {
		info, err := s.c.query(s.ctx, s.room, time.Time{})
		if err != nil {
			return err
		}
		return &BeyondHeadError{Room: s.room, Want: math.MaxUint64, Head: info.Last}
	}
	if !s.place.ask {
		return nil
	}
	info, err := s.c.query(s.ctx, s.room, s.place.time)
	if err != nil {
		return err
	}
	switch {
	case s.place.now:
		s.next = info.Last + 1
	case info.At > info.Last: // nothing is as young yet, and what comes next need not be
		s.next, s.from = info.At, nanosOf(s.place.time)
	default:
		s.next = info.At
	}
	return nil
}

// redirected: the node wants us to go to another.
type redirected struct{ wire.Redirect }

func (r redirected) Error() string {
	return fmt.Sprintf("redirected to %q: %s", r.Node, r.Reason)
}

// judge tells after a failed attempt how long to wait before the next one, or
// the error that ends the subscription.
func (s *subscription) judge(err error) (wait time.Duration, end error) {
	switch {
	case s.ctx.Err() != nil:
		return 0, s.ctx.Err()
	case s.c.ctx.Err() != nil:
		return 0, ErrClosed
	}
	s.tries++
	if s.tries > 1 {
		wait = backoff(s.tries - 1)
	}
	refusal, ok := errors.AsType[*codeError](err)
	if !ok {
		if errors.Is(err, wire.ErrMalformed) || errors.Is(err, errOrder) {
			end = s.strange(err)
		}
		return wait, end
	}
	switch refusal.code {
	case wire.CodeBadRoom, wire.CodeDenied:
		return 0, err
	case wire.CodeBeyondHead:
		err = &BeyondHeadError{Room: s.room, Want: s.next, Head: refusal.head}
		if !s.resumed {
			return 0, err
		}
		fallthrough // it was there before: this node must be behind
	case wire.CodeProtocol, wire.CodeVersion, wire.CodeAuth:
		if end := s.strange(err); end != nil {
			return 0, end
		}
	}
	if refusal.retryAfter > 0 {
		wait = max(wait, spread(refusal.retryAfter))
	}
	return wait, nil
}

// strange counts failures that should not happen and are not known to pass. It
// tells of the first in a row, and gives up after some.
func (s *subscription) strange(err error) (end error) {
	if s.hard++; s.hard >= hardTries {
		return err
	}
	if s.hard == 1 {
		s.c.cfg.log.Warn("subscription fails, trying again", "room", s.room, "error", err)
	}
	return nil
}

// attempt follows the room on one node, as long as that goes.
func (s *subscription) attempt(yield func(Message, error) bool) error {
	c, err := s.c.router.forReader(s.ctx, s.partition, s.prefer, s.avoid)
	if err != nil {
		return err
	}
	s.prefer = ""
	full := false
	defer func() { s.c.router.giveBack(c, full) }()
	err = s.follow(c, yield)
	if r, ok := errors.AsType[redirected](err); ok {
		s.prefer = r.Node
	}
	if refusal, ok := errors.AsType[*codeError](err); ok && refusal.code == wire.CodeTooManyStreams {
		full = true
	} else if err != nil && err != errLeft {
		s.avoid[c.node] = time.Now().Add(avoidFor)
	}
	return err
}

// follow opens a stream on c and yields what comes.
func (s *subscription) follow(c *conn, yield func(Message, error) bool) error {
	answered := sync.OnceFunc(c.alive.expect())
	defer answered()
	str, err := c.quic.OpenStreamSync(s.ctx)
	if err != nil {
		return connError(err)
	}
	defer str.Close()
	defer str.CancelRead(0)
	defer c.track(str)()
	if s.ctx.Done() != nil {
		defer context.AfterFunc(s.ctx, func() { str.CancelRead(0) })()
	}
	str.SetDeadline(time.Now().Add(helloBudget)) // until the server has begun
	if _, err := str.Write(wire.Append(nil, &wire.Subscribe{Room: s.room, Next: s.next})); err != nil {
		str.CancelWrite(0) // Close would wait for the rest to be written
		return connError(err)
	}
	frames := wire.NewReader(listener{str, &c.alive}, wire.MaxDeliverFrame)
	var d wire.Deliver
	for begun := false; ; {
		typ, body, err := frames.Next()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return s.broken(c, connError(err))
		}
		if typ == wire.TypeSubscribed && !begun {
			str.SetDeadline(time.Time{})
			begun = true
			answered()
			defer c.alive.follow()()
		} else if !begun && (typ == wire.TypeDeliver || typ == wire.TypeGap) {
			return s.broken(c, fmt.Errorf("%w: %v before subscribed", wire.ErrMalformed, typ))
		}
		if err := s.handle(typ, body, &d, yield); err != nil {
			return s.broken(c, err)
		}
	}
}

// broken ends the connection if what came over it was no frame.
func (s *subscription) broken(c *conn, err error) error {
	if errors.Is(err, wire.ErrMalformed) {
		c.kill(wire.CodeProtocol, err.Error())
	}
	return err
}

func (s *subscription) handle(typ wire.Type, body []byte, d *wire.Deliver, yield func(Message, error) bool) error {
	switch typ {
	case wire.TypeSubscribed:
		f, err := wire.ParseSubscribed(body)
		if err == nil {
			s.begun(f.Next)
		}
		return err
	case wire.TypeDeliver:
		if err := wire.ParseDeliver(body, d); err != nil {
			return err
		}
		return s.deliver(d, yield)
	case wire.TypeGap:
		g, err := wire.ParseGap(body)
		if err != nil {
			return err
		}
		return s.gap(g, yield)
	case wire.TypeRedirect:
		r, err := wire.ParseRedirect(body)
		if err != nil {
			return err
		}
		return redirected{r}
	case wire.TypeError:
		return parseError(body)
	}
	return fmt.Errorf("%w: server sent %v to a subscription", wire.ErrMalformed, typ)
}

// begun takes over where the server begins, if we left that to it.
func (s *subscription) begun(next uint64) {
	s.resumed = true
	if s.next == 0 {
		s.next = next
	}
}

// deliver yields the messages of d that are expected.
func (s *subscription) deliver(d *wire.Deliver, yield func(Message, error) bool) error {
	var failed error
	at := time.Unix(0, d.Time).UTC()
	err := d.Records(func(r wire.Record) bool {
		switch {
		case r.Seq < s.next:
			return true // we have it
		case r.Seq > s.next:
			failed = fmt.Errorf("%w: room %q: seq %d came where %d was due", errOrder, s.room, r.Seq, s.next)
			return false
		}
		s.progress(r.Seq)
		if s.from != 0 && d.Time < s.from {
			return true
		}
		s.from = 0
		if !yield(Message{
			Room:      s.room,
			Seq:       r.Seq,
			Time:      at,
			Publisher: s.names.string(r.Publisher),
			Payload:   bytes.Clone(r.Payload),
		}, nil) {
			failed = errLeft
		} else if s.ctx.Err() != nil {
			failed = s.ctx.Err() // the rest of the frame is not wanted either
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func (s *subscription) gap(g wire.Gap, yield func(Message, error) bool) error {
	switch {
	case g.To < s.next:
		return nil
	case g.From > s.next:
		return fmt.Errorf("%w: room %q: a gap from seq %d came where %d was due", errOrder, s.room, g.From, s.next)
	}
	from := s.next
	s.progress(g.To)
	if !yield(Message{Room: s.room, Seq: g.To, Gap: &Gap{From: from, To: g.To, Reason: g.Reason}}, nil) {
		return errLeft
	}
	return nil
}

func (s *subscription) progress(seq uint64) {
	s.next = seq + 1
	s.tries, s.hard = 0, 0
}

// internedName keeps the last publisher's name, which is often the next one's.
type internedName struct{ last string }

func (n *internedName) string(b []byte) string {
	if string(b) != n.last {
		n.last = string(b)
	}
	return n.last
}
