package bench

import (
	"encoding/binary"
	"fmt"
	"time"
)

// A message's payload begins with what the check needs, little-endian:
//
//	0   8  number of the message in its room, from 0
//	8   8  when it was due, ns of the load's clock
//	16  4  the room
//	20  4  which mark it is, 0: an ordinary message
//	24  …  filler
const headerSize = 24

// MinPayload is the smallest payload of a benchmark that has subscribers.
const MinPayload = headerSize

type header struct {
	number uint64
	due    time.Duration
	room   uint32
	mark   uint32
}

func (h header) put(b []byte) {
	binary.LittleEndian.PutUint64(b, h.number)
	binary.LittleEndian.PutUint64(b[8:], uint64(h.due))
	binary.LittleEndian.PutUint32(b[16:], h.room)
	binary.LittleEndian.PutUint32(b[20:], h.mark)
}

func parseHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, fmt.Errorf("a message of %d bytes is none of ours", len(b))
	}
	return header{
		number: binary.LittleEndian.Uint64(b),
		due:    time.Duration(binary.LittleEndian.Uint64(b[8:])),
		room:   binary.LittleEndian.Uint32(b[16:]),
		mark:   binary.LittleEndian.Uint32(b[20:]),
	}, nil
}
