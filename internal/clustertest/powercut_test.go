//go:build linux

package clustertest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/faultfs"
)

// check reads the rooms whole from every node and compares them with what was
// acked and what was published. lost is how many acked messages one of the nodes
// does not have, or has elsewhere.
func (d *onDisks) check() (lost int, err error) {
	d.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, node := range d.Layout().Nodes {
		c := d.Client("", node.Name)
		for _, room := range d.rooms {
			info, err := c.Room(ctx, room)
			d.must(err)
			got, err := ReadRoom(ctx, c, room, info.Last)
			d.must(err)
			if n := d.History.lost(room, got); n > 0 {
				return n, fmt.Errorf("on %s: room %s: %d acked messages are lost", node.Name, room, n)
			}
			if err := d.History.check(room, got); err != nil {
				return 0, fmt.Errorf("on %s: %w", node.Name, err)
			}
			if err := d.History.published(room, got); err != nil {
				return 0, fmt.Errorf("on %s: %w", node.Name, err)
			}
		}
		c.Close()
	}
	return 0, nil
}

// lost counts the acked messages that are not where the ack said.
func (h *History) lost(room string, got []client.Message) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for seq, payload := range h.acks[room] {
		if seq == 0 || seq > uint64(len(got)) || string(got[seq-1].Payload) != payload {
			n++
		}
	}
	return n
}

// published fails if there is a message that nobody published to the room.
func (h *History) published(room string, got []client.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := map[string]bool{}
	for key, payloads := range h.tried {
		if strings.HasSuffix(key, "\x00"+room) {
			for _, payload := range payloads {
				known[payload] = true
			}
		}
	}
	for _, m := range got {
		if !known[string(m.Payload)] {
			return fmt.Errorf("room %s: seq %d is %q, which nobody published to it", room, m.Seq, m.Payload)
		}
	}
	return nil
}

// powerCutDisks are as ext4 and XFS: the fsync of a file brings its name too.
var powerCutDisks = faultfs.Options{NamesWithFile: true}

// wait takes a random time, so that what follows comes at any moment.
func (d *onDisks) wait(most time.Duration) { <-time.After(time.Duration(d.rng.Int64N(int64(most)))) }

// chance draws how much survives of what was not synced.
func (d *onDisks) chance() float64 { return []float64{0, 0.5, 0.9}[d.rng.IntN(3)] }

// TestProcessesPowerCut cuts the power of all three nodes in the middle of the
// load, again and again: what was acked is there afterwards, once, with the
// number that was acked, and what was under way is acked in the end. It takes
// 2 s a round; ROOMLOG_POWERCUT_ROUNDS sets how many there are.
func TestProcessesPowerCut(t *testing.T) {
	d := startOnDisks(t, 4, powerCutDisks)
	var pubs []*Publisher
	for i := range 3 {
		pubs = append(pubs, d.Publisher(fmt.Sprintf("p%d", i+1)))
	}
	rounds := envInt(t, "ROOMLOG_POWERCUT_ROUNDS", 3)
	for round := range rounds {
		for _, pub := range pubs {
			pub.Stream(time.Millisecond, d.rooms...)
		}
		for _, pub := range pubs {
			d.Flows(pub, 50)
		}
		d.wait(300 * time.Millisecond)
		d.powerCut(d.chance())
		for _, pub := range pubs {
			pub.Halt()
		}
		d.must(d.StartAll())
		if d.rng.IntN(3) == 0 { // and again while they come up
			d.wait(300 * time.Millisecond)
			d.powerCut(d.chance())
			d.must(d.StartAll())
		}
		d.Ready()
		for _, pub := range pubs {
			d.must(pub.Wait())
		}
		if _, err := d.check(); err != nil {
			t.Fatalf("after %d power cuts: %v", round+1, err)
		}
		d.CheckReplicas()
	}
	for i, disk := range d.disks {
		if s := disk.Stats(); s.Syncs == 0 || s.Writes == 0 {
			t.Errorf("disk %d was not used: %+v", i+1, s)
		}
	}
}

// TestProcessesPowerCutControl does the same with disks that lie about fsync:
// the test above can only be trusted if acked messages are lost then, or a node
// finds its data damaged.
func TestProcessesPowerCutControl(t *testing.T) {
	d := startOnDisks(t, 4, powerCutDisks)
	for round := range 3 {
		pub := d.Publisher(fmt.Sprintf("control-%d", round+1))
		pub.Stream(time.Millisecond, d.rooms...)
		d.Flows(pub, 50)
		for _, disk := range d.disks {
			disk.SetLying(true)
		}
		d.Flows(pub, 50)
		d.powerCut(0)
		pub.Client.Close() // what it would send anew must not hide what is lost
		pub.Halt()
		d.must(d.StartAll())
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := d.WaitReady(ctx)
		cancel()
		switch {
		case ctx.Err() == context.DeadlineExceeded:
			t.Fatal(err)
		case err != nil:
			t.Logf("found out: %v", err)
			return
		}
		lost, err := d.check()
		if lost > 0 {
			t.Logf("found out: %v", err)
			return
		}
		if err != nil {
			t.Fatalf("nothing acked is lost, but %v", err)
		}
	}
	t.Error("the disks have lied about fsync, and nobody has noticed")
}
