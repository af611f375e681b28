package peer

import (
	"encoding/binary"
	"fmt"
	"io"
)

// After its handshake a link carries frames:
//
//	length  2 bytes  of type and body
//	type    1 byte   1 ping, 2 pong
//	body
//
//	ping:  nonce 8 bytes
//	pong:  nonce 8 bytes, the ping's
//	       received 8 bytes, sent 8 bytes: when the ping came and the pong left,
//	       by the clock of the one who answers, signed nanoseconds since 1970 UTC
//
// Integers are little endian. Either end may ping and must answer a ping.
type frame struct {
	typ            frameType
	nonce          uint64
	received, sent int64 // of a pong
}

type frameType uint8

const (
	framePing frameType = 1
	framePong frameType = 2
)

const (
	pingSize = 1 + 8
	pongSize = 1 + 3*8
	maxFrame = pongSize
)

func (f frame) append(dst []byte) []byte {
	if f.typ == framePing {
		dst = binary.LittleEndian.AppendUint16(dst, pingSize)
		dst = append(dst, byte(f.typ))
		return binary.LittleEndian.AppendUint64(dst, f.nonce)
	}
	dst = binary.LittleEndian.AppendUint16(dst, pongSize)
	dst = append(dst, byte(f.typ))
	dst = binary.LittleEndian.AppendUint64(dst, f.nonce)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(f.received))
	return binary.LittleEndian.AppendUint64(dst, uint64(f.sent))
}

// readFrame reads one frame from r and takes no byte beyond it.
func readFrame(r io.Reader) (frame, error) {
	var buf [maxFrame]byte
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return frame{}, err
	}
	size := int(binary.LittleEndian.Uint16(buf[:]))
	if size > maxFrame {
		return frame{}, malformed("link frame: %d bytes, at most %d are allowed", size, maxFrame)
	}
	if _, err := io.ReadFull(r, buf[:size]); err != nil {
		return frame{}, err
	}
	return decodeFrame(buf[:size])
}

func decodeFrame(b []byte) (frame, error) {
	d := decoder{rest: b}
	f := frame{typ: frameType(d.byte())}
	f.nonce = d.uint64()
	switch f.typ {
	case framePing:
	case framePong:
		f.received, f.sent = int64(d.uint64()), int64(d.uint64())
	default:
		return frame{}, malformed("link frame: type %d", f.typ)
	}
	if err := d.end(fmt.Sprintf("link frame of type %d", f.typ)); err != nil {
		return frame{}, err
	}
	return f, nil
}
