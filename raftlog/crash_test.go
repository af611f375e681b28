package raftlog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
	"github.com/roomlog/roomlog/raftlog/vfs"
	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// openBoth opens the log and the snapshots of a group, as Open does.
func openBoth(t *testing.T, fsys vfs.FS) (*logStore, *snapshotStore, error) {
	t.Helper()
	log, err := openLogStore(segment.Options{FS: fsys, Dir: "/log", Group: 7, SegmentBytes: 16 << 10}, 0, func(err error) { t.Error(err) })
	if err != nil {
		return nil, nil, err
	}
	s := &snapshotStore{
		fs: fsys, dir: "/snapshots", group: 7, log: log, logger: slog.New(slog.DiscardHandler),
		applied: func() uint64 { return 0 },
		confBy:  func(uint64) (confAt, bool) { return confAt{}, false },
		fatal:   func(err error) { t.Error(err) },
	}
	return log, s, s.open()
}

// Log and snapshots meet after a power cut at any moment: of writing, saving,
// trimming and installing, one after the other.
func TestCrashOfLogAndSnapshots(t *testing.T) {
	disk := crashfs.New()
	log, snaps, err := openBoth(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	type moment struct {
		ops               int
		last, snap, floor uint64
	}
	var acked []moment
	now := moment{}
	done := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		now.ops = disk.Ops()
		acked = append(acked, now)
	}
	store := func(n, term uint64) {
		t.Helper()
		for range n {
			now.last++
			done(log.StoreLogs(entries(now.last, now.last, term, 1500)))
		}
	}
	save := func(term uint64) {
		t.Helper()
		now.snap = now.last
		done(snaps.save(&snapshotHead{group: 7, index: now.last, term: term}, body("state")))
	}
	store(14, 1)
	save(1)
	store(12, 1)
	save(1)
	now.floor = 14 // may be the floor from here on
	done(errors.Join(snaps.trim(14), log.DropThrough(14)))
	store(6, 2)

	// What is installed does not follow on the log's end.
	sink, err := snaps.Create(raft.SnapshotVersionMax, 28, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	shipping := disk.Ops()
	if _, err := io.Copy(sink, strings.NewReader(string(snapshotBytes(t, snapshotHead{group: 7, index: 28, term: 3}, []byte("shipped"))))); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	now.last, now.snap, now.floor = 28, 28, 28
	done(log.DeleteRange(29, 32))
	store(5, 3)

	crashes := 0
	for crash := range disk.Crashes(crashfs.Explore{Budget: 3 * time.Second}) {
		crashes++
		log, snaps, err := openBoth(t, crash.FS())
		if err != nil {
			t.Fatalf("%v: %v", crash, err)
		}
		at := moment{}
		for _, m := range acked {
			if m.ops <= crash.After {
				at = m
			}
		}
		if err := missing(log, snaps, at.last, at.snap, crash.After > shipping); err != nil {
			t.Fatalf("%v: %v", crash, err)
		}
		log.Close(true)
	}
	t.Logf("%d crashes of %d operations", crashes, disk.Ops())
}

// missing tells what a log and snapshots lack of what was acknowledged. While a
// snapshot is being installed the old ones and the log may be gone.
func missing(log *logStore, snaps *snapshotStore, last, snap uint64, shipping bool) error {
	all := snaps.indexes()
	installed := slices.Contains(all, 28)
	end, err := log.LastIndex()
	boundary, _ := log.Boundary()
	switch {
	case err != nil:
		return err
	case installed && !shipping:
		return errors.New("a snapshot that nobody shipped")
	case !installed && snap > 0 && !slices.Contains(all, Index(snap)):
		return fmt.Errorf("there are snapshots at %d, not at %d", all, snap)
	case !installed && max(end, boundary) < last, installed && last != 32 && max(end, boundary) < last:
		return fmt.Errorf("the log ends at %d, not at %d", end, last)
	}
	for i := boundary + 1; i <= end; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil || l.Index != i {
			return fmt.Errorf("entry %d is %d, %w", i, l.Index, err)
		}
	}
	return nil
}
