package verify

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/raftlog"
)

// checker verifies one partition.
type checker struct {
	ctx   context.Context
	meter *meter
	id    int
	dir   string
	out   *Partition

	start   raftlog.Index // where the replay begins: a snapshot, or 0
	replay  *partition.Replay
	waiting map[raftlog.Index]bodySum // snapshots that the replay has not come to
}

// bodySum tells a snapshot's body from others.
type bodySum struct {
	size int64
	sum  [sha256.Size]byte
}

// check verifies the partition; a fault goes into out. groups are those that have
// stored a term, nil if that is not known.
func (c *checker) check(groups map[int]bool) error {
	fault, err := faultOrError(c.verify(groups))
	if ctx := c.ctx.Err(); ctx != nil {
		return ctx
	}
	if err != nil { // such as a version that this program does not know
		if errors.Is(err, fs.ErrPermission) {
			return err
		}
		fault = &Fault{File: c.dir, Reason: err.Error()}
	}
	if fault != nil {
		fault.Partition = &c.id
		switch filepath.Ext(fault.File) {
		case ".rooms", ".idx":
			fault.Remedy = "remove the file: the node makes it again from the log"
		default:
			c.out.damaged = err == nil
		}
	}
	c.out.Fault = fault
	return c.count()
}

func (c *checker) verify(groups map[int]bool) error {
	if _, err := os.Stat(c.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.plan(); err != nil {
		return err
	}
	found, err := raftlog.Verify(raftlog.Verification{Dir: c.dir, ID: uint32(c.id), Entry: c.entry, Snapshot: c.snapshot})
	c.fill(&found)
	if err != nil || found.Rebuilding {
		return err
	}
	if found.Fenced != "" {
		return &Fault{File: filepath.Join(c.dir, "FENCED"), Reason: "this replica was fenced: " + found.Fenced}
	}
	if err := c.leftOver(&found); err != nil {
		return err
	}
	return c.votes(groups, &found)
}

// plan finds out where the replay begins: at the log's beginning or, if that is
// not held any more, at the oldest snapshot that the log goes on from.
func (c *checker) plan() error {
	c.waiting = map[raftlog.Index]bodySum{}
	first, ok, err := lowest(filepath.Join(c.dir, "log"), ".seg", 0)
	if err != nil {
		return err
	}
	if !ok || first == 1 {
		c.replay, err = partition.NewReplay(uint32(c.id), 0, nil)
		return err
	}
	start, _, err := lowest(filepath.Join(c.dir, "snapshots"), ".snap", first-1)
	c.start = raftlog.Index(start)
	return err
}

// lowest returns the lowest number, from least on, of a file in dir with a suffix.
func lowest(dir, suffix string, least uint64) (n uint64, ok bool, err error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, entry := range names { // sorted
		digits, is := strings.CutSuffix(entry.Name(), suffix)
		if n, bad := strconv.ParseUint(digits, 10, 64); is && bad == nil && n >= least {
			return n, true, err
		}
	}
	return 0, false, err
}

// snapshot is called with each snapshot, before the entries.
func (c *checker) snapshot(index raftlog.Index, body io.Reader) (err error) {
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case index < c.start || index == 0: // the node removes it
		return nil
	case index == c.start:
		if c.replay, err = partition.NewReplay(uint32(c.id), index, body); err != nil {
			return &Fault{File: c.snapshotPath(index), Reason: err.Error()}
		}
		return nil
	}
	sum := newSummer()
	if _, err := io.Copy(sum, body); err != nil {
		return err
	}
	c.waiting[index] = sum.sum()
	return nil
}

// entry is called with each command of the log.
func (c *checker) entry(e raftlog.Entry) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.meter.add(int64(len(e.Data)) + 48)
	if c.replay == nil || e.Index <= c.start {
		return nil
	}
	checkpoint, err := c.replay.Apply(e)
	if err != nil {
		return &Fault{File: filepath.Join(c.dir, "log"), Reason: fmt.Sprintf("entry %d cannot be applied: %v", e.Index, err)}
	}
	if !checkpoint {
		return nil
	}
	if err := c.checkRooms(e.Index); err != nil {
		return err
	}
	return c.checkSnapshot(e.Index)
}

func (c *checker) checkRooms(index raftlog.Index) error {
	path := filepath.Join(c.dir, "rooms", fmt.Sprintf("%020d.rooms", uint64(index)))
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	c.out.Indexes++
	return difference(path, 0, c.replay.CheckRooms(bufio.NewReaderSize(f, 256<<10)))
}

func (c *checker) checkSnapshot(index raftlog.Index) error {
	stored, ok := c.waiting[index]
	if !ok {
		return nil
	}
	delete(c.waiting, index)
	made := newSummer()
	if err := c.replay.WriteSnapshot(made); err != nil {
		return err
	}
	if made.sum() == stored {
		return nil
	}
	return c.differs(index, stored.size)
}

// differs finds the first byte of a snapshot that is not what the replay makes.
func (c *checker) differs(index raftlog.Index, size int64) error {
	path := c.snapshotPath(index)
	head := int64(0)
	if info, err := os.Stat(path); err == nil {
		head = info.Size() - size - snapshotTrailer
	}
	_, err := raftlog.Verify(raftlog.Verification{Dir: c.dir, ID: uint32(c.id), Snapshot: func(at raftlog.Index, body io.Reader) error {
		if at != index {
			return nil
		}
		if err := difference(path, head, c.replay.CheckSnapshot(body)); err != nil {
			return err
		}
		return &Fault{File: path, Reason: "it is not what the log makes"}
	}})
	return err
}

// snapshotTrailer is what follows on a snapshot's body in its file.
const snapshotTrailer = 16

func difference(path string, before int64, err error) error {
	if d, ok := errors.AsType[*partition.DifferenceError](err); ok {
		return &Fault{File: path, Offset: before + d.Offset, Reason: "from here on it is not what the log makes"}
	}
	return err
}

func (c *checker) snapshotPath(index raftlog.Index) string {
	return filepath.Join(c.dir, "snapshots", fmt.Sprintf("%020d.snap", uint64(index)))
}

// leftOver finds snapshots at entries that are no checkpoints.
func (c *checker) leftOver(found *raftlog.Verified) error {
	for _, index := range found.Snapshots {
		if _, waits := c.waiting[index]; waits && c.replay != nil && uint64(index) <= found.Log.Last {
			return &Fault{File: c.snapshotPath(index), Reason: fmt.Sprintf("entry %d is no checkpoint", index)}
		}
	}
	return nil
}

// votes finds terms and votes that the log does not go with.
func (c *checker) votes(groups map[int]bool, found *raftlog.Verified) error {
	something := found.Log.Last > 0 || found.Log.BoundaryIndex > 0 || len(found.Snapshots) > 0 || found.Received > 0
	stable := filepath.Join(filepath.Dir(c.dir), "stable.db")
	switch {
	case groups == nil || groups[c.id] == something:
		return nil
	case something:
		return &Fault{File: stable, Reason: "the partition's term and vote are missing, and there is a log or a snapshot"}
	}
	return &Fault{File: filepath.Join(c.dir, "log"), Reason: "there is a term, perhaps a vote, and no log"}
}

// fill takes what raftlog has found and the replay tells.
func (c *checker) fill(found *raftlog.Verified) {
	log, out := &found.Log, c.out
	out.First, out.Last, out.Entries = log.First, log.Last, log.Entries
	out.Clean, out.Torn, out.Rebuilding = log.Clean, log.Torn, found.Rebuilding
	out.snapshots, out.Snapshots = found.Snapshots, len(found.Snapshots)
	if n := len(found.Snapshots); n > 0 {
		out.Snapshot = uint64(found.Snapshots[n-1])
	}
	if c.replay == nil {
		return
	}
	out.Hash = fmt.Sprintf("%016x", c.replay.Hash())
	out.Rooms, out.Messages = c.replay.Rooms(), c.replay.Messages()
}

// count adds up the partition's files. Dropped segments and files half made count
// as bytes alone: nothing in them matters.
func (c *checker) count() error {
	return filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		c.out.Bytes += info.Size()
		switch filepath.Ext(path) {
		case ".free", ".new", ".tmp":
		default:
			c.out.files++
		}
		return nil
	})
}

// summer sums what is written to it.
type summer struct {
	hash.Hash
	n int64
}

func newSummer() *summer { return &summer{Hash: sha256.New()} }

func (s *summer) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return s.Hash.Write(p)
}

func (s *summer) sum() bodySum { return bodySum{s.n, [sha256.Size]byte(s.Hash.Sum(nil))} }
