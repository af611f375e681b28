//go:build linux

package clustertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/faultfs"
	"github.com/roomlog/roomlog/transport/admin"
)

// holds waits until all replicas have applied the same and returns where each room
// begins, which must then be the same on all nodes.
func (d *onDisks) holds() (first map[string]uint64, err error) {
	d.tb.Helper()
	d.until("the replicas have applied the same", func() bool {
		before, same := d.applied()
		if !same {
			return false
		}
		first, err = map[string]uint64{}, nil
		for _, node := range d.Layout().Nodes {
			for _, room := range d.rooms {
				st, failed := d.roomStatus(node, room)
				if failed != nil {
					return false
				}
				if known, ok := first[room]; ok && known != st.First {
					err = fmt.Errorf("room %s begins at %d on %s, at %d elsewhere, after the same entries", room, st.First, node.Name, known)
				}
				first[room] = st.First
			}
		}
		after, same := d.applied()
		return same && slices.Equal(before, after)
	})
	return first, err
}

// applied is how much all nodes have applied of each partition, if all the same.
func (d *onDisks) applied() (all []uint64, same bool) {
	for i, node := range d.Layout().Nodes {
		replicas, err := d.Replicas(node.Name)
		if err != nil {
			return nil, false
		}
		for id, r := range replicas {
			if i == 0 {
				all = append(all, r.Applied)
			} else if all[id] != r.Applied {
				return nil, false
			}
		}
	}
	return all, true
}

// roomStatus asks a node for what its own replica has of a room.
func (d *onDisks) roomStatus(n devcluster.Node, room string) (st admin.RoomStatus, err error) {
	return st, d.get(n, "/v1/room?name="+url.QueryEscape(room), &st)
}

// check reads the rooms whole from every node and compares them with what was
// acked and what was published. A room may begin with a gap, trimmed, the same on
// all nodes. lost is how many acked messages one of the nodes does not have, or
// has elsewhere.
func (d *onDisks) check() (lost int, err error) {
	d.tb.Helper()
	for {
		before, err := d.holds()
		if err != nil {
			return 0, err
		}
		lost, err := d.compare(before)
		if err == nil {
			return 0, nil
		}
		after, again := d.holds()
		if again != nil || maps.Equal(before, after) {
			return lost, errors.Join(err, again)
		} // something was trimmed while it was read: this comes to an end
	}
}

// compare checks all nodes' rooms, which begin at first.
func (d *onDisks) compare(first map[string]uint64) (lost int, err error) {
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
			if from := first[room]; from > 1 {
				want := client.Gap{From: 1, To: from - 1, Reason: client.ReasonTrimmed}
				if len(got) == 0 || got[0].Gap == nil || *got[0].Gap != want {
					return 0, fmt.Errorf("on %s: room %s begins at %d, but the gap before it does not come first: %s", node.Name, room, from, began(got))
				}
				got = got[1:]
			}
			if n := d.History.lost(room, first[room], got); n > 0 {
				return n, fmt.Errorf("on %s: room %s: %d acked messages are lost", node.Name, room, n)
			}
			if err := d.History.checkFrom(room, first[room], got); err != nil {
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

// began describes the first message.
func began(got []client.Message) string {
	if len(got) == 0 {
		return "nothing comes"
	}
	return fmt.Sprintf("seq %d, gap %+v", got[0].Seq, got[0].Gap)
}

// lost counts the acked messages from seq first on that are not where the ack said.
func (h *History) lost(room string, first uint64, got []client.Message) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for seq, payload := range h.acks[room] {
		switch {
		case seq != 0 && seq < first:
		case seq == 0 || seq-first >= uint64(len(got)) || digest(string(got[seq-first].Payload)) != payload:
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
		if payload := digest(string(m.Payload)); !known[payload] {
			return fmt.Errorf("room %s: seq %d is %q, which nobody published to it", room, m.Seq, payload)
		}
	}
	return nil
}

// powerCutDisks keep no promise that POSIX does not make: the fsync of a file brings
// its bytes, and only that of the directory its name.
var powerCutDisks = faultfs.Options{}

// wait takes a random time, so that what follows comes at any moment.
func (d *onDisks) wait(most time.Duration) { <-time.After(time.Duration(d.rng.Int64N(int64(most)))) }

// chance draws how much survives of what was not synced.
func (d *onDisks) chance() float64 { return []float64{0, 0.5, 0.9}[d.rng.IntN(3)] }

// smallFiles has segments roll, checkpoints come and old messages go all the time.
var smallFiles = map[string]string{"segment-bytes": "1MiB", "retention-bytes": "4MiB", "log-level": "info"}

// moment is a kind of operation of a node's storage that a power cut comes into.
type moment struct {
	name   string
	ops    faultfs.Op
	folder string // of a partition
}

const allChanges = faultfs.Writes | faultfs.Syncs | faultfs.DirSyncs | faultfs.Names

var moments = []moment{
	{"any", 0, ""},
	{"a segment comes or goes", faultfs.Names | faultfs.DirSyncs, "/log"},
	{"a snapshot is written or removed", allChanges, "/snapshots"},
	{"entries are written", faultfs.Writes | faultfs.Syncs, "/log"},
	{"an index of rooms is written or removed", allChanges, "/rooms"},
}

// arm has one of the next operations of the moment on one of the disks wait for
// ever: what was to come after it has not happened when the power is cut.
func (d *onDisks) arm(m moment) *faultfs.Injected {
	var skip atomic.Int64
	skip.Store(d.rng.Int64N(8))
	return d.disks[d.rng.IntN(len(d.disks))].Inject(faultfs.Fault{
		Ops: m.ops, Times: 1, Stall: faultfs.UntilOff,
		Match: func(path string) bool {
			return strings.Contains(path+"/", m.folder+"/") && skip.Add(-1) < 0
		},
	})
}

// cutAt cuts the power at the moment; most is how long to wait for it, 0: until
// it comes.
func (d *onDisks) cutAt(m moment, most time.Duration) {
	d.tb.Helper()
	if m.ops == 0 {
		d.wait(max(most, 300*time.Millisecond))
	} else {
		armed, began := d.arm(m), time.Now()
		d.until(m.name, func() bool { return armed.Count() > 0 || most > 0 && time.Since(began) > most })
		d.wait(10 * time.Millisecond) // what does not wait for it goes on
	}
	d.powerCut(d.chance())
}

// turnover is what has become of the nodes' files.
type turnover struct {
	segments, recycled map[string]bool // by node and path
}

// look adds what is on the disks now. No process may run.
func (d *onDisks) look(t *turnover) {
	d.tb.Helper()
	for i, node := range d.Layout().Nodes {
		names, err := filepath.Glob(filepath.Join(d.disks[i].Dir(), "raft/p*/log/*.seg"))
		d.must(err)
		for _, name := range names {
			head, err := os.ReadFile(name)
			d.must(err)
			id := node.Name + strings.TrimPrefix(name, d.disks[i].Dir())
			if t.segments[id] = true; len(head) > 6 && head[6]&1 != 0 {
				t.recycled[id] = true
			}
		}
	}
}

// printed counts the lines with text that the nodes have printed.
func (d *onDisks) printed(text string) (n int) {
	d.tb.Helper()
	for _, node := range d.Layout().Nodes {
		n += strings.Count(d.logText(node.Name), text)
	}
	return n
}

// TestProcessesPowerCut cuts the power of all three nodes in the middle of the
// load, again and again, while segments roll, are dropped and used again,
// checkpoints are written and rooms trimmed: what was acked is there afterwards,
// once, with the number that was acked, unless it was trimmed, and what was under
// way is acked in the end. It takes 3 s a round; ROOMLOG_POWERCUT_ROUNDS sets how
// many there are.
func TestProcessesPowerCut(t *testing.T) {
	d := startOnDisks(t, 2, powerCutDisks, smallFiles)
	var pubs []*Publisher
	for i := range 3 {
		pub := d.Publisher(fmt.Sprintf("p%d", i+1))
		pub.Size = 4 << 10
		pubs = append(pubs, pub)
	}
	rounds := envInt(t, "ROOMLOG_POWERCUT_ROUNDS", 3)
	files := turnover{map[string]bool{}, map[string]bool{}}
	for round, order := 0, d.rng.Perm(len(moments)); round < rounds; round++ {
		d.powerCutRound(pubs, moments[order[round%len(order)]], &files)
		if _, err := d.check(); err != nil {
			t.Fatalf("after %d power cuts: %v", round+1, err)
		}
		d.CheckReplicas()
	}
	d.checkTurnover(rounds, &files)
}

// powerCutRound has the publishers fill a chunk or more of each partition, cuts the
// power and waits until all is well again.
func (d *onDisks) powerCutRound(pubs []*Publisher, m moment, files *turnover) {
	d.tb.Helper()
	checkpoints := d.printed("msg=checkpoint ")
	for _, pub := range pubs {
		pub.Stream(time.Millisecond, d.rooms...)
	}
	for _, pub := range pubs {
		d.Flows(pub, 50)
	}
	d.until("some checkpoints", func() bool { return d.printed("msg=checkpoint ") >= checkpoints+4 })
	d.cutAt(m, 0)
	for _, pub := range pubs {
		pub.Halt()
	}
	d.look(files)
	d.must(d.StartAll())
	if d.rng.IntN(3) == 0 { // and again while they come up
		d.cutAt(moments[d.rng.IntN(len(moments))], 300*time.Millisecond)
		d.must(d.StartAll())
	}
	d.Ready()
	for _, pub := range pubs {
		d.must(pub.Wait())
	}
}

// checkTurnover fails the test if too little has become of the files to tell.
func (d *onDisks) checkTurnover(rounds int, files *turnover) {
	d.tb.Helper()
	checkpoints, trims := d.printed("msg=checkpoint "), d.printed("msg=trimmed ")
	d.tb.Logf("%d rounds: %d checkpoints, %d trims, %d segments seen, %d of them recycled, %d snapshots restored",
		rounds, checkpoints, trims, len(files.segments), len(files.recycled), d.printed("msg=restored "))
	switch {
	case checkpoints < 4*rounds || len(files.segments) < 4*rounds:
		d.tb.Error("too few checkpoints and segments")
	case rounds >= 10 && (trims < rounds || len(files.recycled) < rounds):
		d.tb.Error("too few trims and recycled segments")
	}
	for i, disk := range d.disks {
		if s := disk.Stats(); s.Syncs == 0 || s.Writes == 0 {
			d.tb.Errorf("disk %d was not used: %+v", i+1, s)
		}
	}
}

// TestProcessesPowerCutControl does the same with disks that lie about fsync:
// the test above can only be trusted if acked messages are lost then, or a node
// finds its data damaged.
func TestProcessesPowerCutControl(t *testing.T) {
	d := startOnDisks(t, 2, powerCutDisks, smallFiles)
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
