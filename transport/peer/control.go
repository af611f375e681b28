package peer

import (
	"encoding/binary"
	"fmt"
	"io"
)

// After its handshake a link carries frames:
//
//	length  2 bytes  of type and body
//	type    1 byte   1 ping, 2 pong, 3 mark, 4 ask, 5 told, 6 push, 7 beat,
//	                 8 beaten, 9 suspect, 10 verdict, 11 heir, 12 drained
//	body
//
//	ping:  nonce 8 bytes
//	pong:  nonce 8 bytes, the ping's
//	       received 8 bytes, sent 8 bytes: when the ping came and the pong left,
//	       by the clock of the one who answers, signed nanoseconds since 1970 UTC
//	mark:  group 4 bytes, index 8 bytes, hash 8 bytes: the sender's replica has
//	       this rolling hash after the entry at index
//	ask:   nonce 8 bytes, group 4 bytes
//	heir:  as ask; the one who is asked gets ready to lead the group and then answers
//	told:  nonce 8 bytes, the ask's or heir's
//	       known 1 byte: 0 no, and all that follows is zero; 1 yes, 2 yes, and the
//	       node is draining
//	       term 8 bytes, last 8 bytes, leader string: the group as the one who
//	       answers sees it
//
//	push:  group 4 bytes, index 8 bytes, term 8 bytes: the entry at index, which
//	       has that term, is committed; the sender led the group in it
//
//	beat:  nonce 8 bytes, group 4 bytes, term 8 bytes: a heartbeat of the group's
//	       leader in that term
//	beaten: nonce 8 bytes, the beat's
//	       answer 1 byte: 0 none, and what follows is zero; 1 refused, 2 accepted
//	       term 8 bytes, last 8 bytes: of the replica that answers
//
//	suspect: nonce 8 bytes, node string: its port refuses the sender, or nothing comes
//	       from it
//	verdict: nonce 8 bytes, the suspect's
//	       dead 1 byte, 0 or 1: it is so for the one who answers, too
//
//	drained: yes 1 byte, 0 or 1: the sender is to lead nothing and to serve no clients.
//	       Until a link's first one it is not so
//
// Integers are little endian; a string is one byte of length and its bytes.
// Either end may ping and must answer a ping. Marks, asks, heirs, pushes, beats,
// suspects and draineds go from the dialer to the acceptor, told, beaten and verdicts the
// other way. A frame of another type, or one that does not go this way, ends the link.
type frame struct {
	typ            frameType
	nonce          uint64     // of all but a mark and a push
	received, sent int64      // of a pong
	mark           Mark       // of a mark
	group          uint32     // of an ask and an heir
	known          bool       // of a told and a beaten; of a verdict: dead; of a drained: yes
	node           string     // of a suspect
	state          State      // of a told
	push           Push       // of a push
	beat           Beat       // of a beat
	answer         BeatAnswer // of a beaten
}

type frameType uint8

const (
	framePing   frameType = 1
	framePong   frameType = 2
	frameMark   frameType = 3
	frameAsk    frameType = 4
	frameTold   frameType = 5
	framePush   frameType = 6
	frameBeat   frameType = 7
	frameBeaten frameType = 8

	frameSuspect frameType = 9
	frameVerdict frameType = 10

	frameHeir    frameType = 11
	frameDrained frameType = 12
)

// maxFrame is a told with the longest leader's name.
const maxFrame = 1 + 8 + 1 + 2*8 + 1 + maxString

func (f frame) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, byte(f.typ))
	u64 := binary.LittleEndian.AppendUint64
	switch f.typ {
	case framePing:
		dst = u64(dst, f.nonce)
	case framePong:
		dst = u64(u64(u64(dst, f.nonce), uint64(f.received)), uint64(f.sent))
	case frameMark:
		dst = binary.LittleEndian.AppendUint32(dst, f.mark.Group)
		dst = u64(u64(dst, f.mark.Index), f.mark.Hash)
	case framePush:
		dst = binary.LittleEndian.AppendUint32(dst, f.push.Group)
		dst = u64(u64(dst, f.push.Index), f.push.Term)
	case frameBeat:
		dst = binary.LittleEndian.AppendUint32(u64(dst, f.nonce), f.beat.Group)
		dst = u64(dst, f.beat.Term)
	case frameBeaten:
		how := byte(0)
		switch {
		case f.known && f.answer.OK:
			how = 2
		case f.known:
			how = 1
		}
		dst = append(u64(dst, f.nonce), how)
		dst = u64(u64(dst, f.answer.Term), f.answer.Last)
	case frameAsk, frameHeir:
		dst = binary.LittleEndian.AppendUint32(u64(dst, f.nonce), f.group)
	case frameSuspect:
		dst = appendString(u64(dst, f.nonce), f.node)
	case frameVerdict:
		dst = append(u64(dst, f.nonce), oneIf(f.known))
	case frameDrained:
		dst = append(dst, oneIf(f.known))
	case frameTold:
		known := byte(0)
		switch {
		case f.known && f.state.Draining:
			known = 2
		case f.known:
			known = 1
		}
		dst = append(u64(dst, f.nonce), known)
		dst = appendString(u64(u64(dst, f.state.Term), f.state.Last), f.state.Leader)
	}
	binary.LittleEndian.PutUint16(dst[start:], uint16(len(dst)-start-2))
	return dst
}

func oneIf(yes bool) byte {
	if yes {
		return 1
	}
	return 0
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
	switch f.typ {
	case framePing:
		f.nonce = d.uint64()
	case framePong:
		f.nonce, f.received, f.sent = d.uint64(), int64(d.uint64()), int64(d.uint64())
	case frameMark:
		f.mark = Mark{Group: d.uint32(), Index: d.uint64(), Hash: d.uint64()}
	case framePush:
		f.push = Push{Group: d.uint32(), Index: d.uint64(), Term: d.uint64()}
	case frameBeat:
		f.nonce, f.beat = d.uint64(), Beat{Group: d.uint32(), Term: d.uint64()}
	case frameBeaten:
		f.nonce = d.uint64()
		how := d.byte()
		f.known = how > 0
		f.answer = BeatAnswer{Term: d.uint64(), Last: d.uint64(), OK: how == 2}
		if how > 2 || how == 0 && f.answer != (BeatAnswer{}) {
			return frame{}, malformed("beaten: answer is %d, with %+v", how, f.answer)
		}
	case frameAsk, frameHeir:
		f.nonce, f.group = d.uint64(), d.uint32()
	case frameSuspect:
		f.nonce, f.node = d.uint64(), d.string()
	case frameVerdict:
		f.nonce = d.uint64()
		dead := d.byte()
		if f.known = dead == 1; dead > 1 {
			return frame{}, malformed("verdict: dead is %d", dead)
		}
	case frameDrained:
		yes := d.byte()
		if f.known = yes == 1; yes > 1 {
			return frame{}, malformed("drained: yes is %d", yes)
		}
	case frameTold:
		f.nonce = d.uint64()
		known := d.byte()
		f.known = known > 0
		f.state = State{Term: d.uint64(), Last: d.uint64(), Leader: d.string(), Draining: known == 2}
		if known > 2 || known == 0 && f.state != (State{}) {
			return frame{}, malformed("told: known is %d, with the state %+v", known, f.state)
		}
	default:
		return frame{}, malformed("link frame: type %d", f.typ)
	}
	if err := d.end(fmt.Sprintf("link frame of type %d", f.typ)); err != nil {
		return frame{}, err
	}
	return f, nil
}
