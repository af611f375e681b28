package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Type is the first byte of a frame. Below 0x80 clients send, above servers.
type Type uint8

// The frames of version 1.
const (
	TypeHello     Type = 0x01
	TypePing      Type = 0x02
	TypeWatch     Type = 0x03
	TypeAttach    Type = 0x10
	TypePublish   Type = 0x11
	TypeDetach    Type = 0x12
	TypeSubscribe Type = 0x20
	TypeQuery     Type = 0x30

	TypeWelcome    Type = 0x81
	TypePong       Type = 0x82
	TypeMap        Type = 0x83
	TypeGoAway     Type = 0x84
	TypeGone       Type = 0x85
	TypeAttached   Type = 0x90
	TypeAcks       Type = 0x91
	TypeRefused    Type = 0x92
	TypeSubscribed Type = 0xa0
	TypeDeliver    Type = 0xa1
	TypeGap        Type = 0xa2
	TypeRedirect   Type = 0xa3
	TypeInfo       Type = 0xb0
	TypeError      Type = 0xff
)

var typeNames = map[Type]string{
	TypeHello: "hello", TypePing: "ping", TypeWatch: "watch", TypeAttach: "attach", TypePublish: "publish",
	TypeDetach: "detach", TypeSubscribe: "subscribe", TypeQuery: "query",
	TypeWelcome: "welcome", TypePong: "pong", TypeMap: "map", TypeGoAway: "goaway", TypeGone: "gone",
	TypeAttached: "attached", TypeAcks: "acks", TypeRefused: "refused",
	TypeSubscribed: "subscribed", TypeDeliver: "deliver", TypeGap: "gap",
	TypeRedirect: "redirect", TypeInfo: "info", TypeError: "error",
}

func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type 0x%02x", uint8(t))
}

// ErrMalformed is wrapped by every error about bytes that are no frame: the
// other side is broken or is no peer of ours, and its stream should be closed.
var ErrMalformed = errors.New("wire: malformed frame")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Frame is anything that can be put on a stream.
type Frame interface {
	frameType() Type
	appendBody(dst []byte) []byte
}

// Append adds the frame f to dst.
func Append(dst []byte, f Frame) []byte {
	start := len(dst)
	dst = append(dst, 0, byte(f.frameType()))
	dst = f.appendBody(dst)
	return finish(dst, start)
}

// finish writes the length of the frame that begins at start, where one byte
// was left for it, and moves the frame when the length needs more.
func finish(dst []byte, start int) []byte {
	n := len(dst) - start - 1
	if n < 0x80 {
		dst[start] = byte(n)
		return dst
	}
	var length [binary.MaxVarintLen64]byte
	width := binary.PutUvarint(length[:], uint64(n))
	dst = append(dst, length[:width-1]...) // make room
	copy(dst[start+width:], dst[start+1:start+1+n])
	copy(dst[start:], length[:width])
	return dst
}

// A Reader takes its step from the stream at once. The step doubles, up to
// maxStep, whenever the stream had as much to give: most streams are idle or
// carry one small frame, and thousands of them must not cost maxStep each. For a
// frame that announces more the buffer grows by a step or doubles, as it comes:
// a length alone costs no memory.
const (
	minStep = 128 // an idle connection keeps one
	maxStep = 32 << 10
)

// Reader cuts a stream into frames. It holds about the frame it is reading or
// a step, whichever is larger.
type Reader struct {
	src        io.Reader
	max        int
	step       int
	buf        []byte
	start, end int // unread bytes are buf[start:end]
}

// NewReader reads frames of at most max bytes from src.
func NewReader(src io.Reader, max int) *Reader {
	return &Reader{src: src, max: max, step: minStep}
}

// Next returns the next frame. Its body is valid until the following call. At
// the end of the stream between frames the error is io.EOF, inside one
// io.ErrUnexpectedEOF; bytes that are no frame give ErrMalformed.
func (r *Reader) Next() (Type, []byte, error) {
	for {
		typ, body, size, err := cutFrame(r.buf[r.start:r.end], r.max)
		if err != nil {
			return 0, nil, err
		}
		if body != nil {
			r.start += size
			return typ, body, nil
		}
		if err := r.fill(size); err != nil {
			return 0, nil, err
		}
	}
}

// Buffered tells whether a whole frame waits that Next returns without reading.
func (r *Reader) Buffered() bool {
	_, body, _, err := cutFrame(r.buf[r.start:r.end], r.max)
	return err != nil || body != nil
}

// SetMax changes the largest frame accepted from now on.
func (r *Reader) SetMax(max int) { r.max = max }

// cutFrame returns the first frame of b and its size. A nil body without an
// error means that b is only a beginning, of a frame of size bytes if known.
func cutFrame(b []byte, max int) (typ Type, body []byte, size int, err error) {
	n, width := binary.Uvarint(b)
	switch {
	case width < 0 || width == 0 && len(b) >= binary.MaxVarintLen64:
		return 0, nil, 0, malformed("length is no uvarint")
	case width == 0:
		return 0, nil, 0, nil
	case n == 0:
		return 0, nil, 0, malformed("empty frame")
	case n > uint64(max):
		return 0, nil, 0, malformed("frame of %d bytes, at most %d are accepted here", n, max)
	}
	size = width + int(n)
	if len(b) < size {
		return 0, nil, size, nil
	}
	return Type(b[width]), b[width+1 : size : size], size, nil
}

// fill reads once, after making room for a frame of size bytes at r.start,
// though never for more than a step, or as much again, beyond what has come.
func (r *Reader) fill(size int) error {
	have := r.end - r.start
	want := max(have+1, min(size, have+max(have, r.step)))
	if have == 0 || r.end == len(r.buf) || r.start > 0 && r.start+want > len(r.buf) {
		r.makeRoom(have, max(want, r.step))
	}
	n, err := r.src.Read(r.buf[r.end:])
	if r.end += n; r.end == len(r.buf) {
		r.step = min(2*r.step, maxStep)
	}
	switch {
	case n > 0 || err == nil:
		return nil
	case err == io.EOF && have > 0:
		return io.ErrUnexpectedEOF
	}
	return err
}

// makeRoom moves the unread bytes to the front of a buffer of size bytes: the
// one there is, unless it is too small, or far too large after a large frame.
func (r *Reader) makeRoom(have, size int) {
	buf := r.buf
	if len(buf) < size || len(buf) > max(2*size, maxStep) {
		buf = make([]byte, size)
	}
	r.end = copy(buf, r.buf[r.start:r.end])
	r.start, r.buf = 0, buf
}

func appendString[S string | []byte](dst []byte, s S) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendTime(dst []byte, ns int64) []byte {
	return binary.LittleEndian.AppendUint64(dst, uint64(ns))
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// parser takes values from the front of a body. After the first fault it
// returns zeros, and done tells what was wrong.
type parser struct {
	typ Type
	b   []byte
	err error
}

func (p *parser) fail(what string) {
	if p.err == nil {
		p.err = malformed("%v: %s", p.typ, what)
	}
	p.b = nil
}

func (p *parser) uint(what string) uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.fail(what + " is missing or no uvarint")
		return 0
	}
	p.b = p.b[n:]
	return v
}

// uintMax reads an integer of at most max.
func (p *parser) uintMax(what string, max uint64) uint64 {
	v := p.uint(what)
	if v > max {
		p.fail(fmt.Sprintf("%s is %d, at most %d is allowed", what, v, max))
		return 0
	}
	return v
}

func (p *parser) take(what string, n int) []byte {
	if len(p.b) < n {
		p.fail(what + " is cut short")
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

// bytes reads a string of at most max bytes; it lies in the parsed body.
func (p *parser) bytes(what string, max int) []byte {
	n := p.uint(what)
	if n > uint64(max) {
		p.fail(fmt.Sprintf("%s has %d bytes, at most %d are allowed", what, n, max))
		return nil
	}
	return p.take(what, int(n))
}

func (p *parser) str(what string, max int) string { return string(p.bytes(what, max)) }

func (p *parser) time(what string) int64 {
	if v := p.take(what, 8); v != nil {
		return int64(binary.LittleEndian.Uint64(v))
	}
	return 0
}

func (p *parser) bool(what string) bool {
	v := p.take(what, 1)
	if v != nil && v[0] > 1 {
		p.fail(what + " is neither 0 nor 1")
	}
	return v != nil && v[0] == 1
}

// count reads how many items follow, each of at least size bytes, so that a
// lying count cannot make us allocate more than the body holds.
func (p *parser) count(what string, size int) int {
	n := p.uint(what)
	if most := uint64(len(p.b) / size); n > most {
		p.fail(fmt.Sprintf("%s is %d, at most %d fit in what follows", what, n, most))
		return 0
	}
	return int(n)
}

func (p *parser) done() error {
	if p.err == nil && len(p.b) > 0 {
		p.fail(fmt.Sprintf("%d bytes too many", len(p.b)))
	}
	return p.err
}
