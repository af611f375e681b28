package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/roomlog/roomlog/internal/faultfs"
)

var diskFaults = []Nemesis{
	{"disk-stall", "fsyncs of a leader's disk hang, for up to twice as long as a process bears it", onDisks, true, strikeDiskStall},
	{"disk-full", "a node's disk has no room left", onDisks, true, strikeDiskFull},
	{"fsync-error", "an fsync of a node fails, and what it should have kept is gone with the next power cut", onDisks, true, strikeFsyncError},
	{"power-cut", "the power of one node, a minority, a majority or all fails: what was not synced is gone, or a part of it", onDisks, true, strikePowerCut},
	{"bitflip", "a bit of a stopped node's log flips; the node that refuses it is rebuilt", onDisks, true, strikeBitflip},
	{"slow-follower", "each fsync of a follower takes 50 ms", onDisks, false, strikeSlowFollower},
}

func strikeDiskStall(ctx context.Context, e *episode) (int, error) {
	node := e.aLeader(ctx)
	e.began(node)
	stall := e.disks[node].Inject(faultfs.Fault{Ops: faultfs.Syncs | faultfs.DirSyncs, Stall: faultfs.UntilOff})
	err := wait(ctx, 2*e.hold)
	stall.Off()
	if err != nil {
		return stall.Count(), err
	}
	return stall.Count(), e.startEnded(ctx) // it may have given up
}

// nearlyFull is what a node prints when it refuses publishes for want of room.
const nearlyFull = "disk is nearly full"

func strikeDiskFull(ctx context.Context, e *episode) (took int, err error) {
	node := e.aLeader(ctx)
	disk := e.disks[node]
	free := disk.Free()
	e.began(node)
	noticed, refused := e.count(node, nearlyFull), disk.Stats().Full
	disk.SetFree(int64(e.rng.IntN(2)) * 70 << 20) // none, or less than the reserve
	err = wait(ctx, max(e.hold, 2*time.Second))   // a node looks once a second
	took = e.count(node, nearlyFull) - noticed + int(disk.Stats().Full-refused)
	disk.SetFree(free)
	if err != nil {
		return took, err
	}
	return took, e.startEnded(ctx)
}

func strikeFsyncError(ctx context.Context, e *episode) (int, error) {
	node := e.aLeader(ctx)
	e.began(node)
	fault := e.disks[node].Inject(faultfs.Fault{
		Ops: faultfs.Syncs, Err: syscall.EIO, Times: 1,
		Match: func(path string) bool { return strings.Contains(path, "/log/") || strings.Contains(path, "stable") },
	})
	defer fault.Off()
	select {
	case <-e.procs.Ended(node):
	case <-time.After(2 * e.hold): // nothing was written
	case <-ctx.Done():
		return fault.Count(), ctx.Err()
	}
	took := fault.Count()
	if _, err := e.powerCut(node); err != nil {
		return took, err
	}
	if err := wait(ctx, e.hold); err != nil { // others go on meanwhile
		return took, err
	}
	return took, e.start(node)
}

func strikePowerCut(ctx context.Context, e *episode) (int, error) {
	nodes := e.some()
	e.began(nodes...)
	took, err := e.powerCut(nodes...)
	if err != nil {
		return took, err
	}
	if err := wait(ctx, e.hold/2); err != nil {
		return took, err
	}
	return took, e.start(nodes...)
}

// strikeBitflip stops one node only: the others must have all to rebuild it from.
func strikeBitflip(ctx context.Context, e *episode) (took int, err error) {
	node := e.one()
	e.began(node)
	e.kill(node)
	for range flipTries {
		path, bit, err := e.pickBit(node)
		if err != nil {
			return 0, err
		}
		if err := e.disks[node].Flip(path, bit); err != nil {
			return 0, err
		}
		damaged, err := e.damaged(ctx, node)
		if err != nil {
			return 0, err
		}
		if damaged != "" {
			return 1, e.rebuild(ctx, node, damaged)
		}
	}
	return 0, e.restart(ctx, node)
}

// flipTries is how many bits flip until one is in something that counts: the rest
// of a write that never ended does not.
const flipTries = 8

// pickBit draws a bit of what is written in the log of one of a node's partitions.
func (e *episode) pickBit(node string) (path string, bit int64, err error) {
	dir := e.disks[node].Dir()
	segments, err := filepath.Glob(filepath.Join(dir, "raft/p*/log/*.seg"))
	if err != nil || len(segments) == 0 {
		return "", 0, errors.Join(fmt.Errorf("no segments on the disk of %s", node), err)
	}
	segment := segments[e.rng.IntN(len(segments))]
	content, err := os.ReadFile(segment)
	if err != nil {
		return "", 0, err
	}
	written := len(bytes.TrimRight(content, "\x00")) // the rest is zeros, for what is to come
	path, err = filepath.Rel(dir, segment)
	return path, int64(e.rng.IntN(max(1, written) * 8)), err
}

func strikeSlowFollower(ctx context.Context, e *episode) (int, error) {
	node := e.others(e.aLeader(ctx))[0]
	e.began(node)
	slow := e.disks[node].Inject(faultfs.Fault{Ops: faultfs.Syncs, Stall: 50 * time.Millisecond})
	err := wait(ctx, e.hold)
	slow.Off()
	return slow.Count(), err
}
