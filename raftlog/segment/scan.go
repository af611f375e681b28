package segment

import (
	"bytes"
	"fmt"
)

const scanBytes = 1 << 20

// window reads a segment from front to back in large pieces.
type window struct {
	s    *file
	buf  []byte
	from int64 // offset of buf[0]
	end  int64 // of what there is to read
}

func newWindow(s *file, from, end int64) *window { return &window{s: s, from: from, end: end} }

// at returns at least n bytes from offset on, fewer only at the end.
func (w *window) at(offset, n int64) ([]byte, error) {
	n = min(n, w.end-offset)
	if n <= 0 {
		return nil, nil
	}
	if have := w.from + int64(len(w.buf)); offset >= w.from && offset+n <= have {
		return w.buf[offset-w.from:], nil
	}
	size := min(max(n, scanBytes), w.end-offset)
	if int64(cap(w.buf)) < size {
		w.buf = make([]byte, size)
	}
	w.buf, w.from = w.buf[:size], offset
	if err := w.s.readAt(w.buf, offset); err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf, nil
}

// record decodes the record at offset; err is why there is none.
func (w *window) record(offset int64) (r record, err error, failed error) {
	b, failed := w.at(offset, headSize)
	if failed != nil {
		return r, nil, failed
	}
	if len(b) >= headSize && isHead(b, w.s.seed) {
		size := padded(bodyLength(b))
		if size > w.end-offset {
			return r, fmt.Errorf("the record claims %d bytes, %d are left", size, w.end-offset), nil
		}
		if b, failed = w.at(offset, size); failed != nil {
			return r, nil, failed
		}
	}
	r, err = decodeRecord(b, w.s.seed)
	return r, err, nil
}

// scan reads the records of s from its first on, up to limit entries, and
// returns where they end and why: reason is of the bytes behind them.
func (s *file) scan(limit uint64, visit func(*record, int64) error) (end place, reason error, err error) {
	end = place{index: s.first - 1, term: s.term, chain: s.chain, end: pageSize}
	w := newWindow(s, pageSize, s.size)
	for end.index < limit {
		r, bad, err := w.record(end.end)
		if err != nil {
			return end, nil, err
		}
		if seededStaleRecords { // a control: a record is the entry of its place
			r.index, r.chain = end.index+1, end.chain
		}
		if bad == nil {
			bad = r.follows(&end)
		}
		if bad == nil && (r.batch > 0 && (end.index < s.first || r.batch != end.batch+1)) {
			bad = fmt.Errorf("entry %d has a wrong place in its batch", r.index)
		}
		if bad != nil {
			return end, bad, nil
		}
		if visit != nil {
			if err := visit(&r, end.end); err != nil {
				return end, nil, err
			}
		}
		end.advance(&r)
	}
	return end, nil, nil
}

// remains looks behind the end of the records for ones that can be read all the
// same. They are what is left of a write that a crash has torn, and remainsEnd
// is the offset behind them, unless one is of a later StoreLogs: then the bytes at
// the end were synced once.
func (s *file) remains(end place) (remainsEnd int64, later uint64, err error) {
	w := newWindow(s, end.end, s.size)
	remainsEnd = end.end
	most := end.index + uint64((s.size-end.end)/headSize) + 1
	for at := end.end; at+headSize <= s.size; at += 8 {
		b, err := w.at(at, headSize)
		if err != nil {
			return 0, 0, err
		}
		// What is no record shows early.
		index := le.Uint64(b[16:])
		if index <= end.index || index > most || padded(bodyLength(b)) > s.size-at || !isHead(b, s.seed) {
			continue
		}
		r, bad, err := w.record(at)
		if err != nil {
			return 0, 0, err
		}
		if bad != nil {
			continue
		}
		if r.index-uint64(r.batch) > end.index+1 {
			return 0, r.index, nil
		}
		remainsEnd = max(remainsEnd, at+r.size)
	}
	return remainsEnd, 0, nil
}

// written returns the offset behind the last byte that is not zero, from on.
func (s *file) written(from int64) (end int64, err error) {
	w := newWindow(s, from, s.size)
	end = from
	for at := from; at < s.size; {
		b, err := w.at(at, scanBytes)
		if err != nil {
			return 0, err
		}
		b = b[:min(len(b), scanBytes)]
		if n := len(bytes.TrimRight(b, "\x00")); n > 0 {
			end = at + int64(n)
		}
		at += int64(len(b))
	}
	return end, nil
}

var zeros = make([]byte, 16*blockSize)

// zero writes zeros from one offset to another; the caller syncs.
func (s *file) zero(from, to int64) error { return s.fill(from, to, 0) }

// fill is zero in pieces of about the size of the writes that will follow, within
// bounds: the page cache keeps each piece by itself, and a record written over
// it later makes all of it dirty; but each piece has its cost.
func (s *file) fill(from, to, write int64) error {
	piece := int64(blockSize)
	for 2*piece <= min(write, int64(len(zeros))) {
		piece *= 2
	}
	for from < to {
		n := min(to-from, piece-from%piece)
		if _, err := s.f.WriteAt(zeros[:n], from); err != nil {
			return fmt.Errorf("write %s: %w", s.name, err)
		}
		from += n
	}
	return nil
}
