package peer

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// A handshake is one hello and one answer. Both begin alike, in every version:
//
//	magic    4 bytes  "RLPH" hello, "RLPA" answer
//	version  1 byte
//	length   2 bytes  of the body that follows
//
// Body of a hello:
//
//	kind      1 byte    1 link, 2 stream
//	instance  16 bytes  the sending process
//	group     4 bytes   of a stream; 0 for a link
//	from      string    sending node
//	to        string    node it means to talk to
//	cluster   string    fingerprint
//
// Body of an answer:
//
//	status    1 byte    0 welcome, else why not
//	instance  16 bytes  the answering process
//	node      string    answering node
//	reason    string    for people; empty when welcome
//	info      2 bytes length and bytes: what the node tells about itself
//
// A string is one byte of length and its bytes. Integers are little endian.
const (
	helloMagic  = "RLPH"
	answerMagic = "RLPA"
	version     = 6

	prefixSize = 4 + 1 + 2
	maxString  = 255
	maxInfo    = 4 << 10
	maxHello   = 1 + 16 + 4 + 3*(1+maxString)
	maxAnswer  = 1 + 16 + 2*(1+maxString) + 2 + maxInfo
)

// errMalformed is wrapped by every error about bytes that are no handshake or
// frame of ours.
var errMalformed = errors.New("malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w %s", errMalformed, fmt.Sprintf(format, args...))
}

// versionError: the other end speaks another version; its body was skipped.
type versionError uint8

func (v versionError) Error() string {
	return fmt.Sprintf("it speaks version %d of the peer protocol, this node version %d", uint8(v), version)
}

// instance tells the processes of one node name apart: 128 random bits.
type instance [16]byte

func (i instance) String() string { return hex.EncodeToString(i[:4]) }

// kind says what a connection is for.
type kind uint8

const (
	kindLink   kind = 1
	kindStream kind = 2
)

// status is the outcome of a handshake.
type status uint8

const (
	statusOK           status = iota
	statusVersion             // another version of the protocol
	statusCluster             // another cluster fingerprint
	statusNotMe               // meant for another node
	statusStranger            // the sender is no member
	statusCertificate         // the certificate does not name the sender
	statusDuplicate           // another process of that name is alive
	statusUnknownGroup        // no such group here
	statusNoLink              // a stream without its process's link
	statusBusy                // come again
	statusMalformed           // no hello of ours
)

var statusNames = [...]string{
	"ok", "version", "cluster", "not-me", "stranger", "certificate", "duplicate", "unknown-group", "no-link",
	"busy", "malformed",
}

func (s status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

type hello struct {
	kind              kind
	instance          instance
	group             uint32
	from, to, cluster string
}

type answer struct {
	status   status
	instance instance
	node     string
	reason   string
	info     []byte
}

func (h hello) append(dst []byte) []byte {
	dst, start := begin(dst, helloMagic)
	dst = append(dst, byte(h.kind))
	dst = append(dst, h.instance[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, h.group)
	dst = appendString(dst, h.from)
	dst = appendString(dst, h.to)
	dst = appendString(dst, h.cluster)
	return finish(dst, start)
}

func (a answer) append(dst []byte) []byte {
	dst, start := begin(dst, answerMagic)
	dst = append(dst, byte(a.status))
	dst = append(dst, a.instance[:]...)
	dst = appendString(dst, a.node)
	dst = appendString(dst, a.reason)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(a.info)))
	dst = append(dst, a.info...)
	return finish(dst, start)
}

func begin(dst []byte, magic string) ([]byte, int) {
	dst = append(dst, magic...)
	dst = append(dst, version, 0, 0)
	return dst, len(dst)
}

func finish(dst []byte, start int) []byte {
	binary.LittleEndian.PutUint16(dst[start-2:], uint16(len(dst)-start))
	return dst
}

// appendString cuts s at what a string can hold; only reasons can be longer.
func appendString(dst []byte, s string) []byte {
	s = s[:min(len(s), maxString)]
	dst = append(dst, byte(len(s)))
	return append(dst, s...)
}

func readHello(r io.Reader) (hello, error) {
	body, err := readBody(r, helloMagic, maxHello)
	if err != nil {
		return hello{}, err
	}
	return decodeHello(body)
}

func readAnswer(r io.Reader) (answer, error) {
	body, err := readBody(r, answerMagic, maxAnswer)
	if err != nil {
		return answer{}, err
	}
	return decodeAnswer(body)
}

// readBody takes no byte beyond the body. The body of another version is
// skipped, so that an answer to it is not lost in a reset.
func readBody(r io.Reader, magic string, limit int) ([]byte, error) {
	var prefix [prefixSize]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	if string(prefix[:4]) != magic {
		return nil, malformed("handshake: begins with %q, not %q", prefix[:4], magic)
	}
	size := int(binary.LittleEndian.Uint16(prefix[5:]))
	if prefix[4] != version {
		if _, err := io.CopyN(io.Discard, r, int64(size)); err != nil {
			return nil, err
		}
		return nil, versionError(prefix[4])
	}
	if size > limit {
		return nil, malformed("handshake: %d bytes, at most %d are allowed", size, limit)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return body, nil
}

func decodeHello(body []byte) (hello, error) {
	var h hello
	d := decoder{rest: body}
	h.kind = kind(d.byte())
	copy(h.instance[:], d.bytes(len(h.instance)))
	h.group = d.uint32()
	h.from = d.string()
	h.to = d.string()
	h.cluster = d.string()
	if err := d.end("hello"); err != nil {
		return hello{}, err
	}
	if h.kind != kindLink && h.kind != kindStream {
		return hello{}, malformed("hello: kind %d", h.kind)
	}
	return h, nil
}

func decodeAnswer(body []byte) (answer, error) {
	var a answer
	d := decoder{rest: body}
	a.status = status(d.byte())
	copy(a.instance[:], d.bytes(len(a.instance)))
	a.node = d.string()
	a.reason = d.string()
	a.info = append([]byte(nil), d.bytes(int(d.uint16()))...)
	if err := d.end("answer"); err != nil {
		return answer{}, err
	}
	if len(a.info) > maxInfo {
		return answer{}, malformed("answer: info of %d bytes, at most %d are allowed", len(a.info), maxInfo)
	}
	return a, nil
}

// decoder takes fields off the front of a body. After the first field that is
// cut short everything it returns is zero, and end says so.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) bytes(n int) []byte {
	if d.short || n > len(d.rest) {
		d.short = true
		return nil
	}
	field := d.rest[:n]
	d.rest = d.rest[n:]
	return field
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) string() string { return string(d.bytes(int(d.byte()))) }

func (d *decoder) end(what string) error {
	switch {
	case d.short:
		return malformed("%s: cut short", what)
	case len(d.rest) > 0:
		return malformed("%s: %d bytes too many", what, len(d.rest))
	}
	return nil
}
