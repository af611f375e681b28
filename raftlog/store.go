package raftlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// logStore is a group's log: raft-boltdb on disk, the newest entries in memory.
// The first write that fails is latched: after a failed fsync the kernel may
// have dropped the data and a retry would report success, so nothing is
// written any more and the node must end.
type logStore struct {
	disk  *raftboltdb.BoltStore
	path  string
	ring  ring
	fatal func(error)

	began atomic.Int64 // when the write under way began, by sinceStart; 0: none is
	hang  hangWatch

	mu     sync.Mutex
	failed error
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

func openLogStore(path string, ringBytes int64, fatal func(error)) (*logStore, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	disk, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	return &logStore{disk: disk, path: path, ring: ring{max: ringBytes}, fatal: fatal}, nil
}

func openBolt(path string) (*raftboltdb.BoltStore, error) {
	store, err := raftboltdb.New(raftboltdb.Options{
		Path:        path,
		BoltOptions: &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType},
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: another process has it open", path)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return store, nil
}

func (s *logStore) FirstIndex() (uint64, error) { return s.disk.FirstIndex() }
func (s *logStore) LastIndex() (uint64, error)  { return s.disk.LastIndex() }

// GetLog returns raft.ErrLogNotFound unwrapped for an index that is not held:
// raft compares with ==.
func (s *logStore) GetLog(index uint64, log *raft.Log) error {
	if s.ring.get(index, log) {
		return nil
	}
	return s.disk.GetLog(index, log)
}

func (s *logStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if err := s.write("store entries", func() error { return s.disk.StoreLogs(logs) }); err != nil {
		return err
	}
	s.ring.add(logs)
	return nil
}

// DeleteRange is called by raft to cut a conflicting suffix; the prefix is
// never compacted.
func (s *logStore) DeleteRange(min, max uint64) error {
	s.ring.cut(min)
	return s.write("cut the log", func() error { return s.disk.DeleteRange(min, max) })
}

func (s *logStore) write(what string, f func() error) error {
	s.began.Store(sinceStart())
	defer s.began.Store(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if err := f(); err != nil {
		s.failed = fmt.Errorf("%s in %s: %w", what, s.path, err)
		s.fatal(s.failed)
	}
	return s.failed
}

func (s *logStore) size() int64 {
	info, err := os.Stat(s.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (s *logStore) Close() error { return s.disk.Close() }
