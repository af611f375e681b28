package segment

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
)

// DeleteRange cuts the entries from min on, up to and including max, which must be
// the last one: a prefix is dropped by DropThrough alone. When it returns nil the
// entries do not come back.
func (l *Log) DeleteRange(min, max uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	if l.failed != nil {
		return l.failed
	}
	l.mu.RLock()
	first, last := l.bounds()
	ghost := l.ghost
	l.mu.RUnlock()
	switch {
	case min > last:
		return nil
	case min < first || max < last:
		return fmt.Errorf("segment: entries %d to %d are to be deleted of %d to %d: only the end can be cut", min, max, first, last)
	case ghost && min > first:
		return fmt.Errorf("segment: entries %d to %d cannot stay behind a snapshot at %d that they do not follow on", first, min-1, first-1)
	}
	if err := l.touch(); err != nil {
		return err
	}
	if ghost {
		return l.latch(l.finishReset())
	}
	return l.latch(l.cut(min))
}

// cut removes the entries from index on.
func (l *Log) cut(index uint64) error {
	if err := l.opt.writeMark("INTENT", mark{magic: magicIntent, kind: intentCut, index: index}); err != nil {
		return err
	}
	keep := len(l.segments) // how many stay
	for l.segments[keep-1].first > index {
		keep--
	}
	s := l.segments[keep-1]
	at, offsets, err := l.cutAt(s, index)
	if err != nil {
		return err
	}
	l.mu.Lock()
	gone := slices.Clone(l.segments[keep:])
	l.segments = l.segments[:keep]
	old := s.last
	s.at, s.last = offsets, at
	l.cuts++
	l.mu.Unlock()
	for _, g := range slices.Backward(gone) {
		if err := l.removeFile(g); err != nil {
			return err
		}
	}
	l.count()
	if err := l.opt.remove(l.opt.path(s.first, suffixIndex)); err != nil {
		return err
	}
	if err := s.zero(at.end, old.end); err != nil {
		return err
	}
	if err := s.f.Sync(); err != nil { // of the zeros
		return fmt.Errorf("sync %s: %w", s.name, err)
	}
	if err := l.opt.FS.SyncDir(l.opt.Dir); err != nil { // of what was removed, before INTENT goes
		return err
	}
	return l.opt.endIntent()
}

// cutAt returns how s ends when the entries from index on are gone.
func (l *Log) cutAt(s *file, index uint64) (place, []uint32, error) {
	if n := index - s.first; s.at != nil && n == 0 {
		return newFile("", nil, s.header, 0).last, []uint32{}, nil
	} else if s.at != nil {
		at := int64(s.at[n-1])
		b := make([]byte, int64(s.at[n])-at)
		if err := s.readAt(b, at); err != nil {
			return place{}, nil, err
		}
		r, err := s.decode(b, at, index-1)
		end := place{index: index - 2, end: at}
		end.advance(&r)
		return end, slices.Clone(s.at[:n]), err
	}
	offsets := []uint32{}
	end, bad, err := s.scan(index-1, func(_ *record, at int64) error {
		offsets = append(offsets, uint32(at))
		return nil
	})
	if err == nil && bad != nil {
		err = s.damage(end.end, bad.Error())
	}
	return end, offsets, err
}

// removeFile removes a segment and its index file.
func (l *Log) removeFile(s *file) error {
	f := s.letGo()
	if err := f.Close(); err != nil {
		return err
	}
	if err := l.opt.remove(l.opt.path(s.first, suffixIndex)); err != nil {
		return err
	}
	return l.opt.remove(s.name)
}

// endIntent removes INTENT once what it announced is durable.
func (o *Options) endIntent() error {
	if err := o.remove(filepath.Join(o.Dir, "INTENT")); err != nil {
		return err
	}
	return o.FS.SyncDir(o.Dir) // INTENT is gone before the log grows
}

// Reset tells that a snapshot at index, of an entry of term, has come from
// elsewhere. If the log has that entry, or has dropped it, nothing changes. If not,
// entries up to index are forgotten and the boundary is at index. Entries behind
// it, which cannot follow on the snapshot, are still read, because Raft has
// their number in memory; the next StoreLogs or DeleteRange, or a crash, ends that.
func (l *Log) Reset(index, term uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	if l.failed != nil {
		return l.failed
	}
	b, t := l.Boundary()
	if index < b || index == b && term == t {
		return nil
	}
	if !l.ghost { // what an earlier reset left readable is not held
		var e raft.Log
		switch err := l.GetLog(index, &e); {
		case err == nil && e.Term == term:
			return nil
		case err != nil && err != raft.ErrLogNotFound:
			return err
		}
	}
	if err := l.touch(); err != nil {
		return err
	}
	return l.latch(l.reset(index, term))
}

func (l *Log) reset(index, term uint64) error {
	if err := l.opt.writeMark("INTENT", mark{magic: magicIntent, kind: intentReset, index: index, number: term}); err != nil {
		return err
	}
	l.mu.Lock()
	l.boundary = place{index: index, term: term}
	l.ghost = true
	l.cuts++
	behind := l.active().last.index > index
	l.mu.Unlock()
	if behind {
		return nil
	}
	return l.finishReset()
}

// finishReset ends a reset: nothing but an empty segment behind the boundary is left.
func (l *Log) finishReset() error {
	if !l.ghost {
		return nil
	}
	for _, s := range l.segments {
		if err := l.removeFile(s); err != nil {
			return err
		}
	}
	s, err := l.next(l.boundary) // makes durable that the others are gone, too
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.segments, l.ghost = []*file{s}, false
	l.mu.Unlock()
	l.count()
	return l.opt.endIntent()
}

// DropThrough drops the segments all of whose entries are at or below index; the
// last segment always stays.
func (l *Log) DropThrough(index uint64) error {
	for more := true; more; {
		var err error
		if more, err = l.dropNext(index); err != nil {
			return err
		}
	}
	return nil
}

// dropNext drops the first segment if it may go; writes get their turn in between.
func (l *Log) dropNext(index uint64) (more bool, err error) {
	l.write.Lock()
	defer l.write.Unlock()
	switch {
	case l.failed != nil:
		return false, l.failed
	case l.ghost: // all of it is to go anyway
		return false, nil
	case len(l.segments) == 1 || l.segments[0].last.index > index:
		return false, nil
	}
	return true, l.latch(l.drop())
}

// drop drops the first segment, or keeps its file to be used again.
func (l *Log) drop() error {
	l.mu.Lock()
	s := l.segments[0]
	l.segments = slices.Clone(l.segments[1:])
	l.boundary = place{index: s.last.index, term: s.last.term}
	l.mu.Unlock()
	f := s.letGo()
	if err := l.opt.remove(l.opt.path(s.first, suffixIndex)); err != nil {
		return err
	}
	if len(l.free) < maxFree {
		free := &freeFile{name: l.opt.path(s.first, suffixFree), f: f, size: s.size, seed: s.seed}
		if err := l.opt.FS.Rename(s.name, free.name); err != nil {
			return err
		}
		l.free = append(l.free, free)
	} else {
		if err := f.Close(); err != nil {
			return err
		}
		if err := l.opt.remove(s.name); err != nil {
			return err
		}
	}
	l.count()
	return l.opt.FS.SyncDir(l.opt.Dir) // this one is gone before the next
}
