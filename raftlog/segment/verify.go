package segment

import (
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// Report is what Verify found in a log without damage.
type Report struct {
	Segments                    int    // files
	Entries                     uint64 // held
	First, Last                 uint64 // indexes held; 0, 0 if none
	BoundaryIndex, BoundaryTerm uint64
	Bytes                       int64 // on disk
	Clean                       bool  // stopped cleanly
	Torn                        int64 // bytes of a write that never finished behind the last entry; Open cuts them
}

// Verify checks every byte that counts of a log that nobody has open, and
// changes nothing. visit, if not nil, gets the entries in order. The first fault is
// returned as a *DamageError, visit's error as it is. An index file that is missing is
// none: Open makes it. A cut or reset that a crash has interrupted counts as done.
func Verify(o Options, visit func(*raft.Log) error) (rep Report, err error) {
	o.fillIn()
	d, err := o.list()
	if err != nil {
		return rep, err
	}
	rep.Clean = d.clean != nil
	limit := ^uint64(0)
	if d.intent != nil {
		if d.intent.kind == intentReset {
			rep.BoundaryIndex, rep.BoundaryTerm = d.intent.index, d.intent.number
			return rep, nil
		}
		limit = d.intent.index - 1
		d.segments = slices.DeleteFunc(d.segments, func(n uint64) bool { return n > d.intent.index })
	}
	var files []*file
	defer func() {
		for _, s := range files {
			s.f.Close()
		}
	}()
	for _, n := range d.segments {
		s, err := o.openFile(n)
		if err != nil {
			return rep, err
		}
		files = append(files, s)
		rep.Bytes += s.size
	}
	if len(files) == 0 {
		return rep, nil
	}
	rep.Segments = len(files)
	rep.BoundaryIndex, rep.BoundaryTerm = files[0].first-1, files[0].term
	for i, s := range files {
		if i+1 < len(files) {
			err = o.verifySealed(s, files[i+1], d.indexes[s.first], visit)
		} else {
			rep.Torn, err = o.verifyLast(s, &d, limit, visit)
		}
		if err != nil {
			return rep, err
		}
	}
	if last := files[len(files)-1].last.index; last > rep.BoundaryIndex {
		rep.First, rep.Last, rep.Entries = rep.BoundaryIndex+1, last, last-rep.BoundaryIndex
	}
	return rep, nil
}

// verifyRecords reads the records of s up to limit.
func (s *file) verifyRecords(limit uint64, visit func(*raft.Log) error) (offsets []uint32, reason, err error) {
	page := make([]byte, pageSize)
	if err := s.readAt(page, 0); err != nil {
		return nil, nil, err
	}
	if at, ok := allZero(page[headerSize:]); !ok {
		return nil, nil, s.damage(int64(headerSize+at), "there should be zeros")
	}
	s.last, reason, err = s.scan(limit, func(r *record, at int64) error {
		offsets = append(offsets, uint32(at))
		if visit == nil {
			return nil
		}
		var e raft.Log
		r.log(&e)
		e.Data, e.Extensions = slices.Clone(e.Data), slices.Clone(e.Extensions)
		return visit(&e)
	})
	return offsets, reason, err
}

func (o *Options) verifySealed(s, next *file, indexed bool, visit func(*raft.Log) error) error {
	limit, x := next.first-1, index{}
	if indexed {
		var err error
		if x, err = o.readIndex(s); err != nil {
			return err
		}
		limit = min(limit, x.last.index)
	}
	offsets, bad, err := s.verifyRecords(limit, visit)
	switch {
	case err != nil:
		return err
	case bad != nil:
		return s.endsEarly(s.last, bad, next.first)
	case indexed && (x.last.end != s.last.end || x.last.chain != s.last.chain || !slices.Equal(x.offsets, offsets)):
		return &DamageError{Path: o.path(s.first, suffixIndex), Offset: indexHead, Reason: "it does not tell where the records are"}
	}
	if err := s.linked(next); err != nil {
		return err
	}
	return s.verifyRest()
}

func (o *Options) verifyLast(s *file, d *folder, limit uint64, visit func(*raft.Log) error) (torn int64, err error) {
	_, bad, err := s.verifyRecords(limit, visit)
	switch {
	case err != nil:
		return 0, err
	case d.intent != nil && bad != nil:
		return 0, s.damage(s.last.end, bad.Error())
	case d.intent != nil:
		return 0, nil
	case d.indexes[s.first]:
		return 0, &DamageError{Path: s.name, Reason: "it was sealed, and the segment behind it is missing"}
	case d.clean != nil:
		if err := s.checkClean(d.clean, bad); err != nil {
			return 0, err
		}
		return 0, s.verifyRest()
	}
	end, err := s.torn(bad)
	return end - s.last.end, err
}

// verifyRest checks that nothing was ever written behind the records, if the
// file had no earlier life.
func (s *file) verifyRest() error {
	if s.recycled {
		return nil
	}
	end, err := s.written(s.last.end)
	if err == nil && end > s.last.end {
		err = s.damage(end-1, fmt.Sprintf("there should be zeros behind entry %d", s.last.index))
	}
	return err
}

// allZero returns where the first byte that is not zero stands, or true.
func allZero(b []byte) (at int, ok bool) {
	for i, c := range b {
		if c != 0 {
			return i, false
		}
	}
	return 0, true
}
