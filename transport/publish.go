package transport

import (
	"errors"
	"fmt"

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

// servePublish serves a publish stream, which began with the Attach in body.
// A partition's trouble never stops the reading: its publishes are refused, the
// others go on.
func (c *conn) servePublish(stream *quic.Stream, in *wire.Reader, body []byte) error {
	if c.publishing.Swap(true) {
		return c.malformed(errors.New("a connection has one publish stream"))
	}
	defer c.publishing.Store(false)
	var broken error
	out := newOutbox(stream, func(err error) {
		broken = err // read after run has ended
		stream.CancelRead(quic.StreamErrorCode(wire.CodeSlowConsumer))
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.run()
	}()
	err := c.readPublishes(in, body, out)
	out.close()
	if err != nil {
		stream.CancelWrite(quic.StreamErrorCode(wire.CodeProtocol))
	}
	<-done
	stream.Close()
	return errors.Join(err, broken)
}

func (c *conn) readPublishes(in *wire.Reader, body []byte, out *outbox) error {
	in.SetMax(wire.MaxPublishFrame)
	lanes := make([]*partition.Publisher, len(c.server.cfg.Partitions))
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

func (c *conn) publishFrame(lanes []*partition.Publisher, typ wire.Type, body []byte, out *outbox) error {
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
		if a.Partition >= uint64(len(lanes)) {
			return fmt.Errorf("partition %d does not exist, there are %d", a.Partition, len(lanes))
		}
		lanes[a.Partition] = c.attach(a, out)
		return nil
	case wire.TypeDetach:
		d, err := wire.ParseDetach(body)
		if err != nil {
			return err
		}
		if d.Partition >= uint64(len(lanes)) || lanes[d.Partition] == nil {
			return fmt.Errorf("detach from partition %d without attach", d.Partition)
		}
		lanes[d.Partition].Detach()
		return nil
	}
	return fmt.Errorf("%v does not belong on a publish stream", typ)
}

// attach begins a lane: the publishes of one session to one partition.
func (c *conn) attach(a wire.Attach, out *outbox) *partition.Publisher {
	lane := &lane{partition: a.Partition, out: out}
	p := c.server.cfg.Partitions[a.Partition]
	if p == nil {
		return partition.Refused(lane, errNoReplica)
	}
	pub := p.Attach(partition.SessionID(a.Session), lane)
	switch {
	case !p.Group().Leading():
		pub.Refuse(0, partition.ErrNotLeader)
	case a.Open:
		pub.Open()
	default:
		lane.Opened()
	}
	return pub
}

func (c *conn) publish(lanes []*partition.Publisher, m wire.Publish) error {
	lane := lanes[wire.PartitionOf(m.Room, len(lanes))]
	if lane == nil {
		return errors.New("publish without attach to the room's partition")
	}
	name := m.Name
	if len(name) == 0 {
		name = []byte(c.name)
	} else if err := wire.CheckName(string(name)); err != nil {
		return err
	}
	counter := partition.Counter(m.Counter)
	if err := wire.CheckRoom(m.Room); err != nil {
		lane.Refuse(counter, badRoomError{err})
	} else if len(m.Payload) > wire.MaxPayload {
		lane.Refuse(counter, errTooLarge)
	} else {
		lane.Publish(counter, counter-partition.Counter(m.Behind), name, m.Room, m.Payload)
	}
	return nil
}

// lane tells a client what became of its publishes to one partition. It is the
// partition.Replier of one Attach.
type lane struct {
	partition uint64
	out       *outbox
}

// Opened: the session is ready.
func (l *lane) Opened() { l.out.put(&wire.Attached{Partition: l.partition}) }

// maxRuns keeps an Acks frame below wire.MaxSmallFrame.
const maxRuns = 256

// Acked sends one frame for each time among the answers, seldom more than one.
func (l *lane) Acked(answers []partition.Answer) {
	for len(answers) > 0 {
		first := answers[0]
		acks := wire.Acks{Partition: l.partition, Time: first.Time, Duplicate: first.Duplicate}
		n := 0
		for n < min(len(answers), maxRuns) && answers[n].Time == first.Time && answers[n].Duplicate == first.Duplicate {
			a := answers[n]
			acks.Runs = append(acks.Runs, wire.AckRun{Counter: uint64(a.Counter), Count: uint64(a.Count), Seq: uint64(a.Seq)})
			n++
		}
		l.out.put(&acks)
		answers = answers[n:]
	}
}

// Refused tells why nothing more is taken until the next Attach.
func (l *lane) Refused(r partition.Refusal) {
	f := wire.Refused{
		Partition:  l.partition,
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
	l.out.put(&f)
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
