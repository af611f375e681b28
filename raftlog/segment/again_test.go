package segment_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// TestLastWriteIsWrittenAgain: the sync of the last StoreLogs may have failed in the
// life before. The kernel takes its bytes for synced then, so Open has to write
// them again before it syncs.
func TestLastWriteIsWrittenAgain(t *testing.T) {
	disk := crashfs.New()
	o := segment.Options{FS: disk, Dir: "/log", SegmentBytes: 16 << 10}
	log, err := segment.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(i uint64) *raft.Log { return &raft.Log{Index: i, Term: 1, Data: []byte("data")} }
	for _, batch := range [][]*raft.Log{{entry(1)}, {entry(2), entry(3)}} {
		if err := log.StoreLogs(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Abandon(); err != nil {
		t.Fatal(err)
	}
	before := len(disk.Trace())
	if log, err = segment.Open(o); err != nil {
		t.Fatal(err)
	}
	defer log.Abandon()
	ops := disk.Trace()[before:]
	const record = 56 // of 48 bytes of head and 4 of data
	want := "write 00000000000000000001.seg 4152+112"
	for i, op := range ops {
		if strings.HasPrefix(op, "sync ") && strings.Contains(op, ".seg") {
			for _, earlier := range ops[:i] {
				if strings.HasPrefix(earlier, want) {
					return
				}
			}
			break
		}
	}
	t.Errorf("Open does not do %q (two records of %d bytes) before it syncs the segment: %q", want, record, ops)
}
