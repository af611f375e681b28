package transport

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

// Refusals of a publish that are found before the partition sees it.
var (
	errTooLarge  = fmt.Errorf("payload is larger than %d bytes", wire.MaxPayload)
	errNoReplica = fmt.Errorf("%w: this node holds no replica of the partition", partition.ErrNotLeader)
)

// badRoomError carries what is wrong with a room name.
type badRoomError struct{ error }

// drainTimeout is how long the last answers of a publish stream may take to be
// read after its end.
const drainTimeout = 5 * time.Second

// servePublish serves a publish stream, which began with the Attach in body.
// A partition's trouble never stops the reading: its publishes are refused, the
// others go on.
func (c *conn) servePublish(stream *quic.Stream, in *wire.Reader, body []byte) error {
	if c.publishing.Swap(true) {
		end(stream, &wire.Error{Code: wire.CodeTooManyStreams, Reason: "a connection has one publish stream"})
		return nil
	}
	defer c.publishing.Store(false)
	var unread error // set before close returns
	out := newOutbox(stream, func(err error) {
		unread = err
		stream.CancelRead(quic.StreamErrorCode(wire.CodeSlowConsumer))
		stream.CancelWrite(quic.StreamErrorCode(wire.CodeSlowConsumer))
	})
	err := c.readPublishes(in, body, out)
	if err != nil {
		stream.CancelWrite(quic.StreamErrorCode(wire.CodeProtocol))
	}
	stream.SetWriteDeadline(time.Now().Add(drainTimeout))
	out.close()
	stream.Close()
	return errors.Join(err, unread)
}

func (c *conn) readPublishes(in *wire.Reader, body []byte, out *outbox) error {
	in.SetMax(wire.MaxPublishFrame)
	lanes := &lanes{all: make([]lane, len(c.server.cfg.Partitions))}
	typ := wire.TypeAttach
	for {
		if err := c.publishFrame(lanes, typ, body, out); err != nil {
			return c.malformed(err)
		}
		var err error
		if typ, body, err = in.Next(); err != nil {
			return c.streamError(err)
		}
	}
}

func (c *conn) publishFrame(lanes *lanes, typ wire.Type, body []byte, out *outbox) error {
	switch typ {
	case wire.TypePublish:
		m, err := wire.ParsePublish(body)
		if err != nil {
			return err
		}
		return c.publish(lanes, m)
	case wire.TypeAttach:
		a, err := wire.ParseAttach(body)
		if err != nil {
			return err
		}
		if a.Partition >= uint64(len(lanes.all)) {
			return fmt.Errorf("partition %d does not exist, there are %d", a.Partition, len(lanes.all))
		}
		c.attach(&lanes.all[a.Partition], a, out)
		return nil
	case wire.TypeDetach:
		d, err := wire.ParseDetach(body)
		if err != nil {
			return err
		}
		if d.Partition >= uint64(len(lanes.all)) || lanes.all[d.Partition].publisher == nil {
			return fmt.Errorf("detach from partition %d without attach", d.Partition)
		}
		lanes.all[d.Partition].publisher.Detach()
		return nil
	}
	return fmt.Errorf("%v does not belong on a publish stream", typ)
}

// lanes are those of a publish stream, by partition. The next publish is often to
// the room of the last, which need not be looked at again.
type lanes struct {
	all  []lane
	room []byte // the last one
	last *lane  // that room's
}

// of returns the lane of room, and what is wrong with room's name.
func (l *lanes) of(room []byte) (*lane, error) {
	if l.last != nil && bytes.Equal(room, l.room) {
		return l.last, nil
	}
	of := &l.all[wire.PartitionOf(room, len(l.all))]
	if bad := wire.CheckRoom(room); bad != nil {
		return of, bad // it may be long: it is not kept
	}
	l.last, l.room = of, append(l.room[:0], room...)
	return of, nil
}

// lane is what one publish stream has to do with one partition.
type lane struct {
	publisher *partition.Publisher // of the newest Attach, nil before the first
	session   wire.SessionID
	attached  uint64 // Attach frames so far
}

// attach begins anew with a session. A session that this stream has used before
// and leaves for a new one is forgotten: a client has one per partition.
func (c *conn) attach(l *lane, a wire.Attach, out *outbox) {
	if a.Open && l.publisher != nil && l.session != a.Session {
		l.publisher.Detach()
	}
	l.attached++
	l.session = a.Session
	answers := &answers{partition: a.Partition, attach: l.attached, out: out}
	p := c.server.cfg.Partitions[a.Partition]
	if p == nil {
		l.publisher = partition.Refused(answers, errNoReplica)
		return
	}
	l.publisher = p.Attach(partition.SessionID(a.Session), answers)
	switch {
	case !p.Group().Leading():
		l.publisher.Refuse(0, partition.ErrNotLeader)
	case a.Open:
		l.publisher.Open()
	default:
		answers.Opened()
	}
}

func (c *conn) publish(lanes *lanes, m wire.Publish) error {
	lane, bad := lanes.of(m.Room)
	pub := lane.publisher
	if pub == nil {
		return errors.New("publish without attach to the room's partition")
	}
	name := m.Name
	if len(name) == 0 {
		name = c.name
	} else if err := wire.CheckName(name); err != nil {
		return err
	}
	counter := partition.Counter(m.Counter)
	if bad != nil {
		pub.Refuse(counter, badRoomError{bad})
	} else if len(m.Payload) > wire.MaxPayload {
		pub.Refuse(counter, errTooLarge)
	} else {
		pub.Publish(counter, counter-partition.Counter(m.Behind), name, m.Room, m.Payload)
	}
	return nil
}

// answers tells a client what became of its publishes to one partition. It is
// the partition.Replier of one Attach.
type answers struct {
	partition uint64
	attach    uint64 // which Attach of the stream for this partition
	out       *outbox
}

// Opened: the session is ready.
func (a *answers) Opened() { a.out.put(&wire.Attached{Partition: a.partition, Attach: a.attach}) }

// maxRuns keeps an Acks frame below wire.MaxSmallFrame.
const maxRuns = 256

// Acked sends one frame for each time among the answers, seldom more than one.
func (a *answers) Acked(acked []partition.Answer) {
	for len(acked) > 0 {
		first := acked[0]
		acks := wire.Acks{Partition: a.partition, Time: first.Time, Duplicate: first.Duplicate}
		n := 0
		for n < min(len(acked), maxRuns) && acked[n].Time == first.Time && acked[n].Duplicate == first.Duplicate {
			r := acked[n]
			acks.Runs = append(acks.Runs, wire.AckRun{Counter: uint64(r.Counter), Count: uint64(r.Count), Seq: uint64(r.Seq)})
			n++
		}
		a.out.put(&acks)
		acked = acked[n:]
	}
}

// Refused tells why nothing more is taken until the next Attach.
func (a *answers) Refused(r partition.Refusal) {
	f := wire.Refused{
		Partition:  a.partition,
		Attach:     a.attach,
		Counter:    uint64(r.Counter),
		Code:       codeOf(r.Err),
		Maybe:      r.Maybe,
		RetryAfter: uint64(r.RetryAfter.Milliseconds()),
		Reason:     r.Err.Error(),
	}
	var order *partition.OutOfOrderError
	if errors.As(r.Err, &order) {
		f.Want = uint64(order.Want)
	}
	a.out.put(&f)
}

// codeOf translates an error of package partition or of this one.
func codeOf(err error) wire.Code {
	var order *partition.OutOfOrderError
	var beyond *partition.BeyondHeadError
	var badRoom badRoomError
	switch {
	case errors.Is(err, partition.ErrOutcomeUnknown):
		return wire.CodeUnknownOutcome
	case errors.Is(err, partition.ErrNotLeader):
		return wire.CodeNotLeader
	case errors.Is(err, partition.ErrOverloaded), errors.Is(err, partition.ErrWindow):
		return wire.CodeOverloaded
	case errors.Is(err, partition.ErrUnavailable):
		return wire.CodeUnavailable
	case errors.Is(err, partition.ErrSessionExpired):
		return wire.CodeSessionExpired
	case errors.Is(err, partition.ErrTooManySessions):
		return wire.CodeTooManySessions
	case errors.Is(err, partition.ErrConflict):
		return wire.CodeConflict
	case errors.As(err, &order):
		return wire.CodeOutOfOrder
	case errors.As(err, &beyond):
		return wire.CodeBeyondHead
	case errors.As(err, &badRoom):
		return wire.CodeBadRoom
	case errors.Is(err, errTooLarge):
		return wire.CodeTooLarge
	}
	return wire.CodeInternal
}
