package wire

import (
	"encoding/binary"
	"math/bits"
)

// SessionID names a publisher's session: 128 random bits that the client draws.
type SessionID [16]byte

// Attach says that the publishes that follow on this stream, as far as they go
// to Partition, belong to Session. With Open the session is new and gets an
// entry in the log; without, it was opened before. After a refusal the server
// ignores the session's publishes to that partition until the next Attach.
type Attach struct {
	Partition uint64
	Session   SessionID
	Open      bool
}

func (*Attach) frameType() Type { return TypeAttach }

func (a *Attach) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, a.Partition)
	dst = append(dst, a.Session[:]...)
	return appendBool(dst, a.Open)
}

// ParseAttach reads an Attach.
func ParseAttach(body []byte) (Attach, error) {
	p := parser{typ: TypeAttach, b: body}
	a := Attach{Partition: p.uintMax("partition", maxPartitions)}
	copy(a.Session[:], p.take("session", 16))
	a.Open = p.bool("open")
	return a, p.done()
}

// Publish is one message. Counter numbers the session's publishes 1, 2, 3, …;
// Behind is how many counters lie between it and the lowest one that the
// client has no answer for (0: it is the lowest itself). Name is the publisher
// name to store with this message, empty for the connection's. Name, Room and
// Payload lie in the parsed body.
type Publish struct {
	Counter uint64
	Behind  uint64
	Name    []byte
	Room    []byte
	Payload []byte
}

// AppendPublish adds a Publish frame without needing its strings as bytes.
func AppendPublish(dst []byte, counter, behind uint64, name, room string, payload []byte) []byte {
	size := 1 + widthOf(counter) + widthOf(behind) + widthOf(uint64(len(name))) + len(name) +
		widthOf(uint64(len(room))) + len(room) + len(payload)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = append(dst, byte(TypePublish))
	dst = binary.AppendUvarint(dst, counter)
	dst = binary.AppendUvarint(dst, behind)
	dst = appendString(dst, name)
	dst = appendString(dst, room)
	return append(dst, payload...)
}

// widthOf is how many bytes v takes as a uvarint.
func widthOf(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// ParsePublish reads a Publish. Room name and payload size are not judged here:
// a refusal needs the counter.
func ParsePublish(body []byte) (Publish, error) {
	p := parser{typ: TypePublish, b: body}
	m := Publish{Counter: p.uint("counter"), Behind: p.uint("behind")}
	m.Name = p.bytes("name", MaxName)
	m.Room = p.bytes("room", len(p.b))
	if p.err == nil && (m.Counter == 0 || m.Behind >= m.Counter) {
		p.fail("counters run from 1")
	}
	m.Payload, p.b = p.b, nil
	return m, p.done()
}

// Detach ends the session of a partition: the client will not publish with it
// again. There is no answer.
type Detach struct{ Partition uint64 }

func (*Detach) frameType() Type { return TypeDetach }

func (d *Detach) appendBody(dst []byte) []byte { return binary.AppendUvarint(dst, d.Partition) }

// ParseDetach reads a Detach.
func ParseDetach(body []byte) (Detach, error) {
	p := parser{typ: TypeDetach, b: body}
	d := Detach{Partition: p.uintMax("partition", maxPartitions)}
	return d, p.done()
}

// Attached answers Attach: publishes of the session are accepted. Attach says
// which one is meant: the stream's Attach frames for a partition count 1, 2, 3, ….
type Attached struct {
	Partition uint64
	Attach    uint64
}

func (*Attached) frameType() Type { return TypeAttached }

func (a *Attached) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, a.Partition)
	return binary.AppendUvarint(dst, a.Attach)
}

// ParseAttached reads an Attached.
func ParseAttached(body []byte) (Attached, error) {
	p := parser{typ: TypeAttached, b: body}
	a := Attached{Partition: p.uintMax("partition", maxPartitions), Attach: p.uint("attach")}
	return a, p.done()
}

// Acks says that publishes are durable. All share one time; Duplicate marks
// retries that had got their seq before.
type Acks struct {
	Partition uint64
	Time      int64 // nanoseconds since 1970 UTC
	Duplicate bool
	Runs      []AckRun
}

// AckRun acks Count publishes: counter Counter+i has seq Seq+i.
type AckRun struct{ Counter, Count, Seq uint64 }

func (*Acks) frameType() Type { return TypeAcks }

func (a *Acks) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, a.Partition)
	dst = appendTime(dst, a.Time)
	dst = appendBool(dst, a.Duplicate)
	dst = binary.AppendUvarint(dst, uint64(len(a.Runs)))
	for _, r := range a.Runs {
		dst = binary.AppendUvarint(dst, r.Counter)
		dst = binary.AppendUvarint(dst, r.Count)
		dst = binary.AppendUvarint(dst, r.Seq)
	}
	return dst
}

// ParseAcks reads Acks into a, keeping a's memory for the runs.
func ParseAcks(body []byte, a *Acks) error {
	p := parser{typ: TypeAcks, b: body}
	a.Partition = p.uintMax("partition", maxPartitions)
	a.Time = p.time("time")
	a.Duplicate = p.bool("duplicate")
	a.Runs = a.Runs[:0]
	for range p.count("runs", 3) {
		r := AckRun{Counter: p.uint("counter"), Count: p.uint("count"), Seq: p.uint("seq")}
		if p.err == nil && (r.Counter == 0 || r.Seq == 0 || r.Count == 0 || r.Count > MaxWindow) {
			p.fail("a run of no publishes, or of more than a window")
		}
		a.Runs = append(a.Runs, r)
	}
	return p.done()
}

// Refused is the last word to an Attach, counted as in Attached: Counter and
// every later publish that came with it is refused, as far as it is not acked.
// The refusal of an earlier Attach may come after a later one. Maybe marks
// a refusal after proposing: those publishes may be in the log all the same and
// must be retried with the same counters. Otherwise this attempt left nothing
// behind. Want is the counter to resend from, with CodeOutOfOrder.
type Refused struct {
	Partition  uint64
	Attach     uint64
	Counter    uint64
	Code       Code
	Maybe      bool
	RetryAfter uint64 // milliseconds, 0: at once
	Want       uint64
	Reason     string
}

func (*Refused) frameType() Type { return TypeRefused }

func (r *Refused) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, r.Partition)
	dst = binary.AppendUvarint(dst, r.Attach)
	dst = binary.AppendUvarint(dst, r.Counter)
	dst = binary.AppendUvarint(dst, uint64(r.Code))
	dst = appendBool(dst, r.Maybe)
	dst = binary.AppendUvarint(dst, r.RetryAfter)
	dst = binary.AppendUvarint(dst, r.Want)
	return appendString(dst, r.Reason[:min(len(r.Reason), maxReason)])
}

// ParseRefused reads a Refused.
func ParseRefused(body []byte) (Refused, error) {
	p := parser{typ: TypeRefused, b: body}
	r := Refused{
		Partition:  p.uintMax("partition", maxPartitions),
		Attach:     p.uint("attach"),
		Counter:    p.uint("counter"),
		Code:       Code(p.uint("code")),
		Maybe:      p.bool("maybe"),
		RetryAfter: p.uint("retry-after"),
		Want:       p.uint("want"),
		Reason:     p.str("reason", maxReason),
	}
	return r, p.done()
}
