package raftlog

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
)

// logStore is a group's log: segments on disk, the newest entries in memory.
// The first write that fails is latched: after a failed fsync the kernel may
// have dropped the data and a retry would report success, so nothing is
// written any more and the node must end. Being refused room on the disk is no
// failure: nothing was written.
type logStore struct {
	disk  *segment.Log
	path  string
	ring  ring
	ahead readAhead
	room  spaceGate
	fatal func(error)
	// damaged, if set before the log is read, is told of each damage that a read
	// finds. It must not block.
	damaged func(*DamageError)
	inbox   atomic.Pointer[inbox] // told how far the log has grown; nil before raft runs
	bytes   atomic.Int64          // on disk, after the last change: the disk may hang now

	watch stopwatch
	slow  func() // Config.Slow

	began atomic.Int64 // when the write under way began, by sinceStart; 0: none is
	hang  hangWatch

	mu     sync.Mutex
	failed error
	closed bool
}

// A write that takes longer than stallLimit makes its node lead nothing; one
// that takes longer than hangLimit ends the process. Raft's main loop is stuck in
// the write: it can neither hand over nor step down by itself
// (hashicorp/raft#503).
const (
	stallLimit = time.Second
	hangLimit  = 5 * time.Second
)

// started makes times that a change of the wall clock does not touch.
var started = time.Now()

func sinceStart() int64 { return int64(time.Since(started)) + 1 }

// stalled tells whether a write has lasted for longer than stallLimit.
func (s *logStore) stalled() bool {
	began := s.began.Load()
	return began != 0 && sinceStart()-began > int64(stallLimit)
}

// hangWatch finds a write that never returns. It counts looks, not time: while
// the whole process is paused no disk is to blame. It belongs to one goroutine.
type hangWatch struct {
	write int64         // the one that the last look found, by its begin
	seen  time.Duration // how long the looks have found it
	last  int64         // when the last look was
	told  bool
}

// look is called about every so often with the write under way, and returns
// true, once, when it has hung for too long.
func (h *hangWatch) look(write, now int64, every time.Duration) bool {
	onTime := now-h.last < 2*int64(every)
	h.last = now
	switch {
	case write == 0 || write != h.write:
		h.write, h.seen = write, 0
		return false
	case onTime:
		h.seen += every
	}
	if h.seen < hangLimit || h.told {
		return false
	}
	h.told = true
	return true
}

// checkHang tells fatal of a write that hangs. One goroutine calls it, every so often.
func (s *logStore) checkHang(every time.Duration) {
	if s.hang.look(s.began.Load(), sinceStart(), every) {
		s.fatal(fmt.Errorf("a write to %s has not returned for %v: the disk hangs", s.path, hangLimit))
	}
}

func openLogStore(o segment.Options, ringBytes int64, fatal func(error)) (*logStore, error) {
	s := &logStore{path: o.Dir, ring: ring{max: ringBytes}, fatal: fatal}
	s.room.ask, o.Space = o.Space, s.room.pass
	disk, err := segment.Open(o)
	if err != nil {
		return nil, err
	}
	s.disk = disk
	s.bytes.Store(disk.Bytes())
	return s, nil
}

// spaceGate is where the log asks for room.
type spaceGate struct {
	ask func(bytes int64) error
	// waived: raft counts on entries that have just been cut or forgotten. It
	// would never get over the refusal of those that take their place, and
	// they are few.
	waived atomic.Bool
}

func (g *spaceGate) pass(bytes int64) error {
	if g.ask == nil || g.waived.Load() {
		return nil
	}
	if err := g.ask(bytes); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return nil
}

func (s *logStore) FirstIndex() (uint64, error) { return s.disk.FirstIndex() }
func (s *logStore) LastIndex() (uint64, error)  { return s.disk.LastIndex() }

// Boundary is index and term of the entry before the first.
func (s *logStore) Boundary() (index, term uint64) { return s.disk.Boundary() }

// GetLog returns raft.ErrLogNotFound unwrapped for an index that is not held:
// raft compares with ==.
func (s *logStore) GetLog(index uint64, log *raft.Log) error {
	if seededNoBoundaryRecord && s.isTrimmed(index) { // a control
		return raft.ErrLogNotFound
	}
	if s.ring.get(index, log) {
		return nil
	}
	return s.told(s.ahead.get(s.disk, index, log))
}

// termAt returns the term of the entry at index, if the log has it.
func (s *logStore) termAt(index uint64) (term uint64, held bool) {
	var l raft.Log
	if s.ring.get(index, &l) {
		return l.Term, true
	}
	if last, err := s.disk.LastIndex(); err != nil || index > last {
		return 0, false
	}
	err := s.disk.GetLog(index, &l)
	return l.Term, err == nil
}

// told tells of damage that is found while the log is read.
func (s *logStore) told(err error) error {
	if damage, ok := errors.AsType[*DamageError](err); ok && s.damaged != nil {
		s.damaged(damage)
	}
	return err
}

// read calls f with the entries from one to another until it returns false.
func (s *logStore) read(from, to uint64, f func(*raft.Log) bool) error {
	return s.told(s.disk.Read(from, to, f))
}

func (s *logStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if s.slow != nil {
		s.slow()
	}
	s.watch.begin()
	if err := s.write("store entries", func() error { return s.disk.StoreLogs(logs) }); err != nil {
		s.watch.end(nil)
		return err
	}
	s.watch.end(logs)
	s.room.waived.Store(false)
	s.ring.add(logs)
	if b := s.inbox.Load(); b != nil && len(logs) > 0 {
		b.stored(logs[len(logs)-1].Index)
	}
	return nil
}

// DeleteRange is called by raft to cut a conflicting suffix, and for nothing
// else.
func (s *logStore) DeleteRange(min, max uint64) error {
	s.room.waived.Store(true)
	s.ring.cut(min)
	defer s.ahead.forget()
	return s.write("cut the log", func() error { return s.disk.DeleteRange(min, max) })
}

// Reset makes the log begin after index, unless it holds that entry with that
// term.
func (s *logStore) Reset(index, term uint64) error {
	s.room.waived.Store(true)
	defer s.ahead.forget()
	err := s.write("reset the log", func() error { return s.disk.Reset(index, term) })
	s.ring.cut(0)
	return err
}

// DropThrough drops segments with no entry above index. What memory has of
// their entries goes too: all that is asked gets the same answer.
func (s *logStore) DropThrough(index uint64) error {
	err := s.disk.DropThrough(index)
	if seededNoBoundaryRecord { // a control
		s.trimmed(index)
	}
	boundary, _ := s.disk.Boundary()
	s.ring.drop(boundary)
	s.ahead.forget()
	s.bytes.Store(s.disk.Bytes())
	return err
}

func (s *logStore) write(what string, f func() error) error {
	s.began.Store(sinceStart())
	defer s.began.Store(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	err := f()
	s.bytes.Store(s.disk.Bytes())
	if err == nil || errors.Is(err, ErrNoSpace) {
		return err
	}
	s.failed = fmt.Errorf("%s in %s: %w", what, s.path, err)
	s.fatal(s.failed)
	return s.failed
}

func (s *logStore) size() int64 { return s.bytes.Load() }

// Close closes the log. It is a clean stop unless the log was given up: a
// write has failed, or the replica was fenced. Only the first call does anything.
func (s *logStore) Close(givenUp bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if givenUp || s.failed != nil {
		return s.disk.Abandon()
	}
	return s.disk.Close()
}
