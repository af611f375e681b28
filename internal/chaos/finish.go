package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/roomlog/roomlog/transport/admin"
)

// finish ends the load and writes down what every node has: all rooms whole, and the
// replicas' hashes. Faults must be off. What a node does not give within the time of a
// recovery is missing in the history, and that is an anomaly of its own.
func (r *run) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*recovery)
	defer cancel()
	r.load.endPublishing()
	if err := r.untilLevel(ctx); err != nil { // what nobody waits for any more may still come
		return err
	}
	heads, err := r.heads(ctx)
	if err != nil {
		r.rec.ready(named(r.strikes), err)
		return stuck(err)
	}
	r.untilSeen(ctx, heads)
	r.load.close()
	for _, w := range r.load.witnesses {
		for _, room := range r.load.rooms {
			if err := r.readWhole(ctx, w, room, heads[room]); err != nil {
				return err
			}
		}
	}
	if err := r.untilLevel(ctx); err != nil {
		return err
	}
	return r.replicas(ctx)
}

// heads asks for the rooms' last seqs.
func (r *run) heads(ctx context.Context) (map[string]uint64, error) {
	c, err := r.cluster.dial(ctx, "operator", r.cluster.names[0])
	if err != nil {
		return nil, err
	}
	defer c.Close()
	heads := map[string]uint64{}
	for _, room := range r.load.rooms {
		info, err := c.Room(ctx, room)
		if err != nil {
			return nil, fmt.Errorf("head of %s after all faults: %w", room, err)
		}
		heads[room] = info.Last
	}
	return heads, nil
}

// untilSeen gives readers the time of a recovery to get everything.
func (r *run) untilSeen(ctx context.Context, heads map[string]uint64) {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	for room, last := range heads {
		for !r.load.seen(room, last) && wait(ctx, pollTime) == nil {
		}
	}
	_ = wait(ctx, time.Second) // readers of the SDK are as fast, or nearly so
}

func (r *run) readWhole(ctx context.Context, w *witness, room string, last uint64) error {
	reading, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	p := r.rec.askingWhole(room, w.node)
	for {
		all, err := w.whole(reading, room, last)
		if err == nil {
			r.rec.whole(p, room, w.node, all)
			return nil
		}
		if reading.Err() != nil {
			r.rec.notWhole(p, room, w.node, err)
			return ctx.Err()
		}
		_ = wait(reading, again)
	}
}

// untilLevel waits until the replicas of each partition have applied the same. That
// they do not within a recovery's time is written down as the last faults' doing.
func (r *run) untilLevel(ctx context.Context) error {
	leveling, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	for {
		all, err := r.allReplicas(leveling)
		if err == nil && r.level(all) {
			return nil
		}
		if wait(leveling, 50*time.Millisecond) != nil {
			if err == nil {
				err = errors.New("replicas have not applied the same")
			}
			r.rec.ready(named(r.strikes), err)
			return firstOf(ctx.Err(), stuck(err))
		}
	}
}

// allReplicas asks all nodes.
func (r *run) allReplicas(ctx context.Context) (map[string][]admin.PartitionStatus, error) {
	all := map[string][]admin.PartitionStatus{}
	for _, n := range r.cluster.names {
		found, err := r.cluster.replicas(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("%s does not tell its replicas: %w", n, err)
		}
		all[n] = found
	}
	return all, nil
}

// replicas writes down the replicas' hashes.
func (r *run) replicas(ctx context.Context) error {
	all, err := r.allReplicas(ctx)
	for _, n := range r.cluster.names {
		for _, replica := range all[n] {
			r.rec.holds(n, replica)
		}
	}
	return err
}

// level tells whether all nodes have applied the same of every partition.
func (r *run) level(all map[string][]admin.PartitionStatus) bool {
	for p := range r.cluster.partitions {
		for _, n := range r.cluster.names {
			if len(all[n]) <= p || all[n][p].Applied != all[r.cluster.names[0]][p].Applied {
				return false
			}
		}
	}
	return true
}

// compare stops all nodes and has their logs and snapshots compared, byte by byte.
func (r *run) compare(ctx context.Context) error {
	names := r.cluster.names
	for _, n := range names {
		if err := r.cluster.procs.Terminate(n); err != nil {
			return err
		}
	}
	for _, n := range names {
		select {
		case <-r.cluster.procs.Ended(n):
		case <-time.After(recovery):
			err := fmt.Errorf("%s does not stop", n)
			r.rec.ready(named(r.strikes), err)
			return stuck(err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, n := range names[1:] {
		said, err := exec.CommandContext(ctx, r.cluster.binary, "verify", r.cluster.disks[names[0]].Dir(),
			"--against", r.cluster.disks[n].Dir()).CombinedOutput()
		r.rec.compared(names[0], n, said, err)
	}
	return nil
}
