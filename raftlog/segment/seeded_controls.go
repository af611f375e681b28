//go:build controls

package segment

import (
	"os"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// The seeded bugs of this package; internal/chaos/controls says what each breaks.
var (
	// seededSkipFsync: a file is synced once a second at most, not by each write.
	seededSkipFsync bool
	// seededStaleRecords: a log of records without salt, chain and index, which are
	// entries by their place; what a file held before its present life counts. They
	// begin with a sector each, so that what is old often begins where the new ends.
	seededStaleRecords bool

	recordAlign int64 = 8 // what records are padded to
)

func init() { Seed(os.Getenv("ROOMLOG_CONTROL")) }

// Seed switches on the bug of that name, if it is here, and all others off. No log
// may be open.
func Seed(control string) {
	seededSkipFsync = control == "skip-fsync"
	seededStaleRecords = control == "stale-records"
	if recordAlign = 8; seededStaleRecords {
		recordAlign = 512
	}
}

// syncSpacing is how far apart syncs of a file are with skip-fsync.
const syncSpacing = time.Second

// syncsFirst is how many syncs of a file are made nonetheless: a log that has never
// been on the disk is found to be missing, which is not what is to be shown.
var syncsFirst int64 = 32

// seldomSynced returns fsys with files that are synced at first, and then once in
// syncSpacing at most.
func seldomSynced(fsys vfs.FS) vfs.FS {
	if _, ok := fsys.(seldomFS); ok {
		return fsys
	}
	return seldomFS{fsys}
}

type seldomFS struct{ vfs.FS }

func (s seldomFS) Open(name string) (vfs.File, error) { return seldom(s.FS.Open(name)) }

func (s seldomFS) Create(name string) (vfs.File, error) { return seldom(s.FS.Create(name)) }

func seldom(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &seldomFile{File: f}, nil
}

type seldomFile struct {
	vfs.File
	asked  atomic.Int64 // how often
	synced atomic.Int64 // when, ns since 1970
}

func (f *seldomFile) Sync() error {
	now := time.Now().UnixNano()
	if f.asked.Add(1) > syncsFirst && now-f.synced.Load() < int64(syncSpacing) {
		return nil
	}
	f.synced.Store(now)
	return f.File.Sync()
}
