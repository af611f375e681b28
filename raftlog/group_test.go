package raftlog

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// readAll reads from an index to the end, in requests of maxBytes.
func readAll(t *testing.T, g *Group, from Index, maxBytes int) []string {
	t.Helper()
	var all []string
	var last Index
	for {
		got, next, err := g.Read(from, maxBytes)
		if err != nil {
			t.Fatalf("Read(%d): %v", from, err)
		}
		for _, e := range got {
			if e.Index <= last || e.Index < from || e.Index >= next || e.Term == 0 {
				t.Errorf("Read(%d) returned entry %d of term %d and next %d", from, e.Index, e.Term, next)
			}
			last = e.Index
			all = append(all, string(e.Data))
		}
		if len(got) == 0 {
			if next != max(from, g.Applied()+1) {
				t.Errorf("Read(%d) ends at %d, applied is %d", from, next, g.Applied())
			}
			return all
		}
		from = next
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 3)
	c.ringBytes = 20 * (entryOverhead + 5) // most is read from disk
	t.Cleanup(c.end)
	for _, name := range c.names {
		c.open(name)
	}
	var want []string
	for i := range 60 {
		if i%20 == 10 { // an election: no-ops and barriers in the log
			c.handTo(c.others(c.leader())[0].name)
		}
		want = append(want, fmt.Sprintf("m%04d", i))
		c.publish(want[i])
	}
	c.agree("m0059")
	for _, n := range c.alive() {
		for _, maxBytes := range []int{1, 5, 6, 64, 1 << 20} {
			if got := readAll(t, n.group, 0, maxBytes); !slices.Equal(got, want) {
				t.Errorf("%s read %q in steps of %d bytes", n.name, got, maxBytes)
			}
		}
		got, next, err := n.group.Read(1, 11)
		if err != nil || len(got) != 3 || next != got[2].Index+1 {
			t.Errorf("11 bytes of entries of 5 are %d, next %d, %v", len(got), next, err)
		}
		beyond := n.group.Applied() + 100
		if got, next, err := n.group.Read(beyond, 100); len(got) > 0 || next != beyond || err != nil {
			t.Errorf("Read beyond the end = %d entries, %d, %v", len(got), next, err)
		}
	}
}

// An entry is committed and in the log, but the machine is still busy with it.
func TestReadWaitsForTheMachine(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	n := c.leader()
	c.publish("a")
	applied := n.group.Applied()
	n.machine.gate.shut()
	p := n.group.Propose([]byte("b"))
	c.await("the machine to be busy", n.machine.gate.holds)
	c.await("the commit", func() bool { return n.group.Status().Commit > applied })
	if got := readAll(t, n.group, 1, 100); !slices.Equal(got, []string{"a"}) {
		t.Errorf("read %q", got)
	}
	if n.group.Applied() != applied || n.group.CaughtUp() {
		t.Errorf("applied %d, caught up %v", n.group.Applied(), n.group.CaughtUp())
	}
	n.machine.gate.open()
	if _, err := p.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, n.group, 1, 100); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("read %q", got)
	}
}

func TestReadOfWhatIsNotHeld(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 1)
	c.change = func(cfg *Config) { cfg.SegmentBytes = smallSegment }
	t.Cleanup(c.end)
	n := c.open("n1")
	last := fill(c, "a", 4*smallSegment)
	floor := c.saveAll()
	c.publish("b")
	c.trimAll(floor)
	first := n.group.First()
	if st := n.group.Status(); first < 2 || first > floor+1 || st.First != first {
		t.Fatalf("trimmed to %d the log begins at %d, by Status at %d", floor, first, st.First)
	}
	n.group.store.ring.cut(0)
	for _, from := range []Index{0, 1, first - 1} {
		for _, maxBytes := range []int{100, 1 << 20} {
			if got, next, err := n.group.Read(from, maxBytes); !errors.Is(err, ErrNotFound) || len(got) > 0 || next != max(from, 1) {
				t.Errorf("Read(%d, %d) = %d entries, %d, %v", from, maxBytes, len(got), next, err)
			}
		}
	}
	for _, maxBytes := range []int{100, 1 << 20} {
		got := readAll(t, n.group, first, maxBytes)
		if k := len(got); k != int(floor-first)+2 || got[k-1] != "b" || k > 1 && got[k-2] != last {
			t.Errorf("from %d to %d, %d bytes at a time, read %d entries that end with %.60q", first, floor+1, maxBytes, k, got[max(k-2, 0):])
		}
	}
}

// smallSegment is a size of segments that tests fill quickly.
const smallSegment = 256 << 10

// fill publishes entries of bytes together and returns the last one.
func fill(c *cluster, name string, bytes int) (last string) {
	c.t.Helper()
	const size = 16 << 10
	for i := range bytes / size {
		last = fmt.Sprintf("%s%06d%s", name, i, strings.Repeat(".", size))
		c.publish(last)
	}
	return last
}

func TestStatus(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	for _, name := range []string{"n2", "n3", "n1"} { // elections without a message
		c.handTo(name)
	}
	for _, n := range c.alive() {
		c.await(n.name+" to have caught up", func() bool {
			st := n.group.Status()
			return n.group.CaughtUp() && st.Commit == c.nodes["n1"].group.Status().Last && st.Applied == st.Commit
		})
	}
	if applied := c.nodes["n1"].group.Applied(); applied > 1 {
		t.Errorf("the machine was given entry %d, but there is none", applied)
	}
	c.publish("a")
	c.handTo("n2")
	c.agree("a")
	for _, n := range c.alive() {
		c.await(n.name+" to have caught up", func() bool {
			st := n.group.Status()
			return n.group.CaughtUp() && st.Commit == c.nodes["n2"].group.Status().Last && st.Applied == st.Commit
		})
		st := n.group.Status()
		if st.Leader != "n2" || st.Term < 3 || st.First != 1 || st.Last != st.Commit || st.Bytes == 0 || !st.Voter || !slices.Equal(st.Voters, c.names) {
			t.Errorf("%s: %+v", n.name, st)
		}
	}
}

// A replica that has just started knows of no commit, whatever its log holds.
func TestCaughtUpAfterARestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("a")
	for _, name := range c.names {
		c.kill(name)
	}
	n := c.open("n1")
	if n.group.CaughtUp() || n.group.Status().Applied != 0 {
		t.Errorf("alone it has caught up: %+v", n.group.Status())
	}
	c.open("n2")
	c.await("n1 to catch up", n.group.CaughtUp)
	if !n.machine.has("a") {
		t.Error("it has caught up without the entry")
	}
}

// What a leader wrote and nobody else has is cut once it hears of the next one.
func TestDeposedLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("before")
	old := c.leader()
	c.isolate(old.name)
	last := old.group.Status().Last
	var lost []*Proposal
	for i := range 5 {
		lost = append(lost, old.group.Propose(fmt.Appendf(nil, "lost %d", i)))
	}
	for _, p := range lost {
		if _, err := p.Wait(soon(t)); !errors.Is(err, ErrUnknown) {
			t.Fatalf("the isolated leader answered %v, want ErrUnknown", err)
		}
	}
	var l raft.Log
	if !old.group.store.ring.get(uint64(last)+5, &l) || string(l.Data) != "lost 4" {
		t.Fatalf("the isolated leader has no entry %d in memory", last+5)
	}
	c.await("another leader", func() bool {
		return slices.ContainsFunc(c.others(old), func(n *node) bool { return n.group.Leading() })
	})
	for i := range 3 {
		c.publish(fmt.Sprintf("kept %d", i))
	}
	c.heal()
	c.publish("last")
	if got, want := c.agree("last"), []string{"before", "kept 0", "kept 1", "kept 2", "last"}; !slices.Equal(got, want) {
		t.Errorf("the machines were given %q", got)
	}
	c.sameLogs()
}

// sameLogs waits until all replicas' logs end alike, and compares them entry by
// entry, in memory and on disk.
func (c *cluster) sameLogs() {
	c.t.Helper()
	all := c.alive()
	var last uint64
	c.await("logs of the same length", func() bool {
		last, _ = all[0].group.store.LastIndex()
		return !slices.ContainsFunc(all, func(n *node) bool { l, _ := n.group.store.LastIndex(); return l != last })
	})
	first := slices.MaxFunc(all, func(a, b *node) int { return cmp.Compare(a.group.First(), b.group.First()) }).group.First()
	for i := uint64(first); i <= last; i++ {
		var want raft.Log
		if err := all[0].group.store.disk.GetLog(i, &want); err != nil {
			c.t.Fatalf("entry %d: %v", i, err)
		}
		for _, n := range all {
			for where, get := range map[string]func(uint64, *raft.Log) error{"memory": n.group.store.GetLog, "disk": n.group.store.disk.GetLog} {
				var got raft.Log
				if err := get(i, &got); err != nil || got.Term != want.Term || got.Type != want.Type || string(got.Data) != string(want.Data) {
					c.t.Errorf("%s: entry %d in %s is %d %q, %v; want %d %q", n.name, i, where, got.Term, got.Data, err, want.Term, want.Data)
				}
			}
		}
	}
}

// Not parallel, so that there are no other groups.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	c := newCluster(t, 3)
	leader := c.leader()
	c.publish("a")
	c.separate(c.others(leader)[0].name, leader.name)
	c.publish("b")
	c.await("a request to be held", func() bool { return c.net.waitingAt(leader.name) > 0 })
	if err := leader.group.Barrier(soon(t)); err != nil {
		t.Error(err)
	}
	for _, n := range c.alive() {
		c.kill(n.name)
	}
	var left string
	if !c.events.until(patience, func() bool { left = ourGoroutines(); return left == "" }) {
		t.Errorf("after Close there is still\n%s", left)
	}
}

func ourGoroutines() string {
	buf := make([]byte, 1<<20)
	var ours []string
	for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		raft := strings.Contains(stack, "hashicorp/raft.") || strings.Contains(stack, "roomlog/raftlog.(*")
		if i > 0 && raft && !strings.Contains(stack, "testing.(*T).Parallel") { // the first is this test's own
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}
