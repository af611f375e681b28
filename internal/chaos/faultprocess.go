package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/wire"
)

var processFaults = []Nemesis{
	{"kill", "kill -9 of one node, a minority, a majority or all", onProcesses, false, strikeKill},
	{"leader-kill", "kill -9 of a node that leads", onProcesses, false, strikeLeaderKill},
	{"leader-kill-loop", "kill -9 of every new leader of one partition, as soon as it leads", onProcesses, false, strikeLeaderKillLoop},
	{"pause", "SIGSTOP of a leader, a node, a minority or a majority, then SIGCONT", onProcesses, false, strikePause},
	{"pause-kill", "a leader is paused, the others go on and are killed with what they had not synced; it wakes up alone", onProcesses, true, strikePauseKill},
	{"part-kill", "a node is cut off, the others go on and are killed with what they had not synced; it comes back alone", onProcesses, true, strikePartKill},
	{"left-behind", "a node is dead until the others have dropped what it lacks: it comes back with a snapshot", onProcesses, false, strikeLeftBehind},
	{"rolling-restart", "SIGTERM and a new start of one node after the other", onProcesses, false, strikeRollingRestart},
}

func strikeKill(ctx context.Context, e *episode) (int, error) { return e.killFor(ctx, e.some()...) }

// killFor kills nodes, and starts them anew when the episode's time is over.
func (e *episode) killFor(ctx context.Context, nodes ...string) (int, error) {
	e.began(nodes...)
	took := e.kill(nodes...)
	if err := wait(ctx, e.hold); err != nil {
		return took, err
	}
	return took, e.start(nodes...)
}

func strikeLeaderKill(ctx context.Context, e *episode) (int, error) {
	leader := e.leader(ctx, e.rng.IntN(e.partitions))
	if leader == "" {
		return 0, nil
	}
	return e.killFor(ctx, leader)
}

// strikeLeaderKillLoop brings the last but one killed back when the next one is
// killed, so that a majority is there to elect.
func strikeLeaderKillLoop(ctx context.Context, e *episode) (took int, err error) {
	partition := e.rng.IntN(e.partitions)
	down := ""
	for until := time.Now().Add(2 * e.hold); time.Now().Before(until); {
		leader := e.leader(ctx, partition)
		if leader == "" || leader == down {
			if err := wait(ctx, 20*time.Millisecond); err != nil {
				return took, err
			}
			continue
		}
		if down != "" {
			if err := e.restart(ctx, down); err != nil {
				return took, err
			}
		}
		e.began(leader)
		took += e.kill(leader)
		down = leader
	}
	if down == "" {
		return took, nil
	}
	return took, e.start(down)
}

func strikePause(ctx context.Context, e *episode) (took int, err error) {
	nodes := e.draw(1 + e.rng.IntN(len(e.names)/2+1))
	if e.rng.IntN(2) == 0 {
		nodes = []string{e.aLeader(ctx)}
	}
	e.began(nodes...)
	for _, n := range nodes {
		if e.procs.Pause(n) == nil {
			took++
		}
	}
	err = wait(ctx, e.hold)
	for _, n := range nodes {
		_ = e.procs.Resume(n) // it may have ended
	}
	return took, err
}

// strikePauseKill is the schedule that loses data where a majority need not have
// synced: who wakes up has an old log, and those with the new one come back from
// their disks alone.
func strikePauseKill(ctx context.Context, e *episode) (took int, err error) {
	leader := e.aLeader(ctx)
	e.began(e.names...)
	if err := e.procs.Pause(leader); err != nil {
		return 0, nil // it has just ended
	}
	err = wait(ctx, e.hold)
	took, cutErr := e.powerCut(e.others(leader)...)
	_ = e.procs.Resume(leader)
	if err == nil {
		err = wait(ctx, e.hold/4)
	}
	return took, firstOf(err, cutErr, e.start(e.others(leader)...))
}

func strikePartKill(ctx context.Context, e *episode) (took int, err error) {
	node := e.aLeader(ctx)
	e.began(e.names...)
	heal := e.cutOff([]string{node}, e.others(node))
	err = wait(ctx, e.hold)
	took, cutErr := e.powerCut(e.others(node)...)
	heal()
	if err == nil {
		err = wait(ctx, e.hold/4)
	}
	return took, firstOf(err, cutErr, e.start(e.others(node)...))
}

// floodLimit is how long others may take to drop what a node lacks.
const floodLimit = 20 * time.Second

// strikeLeftBehind floods rooms of its own, until of each partition the log begins
// behind what the node had.
func strikeLeftBehind(ctx context.Context, e *episode) (took int, err error) {
	node := e.one()
	had, err := e.replicas(ctx, node)
	if err != nil {
		return 0, nil // it is coming up
	}
	e.began(node)
	e.kill(node)
	flooding, cancel := context.WithTimeout(ctx, floodLimit)
	defer cancel()
	var flood sync.WaitGroup
	for partition := range e.partitions {
		flood.Go(func() { e.flood(flooding, partition) })
	}
	for took < len(had) && wait(flooding, 100*time.Millisecond) == nil {
		took = e.dropped(flooding, e.others(node)[0], had)
	}
	cancel()
	flood.Wait()
	return took, firstOf(ctx.Err(), e.start(node))
}

// dropped counts the partitions of which a node no longer has what another one
// lacks: what may be on its way to it, too.
func (e *episode) dropped(ctx context.Context, node string, lacks []admin.PartitionStatus) (n int) {
	const underWay = 64 // entries of a request that waits for a node to come back
	now, err := e.replicas(ctx, node)
	if err != nil {
		return 0
	}
	for i, replica := range now {
		if replica.First > lacks[i].Last+underWay {
			n++
		}
	}
	return n
}

// flood publishes large messages to a room of a partition until ctx ends.
func (e *episode) flood(ctx context.Context, partition int) {
	room := ""
	for i := 0; room == "" || wire.PartitionOf(room, e.partitions) != partition; i++ {
		room = fmt.Sprintf("flood/%d", i)
	}
	c, err := e.dial(ctx, "flood", e.one())
	if err != nil {
		return
	}
	defer c.Close()
	payload := make([]byte, 64<<10)
	for ctx.Err() == nil {
		if _, err := c.PublishAsync(ctx, room, payload); err != nil {
			return
		}
		_ = wait(ctx, 5*time.Millisecond)
	}
}

func strikeRollingRestart(ctx context.Context, e *episode) (took int, err error) {
	for _, n := range e.draw(len(e.names)) {
		e.began(n)
		if e.procs.Terminate(n) == nil {
			took++
		}
		select {
		case <-e.procs.Ended(n):
		case <-ctx.Done():
			return took, ctx.Err()
		}
		if err := e.restart(ctx, n); err != nil {
			return took, err
		}
	}
	return took, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
