package segment

import (
	"errors"
	"fmt"
	"sort"

	"github.com/hashicorp/raft"
)

// readBytes is how much Read takes from the disk at once.
const readBytes = 512 << 10

// GetLog fills e with the entry at index, or with index and term alone if that is
// the boundary's. It returns raft.ErrLogNotFound as it is (raft compares with
// ==) for an index that is not held.
func (l *Log) GetLog(index uint64, e *raft.Log) error {
	for {
		p, err := l.find(index)
		if err != nil {
			return err
		}
		if p.s == nil {
			*e = raft.Log{Index: index, Term: p.last.term}
			return nil
		}
		b := make([]byte, p.end-p.at)
		switch err := l.readAt(p, b, p.at); {
		case err == errMoved:
			continue
		case err != nil:
			return err
		}
		r, err := p.s.decode(b, p.at, index)
		if err != nil {
			return err
		}
		r.log(e)
		return nil
	}
}

// errMoved: entries were cut since their place was looked up; look again.
var errMoved = errors.New("segment: entries were cut meanwhile")

// readAt reads at a place in p's segment. Bytes that a cut may have changed are
// errMoved; a segment that was dropped is raft.ErrLogNotFound.
func (l *Log) readAt(p spot, b []byte, at int64) error {
	err := p.s.readAt(b, at)
	switch {
	case err == errGone:
		return raft.ErrLogNotFound
	case l.moved(p): // asked when all is read: a cut counts before it touches a byte
		return errMoved
	}
	return err
}

// moved tells whether entries were cut since p was looked up.
func (l *Log) moved(p spot) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.cuts != p.cuts
}

// decode decodes the record at the beginning of b, which must be entry index.
func (s *file) decode(b []byte, at int64, index uint64) (record, error) {
	r, err := decodeRecord(b, s.seed)
	if seededStaleRecords { // a control: a record is the entry of its place
		r.index = index
	}
	switch {
	case err != nil:
		return r, s.damage(at, fmt.Sprintf("entry %d cannot be read: %v", index, err))
	case r.index != index:
		return r, s.damage(at, fmt.Sprintf("entry %d is where %d should be", r.index, index))
	}
	return r, nil
}

// spot is where an entry lies; the segment is nil for the boundary, which last is then.
type spot struct {
	s       *file
	last    place // of the segment
	at, end int64 // the record's offset and that behind it; 0 if the index file has them
	cuts    int   // the Log's, then
}

// find returns where index lies.
func (l *Log) find(index uint64) (spot, error) {
	for {
		p, err := l.locate(index)
		if err != nil || p.s == nil || p.at > 0 {
			return p, err
		}
		p.at, p.end, err = l.indexed(p, index)
		switch {
		case err == nil || err == raft.ErrLogNotFound:
			return p, err
		case l.moved(p): // this segment may be the last again, and memory have the offsets
		case isNotExist(err):
			return p, p.s.damage(0, "its index file is missing")
		default:
			return p, err
		}
	}
}

// indexed reads an offset from a sealed segment's index file.
func (l *Log) indexed(p spot, index uint64) (at, end int64, err error) {
	p.s.mu.RLock() // the index file goes after the segment
	defer p.s.mu.RUnlock()
	if p.s.gone {
		return 0, 0, raft.ErrLogNotFound
	}
	return l.opt.offsetsOf(p.s, index-p.s.first, p.last)
}

// locate finds index as far as memory tells.
func (l *Log) locate(index uint64) (spot, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	first, last := l.bounds()
	switch {
	case l.closed:
		return spot{}, errClosed
	case index == l.boundary.index && index > 0:
		return spot{last: l.boundary}, nil
	case index < first || index > last:
		return spot{}, raft.ErrLogNotFound
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > index }) - 1
	s := l.segments[i]
	p := spot{s: s, last: s.last, cuts: l.cuts}
	if s.at == nil {
		return p, nil
	}
	n := index - s.first
	p.at, p.end = int64(s.at[n]), s.last.end
	if n+1 < uint64(len(s.at)) {
		p.end = int64(s.at[n+1])
	}
	return p, nil
}

// Read calls f with the entries from one index to another, in order, until f
// returns false. It reads large pieces; an entry's bytes stay as they are but
// share memory with those beside it. It returns raft.ErrLogNotFound as it is if an
// index is not held, or no more.
func (l *Log) Read(from, to uint64, f func(*raft.Log) bool) error {
	for from <= to {
		p, err := l.find(from)
		if err != nil {
			return err
		}
		if p.s == nil {
			return raft.ErrLogNotFound // the boundary is no entry
		}
		next, more, err := l.readOn(p, from, min(to, p.last.index), f)
		if err != errMoved && (err != nil || !more) {
			return err
		}
		from = next
	}
	return nil
}

// readOn gives f the entries of one segment, of which the first is at p.
func (l *Log) readOn(p spot, from, to uint64, f func(*raft.Log) bool) (next uint64, more bool, err error) {
	at, size := p.at, int64(readBytes)
	chain, chained := p.s.chain, from == p.s.first // the checksum of the one before, if known
	for from <= to {
		piece := make([]byte, min(size, p.last.end-at))
		if err := l.readAt(p, piece, at); err != nil {
			return from, false, err
		}
		used := int64(0)
		for from <= to {
			rest := piece[used:]
			if need := needs(rest); need > int64(len(rest)) {
				if used == 0 && need > p.last.end-at {
					return from, false, p.s.damage(at, fmt.Sprintf("entry %d claims more bytes than there are", from))
				}
				size = max(readBytes, need)
				break
			}
			r, err := p.s.decode(rest, at+used, from)
			if seededStaleRecords { // a control: nothing ties records together
				r.chain = chain
			}
			if err == nil && (chained && r.chain != chain || from == p.last.index && r.sum != p.last.chain) {
				err = p.s.damage(at+used, fmt.Sprintf("entry %d does not belong between those beside it", from))
			}
			if err != nil {
				return from, false, err
			}
			var e raft.Log
			r.log(&e)
			from, used, chain, chained = from+1, used+r.size, r.sum, true
			if !f(&e) {
				return from, false, nil
			}
		}
		at += used
	}
	return from, true, nil
}

// needs is how many bytes the record at the beginning of b takes, as far as b tells.
func needs(b []byte) int64 {
	if len(b) < headSize {
		return headSize
	}
	return padded(bodyLength(b))
}
