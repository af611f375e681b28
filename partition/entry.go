package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// An entry is what one Raft log entry holds. Integers are uvarints unless a
// width is given; a string is a uvarint length and its bytes.
//
//	version   1 byte, 1
//	kind      1 byte
//	time      8 bytes little endian, the leader's clock, ns since 1970 UTC
//
//	kind 1, publish: many messages, grouped by room
//	  sessions  count, then per session: id 16 bytes, floor
//	  runs      count, then per run: session, block, first counter, count
//	  blocks    count, then per block: room string, block string
//
//	kind 2, open sessions:   ttl in ms; count, then per session: id 16 bytes
//	kind 3, close sessions:  count, then per session: id 16 bytes
//	kind 4, tick:            ttl in ms
//	kind 5, checkpoint:      index of the checkpoint before, 0 for the first
//	kind 6, trim:            checkpoint index; count, then per policy: prefix string, checkpoint index
//
// Runs are in the order of arrival: a run is Count publishes of one session
// with consecutive counters, and they are the next Count records of its block.
// The floor is the lowest counter for which the session has no answer, and no
// higher than the session's lowest counter in the entry.
//
// A block goes to subscribers as it lies (transport/wire reads it there):
//
//	records     count
//	publishers  count, then per publisher: name string
//	per record: publisher, its place in the table; payload string
type entryKind byte

const (
	entryVersion = 1

	kindPublish entryKind = 1
	kindOpen    entryKind = 2
	kindClose   entryKind = 3
	kindTick    entryKind = 4

	kindCheckpoint entryKind = 5
	kindTrim       entryKind = 6
)

// errEntryVersion: the entry is of a later version of this program. Passing it
// over would make this replica differ from the others.
var errEntryVersion = errors.New("entry has a version this program does not know")

// errMalformed: bytes that no leader of ours wrote.
var errMalformed = errors.New("malformed entry")

// entry is a decoded entry. Byte slices lie in the entry's data.
type entry struct {
	kind     entryKind
	time     int64
	ttl      time.Duration // kindOpen, kindTick
	ids      []SessionID   // kindOpen, kindClose
	sessions []sessionRef
	runs     []run
	blocks   []block
	index    raftlog.Index // kindCheckpoint: of the one before; kindTrim: the floor
	prefixes []prefixFloor // kindTrim
}

type sessionRef struct {
	id    SessionID
	floor Counter
}

type run struct {
	session, block int
	counter        Counter
	count          int
}

type block struct {
	room    []byte
	data    []byte // as subscribers get it
	records []byte // the part of data behind the publishers
	count   int
}

// decoder takes values from the front of an entry; after the first fault it
// yields zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.rest, d.bad = nil, true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) signed() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.rest, d.bad = nil, true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) next(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.rest, d.bad = nil, true
		return nil
	}
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) text() []byte { return d.next(d.number()) }

func (d *decoder) sessionID() (id SessionID) {
	copy(id[:], d.next(uint64(len(id))))
	return id
}

// length reads how many items follow, each at least size bytes long.
func (d *decoder) length(size int) int {
	n := d.number()
	if n > uint64(len(d.rest)/size) {
		d.rest, d.bad = nil, true
		return 0
	}
	return int(n)
}

// below reads a number less than n, a place in a table.
func (d *decoder) below(n int) int {
	v := d.number()
	if v >= uint64(n) {
		d.rest, d.bad = nil, true
		return 0
	}
	return int(v)
}

// decode reads data into e, keeping e's memory.
func (e *entry) decode(data []byte) error {
	if len(data) > 0 && data[0] != entryVersion {
		return fmt.Errorf("%w: %d", errEntryVersion, data[0])
	}
	if len(data) < 10 {
		return errMalformed
	}
	e.kind, e.time = entryKind(data[1]), int64(binary.LittleEndian.Uint64(data[2:]))
	d := decoder{rest: data[10:]}
	switch e.kind {
	case kindPublish:
		e.decodePublish(&d)
	case kindOpen:
		e.decodeTTL(&d)
		e.decodeIDs(&d)
	case kindClose:
		e.decodeIDs(&d)
	case kindTick:
		e.decodeTTL(&d)
	case kindCheckpoint:
		e.index = raftlog.Index(d.number())
	case kindTrim:
		e.decodeTrim(&d)
	default:
		return fmt.Errorf("%w: kind %d", errEntryVersion, e.kind)
	}
	if d.bad || len(d.rest) > 0 && !seededLeaderCounter {
		return errMalformed
	}
	return nil
}

func (e *entry) decodeTTL(d *decoder) {
	ms := d.number()
	d.bad = d.bad || ms > 1<<40
	e.ttl = time.Duration(ms) * time.Millisecond
}

func (e *entry) decodeTrim(d *decoder) {
	e.index, e.prefixes = raftlog.Index(d.number()), e.prefixes[:0]
	count := d.length(2)
	d.bad = d.bad || count > MaxPolicies
	for range count {
		e.prefixes = append(e.prefixes, prefixFloor{prefix: string(d.text()), index: raftlog.Index(d.number())})
	}
}

func (e *entry) decodeIDs(d *decoder) {
	e.ids = e.ids[:0]
	for range d.length(16) {
		e.ids = append(e.ids, d.sessionID())
	}
}

func (e *entry) decodePublish(d *decoder) {
	e.sessions, e.runs, e.blocks = e.sessions[:0], e.runs[:0], e.blocks[:0]
	for range d.length(17) {
		e.sessions = append(e.sessions, sessionRef{d.sessionID(), Counter(d.number())})
	}
	runs := d.length(4)
	for range runs {
		r := run{session: d.below(len(e.sessions)), block: int(d.number() & 0xffffffff), counter: Counter(d.number())}
		r.count = int(min(d.number(), uint64(len(d.rest))))
		d.bad = d.bad || r.counter == 0 || r.count == 0
		e.runs = append(e.runs, r)
	}
	for range d.length(3) {
		e.blocks = append(e.blocks, decodeBlock(d))
	}
	if d.bad {
		return
	}
	// Each record belongs to exactly one publish of a run.
	left := make([]int, len(e.blocks))
	for i, b := range e.blocks {
		left[i] = b.count
	}
	for _, r := range e.runs {
		if r.block >= len(left) {
			d.bad = true
			return
		}
		left[r.block] -= r.count
	}
	for _, n := range left {
		d.bad = d.bad || n != 0
	}
}

func decodeBlock(d *decoder) block {
	b := block{room: d.text(), data: d.text()}
	in := decoder{rest: b.data}
	b.count = in.length(2)
	publishers := in.length(1)
	for range publishers {
		in.text()
	}
	b.records = in.rest
	for range b.count {
		publisher, _, rest, ok := cutRecord(in.rest)
		in.rest, in.bad = rest, in.bad || !ok || publisher >= uint64(publishers)
	}
	if in.bad || len(in.rest) > 0 || len(b.room) == 0 {
		d.rest, d.bad = nil, true
	}
	return b
}

// checkpointBehind returns which checkpoint the one in data follows, if it is one.
func checkpointBehind(data []byte) (previous raftlog.Index, ok bool) {
	if len(data) < 10 || data[0] != entryVersion || entryKind(data[1]) != kindCheckpoint {
		return 0, false
	}
	d := decoder{rest: data[10:]}
	previous = raftlog.Index(d.number())
	return previous, !d.bad
}

// blockIn finds room's block in a publish entry that decode has accepted before:
// it looks at no more than it must.
func blockIn(entry []byte, room string) (block []byte, now int64, ok bool) {
	if len(entry) < 10 || entry[0] != entryVersion || entryKind(entry[1]) != kindPublish {
		return nil, 0, false
	}
	now = int64(binary.LittleEndian.Uint64(entry[2:]))
	d := decoder{rest: entry[10:]}
	for range d.length(17) {
		d.next(16)
		d.number()
	}
	for range 4 * d.length(4) {
		d.number()
	}
	for range d.length(3) {
		name, data := d.text(), d.text()
		if string(name) == room {
			return data, now, !d.bad
		}
	}
	return nil, now, false
}

// records tells how many records a block has.
func records(block []byte) int {
	d := decoder{rest: block}
	return d.length(2)
}

// nextPayload takes the first record from records, which decode has accepted.
func nextPayload(records []byte) (payload, rest []byte) {
	_, payload, rest, _ = cutRecord(records)
	return payload, rest
}

// cutRecord takes the first record from b. Most have a publisher below 128 and a
// payload below 16 KiB.
func cutRecord(b []byte) (publisher uint64, payload, rest []byte, ok bool) {
	var size uint64
	at := 0
	switch {
	case len(b) >= 2 && b[0]|b[1] < 0x80:
		publisher, size, at = uint64(b[0]), uint64(b[1]), 2
	case len(b) >= 3 && b[0]|b[2] < 0x80:
		publisher, size, at = uint64(b[0]), uint64(b[1]&0x7f)|uint64(b[2])<<7, 3
	default:
		d := decoder{rest: b}
		publisher, size = d.number(), d.number()
		if d.bad {
			return 0, nil, nil, false
		}
		at = len(b) - len(d.rest)
	}
	if size > uint64(len(b)-at) {
		return 0, nil, nil, false
	}
	end := at + int(size)
	return publisher, b[at:end:end], b[end:], true
}

func appendHead(dst []byte, kind entryKind, now int64) []byte {
	dst = append(dst, entryVersion, byte(kind))
	return binary.LittleEndian.AppendUint64(dst, uint64(now))
}

func appendText[S string | []byte](dst []byte, s S) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendIDs(dst []byte, ids []SessionID) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(ids)))
	for _, id := range ids {
		dst = append(dst, id[:]...)
	}
	return dst
}

func encodeOpen(now int64, ttl time.Duration, ids []SessionID) []byte {
	dst := appendHead(nil, kindOpen, now)
	dst = binary.AppendUvarint(dst, uint64(ttl.Milliseconds()))
	return appendIDs(dst, ids)
}

func encodeClose(now int64, ids []SessionID) []byte {
	return appendIDs(appendHead(nil, kindClose, now), ids)
}

func encodeTick(now int64, ttl time.Duration) []byte {
	return binary.AppendUvarint(appendHead(nil, kindTick, now), uint64(ttl.Milliseconds()))
}

func encodeCheckpoint(now int64, previous raftlog.Index) []byte {
	return binary.AppendUvarint(appendHead(nil, kindCheckpoint, now), uint64(previous))
}

func encodeTrim(now int64, floor raftlog.Index, prefixes []prefixFloor) []byte {
	dst := binary.AppendUvarint(appendHead(nil, kindTrim, now), uint64(floor))
	dst = binary.AppendUvarint(dst, uint64(len(prefixes)))
	for _, p := range prefixes {
		dst = binary.AppendUvarint(appendText(dst, p.prefix), uint64(p.index))
	}
	return dst
}
