package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// DefaultSegmentBytes is the size of a segment file unless Options says otherwise.
const DefaultSegmentBytes = 64 << 20

// defaultFillBelow: a write of so many bytes takes as long with what it costs to
// make the file longer as without it and with its share of the zeros.
const defaultFillBelow = 64 << 10

// maxFree is how many dropped segments are kept to be used again.
const maxFree = 2

// Options say where a log lies and how it is kept.
type Options struct {
	// FS is the file system; vfs.OS if nil.
	FS vfs.FS
	// Dir holds the log's files and nothing else. It is made if it is not there.
	Dir string
	// Group is the Raft group's number; files of another group are damage.
	Group uint32
	// SegmentBytes is about how large a segment file grows; DefaultSegmentBytes if
	// 0. The writes of one StoreLogs are never split: a large one makes a larger file.
	SegmentBytes int64
	// FillBelow is the size from which on a StoreLogs makes the file longer by itself;
	// smaller ones are written over zeros that were put there ahead. 64 KiB if 0.
	FillBelow int64
	// Space is asked before bytes of room are taken from the disk, for a new or
	// a longer file. An error refuses the write; nothing is changed then, and
	// the log goes on. If nil, nothing is refused.
	Space func(bytes int64) error
}

func (o *Options) fillIn() {
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	o.SegmentBytes = min(o.SegmentBytes, maxOffset/2)
	if o.FillBelow == 0 {
		o.FillBelow = defaultFillBelow
	}
	if o.Space == nil {
		o.Space = func(int64) error { return nil }
	}
	if seededSkipFsync { // a control
		o.FS = seldomSynced(o.FS)
	}
}

// DamageError tells that the bytes of a file are not what was written.
type DamageError struct {
	Path   string
	Offset int64
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", e.Path, e.Offset, e.Reason)
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Log is a raft.LogStore. Its methods are safe for concurrent use as the
// package says.
type Log struct {
	opt Options

	// write is held by StoreLogs, DeleteRange, Reset and DropThrough.
	write  sync.Mutex
	failed error       // of the first write that failed
	clean  bool        // CLEAN is there
	free   []*freeFile // at most maxFree
	buf    []byte
	ends   []uint32 // scratch: offsets of the records being written

	bytes atomic.Int64 // what Bytes tells

	// mu guards what readers see. Writers hold it only to change that.
	mu       sync.RWMutex
	segments []*file // oldest first, at least one; the last is written to
	boundary place   // the entry before the first held: index and term
	ghost    bool    // a reset is to be finished; entries behind the boundary can still be read
	cuts     int     // how often entries were cut or forgotten
	closed   bool
}

var _ raft.LogStore = (*Log)(nil)

// active is the segment that is written to.
func (l *Log) active() *file { return l.segments[len(l.segments)-1] }

// bounds returns the first and the last index held; the first is the higher
// one if none are. It needs l.mu.
func (l *Log) bounds() (first, last uint64) {
	return l.boundary.index + 1, max(l.active().last.index, l.boundary.index)
}

// FirstIndex returns the first index held, 0 if there is none.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if first, last := l.bounds(); first <= last {
		return first, nil
	}
	return 0, nil
}

// LastIndex returns the last index held, 0 if there is none.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if first, last := l.bounds(); first <= last {
		return last, nil
	}
	return 0, nil
}

// Boundary returns index and term of the entry before the first held: 0 and 0 at
// the beginning of the log.
func (l *Log) Boundary() (index, term uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.boundary.index, l.boundary.term
}

// Bytes is what the log takes on disk, in bytes. It waits for no write.
func (l *Log) Bytes() int64 { return l.bytes.Load() }

// count renews what Bytes tells, when a file has come, gone or grown.
func (l *Log) count() {
	total := int64(0)
	for _, s := range l.segments {
		total += s.size
	}
	for _, f := range l.free {
		total += f.size
	}
	l.bytes.Store(total)
}

// Close ends the log in order: how it ends is written down, so that a shorter
// log is known to be damaged.
func (l *Log) Close() error {
	l.write.Lock()
	defer l.write.Unlock()
	var err error
	if l.failed == nil && !l.closed {
		if err = l.finishReset(); err == nil && !l.clean {
			end := l.active().last
			err = l.opt.writeMark("CLEAN", mark{magic: magicClean, chain: end.chain, index: end.index, number: uint64(end.end)})
		}
	}
	return errors.Join(err, l.closeFiles())
}

// Abandon closes the files and writes nothing.
func (l *Log) Abandon() error {
	l.write.Lock()
	defer l.write.Unlock()
	return l.closeFiles()
}

var errClosed = errors.New("segment: the log is closed")

func (l *Log) closeFiles() error {
	l.mu.Lock()
	before := l.closed
	l.closed = true
	l.mu.Unlock()
	if before {
		return nil
	}
	if l.failed == nil {
		l.failed = errClosed
	}
	var errs []error
	for _, s := range l.segments {
		if f := s.letGo(); f != nil {
			errs = append(errs, f.Close())
		}
	}
	for _, f := range l.free {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
}

// latch keeps the first error of a write: what it was to write may be on disk or
// not, and a later sync would not tell.
func (l *Log) latch(err error) error {
	if err != nil && l.failed == nil {
		l.failed = err
	}
	return err
}

// touch forgets that the log was closed in order, before the first write.
func (l *Log) touch() error {
	if l.failed != nil {
		return l.failed
	}
	if !l.clean {
		return nil
	}
	err := l.opt.remove(filepath.Join(l.opt.Dir, "CLEAN"))
	if err == nil {
		err = l.opt.FS.SyncDir(l.opt.Dir) // CLEAN is gone before the log grows
	}
	l.clean = err != nil
	return l.latch(err)
}

// StoreLog stores one entry.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs appends entries, which must follow on the last one. They are
// durable when it returns nil.
func (l *Log) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	l.write.Lock()
	defer l.write.Unlock()
	if l.failed != nil {
		return l.failed
	}
	if err := l.checkNext(logs); err != nil {
		return err
	}
	size := int64(0)
	for _, e := range logs {
		size += recordSize(e)
	}
	if err := l.room(size); err != nil {
		return err
	}
	if err := l.touch(); err != nil {
		return err
	}
	return l.latch(l.append(logs, size))
}

// checkNext makes sure that logs run on from the last entry.
func (l *Log) checkNext(logs []*raft.Log) error {
	last := l.active().last
	if l.ghost {
		last = l.boundary
	}
	for _, e := range logs {
		switch {
		case e.Index != last.index+1:
			return fmt.Errorf("segment: entry %d is to be stored behind entry %d", e.Index, last.index)
		case e.Term < last.term:
			return fmt.Errorf("segment: entry %d of term %d is to be stored behind one of term %d", e.Index, e.Term, last.term)
		}
		last.index, last.term = e.Index, e.Term
	}
	return nil
}

// room asks for the space that size bytes of records need.
func (l *Log) room(size int64) error {
	s := l.active()
	have, end := s.size, s.last.end
	if l.ghost || l.full(size) {
		have, end = 0, pageSize
		if len(l.free) > 0 {
			have = l.free[0].size
		}
	}
	if end+size > maxOffset {
		return fmt.Errorf("segment: %d bytes of entries at once are too many", size)
	}
	if more := l.fillTo(end, size) - have; more > 0 {
		return l.opt.Space(more)
	}
	return nil
}

// full tells whether size more bytes are for the next segment.
func (l *Log) full(size int64) bool {
	s := l.active()
	return !s.empty() && s.last.end+size > l.opt.SegmentBytes
}

// fillTo is how long a file is made that has to hold size bytes from end on.
// Zeros are put there for some writes like this one.
func (l *Log) fillTo(end, size int64) int64 {
	step := int64(minFill)
	for step < min(fillWrites*size, maxFill) {
		step *= 2
	}
	if size >= l.opt.FillBelow {
		step = blockSize
	}
	end += size
	return max(end, min((end+step-1)/step*step, l.opt.SegmentBytes))
}

func (l *Log) append(logs []*raft.Log, size int64) error {
	if err := l.finishReset(); err != nil {
		return err
	}
	if l.full(size) {
		if err := l.roll(); err != nil {
			return err
		}
	}
	s := l.active()
	end := s.last
	if to := l.fillTo(end.end, size); to > s.size {
		if size < l.opt.FillBelow {
			if err := s.fill(s.size, to, size); err != nil {
				return err
			}
		}
		s.size = to
		l.count()
	}
	l.buf, l.ends = slices.Grow(l.buf[:0], int(size)+blockSize), l.ends[:0]
	for i, e := range logs {
		l.ends = append(l.ends, uint32(end.end)+uint32(len(l.buf)))
		l.buf, end.chain = appendRecord(l.buf, e, s.seed, end.chain, i)
		end.index, end.term, end.batch = e.Index, e.Term, uint32(i)
	}
	// Zeros fill the last block, or it would have to be read first.
	rest := min(-(end.end+size)&(blockSize-1), s.size-end.end-size)
	if seededStaleRecords { // a control: what was there before stays
		rest = 0
	}
	l.buf = append(l.buf, zeros[:rest]...)
	if _, err := s.f.WriteAt(l.buf, end.end); err != nil {
		return fmt.Errorf("write %s: %w", s.name, err)
	}
	if err := s.f.Sync(); err != nil { // of records
		return fmt.Errorf("sync %s: %w", s.name, err)
	}
	end.end += size
	if cap(l.buf) > 4*maxFill {
		l.buf = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.at = append(s.at, l.ends...)
	s.last = end
	return nil
}

// roll begins the next segment and seals the one before.
func (l *Log) roll() error {
	old := l.active()
	next, err := l.next(old.last)
	if err != nil {
		return err
	}
	// Only now: an index file without a next segment is damage.
	if err := l.opt.writeIndex(old, old.at); err != nil {
		next.f.Close()
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, next)
	old.at = nil
	l.count()
	return nil
}

// next makes the segment that follows on p.
func (l *Log) next(p place) (*file, error) {
	var free *freeFile
	if len(l.free) > 0 {
		free, l.free = l.free[0], l.free[1:]
	}
	return l.opt.makeFile(p, free)
}
