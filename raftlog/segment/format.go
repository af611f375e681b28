package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

const (
	version    = 1
	pageSize   = 4096 // of a segment's header
	blockSize  = 4096 // of a file system
	headSize   = 48   // of a record
	headerSize = 44
	markSize   = 36
	indexHead  = 56

	maxOffset = math.MaxUint32 // offsets are kept in 32 bits
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// seedOf is the checksum of a salt, with which those of its records begin.
func seedOf(salt uint64) uint32 {
	if seededStaleRecords { // a control: a record is the same in each life of a file
		return 0
	}
	return checksum(le.AppendUint64(nil, salt))
}

// header is the first page of a segment.
type header struct {
	recycled bool
	group    uint32
	chain    uint32
	salt     uint64
	first    uint64
	term     uint64
}

func (h *header) page() []byte {
	b := make([]byte, pageSize)
	copy(b, "RLSG")
	le.PutUint16(b[4:], version)
	if h.recycled {
		le.PutUint16(b[6:], 1)
	}
	le.PutUint32(b[8:], h.group)
	le.PutUint32(b[12:], h.chain)
	le.PutUint64(b[16:], h.salt)
	le.PutUint64(b[24:], h.first)
	le.PutUint64(b[32:], h.term)
	le.PutUint32(b[40:], checksum(b[:40]))
	return b
}

func decodeHeader(b []byte) (h header, err error) {
	switch {
	case len(b) < headerSize:
		return h, errors.New("the header is cut short")
	case string(b[:4]) != "RLSG":
		return h, errors.New("it does not begin like a segment")
	case le.Uint32(b[40:]) != checksum(b[:40]):
		return h, errors.New("the header's checksum is wrong")
	case le.Uint16(b[4:]) != version:
		return h, fmt.Errorf("the segment has version %d, this program reads version %d", le.Uint16(b[4:]), version)
	case le.Uint16(b[6:]) > 1:
		return h, errors.New("the header has unknown flags")
	}
	return header{
		recycled: le.Uint16(b[6:]) == 1, group: le.Uint32(b[8:]), chain: le.Uint32(b[12:]),
		salt: le.Uint64(b[16:]), first: le.Uint64(b[24:]), term: le.Uint64(b[32:]),
	}, nil
}

// recordSize is what an entry takes in a segment.
func recordSize(l *raft.Log) int64 { return padded(int64(len(l.Extensions)) + int64(len(l.Data))) }

func padded(body int64) int64 { return (headSize + body + recordAlign - 1) &^ (recordAlign - 1) }

// appendRecord encodes l and returns its checksum.
func appendRecord(dst []byte, l *raft.Log, seed, chain uint32, batch int) ([]byte, uint32) {
	at := len(dst)
	appended := int64(math.MinInt64)
	if !l.AppendedAt.IsZero() {
		appended = l.AppendedAt.UnixNano()
	}
	dst = le.AppendUint32(dst, uint32(len(l.Extensions)+len(l.Data)))
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, chain)
	dst = le.AppendUint32(dst, uint32(batch))
	dst = le.AppendUint64(dst, l.Index)
	dst = le.AppendUint64(dst, l.Term)
	dst = le.AppendUint64(dst, uint64(appended))
	dst = append(dst, byte(l.Type), 0, 0, 0)
	dst = le.AppendUint32(dst, uint32(len(l.Extensions)))
	guard := guardOf(dst[at:], seed)
	dst[at+41], dst[at+42], dst[at+43] = byte(guard), byte(guard>>8), byte(guard>>16)
	dst = append(dst, l.Extensions...)
	dst = append(dst, l.Data...)
	sum := recordSum(dst[at:], seed)
	le.PutUint32(dst[at+4:], sum)
	return append(dst, zeros[:-int64(len(dst)-at)&(recordAlign-1)]...), sum
}

func recordSum(b []byte, seed uint32) uint32 {
	return crc32.Update(crc32.Update(seed, castagnoli, b[:4]), castagnoli, b[8:])
}

// guardOf is what a head carries beside the record's checksum, so that bytes which
// are no head are known as such before a long checksum is taken: publishers
// choose what lies in a record's body.
func guardOf(b []byte, seed uint32) uint32 {
	sum := crc32.Update(seed, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, b[8:41])
	return crc32.Update(sum, castagnoli, b[44:headSize])
}

// isHead tells whether b begins with a record's head.
func isHead(b []byte, seed uint32) bool {
	guard := guardOf(b, seed)
	return b[41] == byte(guard) && b[42] == byte(guard>>8) && b[43] == byte(guard>>16)
}

// record is a decoded one; body lies in the bytes it was decoded from.
type record struct {
	size     int64 // with head and padding
	sum      uint32
	chain    uint32
	batch    uint32
	index    uint64
	term     uint64
	appended int64
	typ      uint8
	ext      int
	body     []byte
}

// bodyLength is how long a record's body claims to be.
func bodyLength(b []byte) int64 { return int64(le.Uint32(b)) }

var (
	errShort    = errors.New("the record is cut short")
	errHead     = errors.New("there is no record's head")
	errChecksum = errors.New("the record's checksum is wrong")
)

// decodeRecord decodes the record at the beginning of b.
func decodeRecord(b []byte, seed uint32) (r record, err error) {
	if len(b) < headSize {
		return r, errShort
	}
	if !isHead(b, seed) {
		return r, errHead
	}
	n := bodyLength(b)
	if int64(len(b)) < padded(n) {
		return r, errShort
	}
	r.sum = le.Uint32(b[4:])
	if r.sum != recordSum(b[:headSize+n], seed) {
		return r, errChecksum
	}
	ext := le.Uint32(b[44:])
	if int64(ext) > n {
		return r, errors.New("the extensions are longer than the record")
	}
	if _, ok := allZero(b[headSize+n : padded(n)]); !ok {
		return r, errors.New("the record's padding is not zero")
	}
	r.size, r.chain, r.batch = padded(n), le.Uint32(b[8:]), le.Uint32(b[12:])
	r.index, r.term, r.appended = le.Uint64(b[16:]), le.Uint64(b[24:]), int64(le.Uint64(b[32:]))
	r.typ, r.ext, r.body = b[40], int(ext), b[headSize:headSize+n:headSize+n]
	return r, nil
}

// log fills l; its Data and Extensions lie in the record's bytes.
func (r *record) log(l *raft.Log) {
	*l = raft.Log{Index: r.index, Term: r.term, Type: raft.LogType(r.typ)}
	if r.appended != math.MinInt64 {
		l.AppendedAt = time.Unix(0, r.appended)
	}
	if r.ext > 0 {
		l.Extensions = r.body[:r.ext:r.ext]
	}
	if len(r.body) > r.ext {
		l.Data = r.body[r.ext:]
	}
}

// place is the end of a run of records: what the next one must follow on.
type place struct {
	index uint64 // of the last record
	term  uint64
	chain uint32
	batch uint32
	end   int64 // offset behind it
}

// follows tells why r cannot stand behind p.
func (r *record) follows(p *place) error {
	switch {
	case r.index != p.index+1:
		return fmt.Errorf("the record is entry %d, %d should follow", r.index, p.index+1)
	case r.term < p.term:
		return fmt.Errorf("entry %d has term %d, the one before has %d", r.index, r.term, p.term)
	case r.chain != p.chain:
		return fmt.Errorf("entry %d does not follow on the one before it", r.index)
	}
	return nil
}

func (p *place) advance(r *record) {
	p.index, p.term, p.chain, p.batch, p.end = r.index, r.term, r.sum, r.batch, p.end+r.size
}

// index is a sealed segment's index file.
type index struct {
	group   uint32
	first   uint64
	salt    uint64
	last    place
	offsets []uint32
}

func (x *index) encode() []byte {
	b := make([]byte, indexHead, indexHead+4*len(x.offsets)+4)
	copy(b, "RLSX")
	le.PutUint16(b[4:], version)
	le.PutUint32(b[8:], x.group)
	le.PutUint32(b[12:], uint32(len(x.offsets)))
	le.PutUint64(b[16:], x.first)
	le.PutUint64(b[24:], x.salt)
	le.PutUint64(b[32:], x.last.term)
	le.PutUint64(b[40:], uint64(x.last.end))
	le.PutUint32(b[48:], x.last.chain)
	for _, o := range x.offsets {
		b = le.AppendUint32(b, o)
	}
	return le.AppendUint32(b, checksum(b))
}

func decodeIndex(b []byte) (x index, err error) {
	n := len(b) - 4
	switch {
	case n < indexHead || string(b[:4]) != "RLSX":
		return x, errors.New("it does not begin like an index")
	case le.Uint32(b[n:]) != checksum(b[:n]):
		return x, errors.New("the checksum is wrong")
	case le.Uint16(b[4:]) != version:
		return x, fmt.Errorf("the index has version %d, this program reads version %d", le.Uint16(b[4:]), version)
	case n-indexHead != 4*int(le.Uint32(b[12:])) || n == indexHead:
		return x, errors.New("the number of records is wrong")
	}
	x = index{group: le.Uint32(b[8:]), first: le.Uint64(b[16:]), salt: le.Uint64(b[24:])}
	for at := indexHead; at < n; at += 4 {
		x.offsets = append(x.offsets, le.Uint32(b[at:]))
	}
	x.last = place{
		index: x.first + uint64(len(x.offsets)) - 1, term: le.Uint64(b[32:]),
		end: int64(le.Uint64(b[40:])), chain: le.Uint32(b[48:]),
	}
	for i, o := range x.offsets {
		if int64(o) < pageSize || i > 0 && o < x.offsets[i-1]+headSize || int64(o)+headSize > x.last.end {
			return x, fmt.Errorf("the offset of entry %d makes no sense", x.first+uint64(i))
		}
	}
	return x, nil
}

// mark is the content of CLEAN and of INTENT.
type mark struct {
	magic  string
	kind   uint16
	group  uint32
	chain  uint32
	index  uint64
	number uint64
}

const (
	magicClean  = "RLSC"
	magicIntent = "RLSI"

	intentCut   = 1
	intentReset = 2
)

func (m *mark) encode() []byte {
	b := make([]byte, markSize)
	copy(b, m.magic)
	le.PutUint16(b[4:], version)
	le.PutUint16(b[6:], m.kind)
	le.PutUint32(b[8:], m.group)
	le.PutUint32(b[12:], m.chain)
	le.PutUint64(b[16:], m.index)
	le.PutUint64(b[24:], m.number)
	le.PutUint32(b[32:], checksum(b[:32]))
	return b
}

func decodeMark(b []byte, magic string) (m mark, err error) {
	switch {
	case len(b) != markSize || string(b[:4]) != magic:
		return m, errors.New("it does not look like one")
	case le.Uint32(b[32:]) != checksum(b[:32]):
		return m, errors.New("the checksum is wrong")
	case le.Uint16(b[4:]) != version:
		return m, fmt.Errorf("it has version %d, this program reads version %d", le.Uint16(b[4:]), version)
	}
	return mark{
		magic: magic, kind: le.Uint16(b[6:]), group: le.Uint32(b[8:]), chain: le.Uint32(b[12:]),
		index: le.Uint64(b[16:]), number: le.Uint64(b[24:]),
	}, nil
}
