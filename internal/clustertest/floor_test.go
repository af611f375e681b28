package clustertest

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/wire"
)

// A replica that was away until the others had dropped what it lacks gets the
// snapshot at the floor and what comes after it, and so does one that is rebuilt:
// readers have the same gap and the same messages on every node, and a retry of
// what was published before the floor gets its old number from it.
func TestReplicaAwayBelowTheFloor(t *testing.T) {
	t.Parallel()
	var rebuild atomic.Bool
	c := Start(t, 3, 1, func(cfg *node.Config) {
		cfg.SegmentBytes, cfg.Retention = 64<<10, node.Retention{Messages: 160}
		if cfg.Rebuild = nil; cfg.Name == "n3" && rebuild.Load() {
			cfg.Rebuild = []int{0}
		}
	})
	f := &floorTest{Cluster: c, t: t, pub: &Publisher{Name: "p", Client: c.Client("p", "n1", "n2"), History: &c.History}}
	session := wire.SessionID{1}
	retry := func(counter uint64, payload, want string) {
		t.Helper()
		raw := c.DialRaw(c.Leader("room"))
		defer raw.Close()
		if got := raw.Publish(session, false, counter, "room", payload); got != want {
			t.Errorf("counter %d at %s: %s, want %s", counter, c.Leader("room"), got, want)
		}
	}
	raw := c.DialRaw(c.Leader("room"))
	defer raw.Close()
	if got := raw.Publish(session, true, 1, "room", "old"); got != "seq 1" {
		t.Fatal(got)
	}

	away := status(c, "n3").Last
	c.Stop("n3")
	f.pass(away, "n1", "n2")
	c.Run("n3")
	first := f.same()
	if st := status(c, "n3"); st.First <= away+1 || st.Snapshot == 0 {
		t.Errorf("n3 was away after entry %d and now holds the log from %d on: %+v", away, st.First, st)
	}
	f.lead("n3")
	retry(1, "old", "seq 1 duplicate")
	retry(2, "new", fmt.Sprintf("seq %d", f.sent+2))

	f.lead("n1")
	c.Stop("n3")
	rebuild.Store(true)
	f.pass(status(c, "n1").Last, "n1", "n2")
	c.Run("n3")
	if again := f.same(); again <= first {
		t.Errorf("the room begins at %d, and began at %d before", again, first)
	}
	f.lead("n3")
	retry(2, "new", fmt.Sprintf("seq %d duplicate", f.before+2))
	f.same()
}

type floorTest struct {
	*Cluster
	t            *testing.T
	pub          *Publisher
	sent, before int // by pub, now and before the last pass
}

// pass publishes until the nodes have dropped entry index.
func (f *floorTest) pass(index uint64, nodes ...string) {
	f.t.Helper()
	f.before = f.sent
	f.Until("the log is trimmed", func() bool {
		for range 10 {
			f.must(f.pub.Send("room", 2<<10))
			f.sent++
		}
		f.must(f.pub.Wait())
		for _, name := range nodes {
			if status(f.Cluster, name).First <= index+1 {
				return false
			}
		}
		return true
	})
}

// lead has the node lead.
func (f *floorTest) lead(name string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	if leader := f.Leader("room"); leader != name {
		f.must(f.Node(leader).Transfer(ctx, 0, name))
	}
	f.Until(name+" leads", func() bool { return f.Leader("room") == name })
}

// same waits until all nodes have applied the same and compares what their readers
// get. It returns the first seq held.
func (f *floorTest) same() (first uint64) {
	f.t.Helper()
	f.WaitReady()
	for {
		before := f.firsts()
		why := f.differ(before)
		if after := f.firsts(); after != before {
			continue // trimmed meanwhile: nobody publishes, so this ends
		}
		if why != nil {
			f.t.Fatal(why)
		}
		return before
	}
}

// firsts waits until all nodes have applied the same and returns where the room
// begins on all of them.
func (f *floorTest) firsts() (first uint64) {
	f.t.Helper()
	f.checkReplicas()
	f.Until("the nodes have applied the same", func() bool {
		applied := status(f.Cluster, "n1").Applied
		firsts := map[uint64]bool{}
		for _, name := range f.Names() {
			st, err := f.Node(name).Room("room")
			f.must(err)
			first = st.First
			firsts[first] = true
		}
		for _, name := range f.Names() {
			if status(f.Cluster, name).Applied != applied {
				return false
			}
		}
		if len(firsts) > 1 {
			f.t.Fatalf("the room begins at %v after the same entries", firsts)
		}
		return true
	})
	return first
}

// differ tells what readers get that is not the same on all nodes, or not what was
// published.
func (f *floorTest) differ(first uint64) error {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	var same []client.Message
	for _, name := range f.Names() {
		c := f.Client("", name)
		defer c.Close()
		info, err := c.Room(ctx, "room")
		f.must(err)
		got, err := ReadRoom(ctx, c, "room", info.Last)
		f.must(err)
		switch want := (client.Gap{From: 1, To: first - 1, Reason: client.ReasonTrimmed}); {
		case got[0].Gap == nil || *got[0].Gap != want:
			return fmt.Errorf("on %s comes %+v first, want a gap %+v", name, got[0].Gap, want)
		case same == nil:
			same = got
		case !reflect.DeepEqual(got, same):
			return fmt.Errorf("%s delivers something else than n1", name)
		}
		if err := f.History.checkFrom("room", first, got[1:]); err != nil {
			return fmt.Errorf("on %s: %w", name, err)
		}
		if err := behind(ctx, c, first); err != nil {
			return fmt.Errorf("on %s: %w", name, err)
		}
	}
	return nil
}

// behind reads on after seq 1, which is trimmed.
func behind(ctx context.Context, c *client.Client, first uint64) error {
	want := client.Gap{From: 2, To: first - 1, Reason: client.ReasonTrimmed}
	for m, err := range c.Subscribe(ctx, "room", client.After(1)) {
		if err != nil || m.Gap == nil || *m.Gap != want {
			return fmt.Errorf("after seq 1 comes %d with gap %+v, %w, want a gap %+v", m.Seq, m.Gap, err, want)
		}
		break
	}
	return nil
}
