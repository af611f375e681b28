package partition

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"sync"

	"github.com/roomlog/roomlog/raftlog"
)

// A chunk's index file says where in the log each of its rooms' messages are.
// Its bytes follow from the log: every replica writes the same, and one that is
// lost or damaged is made again by replay. Fixed widths are little endian, the
// other integers uvarints; a string is a uvarint length and its bytes.
//
//	header   magic "RLRM", version u16, group u32, from u64, to u64: the chunk (from, to]
//	records  length u32 of the body, CRC32C u32 of it, body;
//	         a room each, in the order in which the rooms were created
//	footer   number of records u64, offset of the footer u64,
//	         CRC32C u32 over the header, all records' CRCs and the two numbers
//
//	body     room string
//	         places  count, then per place, each less the one before it:
//	                 seq, index, time (zigzag), bytes of the chunk before the entry
//	         drops   count, then per entry with records that got no seq: index less the one before it;
//	                 0 if none in the block got one, else 1 + count, and the positions less the ones before
const (
	roomFileVersion = 1
	roomFileHeader  = 4 + 2 + 4 + 8 + 8
	roomFileFooter  = 8 + 8 + 4
	// maxRecord bounds what a reader takes into memory for one room of a chunk.
	maxRecord = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errRoomFile: an index file is not what was written. It can be made again.
var errRoomFile = errors.New("room index file is damaged")

func roomFileHead(group uint32, from, to raftlog.Index) []byte {
	head := append(make([]byte, 0, roomFileHeader), "RLRM"...)
	head = binary.LittleEndian.AppendUint16(head, roomFileVersion)
	head = binary.LittleEndian.AppendUint32(head, group)
	head = binary.LittleEndian.AppendUint64(head, uint64(from))
	return binary.LittleEndian.AppendUint64(head, uint64(to))
}

// writeRooms writes the index file of the view's chunk and notes where the
// rooms are in it. lock guards m; goOn is asked between pages.
func (v *view) writeRooms(m *Machine, lock sync.Locker, group uint32, w io.Writer, goOn func() error) error {
	out := bufio.NewWriterSize(w, 256<<10)
	head := roomFileHead(group, v.from, v.index)
	sum, offset, count := crc32.Update(0, castagnoli, head), uint64(len(head)), uint64(0)
	out.Write(head)
	v.offsets = v.offsets[:0]
	var images []roomImage
	var record []byte
	for at := 0; at < v.rooms; at += viewPage {
		if err := goOn(); err != nil {
			return err
		}
		images = v.page(m, lock, at, images)
		for i := range images {
			if len(images[i].hot) == 0 {
				continue
			}
			if offset > math.MaxUint32 {
				return fmt.Errorf("the index of a chunk has %d bytes, 4 GiB are the most", offset)
			}
			v.offsets = append(v.offsets, uint32(offset))
			record = appendRecord(record[:0], &images[i])
			sum = crc32.Update(sum, castagnoli, record[4:8])
			offset += uint64(len(record))
			count++
			if _, err := out.Write(record); err != nil {
				return err
			}
		}
	}
	foot := binary.LittleEndian.AppendUint64(nil, count)
	foot = binary.LittleEndian.AppendUint64(foot, offset)
	foot = binary.LittleEndian.AppendUint32(foot, crc32.Update(sum, castagnoli, foot))
	out.Write(foot)
	return out.Flush()
}

func appendRecord(dst []byte, img *roomImage) []byte {
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	dst = appendText(dst, img.name)
	dst = binary.AppendUvarint(dst, uint64(len(img.hot)))
	var before place
	for _, p := range img.hot {
		dst = binary.AppendUvarint(dst, uint64(p.first-before.first))
		dst = binary.AppendUvarint(dst, uint64(p.index-before.index))
		dst = binary.AppendVarint(dst, p.time-before.time)
		dst = binary.AppendUvarint(dst, p.at-before.at)
		before = p
	}
	dst = binary.AppendUvarint(dst, uint64(len(img.drops)))
	index := raftlog.Index(0)
	for _, d := range img.drops {
		dst = binary.AppendUvarint(dst, uint64(d.index-index))
		index = d.index
		if d.positions == nil {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(d.positions))+1)
		last := uint32(0)
		for _, pos := range d.positions {
			dst = binary.AppendUvarint(dst, uint64(pos-last))
			last = pos
		}
	}
	body := dst[8:]
	binary.LittleEndian.PutUint32(dst, uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[4:], crc32.Checksum(body, castagnoli))
	return dst
}

// record is what an index file says of a room.
type record struct {
	places []place
	drops  []drop
}

// size is what a record costs in memory, about.
func (r *record) size() int {
	n := 128 + 32*len(r.places) + 32*len(r.drops)
	for _, d := range r.drops {
		n += 4 * len(d.positions)
	}
	return n
}

// readRecord reads room's record at offset. Errors wrap errRoomFile if the file
// can be blamed.
func readRecord(f io.ReaderAt, offset uint32, room string) (*record, error) {
	var head [8]byte
	if _, err := f.ReadAt(head[:], int64(offset)); err != nil {
		return nil, roomFileError(err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxRecord {
		return nil, fmt.Errorf("%w: a record of %d bytes at %d", errRoomFile, n, offset)
	}
	body, err := readSection(f, int64(offset)+8, int64(n))
	if err != nil {
		return nil, roomFileError(err)
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, fmt.Errorf("%w: checksum of the record at %d", errRoomFile, offset)
	}
	r, name, ok := decodeRecord(body)
	if !ok || name != room {
		return nil, fmt.Errorf("%w: the record at %d is not one of room %q", errRoomFile, offset, room)
	}
	return r, nil
}

// readSection reads n bytes, taking memory only as they come.
func readSection(f io.ReaderAt, at, n int64) ([]byte, error) {
	const step = 1 << 20
	var data []byte
	for int64(len(data)) < n {
		grown := append(data, make([]byte, min(step, n-int64(len(data))))...)
		if _, err := f.ReadAt(grown[len(data):], at+int64(len(data))); err != nil {
			return nil, err
		}
		data = grown
	}
	return data, nil
}

func roomFileError(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends early", errRoomFile)
	}
	return err
}

func decodeRecord(body []byte) (r *record, name string, ok bool) {
	d := decoder{rest: body}
	name = string(d.text())
	r = &record{}
	var p place
	for range d.length(4) {
		p.first += Seq(d.number())
		p.index += raftlog.Index(d.number())
		p.time += d.signed()
		p.at += d.number()
		if n := len(r.places); n > 0 && (p.first <= r.places[n-1].first || p.index <= r.places[n-1].index) {
			d.bad = true
		}
		r.places = append(r.places, p)
	}
	index := raftlog.Index(0)
	for i := range d.length(2) {
		step := raftlog.Index(d.number())
		d.bad = d.bad || i > 0 && step == 0 || index+step < index
		index += step
		dropped := drop{index: index}
		n := d.number()
		if d.bad = d.bad || n == 1 || n > uint64(len(d.rest))+1; d.bad {
			break
		}
		for range int64(n) - 1 {
			pos := d.number()
			if n := len(dropped.positions); n > 0 {
				d.bad = d.bad || pos == 0
				pos += uint64(dropped.positions[n-1])
			}
			d.bad = d.bad || pos > math.MaxUint32
			dropped.positions = append(dropped.positions, uint32(pos))
		}
		r.drops = append(r.drops, dropped)
	}
	return r, name, !d.bad && len(d.rest) == 0 && len(r.places) > 0
}

// checkRoomFile looks at the ends of an index file, which a file that was written
// in part does not have.
func checkRoomFile(f io.ReaderAt, size int64, group uint32, from, to raftlog.Index) error {
	if size < roomFileHeader+roomFileFooter {
		return fmt.Errorf("%w: it has %d bytes", errRoomFile, size)
	}
	var head [roomFileHeader]byte
	var foot [roomFileFooter]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return roomFileError(err)
	}
	if _, err := f.ReadAt(foot[:], size-roomFileFooter); err != nil {
		return roomFileError(err)
	}
	switch {
	case string(head[:]) != string(roomFileHead(group, from, to)):
		return fmt.Errorf("%w: it is not that of entries %d to %d of group %d", errRoomFile, from+1, to, group)
	case binary.LittleEndian.Uint64(foot[8:]) != uint64(size-roomFileFooter):
		return fmt.Errorf("%w: its end is not where it should be", errRoomFile)
	}
	return nil
}
