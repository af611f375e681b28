package wire

import (
	"encoding/binary"
	"math"
)

// Subscribe asks for a room's messages from seq Next on. Next 0 asks for the
// oldest message still held.
type Subscribe struct {
	Room string
	Next uint64
}

func (*Subscribe) frameType() Type { return TypeSubscribe }

func (s *Subscribe) appendBody(dst []byte) []byte {
	dst = appendString(dst, s.Room)
	return binary.AppendUvarint(dst, s.Next)
}

// ParseSubscribe reads a Subscribe. The room name is not judged here.
func ParseSubscribe(body []byte) (Subscribe, error) {
	p := parser{typ: TypeSubscribe, b: body}
	s := Subscribe{Room: p.str("room", len(p.b)), Next: p.uint("next")}
	return s, p.done()
}

// Subscribed answers Subscribe: what follows begins at Next. After a failure
// the client asks another node for the seq behind the last it had, or for Next.
type Subscribed struct{ Next uint64 }

func (*Subscribed) frameType() Type { return TypeSubscribed }

func (s *Subscribed) appendBody(dst []byte) []byte { return binary.AppendUvarint(dst, s.Next) }

// ParseSubscribed reads a Subscribed.
func ParseSubscribed(body []byte) (Subscribed, error) {
	p := parser{typ: TypeSubscribed, b: body}
	s := Subscribed{Next: p.uint("next")}
	if p.err == nil && s.Next == 0 {
		p.fail("seqs run from 1")
	}
	return s, p.done()
}

// Deliver carries messages of one log entry. Block lies as it was written to
// the log. Of its records the first Skip are not for this subscriber, and those
// at the positions Dropped (rising, counted from the block's first record) have
// no seq; the others are seq First, First+1, …. All were published at Time.
type Deliver struct {
	First   uint64
	Time    int64 // nanoseconds since 1970 UTC
	Skip    uint64
	Dropped []uint32
	Block   []byte
}

// AppendDeliverHead adds a Deliver frame up to its block, which must follow in
// the stream: so a block can be written from where it lies.
func AppendDeliverHead(dst []byte, d *Deliver) []byte {
	start := len(dst)
	dst = append(dst, 0, byte(TypeDeliver))
	dst = d.appendHead(dst)
	head := len(dst) - start - 1
	n := head + len(d.Block)
	var length [binary.MaxVarintLen64]byte
	width := binary.PutUvarint(length[:], uint64(n))
	dst = append(dst, length[:width-1]...)
	copy(dst[start+width:], dst[start+1:start+1+head])
	copy(dst[start:], length[:width])
	return dst
}

func (d *Deliver) appendHead(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, d.First)
	dst = appendTime(dst, d.Time)
	dst = binary.AppendUvarint(dst, d.Skip)
	dst = binary.AppendUvarint(dst, uint64(len(d.Dropped)))
	last := uint32(0)
	for _, pos := range d.Dropped {
		dst = binary.AppendUvarint(dst, uint64(pos-last))
		last = pos
	}
	return dst
}

func (*Deliver) frameType() Type { return TypeDeliver }

func (d *Deliver) appendBody(dst []byte) []byte { return append(d.appendHead(dst), d.Block...) }

// ParseDeliver reads a Deliver into d, keeping d's memory for Dropped. Block
// lies in body.
func ParseDeliver(body []byte, d *Deliver) error {
	p := parser{typ: TypeDeliver, b: body}
	d.First = p.uint("first seq")
	d.Time = p.time("time")
	d.Skip = p.uint("skip")
	d.Dropped = d.Dropped[:0]
	pos := uint64(0)
	for i := range p.count("dropped", 1) {
		delta := p.uintMax("dropped position", math.MaxUint32)
		pos += delta
		if i > 0 && delta == 0 || pos > math.MaxUint32 {
			p.fail("dropped positions must rise")
		}
		d.Dropped = append(d.Dropped, uint32(pos))
	}
	if p.err == nil && d.First == 0 {
		p.fail("seqs run from 1")
	}
	d.Block, p.b = p.b, nil
	return p.done()
}

// Record is one message of a delivered block. It lies in the block.
type Record struct {
	Seq       uint64
	Publisher []byte
	Payload   []byte
}

// Records calls yield for each record of d that is for the subscriber, in
// order, until it returns false. A block is
//
//	records     uvarint  how many
//	publishers  uvarint  how many, then as many strings
//	per record: publisher uvarint (its place in the table), payload string
func (d *Deliver) Records(yield func(Record) bool) error {
	p := parser{typ: TypeDeliver, b: d.Block}
	n := p.count("records", 2)
	var few [16][]byte // spares most blocks a table on the heap
	publishers := few[:0]
	for range p.count("publishers", 1) {
		publishers = append(publishers, p.bytes("publisher", MaxName))
	}
	dropped := d.Dropped
	for i, seq := 0, d.First; i < n; i++ {
		who := p.uint("publisher of a record")
		payload := p.bytes("payload", MaxPayload)
		if p.err == nil && who >= uint64(len(publishers)) {
			p.fail("publisher of a record is not in the table")
		}
		if p.err != nil {
			return p.err
		}
		if len(dropped) > 0 && dropped[0] == uint32(i) {
			dropped = dropped[1:]
			continue
		}
		if uint64(i) < d.Skip {
			continue
		}
		if !yield(Record{Seq: seq, Publisher: publishers[who], Payload: payload}) {
			return nil
		}
		seq++
	}
	return p.done()
}

// Gap says that the subscriber cannot have the seqs From to To.
type Gap struct {
	From, To uint64
	Reason   Reason
}

func (*Gap) frameType() Type { return TypeGap }

func (g *Gap) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, g.From)
	dst = binary.AppendUvarint(dst, g.To)
	return append(dst, byte(g.Reason))
}

// ParseGap reads a Gap.
func ParseGap(body []byte) (Gap, error) {
	p := parser{typ: TypeGap, b: body}
	g := Gap{From: p.uint("from"), To: p.uint("to")}
	if r := p.take("reason", 1); r != nil {
		g.Reason = Reason(r[0])
	}
	if p.err == nil && (g.From == 0 || g.To < g.From) {
		p.fail("from and to do not make a range")
	}
	return g, p.done()
}

// Redirect ends a subscription: another node can serve it better. Node is its
// name, "" if any other will do.
type Redirect struct {
	Node   string
	Reason string
}

func (*Redirect) frameType() Type { return TypeRedirect }

func (r *Redirect) appendBody(dst []byte) []byte {
	dst = appendString(dst, r.Node)
	return appendString(dst, r.Reason[:min(len(r.Reason), maxReason)])
}

// ParseRedirect reads a Redirect.
func ParseRedirect(body []byte) (Redirect, error) {
	p := parser{typ: TypeRedirect, b: body}
	r := Redirect{Node: p.str("node", MaxName), Reason: p.str("reason", maxReason)}
	return r, p.done()
}

// Query asks a partition's leader about a room. Time asks for a place: the
// first seq published at or after it (the seq behind the last if there is none).
type Query struct {
	Room string
	Time int64 // nanoseconds since 1970 UTC
}

func (*Query) frameType() Type { return TypeQuery }

func (q *Query) appendBody(dst []byte) []byte {
	dst = appendString(dst, q.Room)
	return appendTime(dst, q.Time)
}

// ParseQuery reads a Query. The room name is not judged here.
func ParseQuery(body []byte) (Query, error) {
	p := parser{typ: TypeQuery, b: body}
	q := Query{Room: p.str("room", len(p.b)), Time: p.time("time")}
	return q, p.done()
}

// Info answers Query: the room holds the seqs First to Last; At is the place
// of the query's time. A room never used has First 1, Last 0.
type Info struct {
	Partition   uint64
	First, Last uint64
	At          uint64
}

func (*Info) frameType() Type { return TypeInfo }

func (i *Info) appendBody(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, i.Partition)
	dst = binary.AppendUvarint(dst, i.First)
	dst = binary.AppendUvarint(dst, i.Last)
	return binary.AppendUvarint(dst, i.At)
}

// ParseInfo reads an Info.
func ParseInfo(body []byte) (Info, error) {
	p := parser{typ: TypeInfo, b: body}
	i := Info{
		Partition: p.uintMax("partition", maxPartitions),
		First:     p.uint("first"),
		Last:      p.uint("last"),
		At:        p.uint("at"),
	}
	return i, p.done()
}
