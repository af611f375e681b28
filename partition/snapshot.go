package partition

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// A snapshot is a Machine as it was after a checkpoint had been applied. The
// same entries make the same bytes on every replica. Raftlog keeps it under a
// checksum. Integers are uvarints, signed ones zigzag; hashes are 8 bytes little
// endian; a string is a uvarint length and its bytes.
//
//	version    1 byte, 1
//	index      of the checkpoint
//	hash       of the partition
//	wall       signed, ns since 1970 UTC; clock, ttl: ns
//	floor      index; number of the first chunk above it
//	chunks     count, then per chunk: entries since the one before, time signed, bytes, messages
//	prefixes   count, then per prefix with a floor of its own: string, index
//	sessions   count, then per session, by last activity: id 16 bytes, last counter, floor, active in ns,
//	           and per answer, of which there are last + 1 − floor: seq, time signed less the one before, hash
//	rooms      count, then per room, in the order of creation: string, last seq, time signed, hash,
//	           spans: count, then per chunk that holds messages of the room and is not below its floor:
//	           number of the chunk and first seq, each less the one before, time signed less the one before,
//	           offset in the chunk's index file
//	end        "end."
//
// The open chunk is empty then: there are no hot places and no drops.
const snapshotVersion = 1

// errSnapshotVersion: the snapshot is of a later version of this program.
var errSnapshotVersion = errors.New("snapshot has a version this program does not know")

// errSnapshot: bytes that writeSnapshot did not write.
var errSnapshot = errors.New("malformed snapshot")

// maxRoomName bounds a room's name in a snapshot.
const maxRoomName = 1 << 20

// writeSnapshot writes the view; writeRooms has been called before. lock guards
// m; goOn is asked between pages.
func (v *view) writeSnapshot(m *Machine, lock sync.Locker, w io.Writer, goOn func() error) error {
	sessions, err := v.sessions(m, lock, goOn)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 256<<10)
	buf := v.appendHead(nil)
	buf = binary.AppendUvarint(buf, uint64(len(sessions)))
	for i := range sessions {
		buf = appendSession(buf, &sessions[i])
		if len(buf) > 64<<10 {
			if err := goOn(); err != nil {
				return err
			}
			out.Write(buf)
			buf = buf[:0]
		}
	}
	buf = binary.AppendUvarint(buf, uint64(v.rooms))
	var images []roomImage
	next := 0 // of v.offsets
	for at := 0; at < v.rooms; at += viewPage {
		if err := goOn(); err != nil {
			return err
		}
		images = v.page(m, lock, at, images)
		for i := range images {
			img := &images[i]
			spans, fresh := v.spansOf(img), 0
			if len(img.hot) > 0 {
				fresh = 1
			}
			buf = appendRoom(buf, img, spans, fresh)
			if fresh > 0 {
				var last span
				if n := len(spans); n > 0 {
					last = spans[n-1]
				}
				buf = appendSpan(buf, v.span(img.hot, v.offsets[next]), last)
				next++
			}
		}
		if _, err := out.Write(buf); err != nil {
			return err
		}
		buf = buf[:0]
	}
	out.Write(append(buf, "end."...))
	return out.Flush()
}

// spansOf returns the room's spans above its floor.
func (v *view) spansOf(img *roomImage) []span {
	_, chunk := v.chunks.floorOf(img.name)
	r := room{spans: img.spans}
	return r.heldSpans(chunk)
}

func (v *view) appendHead(dst []byte) []byte {
	dst = append(dst, snapshotVersion)
	dst = binary.AppendUvarint(dst, uint64(v.index))
	dst = binary.LittleEndian.AppendUint64(dst, v.hash)
	dst = binary.AppendVarint(dst, v.wall)
	dst = binary.AppendUvarint(dst, uint64(v.clock))
	dst = binary.AppendUvarint(dst, uint64(v.ttl))
	dst = binary.AppendUvarint(dst, uint64(v.chunks.floor))
	dst = binary.AppendUvarint(dst, uint64(v.chunks.number))
	dst = binary.AppendUvarint(dst, uint64(len(v.chunks.closed)))
	before := v.chunks.floor
	for _, c := range v.chunks.closed {
		dst = binary.AppendUvarint(dst, uint64(c.to-before))
		dst = binary.AppendVarint(dst, c.time)
		dst = binary.AppendUvarint(dst, c.bytes)
		dst = binary.AppendUvarint(dst, c.messages)
		before = c.to
	}
	dst = binary.AppendUvarint(dst, uint64(len(v.chunks.prefixes)))
	for _, p := range v.chunks.prefixes {
		dst = binary.AppendUvarint(appendText(dst, p.prefix), uint64(p.index))
	}
	return dst
}

func appendSession(dst []byte, s *sessionImage) []byte {
	dst = append(dst, s.id[:]...)
	dst = binary.AppendUvarint(dst, uint64(s.last))
	dst = binary.AppendUvarint(dst, uint64(s.floor))
	dst = binary.AppendUvarint(dst, uint64(s.active))
	before := int64(0)
	for _, a := range s.answers {
		dst = binary.AppendUvarint(dst, uint64(a.seq))
		dst = binary.AppendVarint(dst, a.time-before)
		dst = binary.LittleEndian.AppendUint64(dst, a.hash)
		before = a.time
	}
	return dst
}

// appendRoom appends a room with spans, behind which fresh more will follow.
func appendRoom(dst []byte, img *roomImage, spans []span, fresh int) []byte {
	dst = appendText(dst, img.name)
	dst = binary.AppendUvarint(dst, uint64(img.last))
	dst = binary.AppendVarint(dst, img.time)
	dst = binary.LittleEndian.AppendUint64(dst, img.hash)
	dst = binary.AppendUvarint(dst, uint64(len(spans)+fresh))
	var before span
	for _, s := range spans {
		dst = appendSpan(dst, s, before)
		before = s
	}
	return dst
}

func appendSpan(dst []byte, s, before span) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.chunk-before.chunk))
	dst = binary.AppendUvarint(dst, uint64(s.first-before.first))
	dst = binary.AppendVarint(dst, s.time-before.time)
	return binary.AppendUvarint(dst, uint64(s.offset))
}

// snapshotReader takes values from a snapshot; after the first fault it yields
// zeros.
type snapshotReader struct {
	in  *bufio.Reader
	err error
}

func (r *snapshotReader) fail(err error) {
	if r.err == nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: it ends early", errSnapshot)
		}
		r.err = err
	}
}

func (r *snapshotReader) check(ok bool) {
	if !ok {
		r.fail(errSnapshot)
	}
}

func (r *snapshotReader) number() (v uint64) {
	r.varint(func(b []byte) (n int) { v, n = binary.Uvarint(b); return n })
	return v
}

func (r *snapshotReader) signed() (v int64) {
	r.varint(func(b []byte) (n int) { v, n = binary.Varint(b); return n })
	return v
}

// varint has get take a number from the front; get returns the bytes it took.
func (r *snapshotReader) varint(get func([]byte) int) {
	if r.err != nil {
		return
	}
	b, err := r.in.Peek(binary.MaxVarintLen64)
	n := get(b)
	switch {
	case n > 0:
		r.in.Discard(n)
	case n == 0 && err != nil:
		r.fail(err)
	default:
		r.fail(errSnapshot)
	}
}

func (r *snapshotReader) bytes(b []byte) {
	if r.err != nil {
		return
	}
	if _, err := io.ReadFull(r.in, b); err != nil {
		r.fail(err)
	}
}

func (r *snapshotReader) fixed() uint64 {
	var b [8]byte
	r.bytes(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (r *snapshotReader) text() string {
	n := r.number()
	if r.check(n <= maxRoomName); r.err != nil {
		return ""
	}
	b := make([]byte, n)
	r.bytes(b)
	return string(b)
}

func (r *snapshotReader) duration() time.Duration {
	v := r.number()
	r.check(v < 1<<63)
	return time.Duration(v)
}

// readSnapshot returns the Machine after the entry at index.
func readSnapshot(index raftlog.Index, from io.Reader) (*Machine, error) {
	m := NewMachine()
	r := &snapshotReader{in: bufio.NewReaderSize(from, 256<<10)}
	var version [1]byte
	if r.bytes(version[:]); r.err == nil && version[0] != snapshotVersion {
		return nil, fmt.Errorf("snapshot at entry %d: %w: %d", index, errSnapshotVersion, version[0])
	}
	m.index = raftlog.Index(r.number())
	r.check(m.index == index)
	m.hash, m.wall = r.fixed(), r.signed()
	m.clock, m.ttl = r.duration(), r.duration()
	r.chunks(&m.chunks)
	r.check(m.chunks.last() == index)
	r.sessions(m)
	r.rooms(m)
	var end [4]byte
	r.bytes(end[:])
	r.check(string(end[:]) == "end.")
	if r.err == nil {
		_, err := r.in.ReadByte()
		r.check(err == io.EOF)
	}
	if r.err != nil {
		return nil, fmt.Errorf("snapshot at entry %d: %w", index, r.err)
	}
	return m, nil
}

func (r *snapshotReader) chunks(c *chunks) {
	c.floor = raftlog.Index(r.number())
	number := r.number()
	r.check(number < 1<<31)
	c.number = uint32(number)
	to := c.floor
	count := r.number()
	r.check(count < 1<<31)
	for range count {
		if r.err != nil {
			return
		}
		step := raftlog.Index(r.number())
		r.check(step > 0 && to+step > to)
		to += step
		c.closed = append(c.closed, chunk{to: to, time: r.signed(), bytes: r.number(), messages: r.number()})
	}
	prefix := ""
	for i := range r.number() {
		p := prefixFloor{prefix: r.text(), index: raftlog.Index(r.number())}
		at, ok := c.find(p.index)
		r.check(ok && (i == 0 || p.prefix > prefix))
		if r.err != nil {
			return
		}
		prefix, p.chunk = p.prefix, c.number+uint32(at)+1
		c.prefixes = append(c.prefixes, p)
	}
}

func (r *snapshotReader) sessions(m *Machine) {
	for range r.number() {
		var id SessionID
		r.bytes(id[:])
		last, floor, active := Counter(r.number()), Counter(r.number()), r.duration()
		r.check(m.sessions.byID[id] == nil && len(m.sessions.byID) < maxSessions && active <= m.clock &&
			floor > 0 && floor-1 <= last && last+1-floor <= MaxWindow &&
			(m.sessions.newest == nil || m.sessions.newest.active <= active))
		if r.err != nil {
			return
		}
		s := m.sessions.open(id, active)
		s.last, s.floor = last, floor
		before := int64(0)
		for range last + 1 - floor {
			a := answer{seq: Seq(r.number()), time: before + r.signed(), hash: r.fixed()}
			if r.err != nil {
				return
			}
			before = a.time
			s.answers = append(s.answers, a)
		}
		m.sessions.kept += len(s.answers)
		r.check(m.sessions.kept <= maxAnswers)
	}
}

func (r *snapshotReader) rooms(m *Machine) {
	for range r.number() {
		if r.err != nil {
			return
		}
		rm := &room{name: r.text(), last: Seq(r.number()), time: r.signed(), hash: r.fixed()}
		r.check(rm.name != "" && rm.last > 0 && m.rooms[rm.name] == nil)
		r.spans(m, rm)
		if r.err != nil {
			return
		}
		m.rooms[rm.name] = rm
		m.table.add(rm)
	}
}

func (r *snapshotReader) spans(m *Machine, rm *room) {
	var s span
	for i := range r.number() {
		chunk, first := r.number(), Seq(r.number())
		r.check(chunk < 1<<32-uint64(s.chunk) && s.first+first >= s.first && (i == 0 || chunk > 0 && first > 0))
		s.chunk += uint32(chunk)
		s.first += first
		s.time += r.signed()
		offset := r.number()
		r.check(offset < 1<<32 && s.chunk >= m.chunks.number && s.chunk < m.chunks.openNumber() &&
			s.first > 0 && s.first <= rm.last && s.time <= rm.time)
		if r.err != nil {
			return
		}
		s.offset = uint32(offset)
		rm.spans = append(rm.spans, s)
	}
	rm.spans = rm.spans[:len(rm.spans):len(rm.spans)]
}
