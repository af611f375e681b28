//go:build linux

package clustertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/faultfs"
	"github.com/roomlog/roomlog/transport/wire"
)

// follower reads a room from one node's client on, and fails the test unless
// every message comes in its turn.
type follower struct {
	seen atomic.Uint64
	end  func()
}

func (d *onDisks) follow(node, room string) *follower {
	d.tb.Helper()
	f := &follower{}
	ctx, cancel := context.WithCancel(context.Background())
	c := d.Client("", node)
	var reading sync.WaitGroup
	reading.Go(func() {
		for m, err := range c.Subscribe(ctx, room) {
			switch {
			case ctx.Err() != nil:
			case err != nil:
				d.tb.Errorf("the reader of %s: %v", node, err)
			case m.Gap != nil || m.Seq != f.seen.Load()+1:
				d.tb.Errorf("the reader of %s gets seq %d after %d, gap %v", node, m.Seq, f.seen.Load(), m.Gap)
			}
			f.seen.Store(m.Seq)
		}
	})
	f.end = sync.OnceFunc(func() { cancel(); reading.Wait() })
	d.tb.Cleanup(f.end)
	return f
}

// disk is a node's.
func (d *onDisks) disk(node string) *faultfs.FS {
	for i, n := range d.Layout().Nodes {
		if n.Name == node {
			return d.disks[i]
		}
	}
	d.tb.Fatalf("no node %s", node)
	return nil
}

// endsWith waits until the process of a node has ended by itself, with exit code 1
// and a last line that says all of why.
func (d *onDisks) endsWith(node string, why ...string) {
	d.tb.Helper()
	select {
	case <-d.Ended(node):
	case <-time.After(patience):
		d.tb.Fatalf("%s does not end", node)
	}
	d.until("the exit is told", func() bool { return d.exit(node).PID != 0 })
	if e := d.exit(node); e.How != "exit status 1" || e.Asked {
		d.tb.Errorf("%s has ended with %+v", node, e)
	}
	lines := strings.Split(strings.TrimSpace(d.logText(node)), "\n")
	for _, text := range why {
		if last := lines[len(lines)-1]; !strings.Contains(last, text) {
			d.tb.Errorf("%s says at last %q, and not %q", node, last, text)
		}
	}
}

// again starts a node anew and compares what all nodes have.
func (d *onDisks) again(node string, pub *Publisher, f *follower) {
	d.tb.Helper()
	d.must(d.Start(node))
	d.Ready()
	d.Flows(pub, 50)
	pub.Halt()
	d.must(pub.Wait())
	if _, err := d.check(); err != nil {
		d.tb.Fatal(err)
	}
	st, err := d.roomStatus(d.Layout().Nodes[0], "lobby")
	d.must(err)
	d.until("the reader has had everything", func() bool { return f.seen.Load() >= st.Last })
	f.end()
	d.CheckReplicas()
}

// The disk of a leader hangs in an fsync. Its partition goes on elsewhere within
// 3 s; half as much again is granted to a busy machine, which is less than it would
// take if only the end of the process helped. Its readers are sent away, and after
// 5 s the process ends and says why. It takes 8 s of real time.
func TestProcessesDiskStalls(t *testing.T) {
	t.Parallel()
	const within = 3 * time.Second * 3 / 2
	d := startOnDisks(t, 2, faultfs.Options{}, nil)
	stuck := d.Leader("lobby")
	pub := &Publisher{Name: "p", Client: d.Client("p", stuck), History: &d.History} // it knows no other node
	pub.Stream(time.Millisecond, "lobby")
	f := d.follow(stuck, "lobby")
	d.Flows(pub, 50)
	redirected := d.redirected(stuck, "lobby")

	pub.Quiet()
	began, had := time.Now(), f.seen.Load()
	stall := d.disk(stuck).Inject(faultfs.Fault{Ops: faultfs.Syncs, Stall: faultfs.UntilOff})
	defer stall.Off()
	d.until("an fsync hangs", func() bool { return stall.Count() > 0 })
	d.Flows(pub, 1000)
	quiet := pub.Quiet()
	d.until("the reader has gone on", func() bool { return f.seen.Load() > had+1000 })
	moved := time.Since(began)
	sent := (<-redirected).Sub(began)
	if quiet > within || moved > within || sent > within {
		t.Errorf("no publish was acked for %v, the reader went on after %v, was redirected after %v", quiet, moved, sent)
	}
	d.until("the process gives up", func() bool { return strings.Contains(d.logText(stuck), "cannot go on") })
	gaveUp := time.Since(began)
	if gaveUp < 5*time.Second || gaveUp > 10*time.Second {
		t.Errorf("the process gives up after %v", gaveUp)
	}
	t.Logf("publishing paused for %v; the reader had everything after %v, was redirected after %v; the process gave up after %v", quiet, moved, sent, gaveUp)
	stall.Off() // nothing that hangs in a system call can end
	d.endsWith(stuck, "raft/p", "the disk hangs")
	d.again(stuck, pub, f)
}

// redirected follows a room on one node alone, and yields when this one sends it away.
func (d *onDisks) redirected(node, room string) <-chan time.Time {
	d.tb.Helper()
	raw := d.DialRaw(node)
	stream := raw.Open(&wire.Subscribe{Room: room, Next: 1})
	stream.Expect(wire.TypeSubscribed)
	done := make(chan time.Time, 1)
	go func() {
		defer func() { done <- time.Now(); close(done) }()
		for {
			switch typ, _, err := stream.Next(); {
			case typ == wire.TypeRedirect && err == nil:
				return
			case typ != wire.TypeDeliver || err != nil:
				d.tb.Errorf("a reader of %s gets %v, %v, not a redirect", node, typ, err)
				return
			}
		}
	}()
	d.tb.Cleanup(func() {
		raw.Close()
		for range done { // until it has ended
		}
	})
	return done
}

// A write of a leader's log fails: the process ends at once, with a line that names
// file and error, and what it led goes on elsewhere. Started again it does not count
// on what the failed fsync left unwritten.
func TestProcessesDiskFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		ops  faultfs.Op
	}{{"write", faultfs.Writes}, {"fsync", faultfs.Syncs}} {
		t.Run(tt.name, func(t *testing.T) {
			d := startOnDisks(t, 2, faultfs.Options{}, nil)
			failing := d.Leader("lobby")
			pub := d.Publisher("p")
			pub.Stream(time.Millisecond, "lobby")
			f := d.follow(failing, "lobby")
			d.Flows(pub, 50)

			folder := fmt.Sprintf("raft/p%04d/log/", wire.PartitionOf("lobby", 2))
			fault := d.disk(failing).Inject(faultfs.Fault{
				Ops: tt.ops, Err: syscall.EIO,
				Match: func(path string) bool { return strings.Contains(path, folder) },
			})
			d.endsWith(failing, folder+"00000000000000000001.seg", syscall.EIO.Error(), "node "+failing+" failed")
			had := f.seen.Load()
			d.Flows(pub, 50)
			d.until("the reader goes on", func() bool { return f.seen.Load() > had+50 })
			fault.Off()
			d.again(failing, pub, f)
			d.powerCut(0) // what it wrote before it failed was not there for good
			d.must(d.StartAll())
			d.Ready()
			if _, err := d.check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The disk of a leader is nearly full: what is published there is refused and says
// why, readers and other leaders go on, and what was refused is taken when there is
// room again.
func TestProcessesDiskNearlyFull(t *testing.T) {
	d := startOnDisks(t, 4, faultfs.Options{}, map[string]string{"reserve": "64MiB"})
	full := d.Leader("lobby")
	other := d.roomLedElsewhere(full)
	raw := d.DialRaw(full)
	session := wire.SessionID{1}
	if got := raw.Publish(session, true, 1, "lobby", "first"); got != "seq 1" {
		t.Fatal(got)
	}
	d.disk(full).SetFree(70 << 20)
	d.until("the node notices", func() bool { return strings.Contains(d.logText(full), "disk is nearly full") })

	if _, err := raw.publish.Write(wire.AppendPublish(nil, 2, 0, "", "lobby", []byte("second"))); err != nil {
		t.Fatal(err)
	}
	refused, err := wire.ParseRefused(raw.publish.Expect(wire.TypeRefused))
	if err != nil || refused.Code != wire.CodeOverloaded || !strings.Contains(refused.Reason, "disk is nearly full") || refused.RetryAfter == 0 {
		t.Errorf("refused with %+v, %v", refused, err)
	}
	waiting, elsewhere := d.Publisher("waiting"), d.Publisher("elsewhere")
	d.must(waiting.Send("lobby", 0))
	elsewhere.Stream(time.Millisecond, other)
	d.Flows(elsewhere, 100)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got, err := ReadRoom(ctx, d.Client("", full), "lobby", 1); err != nil || len(got) != 1 || string(got[0].Payload) != "first" {
		t.Errorf("read %+v, %v", got, err)
	}
	f := d.follow(full, other)
	d.until("readers of other rooms go on", func() bool { return f.seen.Load() > 50 })
	if acked, failed := waiting.Progress(); acked != 0 || failed != nil {
		t.Errorf("%d were acked, %v", acked, failed)
	}
	if got := d.Leader("lobby"); got != full {
		t.Errorf("%s leads now, not %s", got, full)
	}

	d.disk(full).SetFree(1 << 40)
	d.must(waiting.Wait())
	elsewhere.Halt()
	d.must(elsewhere.Wait())
	if got := d.DialRaw(full).Publish(session, false, 2, "lobby", "second"); got != "seq 3" {
		t.Errorf("with room again: %s", got)
	}
	d.CheckReplicas()
}

// roomLedElsewhere returns a room of another partition than lobby's that another
// node leads: one node may have won every election, so it hands one over then.
func (d *onDisks) roomLedElsewhere(node string) (room string) {
	d.tb.Helper()
	partitions := d.Layout().Partitions
	lobby := wire.PartitionOf("lobby", partitions)
	for i := 0; room == "" || wire.PartitionOf(room, partitions) == lobby; i++ {
		room = fmt.Sprint("room", i)
	}
	if d.Leader(room) == node {
		to := slices.IndexFunc(d.Layout().Nodes, func(n devcluster.Node) bool { return n.Name != node })
		d.Transfer(room, d.Layout().Nodes[to].Name)
	}
	return room
}
