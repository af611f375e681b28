package raftlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
)

// newSmallCluster is a cluster with small segments, so that there is something to trim.
func newSmallCluster(t *testing.T, nodes int, open ...string) *cluster {
	t.Helper()
	c := makeCluster(t, t.TempDir(), nodes)
	c.change = func(cfg *Config) { cfg.SegmentBytes = smallSegment }
	t.Cleanup(c.end)
	if len(open) == 0 {
		open = c.names
	}
	for _, name := range open {
		c.open(name)
	}
	return c
}

// compact publishes until several segments are full, with snapshots between,
// and drops what is older than the second newest, which it returns. Some entries
// follow it.
func (c *cluster) compact(name string) (floor Index) {
	c.t.Helper()
	for i := range 4 {
		fill(c, fmt.Sprintf("%s%d-", name, i), smallSegment+smallSegment/2)
		at := c.saveAll()
		if i == 2 {
			floor = at
		}
	}
	c.trimAll(floor)
	c.publish(name + " is done")
	for _, n := range c.alive() {
		if first := n.group.First(); first == 1 || first > floor+1 {
			c.t.Fatalf("%s: trimmed to %d the log begins at %d", n.name, floor, first)
		}
	}
	return floor
}

// A node without anything joins a group that has dropped its beginning: it gets
// the floor, once, and from there on the log itself.
func TestNewNodeBelowTheFloor(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 3, "n1", "n2")
	floor := c.compact("a")
	n := c.open("n3")
	c.publish("last")
	c.agree("last")
	if got := n.machine.restores(); !slices.Equal(got, []Index{floor}) {
		t.Errorf("it was restored from %d, the floor is %d", got, floor)
	}
	if got := n.group.Snapshots(); !slices.Equal(got, []Index{floor}) {
		t.Errorf("it has snapshots at %d", got)
	}
	if first := n.group.First(); first != floor+1 {
		t.Errorf("its log begins at %d", first)
	}
	if cuts := n.cuts.Load(); cuts != 0 {
		t.Errorf("raft cut its log %d times", cuts)
	}
	c.sameLogs()
	st := n.group.Status()
	if !n.group.CaughtUp() || !st.Voter || !slices.Equal(st.Voters, c.names) || st.SnapshotIndex != floor {
		t.Errorf("afterwards: caught up %v, %+v", n.group.CaughtUp(), st)
	}

	// It can stand on its own.
	c.kill("n3")
	n = c.open("n3")
	c.agree("last")
	if got := n.machine.restores(); !slices.Equal(got, []Index{floor}) {
		t.Errorf("after a restart it was restored from %d", got)
	}
	c.handTo("n3")
	c.kill("n1")
	c.publish("without n1")
	c.agree("without n1")
}

// A replica was away for so long that what it lacks is gone.
func TestLongDeadReplica(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 3)
	c.publish("before")
	c.agree("before")
	c.handTo("n1")
	c.kill("n3")
	floor := c.compact("a")
	n := c.open("n3")
	c.publish("last")
	c.agree("last")
	if got := n.machine.restores(); !slices.Equal(got, []Index{floor}) || n.cuts.Load() != 0 {
		t.Errorf("it was restored from %d with %d cuts, the floor is %d", got, n.cuts.Load(), floor)
	}
	c.sameLogs()
}

// An old leader's entries that nobody else has lie where the others have
// dropped their log (hashicorp/raft#697).
func TestDivergentTailBelowTheFloor(t *testing.T) {
	t.Parallel()
	for _, long := range []bool{false, true} { // whether they reach beyond what the others have
		t.Run(fmt.Sprint(long), func(t *testing.T) {
			t.Parallel()
			c := newSmallCluster(t, 3)
			c.publish("before")
			c.agree("before")
			old := c.leader()
			c.isolate(old.name)
			lost := 40
			if long {
				lost = 400
			}
			var proposals []*Proposal
			for i := range lost {
				proposals = append(proposals, old.group.Propose(fmt.Appendf(nil, "lost %d", i)))
			}
			for _, p := range proposals {
				if _, err := p.Wait(soon(t)); err == nil {
					t.Fatal("an isolated leader committed")
				}
			}
			end := old.group.Status().Last
			c.await("another leader", func() bool {
				return slices.ContainsFunc(c.others(old), func(n *node) bool { return n.group.Leading() })
			})
			c.names = slices.DeleteFunc(slices.Clone(c.names), func(n string) bool { return n == old.name })
			all := append(slices.Clone(c.names), old.name)
			group := old.group
			old.group = nil // not among the living for a while
			floor := c.compact("a")
			last := c.leader().group.Status().Last
			old.group, c.names = group, all
			if long != (end > last) || end < floor && !long && end+100 < floor {
				t.Fatalf("the lost entries end at %d, the floor is %d, the others end at %d", end, floor, last)
			}
			c.heal()
			c.publish("last")
			got := c.agree("last")
			if slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "lost") }) {
				t.Error("a lost entry was applied")
			}
			if got := old.machine.restores(); !slices.Equal(got, []Index{floor}) {
				t.Errorf("it was restored from %d, the floor is %d", got, floor)
			}
			if cuts := old.cuts.Load(); cuts > 1 {
				t.Errorf("raft cut its log %d times", cuts)
			}
			c.sameLogs()
		})
	}
}

func TestRestartFromSnapshots(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 1)
	n := c.leader()
	floor := c.compact("a")
	want := n.machine.seen()
	all := n.group.Snapshots()
	newest := all[len(all)-1]
	file := func(index Index) string { return filepath.Join(n.dir, "snapshots", fmt.Sprintf("%020d.snap", index)) }
	reopen := func(from Index) {
		t.Helper()
		c.open("n1")
		if n.group.Applied() < from || n.group.First() > from+1 {
			t.Errorf("before any leader was heard of %d is applied, of %d", n.group.Applied(), from)
		}
		c.await("the rest", func() bool { return len(n.machine.seen()) >= len(want) })
		if got := n.machine.seen(); !slices.Equal(got, want) || !slices.Equal(n.machine.restores(), []Index{from}) {
			t.Errorf("restored from %d, it has %d entries, want %d from %d", n.machine.restores(), len(got), len(want), from)
		}
		c.kill("n1")
	}
	refused := func(words ...string) {
		t.Helper()
		stable, err := OpenStable(n.dir + "-stable.db")
		if err != nil {
			t.Fatal(err)
		}
		defer stable.Close()
		g, err := Open(c.config(n, stable))
		if err == nil {
			g.Close()
			t.Fatal("it was opened")
		}
		if _, ok := errors.AsType[*DamageError](err); !ok {
			t.Errorf("it is no damage: %v", err)
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q is not in: %v", word, err)
			}
		}
	}
	c.kill("n1")
	reopen(newest)

	// A damaged one is not passed over.
	whole, err := os.ReadFile(file(newest))
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []struct {
		what  string
		bytes []byte
		words []string
	}{
		{"a changed byte of the body", changed(whole, len(whole)/2), []string{"checksum is wrong"}},
		{"a changed byte of the head", changed(whole, 20), []string{"checksum of its head"}},
		{"cut short", whole[:len(whole)-1], []string{"no end"}},
		{"nothing left", nil, []string{"ends within its head"}},
	} {
		if err := os.WriteFile(file(newest), damage.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(append(damage.words, file(newest))...)
	}

	// A missing one is, while there is another that the log reaches.
	if err := os.Remove(file(newest)); err != nil {
		t.Fatal(err)
	}
	reopen(floor)
	if err := os.Remove(file(floor)); err != nil {
		t.Fatal(err)
	}
	refused("there is no snapshot", filepath.Join(n.dir, "snapshots"))
	if err := os.WriteFile(file(newest+1000), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(fmt.Sprintf("it is the one at %d", newest), file(newest+1000))
}

func changed(b []byte, at int) []byte {
	c := slices.Clone(b)
	c[at] ^= 4
	return c
}

// The log lost entries that a snapshot shows were there.
func TestSnapshotBeyondTheLog(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 1)
	n := c.leader()
	for i := range 10 {
		c.publish(fmt.Sprint(i))
	}
	at := c.saveAll()
	for _, what := range []string{"entries", "term"} {
		if err := n.group.SaveSnapshot(at, n.machine.write(at)); err != nil {
			t.Fatal(err)
		}
		log := &changedLog{logStore: n.group.store, last: uint64(at), term: 0}
		if what == "entries" {
			log.last--
		} else {
			log.term = 99
		}
		s := &snapshotStore{fs: n.group.cfg.FS, dir: n.group.snaps.dir, group: 7, log: log}
		err := s.open()
		if _, ok := errors.AsType[*DamageError](err); !ok || !strings.Contains(err.Error(), fmt.Sprintf("%020d.snap", at)) {
			t.Errorf("lost %s: %v", what, err)
		}
	}
}

type changedLog struct {
	*logStore
	last, term uint64
}

func (l *changedLog) LastIndex() (uint64, error) { return l.last, nil }
func (l *changedLog) GetLog(index uint64, e *raft.Log) error {
	err := l.logStore.GetLog(index, e)
	if l.term > 0 {
		e.Term = l.term
	}
	return err
}

// A configuration that only a snapshot knows.
func TestConfigurationSurvivesInSnapshots(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 2, "n1", "n2")
	c.handTo("n1")
	r := c.nodes["n1"].group.instance().raft
	if err := r.AddNonvoter("other", "other", 0, patience).Error(); err != nil {
		t.Fatal(err)
	}
	c.compact("a")
	if err := r.RemoveServer("other", 0, patience).Error(); err != nil { // after the snapshots
		t.Fatal(err)
	}
	c.publish("last")
	c.agree("last")
	for _, info := range c.nodes["n2"].group.snaps.kept {
		if got := fmt.Sprint(info.conf.Servers); !strings.Contains(got, "other") || !strings.Contains(got, "n1") || !strings.Contains(got, "n2") {
			t.Errorf("the snapshot at %d has the servers %s", info.index, got)
		}
	}
	c.kill("n1")
	c.kill("n2")
	c.open("n1")
	c.open("n2")
	c.publish("after")
	c.agree("after")
	for _, n := range c.alive() {
		if st := n.group.Status(); !slices.Equal(st.Voters, []string{"n1", "n2"}) {
			t.Errorf("%s: %+v", n.name, st)
		}
		at := n.group.Applied()
		c.save(n, at)
		if got := fmt.Sprint(n.group.snaps.kept[len(n.group.snaps.kept)-1].conf.Servers); strings.Contains(got, "other") {
			t.Errorf("a new snapshot has the servers %s", got)
		}
	}
}

// Raft is started anew within the process: its snapshot is nothing new.
func TestRestartOfRaftWithSnapshots(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 3)
	c.compact("a")
	for _, n := range c.alive() {
		n.group.restart()
		if got := n.machine.restores(); len(got) > 0 {
			t.Errorf("%s was restored from %d", n.name, got)
		}
		if conf, ok := n.group.fsm.confBy(uint64(n.group.Applied())); !ok || len(conf.conf.Servers) != 3 {
			t.Errorf("%s knows of configuration %+v", n.name, conf)
		}
		c.publish("after " + n.name)
	}
	c.agree("after n3")
	c.sameLogs()
	c.saveAll()
}

func TestSaveAndTrimRefuse(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 1)
	n := c.leader()
	floor := c.compact("a")
	before := n.group.Snapshots()
	first := n.group.First()
	nothing := func(io.Writer) error { return nil }
	broken := errors.New("broken")
	for name, err := range map[string]error{
		"beyond applied":       n.group.SaveSnapshot(n.group.Applied()+1, nothing),
		"at 0":                 n.group.SaveSnapshot(0, nothing),
		"below the log":        n.group.SaveSnapshot(first-2, nothing),
		"with a failing write": n.group.SaveSnapshot(n.group.Applied(), func(io.Writer) error { return broken }),
		"trim to nothing":      n.group.Trim(floor + 1),
		"trim to 0":            n.group.Trim(0),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := n.group.OpenSnapshot(floor + 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	if got := n.group.Snapshots(); !slices.Equal(got, before) || n.group.First() != first {
		t.Errorf("afterwards there are snapshots at %d, before at %d, and the log begins at %d, before %d", got, before, n.group.First(), first)
	}
	if left, _ := filepath.Glob(filepath.Join(n.dir, "snapshots", "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}

	// An entry that is in the log, but that the machine is still busy with.
	n.machine.gate.shut()
	busy := n.group.Propose([]byte("busy"))
	c.await("the machine to be busy", n.machine.gate.holds)
	c.await("the commit", func() bool { return n.group.Status().Commit > n.group.Applied() })
	if err := n.group.SaveSnapshot(n.group.Applied()+1, nothing); err == nil {
		t.Error("a snapshot of what has not been applied was saved")
	}
	n.machine.gate.open()
	if _, err := busy.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}

	// One at the same index is replaced.
	if err := n.group.SaveSnapshot(floor, func(w io.Writer) error { _, err := io.WriteString(w, "other"); return err }); err != nil {
		t.Fatal(err)
	}
	r, err := n.group.OpenSnapshot(floor)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if body, err := io.ReadAll(r); string(body) != "other" || err != nil {
		t.Errorf("it is %q, %v", body, err)
	}
	if got := n.group.Snapshots(); !slices.Equal(got, before) {
		t.Errorf("there are snapshots at %d, before at %d", got, before)
	}
}

// Raft reads again what the machine has been given already: that must stay.
func TestTrimWaitsForARestartedRaft(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 1)
	n := c.leader()
	fill(c, "a", 4*smallSegment)
	at := n.group.Applied()
	n.group.restart() // raft knows of no snapshot, and begins at 1
	c.save(n, at)
	err := n.group.Trim(at)
	if raft := n.group.instance().raft; Index(raft.AppliedIndex()) < at && (err == nil || n.group.First() != 1) {
		t.Errorf("raft is at %d, and the log was trimmed to %d: %v", raft.AppliedIndex(), at, err)
	}
	c.await("the trimming", func() bool { return n.group.Trim(at) == nil })
	if n.group.First() == 1 {
		t.Error("nothing was trimmed")
	}
	c.publish("last")
	c.agree("last")
}

// The machine cannot be restored from what came: the log begins after it now,
// so the process must end, and cannot start.
func TestMachineRefusesASnapshot(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 3, "n1", "n2")
	c.compact("a")
	n := c.nodes["n3"]
	refuse := true
	c.change = func(cfg *Config) {
		cfg.SegmentBytes = smallSegment
		if refuse {
			cfg.Machine.(*machine).refuses = errors.New("unknown version")
		}
	}
	c.open("n3")
	c.await("Fatal to be told", func() bool { return len(c.fatals()) > 0 })
	if err := c.fatals()[0]; !strings.Contains(err.Error(), "unknown version") {
		t.Errorf("it was told %v", err)
	}
	c.kill("n3")
	c.forgive()
	stable, err := OpenStable(n.dir + "-stable.db")
	if err != nil {
		t.Fatal(err)
	}
	if g, err := Open(c.config(n, stable)); err == nil || !strings.Contains(err.Error(), "unknown version") {
		t.Errorf("it opened with %v", err)
		if err == nil {
			g.Close()
		}
	}
	stable.Close()
	refuse = false
	n.machine = nil
	c.open("n3")
	c.publish("last")
	c.agree("last")
}

// Raft's start reads every entry after the snapshot.
func BenchmarkStart(b *testing.B) {
	const count = 1 << 20
	s := benchStore(b, count)
	for b.Loop() {
		s.ahead.forget()
		for i := uint64(1); i <= count; i++ {
			var l raft.Log
			if err := s.GetLog(i, &l); err != nil || l.Index != i {
				b.Fatal(i, l.Index, err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/entry")
}

func benchStore(b *testing.B, count uint64) *logStore {
	b.Helper()
	s, err := openLogStore(segment.Options{Dir: filepath.Join(b.TempDir(), "log"), Group: 7}, 0, func(err error) { b.Error(err) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close(false) })
	for i := uint64(1); i <= count; i += 1024 {
		if err := s.StoreLogs(entries(i, i+1023, 1, 256)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}
