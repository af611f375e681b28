package raftlog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"
)

// A snapshot file, which is also what is shipped to another node; all numbers
// little endian:
//
//	offset  bytes
//	0       4      magic "RLSN"
//	4       2      version, 1
//	6       2      0
//	8       4      group
//	12      4      length of the configuration, n
//	16      8      index: the state is that after this entry
//	24      8      term of that entry
//	32      8      index of the entry with the configuration
//	40      n      configuration: servers, 2; for each: suffrage, 1; length of
//	               its name, 2; name; length of its address, 2; address
//	40+n    4      CRC32C of all bytes before
//	44+n    …      body, as the StateMachine wrote it
//	               length of the body, 8
//	               CRC32C of all bytes before, 4
//	               magic "NSLR", 4
const (
	snapshotMagic   = "RLSN"
	snapshotEnd     = "NSLR"
	snapshotVersion = 1

	snapshotFixed   = 40
	snapshotTrailer = 16
	maxConfBytes    = 1 << 20
)

// snapshotHead is what precedes a snapshot's body.
type snapshotHead struct {
	group       uint32
	index, term uint64
	conf        raft.Configuration
	confIndex   uint64
}

// snapshotFault is what is wrong with a snapshot, and where in its bytes.
type snapshotFault struct {
	offset int64
	reason string
}

func (f *snapshotFault) Error() string {
	return fmt.Sprintf("the snapshot is damaged at byte %d: %s", f.offset, f.reason)
}

func fault(offset int64, format string, args ...any) error {
	return &snapshotFault{offset, fmt.Sprintf(format, args...)}
}

func (h *snapshotHead) encode() []byte {
	conf := encodeConf(h.conf)
	b := append(make([]byte, 0, snapshotFixed+len(conf)+4), snapshotMagic...)
	b = binary.LittleEndian.AppendUint16(b, snapshotVersion)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, h.group)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(conf)))
	b = binary.LittleEndian.AppendUint64(b, h.index)
	b = binary.LittleEndian.AppendUint64(b, h.term)
	b = binary.LittleEndian.AppendUint64(b, h.confIndex)
	b = append(b, conf...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readHead reads a head, and returns its bytes too.
func readHead(r io.Reader) (h snapshotHead, raw []byte, err error) {
	raw = make([]byte, snapshotFixed)
	if _, err := io.ReadFull(r, raw); err != nil {
		return h, nil, endsEarly(err, 0, "head")
	}
	version := binary.LittleEndian.Uint16(raw[4:])
	n := binary.LittleEndian.Uint32(raw[12:])
	switch {
	case string(raw[:4]) != snapshotMagic:
		return h, nil, fault(0, "no snapshot begins with %x", raw[:4])
	case n > maxConfBytes:
		return h, nil, fault(12, "its configuration has %d bytes", n)
	}
	raw = append(raw, make([]byte, n+4)...)
	if _, err := io.ReadFull(r, raw[snapshotFixed:]); err != nil {
		return h, nil, endsEarly(err, snapshotFixed, "configuration")
	}
	sum := len(raw) - 4
	if crc32.Checksum(raw[:sum], castagnoli) != binary.LittleEndian.Uint32(raw[sum:]) {
		return h, nil, fault(0, "the checksum of its head is wrong")
	}
	if version != snapshotVersion {
		return h, nil, fmt.Errorf("a snapshot of version %d is not known to this program", version)
	}
	h.group = binary.LittleEndian.Uint32(raw[8:])
	h.index = binary.LittleEndian.Uint64(raw[16:])
	h.term = binary.LittleEndian.Uint64(raw[24:])
	h.confIndex = binary.LittleEndian.Uint64(raw[32:])
	if h.conf, err = decodeConf(raw[snapshotFixed:sum]); err != nil {
		return h, nil, err
	}
	if h.index == 0 || h.term == 0 || h.confIndex > h.index || binary.LittleEndian.Uint16(raw[6:]) != 0 {
		return h, nil, fault(0, "index %d, term %d and configuration index %d cannot be", h.index, h.term, h.confIndex)
	}
	return h, raw, nil
}

func endsEarly(err error, offset int64, what string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault(offset, "it ends within its %s", what)
	}
	return err
}

func encodeConf(c raft.Configuration) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(len(c.Servers)))
	for _, s := range c.Servers {
		b = append(b, byte(s.Suffrage))
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s.ID)))
		b = append(b, s.ID...)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s.Address)))
		b = append(b, s.Address...)
	}
	return b
}

func decodeConf(b []byte) (c raft.Configuration, err error) {
	take := func(n int) []byte {
		if err != nil || len(b) < n {
			err = fault(snapshotFixed, "its configuration ends early")
			return make([]byte, n)
		}
		part := b[:n]
		b = b[n:]
		return part
	}
	number := func() int { return int(binary.LittleEndian.Uint16(take(2))) }
	for n := number(); n > 0 && err == nil; n-- {
		var s raft.Server
		s.Suffrage = raft.ServerSuffrage(take(1)[0])
		s.ID = raft.ServerID(take(number()))
		s.Address = raft.ServerAddress(take(number()))
		if s.Suffrage > raft.Staging {
			return c, fault(snapshotFixed, "server %q has suffrage %d", s.ID, s.Suffrage)
		}
		c.Servers = append(c.Servers, s)
	}
	if err == nil && len(b) > 0 {
		err = fault(snapshotFixed, "its configuration has %d bytes too many", len(b))
	}
	return c, err
}

// writeSnapshot writes a whole snapshot whose body write writes.
func writeSnapshot(to io.Writer, h *snapshotHead, write func(io.Writer) error) error {
	w := bufio.NewWriterSize(to, 256<<10)
	sum := &summing{w: w}
	head := h.encode()
	if _, err := sum.Write(head); err != nil {
		return err
	}
	if err := write(sum); err != nil {
		return err
	}
	trailer := binary.LittleEndian.AppendUint64(nil, uint64(sum.n)-uint64(len(head)))
	if _, err := sum.Write(trailer); err != nil {
		return err
	}
	trailer = binary.LittleEndian.AppendUint32(nil, sum.crc)
	if _, err := w.Write(append(trailer, snapshotEnd...)); err != nil {
		return err
	}
	return w.Flush()
}

// summing counts and sums what passes.
type summing struct {
	w   io.Writer
	n   int64
	crc uint32
}

func (s *summing) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	s.crc = crc32.Update(s.crc, castagnoli, p[:n])
	return n, err
}

// snapshotReader reads the body of a snapshot from its stream. It ends with
// io.EOF only if the whole stream is as it was written.
type snapshotReader struct {
	head   snapshotHead
	r      *bufio.Reader
	before int64 // bytes of the head
	n      int64 // of the body, so far
	crc    uint32
	end    error
}

// readSnapshot reads the head of a snapshot of a group.
func readSnapshot(from io.Reader, group uint32) (*snapshotReader, error) {
	r := bufio.NewReaderSize(from, 256<<10)
	head, raw, err := readHead(r)
	if err != nil {
		return nil, err
	}
	if head.group != group {
		return nil, fault(8, "it is one of group %d, not %d", head.group, group)
	}
	return &snapshotReader{head: head, r: r, before: int64(len(raw)), crc: crc32.Checksum(raw, castagnoli)}, nil
}

func (s *snapshotReader) Read(p []byte) (int, error) {
	if s.end != nil || len(p) == 0 {
		return 0, s.end
	}
	// The last bytes of the stream are the trailer, wherever they are.
	b, err := s.r.Peek(min(len(p)+snapshotTrailer, s.r.Size()))
	if err != nil && err != io.EOF {
		s.end = err
		return 0, err
	}
	if len(b) <= snapshotTrailer {
		s.end = s.checkTrailer(b)
		return 0, s.end
	}
	n := copy(p, b[:len(b)-snapshotTrailer])
	s.crc = crc32.Update(s.crc, castagnoli, p[:n])
	s.n += int64(n)
	_, err = s.r.Discard(n)
	return n, err
}

func (s *snapshotReader) checkTrailer(b []byte) error {
	at := s.before + s.n
	switch {
	case len(b) < snapshotTrailer || string(b[12:]) != snapshotEnd:
		return fault(at, "it has no end")
	case binary.LittleEndian.Uint64(b) != uint64(s.n):
		return fault(at, "its body has %d bytes, not %d", s.n, binary.LittleEndian.Uint64(b))
	case binary.LittleEndian.Uint32(b[8:]) != crc32.Update(s.crc, castagnoli, b[:8]):
		return fault(at, "the checksum is wrong")
	}
	return io.EOF
}
