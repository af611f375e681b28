package segment

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// folder is what lies in a log's folder.
type folder struct {
	segments []uint64 // by their first index, sorted
	indexes  map[uint64]bool
	free     []uint64
	left     []string // what a crash has left half made
	clean    *mark
	intent   *mark
}

func (o *Options) list() (d folder, err error) {
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return d, err
	}
	d.indexes = map[uint64]bool{}
	for _, name := range names {
		if n, ok := numberOf(name, suffixSegment); ok {
			d.segments = append(d.segments, n)
		} else if n, ok := numberOf(name, suffixIndex); ok {
			d.indexes[n] = true
		} else if n, ok := numberOf(name, suffixFree); ok {
			d.free = append(d.free, n)
		} else if strings.HasSuffix(name, suffixNew) || vfs.IsAside(name) {
			d.left = append(d.left, filepath.Join(o.Dir, name))
		}
	}
	slices.Sort(d.segments)
	if m, ok, err := o.readMark("CLEAN", magicClean); err != nil {
		return d, err
	} else if ok {
		d.clean = &m
	}
	if m, ok, err := o.readMark("INTENT", magicIntent); err != nil {
		return d, err
	} else if ok {
		d.intent = &m
	}
	if len(d.segments) == 0 && d.intent == nil && (d.clean != nil || len(d.indexes) > 0 || len(d.free) > 0) {
		return d, &DamageError{Path: o.Dir, Reason: "its segments are missing"}
	}
	return d, nil
}

// Open opens the log in o.Dir, or begins one, after mending what a crash has left.
// What a crash cannot have left is a *DamageError, and nothing is changed then but
// for the rests of half made files.
func Open(o Options) (_ *Log, err error) {
	o.fillIn()
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, err
	}
	// A process that died may have left names and bytes that were never synced.
	// What is built on them must not outlive them.
	if err := o.FS.SyncDir(o.Dir); err != nil {
		return nil, err
	}
	d, err := o.list()
	if err != nil {
		return nil, err
	}
	l := &Log{opt: o, clean: d.clean != nil}
	defer func() {
		if err != nil {
			l.closeFiles()
		}
		l.count()
	}()
	if err := l.openFree(d.free); err != nil {
		return nil, err
	}
	for _, name := range d.left {
		if err := o.remove(name); err != nil {
			return nil, err
		}
	}
	if d.intent != nil && d.intent.kind == intentReset {
		if err := l.resetAgain(&d); err != nil {
			return nil, err
		}
		return l, nil
	}
	if err := l.openSegments(&d); err != nil {
		return nil, err
	}
	if len(l.segments) == 0 {
		s, err := l.next(place{})
		if err != nil {
			return nil, err
		}
		l.segments = []*file{s}
	}
	first := l.segments[0]
	l.boundary = place{index: first.first - 1, term: first.term}
	return l, nil
}

// openFree opens the files that may be used again.
func (l *Log) openFree(numbers []uint64) error {
	for _, n := range numbers {
		name := l.opt.path(n, suffixFree)
		if len(l.free) == maxFree {
			if err := l.opt.remove(name); err != nil {
				return err
			}
			continue
		}
		f, err := l.opt.FS.Open(name)
		if err != nil {
			return err
		}
		free := &freeFile{name: name, f: f}
		l.free = append(l.free, free)
		if free.size, err = f.Size(); err != nil {
			return err
		}
		page := make([]byte, min(free.size, pageSize))
		if _, err := f.ReadAt(page, 0); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if h, err := decodeHeader(page); err == nil {
			free.seed = seedOf(h.salt)
		}
	}
	return nil
}

// resetAgain does a reset again that INTENT announces.
func (l *Log) resetAgain(d *folder) error {
	for _, n := range d.segments {
		if err := l.opt.remove(l.opt.path(n, suffixSegment)); err != nil {
			return err
		}
	}
	for n := range d.indexes {
		if err := l.opt.remove(l.opt.path(n, suffixIndex)); err != nil {
			return err
		}
	}
	l.boundary, l.ghost = place{index: d.intent.index, term: d.intent.number}, true
	return l.finishReset()
}

func (l *Log) openSegments(d *folder) error {
	numbers := d.segments
	cut := d.intent != nil
	if cut {
		for len(numbers) > 1 && numbers[len(numbers)-1] > d.intent.index {
			if err := l.opt.remove(l.opt.path(numbers[len(numbers)-1], suffixSegment)); err != nil {
				return err
			}
			numbers = numbers[:len(numbers)-1]
		}
	}
	for _, n := range numbers {
		s, err := l.opt.openFile(n)
		if err != nil {
			return err
		}
		l.segments = append(l.segments, s)
	}
	for i, s := range l.segments {
		if i+1 < len(l.segments) {
			if err := l.opt.seal(s, l.segments[i+1]); err != nil {
				return err
			}
		}
	}
	if err := l.removeStrays(d, cut); err != nil {
		return err
	}
	switch {
	case len(l.segments) == 0:
		return nil
	case cut:
		return l.cutAgain(d.intent.index)
	}
	return l.openLast(d.clean)
}

// removeStrays removes index files that no segment belongs to. One of the last
// segment tells that a segment was there behind it.
func (l *Log) removeStrays(d *folder, cut bool) error {
	for n := range d.indexes {
		i := slices.IndexFunc(l.segments, func(s *file) bool { return s.first == n })
		isLast := i >= 0 && i == len(l.segments)-1
		switch {
		case isLast && !cut:
			return &DamageError{Path: l.segments[i].name, Reason: "it was sealed, and the segment behind it is missing"}
		case i < 0 || isLast:
			if err := l.opt.remove(l.opt.path(n, suffixIndex)); err != nil {
				return err
			}
		}
	}
	return nil
}

// seal makes sure that s, which next stands behind, is whole and has an index
// file; it makes one if there is none or a bad one.
func (o *Options) seal(s, next *file) error {
	x, err := o.readIndex(s)
	isMade := err != nil
	if isMade {
		if x, err = o.indexOf(s, next); err != nil {
			return err
		}
	}
	s.last, s.at = x.last, nil
	switch err := s.linked(next); {
	case err != nil:
		return err
	case s.last.end > s.size:
		return s.damage(s.size, fmt.Sprintf("the file is too short, %d bytes were written", s.last.end))
	case isMade:
		return o.writeIndex(s, x.offsets)
	}
	return nil
}

// linked makes sure that next follows on s.
func (s *file) linked(next *file) error {
	switch {
	case next.first != s.last.index+1:
		return &DamageError{Path: next.name, Reason: fmt.Sprintf("it begins with entry %d, the segment before ends with %d", next.first, s.last.index)}
	case next.term != s.last.term, next.chain != s.last.chain:
		return &DamageError{Path: next.name, Reason: "it does not follow on the segment before it"}
	}
	return nil
}

// indexOf makes the index of s by reading it.
func (o *Options) indexOf(s, next *file) (index, error) {
	x := index{group: s.group, first: s.first, salt: s.salt}
	end, bad, err := s.scan(next.first-1, func(_ *record, at int64) error {
		x.offsets = append(x.offsets, uint32(at))
		return nil
	})
	switch {
	case err != nil:
		return x, err
	case bad != nil:
		return x, s.endsEarly(end, bad, next.first)
	}
	x.last = end
	return x, nil
}

// endsEarly is damage of a segment whose records end before the next one begins.
func (s *file) endsEarly(end place, bad error, next uint64) error {
	return s.damage(end.end, fmt.Sprintf("entry %d cannot be read (%v), and the segment behind begins with entry %d", end.index+1, bad, next))
}

// openLast reads the last segment and cuts off what a crash has left of a write.
func (l *Log) openLast(clean *mark) error {
	s := l.active()
	end, bad, err := s.scan(^uint64(0), func(_ *record, at int64) error {
		s.at = append(s.at, uint32(at))
		return nil
	})
	if err != nil {
		return err
	}
	s.last = end
	if clean != nil {
		return s.checkClean(clean, bad)
	}
	remains, err := s.torn(bad)
	if err != nil {
		return err
	}
	if err := s.zero(end.end, remains); err != nil { // they must not come back behind new records
		return err
	}
	if err := s.writeAgain(); err != nil {
		return err
	}
	return s.f.Sync() // of records that were written and not synced, and of the zeros
}

// writeAgain writes the last StoreLogs once more, as it is read. Its sync may have
// failed in the life before: the kernel then has the bytes and takes them for
// synced, and another sync alone would do nothing.
func (s *file) writeAgain() error {
	n := len(s.at)
	if n == 0 {
		return nil
	}
	from := int64(s.at[max(0, n-1-int(s.last.batch))])
	b := make([]byte, s.last.end-from)
	if err := s.readAt(b, from); err != nil {
		return err
	}
	if _, err := s.f.WriteAt(b, from); err != nil {
		return fmt.Errorf("write %s: %w", s.name, err)
	}
	return nil
}

// torn tells how far the rests of a write that a crash has torn reach, or that
// the bytes at the end of the records were synced once.
func (s *file) torn(bad error) (remains int64, err error) {
	remains, later, err := s.remains(s.last)
	switch {
	case err != nil:
		return 0, err
	case later > 0:
		return 0, s.damage(s.last.end, fmt.Sprintf("%v, and entry %d of a later write is behind it", bad, later))
	case s.recycled:
		return remains, nil
	}
	return s.written(s.last.end)
}

func (s *file) checkClean(clean *mark, bad error) error {
	end := s.last
	if end.index == clean.index && uint64(end.end) == clean.number && end.chain == clean.chain {
		return nil
	}
	return s.damage(end.end, fmt.Sprintf("the log was closed with entry %d and ends with %d: %v", clean.index, end.index, bad))
}

// cutAgain does a cut again that INTENT announces.
func (l *Log) cutAgain(index uint64) error {
	s := l.active()
	if index < l.segments[0].first {
		return l.segments[0].damage(0, fmt.Sprintf("it begins with entry %d, behind a cut at %d: segments are missing", l.segments[0].first, index))
	}
	end, bad, err := s.scan(index-1, func(_ *record, at int64) error {
		s.at = append(s.at, uint32(at))
		return nil
	})
	switch {
	case err != nil:
		return err
	case bad != nil:
		return s.damage(end.end, bad.Error())
	}
	s.last = end
	if err := s.zero(end.end, s.size); err != nil {
		return err
	}
	if err := s.f.Sync(); err != nil { // of the zeros
		return err
	}
	if err := l.opt.FS.SyncDir(l.opt.Dir); err != nil { // of what was removed, before INTENT goes
		return err
	}
	return l.opt.endIntent()
}
