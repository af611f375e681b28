package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// rolling is a load on one room of each partition while all nodes are restarted, one
// after the other, as an operator does it: SIGTERM, start, wait until it is ready. A
// room that is paused shows by how long its messages take: so a load that leaves the
// machine time for the nodes that start does, however many rooms share it.
type rolling struct {
	target *Target
	rooms  []*failover
	acks   []*pulse
	reads  []*pulse
}

// runRolling restarts all nodes so many times. The gaps are what a message of any room
// took longest in each round, from when it was due; readers begin on all nodes, so that
// some are on the one that stops.
func runRolling(ctx context.Context, t *Target, s Settings, rounds int, progress Progress) (*FailoverReport, error) {
	s.Rooms = t.Partitions()
	s.describe(t, 0, calmBefore)
	r := &rolling{target: t}
	failed := make(chan error, 1) // the first of any room
	for i, room := range t.rooms(s.Rooms) {
		f := &failover{target: t, room: room, fault: FaultRolling, standby: s.Standby, failed: failed, readAt: t.nodes[i%len(t.nodes)].Name}
		f.acks.waits, f.reader.pulse.waits = true, true
		r.rooms, r.acks, r.reads = append(r.rooms, f), append(r.acks, &f.acks), append(r.reads, &f.reader.pulse)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer r.close()
	defer cancel()
	began := time.Now()
	report := &FailoverReport{Settings: s, Fault: FaultRolling, Kills: rounds, Unplanned: new(int)}
	if err := r.begin(ctx, s, report); err != nil {
		return nil, err
	}
	var published, delivered []time.Duration
	for round := range rounds {
		progress(string(FaultRolling), float64(round)/float64(rounds))
		unplanned, err := r.round(ctx)
		if err != nil {
			return nil, fmt.Errorf("rolling restart %d of %d: %w", round+1, rounds, err)
		}
		*report.Unplanned += unplanned
		published, delivered = append(published, longestPause(r.acks)), append(delivered, longestPause(r.reads))
	}
	report.Publish, report.Delivery, report.SameNode = gapsOf(published), gapsOf(delivered), gapsOf(delivered)
	report.Duration = cut(time.Since(began).Seconds(), 1)
	return report, r.finish(ctx, report)
}

func (r *rolling) begin(ctx context.Context, s Settings, report *FailoverReport) (err error) {
	s.Rate /= float64(len(r.rooms))
	for _, f := range r.rooms {
		if err := f.begin(ctx, s); err != nil {
			return err
		}
	}
	report.WithoutFault, err = r.rooms[0].calm(ctx)
	return err
}

// round restarts each node, and returns how many elections there were that were not
// for a leader who left.
func (r *rolling) round(ctx context.Context) (unplanned int, err error) {
	if err := r.flow(ctx, calmBetween); err != nil {
		return 0, err
	}
	restart(r.acks)
	restart(r.reads)
	before, err := r.target.ops.terms(ctx)
	if err != nil {
		return 0, err
	}
	moved := 0
	for _, n := range r.target.nodes {
		led, err := r.target.ops.settled(ctx)
		if err != nil {
			return 0, err
		}
		for _, leader := range led {
			if leader == n.Name {
				moved++
			}
		}
		if err := r.restart(ctx, n.Name); err != nil {
			return 0, err
		}
	}
	after, err := r.target.ops.terms(ctx)
	return after - before - moved, err
}

func (r *rolling) restart(ctx context.Context, node string) error {
	c := r.target.cluster
	if err := c.Terminate(node); err != nil {
		return err
	}
	select {
	case <-c.Ended(node):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.Start(node); err != nil {
		return err
	}
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	return r.flow(ctx, faultLasts)
}

// flow waits until all rooms flow, and at least for d.
func (r *rolling) flow(ctx context.Context, d time.Duration) error {
	pulses := append(append([]*pulse(nil), r.acks...), r.reads...)
	return r.rooms[0].flows(ctx, pulses, d)
}

func longestPause(pulses []*pulse) (pause time.Duration) {
	for _, p := range pulses {
		pause = max(pause, p.pause())
	}
	return pause
}

// finish ends all rooms and adds up what went wrong in them.
func (r *rolling) finish(ctx context.Context, report *FailoverReport) error {
	errs := make([]error, len(r.rooms))
	parts := make([]FailoverReport, len(r.rooms))
	var ending sync.WaitGroup
	for i, f := range r.rooms {
		ending.Go(func() { errs[i] = f.finish(ctx, &parts[i]) })
	}
	ending.Wait()
	for _, p := range parts {
		report.Lost += p.Lost
		report.Duplicates += p.Duplicates
		report.Reordered += p.Reordered
	}
	return errors.Join(errs...)
}

func (r *rolling) close() {
	for _, f := range r.rooms {
		f.close()
		f.running.Wait()
	}
}
