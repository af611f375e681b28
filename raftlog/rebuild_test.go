package raftlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

// rebuilds is a cluster whose nodes can be rebuilt.
type rebuilds struct {
	*cluster

	mu     sync.Mutex
	live   map[string]*Group
	asked  map[string]int // answers given, by who gave them
	change map[string]func(*Config)
	more   Index            // added to what a leader says of its log
	deaf   map[string]Index // nodes whose disk takes no batch with an entry beyond this
}

func newRebuilds(t *testing.T) *rebuilds {
	r := &rebuilds{
		cluster: makeCluster(t, t.TempDir(), 3),
		live:    map[string]*Group{}, asked: map[string]int{}, change: map[string]func(*Config){}, deaf: map[string]Index{},
	}
	r.heartbeat = 100 * time.Millisecond
	r.cluster.change = r.configure
	t.Cleanup(r.end)
	for _, name := range r.names {
		r.start(name)
	}
	r.leader()
	return r
}

func (r *rebuilds) configure(cfg *Config) {
	self := cfg.Node
	cfg.Ask = func(ctx context.Context, node string) (PeerState, error) { return r.ask(self, node) }
	wrap := cfg.wrapLog
	cfg.wrapLog = func(log raft.LogStore) raft.LogStore { return deafLog{wrap(log), r, self} }
	if change := r.change[self]; change != nil {
		change(cfg)
	}
}

func (r *rebuilds) ask(self, node string) (PeerState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.events.happened()
	if g := r.live[node]; g != nil && (links{r.net, self}).Up(node) && (links{r.net, node}).Up(self) {
		state, err := g.PeerState()
		if err == nil {
			r.asked[node]++
			state.Last += r.more
		}
		return state, err
	}
	return PeerState{}, errCut
}

// deafLog is a log that refuses what its node is deaf to.
type deafLog struct {
	raft.LogStore
	r    *rebuilds
	self string
}

func (l deafLog) StoreLogs(logs []*raft.Log) error {
	l.r.mu.Lock()
	limit, deaf := l.r.deaf[l.self]
	l.r.mu.Unlock()
	if deaf && Index(logs[len(logs)-1].Index) > limit {
		return ErrNoSpace
	}
	return l.LogStore.StoreLogs(logs)
}

func (r *rebuilds) setDeaf(name string, limit Index) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf[name] = limit
}

func (r *rebuilds) setHearing(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		delete(r.deaf, name)
	}
}

func (r *rebuilds) answers(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[name]
}

func (r *rebuilds) start(name string) *node {
	n := r.open(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[name] = n.group
	return n
}

func (r *rebuilds) stop(name string) {
	r.mu.Lock()
	delete(r.live, name)
	r.mu.Unlock()
	r.kill(name)
}

// rebuild starts a node that is to be rebuilt.
func (r *rebuilds) rebuild(name string) *node {
	r.change[name] = func(cfg *Config) { cfg.Rebuild = true }
	defer delete(r.change, name)
	return r.start(name)
}

func (r *rebuilds) awaitRebuilt(n *node) {
	r.t.Helper()
	r.await(n.name+" to be rebuilt", func() bool { return !n.group.Status().Rebuilding })
	if _, err := os.Stat(filepath.Join(n.dir, rebuildFile)); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("%s has a marker still: %v", n.name, err)
	}
}

// nobodyLeads fails if one of the nodes comes to lead within some election times.
func (r *rebuilds) nobodyLeads(names ...string) {
	r.t.Helper()
	r.events.until(15*r.heartbeat, func() bool {
		for _, name := range names {
			if r.nodes[name].group.Leading() {
				r.t.Fatalf("%s leads", name)
			}
		}
		return false
	})
}

func marked(n *node) marker {
	r := &rebuild{cfg: &Config{ID: 7, FS: vfs.OS}, path: filepath.Join(n.dir, rebuildFile)}
	r.readMarker()
	return r.marker
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	r := newRebuilds(t)
	for i := range 100 {
		r.publish(fmt.Sprint(i))
	}
	r.handTo("n1")
	r.stop("n2")
	n2 := r.nodes["n2"]
	for name, content := range map[string]string{"log/00000000000000000001.seg": "damaged", "snapshots/1.snap": "x", "rooms/1.rooms": "x", fenceFile: "diverged"} {
		path := filepath.Join(n2.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r.rebuild("n2")
	r.awaitRebuilt(n2)
	r.publish("after")
	r.agree("after")
	if _, err := os.Stat(filepath.Join(n2.dir, "rooms/1.rooms")); err == nil {
		t.Error("the folder of rooms is not wiped")
	}

	// It votes: the two that are left elect.
	r.stop("n1")
	r.publish("without n1")
	r.stop("n2")
	r.start("n1")
	r.start("n2")
	r.publish("all")
	r.agree("all")
	r.sameLogs()
}

// n1 and n2 have an entry that was acknowledged, n3 lacks it, n2 loses it. While
// n1 is away n2 and n3 must not go on.
func TestRebuildWaitsForAll(t *testing.T) {
	t.Parallel()
	r := newRebuilds(t)
	r.publish("before")
	r.handTo("n1")
	r.agree("before")
	r.isolate("n3")
	r.publish("acked")
	r.await("it at n2", func() bool { return r.nodes["n2"].machine.has("acked") })
	r.stop("n2")
	r.net.set(func() {
		clear(r.net.cut)
		for _, other := range []string{"n2", "n3"} {
			r.net.cut[[2]string{"n1", other}], r.net.cut[[2]string{other, "n1"}] = true, true
		}
	})
	n2 := r.rebuild("n2")
	r.await("answers of n3", func() bool { return r.answers("n3") > 2 })
	r.nobodyLeads("n2", "n3")
	if st := n2.group.Status(); !st.Rebuilding || st.Leader != "" || n2.group.instance() != nil {
		t.Errorf("n2 did not wait: %+v", st)
	}
	if _, err := n2.group.Propose([]byte("x")).Wait(soon(t)); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a proposal to it is answered %v", err)
	}
	n2.group.restart()
	if n2.group.instance() != nil {
		t.Error("raft was started while n2 waits")
	}
	r.heal()
	r.awaitRebuilt(n2)
	r.publish("after")
	if got := r.agree("after"); strings.Join(got, " ") != "before acked after" {
		t.Errorf("the log holds %q", got)
	}
}

// All have answered, but what n2 lost it does not have yet when n1 goes away: n2
// must neither elect n3, which lacks it too, nor be elected by it.
func TestRebuildTakesNoPartInElections(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		holds Index // n2 gets no further than this
	}{
		{name: "with an empty log"},
		{name: "with a longer log than the other", holds: 70},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRebuilds(t)
			r.publish("before")
			r.agree("before")
			r.handTo("n1")
			r.setDeaf("n3", 0)
			for i := range 100 {
				r.publish(fmt.Sprint(i))
			}
			r.publish("acked")
			r.stop("n2")
			r.setDeaf("n2", tt.holds)
			n2 := r.rebuild("n2")
			r.await("n2 to catch up", func() bool {
				st := n2.group.Status()
				return st.Leader == "n1" && st.Last >= tt.holds/2 && marked(n2).Phase == phaseCatchingUp
			})
			term := n2.group.Status().Term
			r.isolate("n1")
			r.nobodyLeads("n2", "n3")
			if st := n2.group.Status(); !st.Rebuilding || st.Term != term {
				t.Errorf("n2 is %+v, want it as it was, in term %d", st, term)
			}

			// Nor after a crash.
			r.stop("n2")
			r.start("n2")
			r.nobodyLeads("n2", "n3")

			r.setHearing("n2", "n3")
			r.heal()
			r.awaitRebuilt(n2)
			r.publish("after")
			if got := r.agree("after"); len(got) != 103 || got[101] != "acked" {
				t.Errorf("the log holds %q", got)
			}
			r.stop("n1")
			r.publish("votes again")
		})
	}
}

// While n2 catches up leadership moves on, and what the first leader said of its
// log is never reached: an entry of the next term is as good.
func TestRebuildUnderAnotherLeader(t *testing.T) {
	t.Parallel()
	r := newRebuilds(t)
	r.publish("before")
	r.handTo("n1")
	r.stop("n2")
	r.more = 1000
	n2 := r.rebuild("n2")
	r.publish("meanwhile")
	r.await("n2 to have it", func() bool { return n2.machine.has("meanwhile") })
	if m := marked(n2); m.Phase != phaseCatchingUp || m.Until < 1000 || !n2.group.Status().Rebuilding {
		t.Errorf("n2 does not wait: %+v", m)
	}
	r.handTo("n3")
	r.awaitRebuilt(n2)
	r.publish("after")
	r.agree("after")
}

// A crash at any of its steps, and the replica is what it was or is rebuilt.
func TestRebuildAfterACrash(t *testing.T) {
	t.Parallel()
	r := newRebuilds(t)
	r.heartbeat = 50 * time.Millisecond
	for step := 0; ; step++ {
		acked := fmt.Sprintf("acked before %d", step)
		r.publish(acked)
		r.stop("n2")
		crash := &crashFS{FS: vfs.OS, left: step}
		failed := r.rebuildUntil("n2", crash)
		if !failed {
			if step < 10 {
				t.Errorf("only %d steps", step)
			}
			break
		}
		n2 := r.nodes["n2"]
		names, err := os.ReadDir(filepath.Join(n2.dir, logDir))
		if held, _ := VerifyStable(n2.dir + "-stable.db"); marked(n2).Phase == "" && (err != nil || len(names) == 0 || len(held) == 0) {
			t.Fatalf("step %d leaves no marker and not all of the replica", step)
		}
		r.start("n2")
		r.awaitRebuilt(n2)
		r.await("the entry at n2, "+acked, func() bool { return n2.machine.has(acked) })
	}
	r.publish("after")
	r.agree("after")
	r.sameLogs()
}

// rebuildUntil rebuilds a node until its file system fails, which ends its
// process, or it is rebuilt.
func (r *rebuilds) rebuildUntil(name string, crash *crashFS) (failed bool) {
	n := r.nodes[name]
	r.change[name] = func(cfg *Config) { cfg.Rebuild, cfg.FS = true, crash }
	defer delete(r.change, name)
	n.machine = &machine{events: r.events}
	r.net.set(func() { r.net.up[name] = true })
	stable, err := OpenStable(n.dir + "-stable.db")
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	n.stable = stable
	if n.group, err = Open(r.config(n, stable)); err != nil {
		n.group = nil
		if !errors.Is(err, errCrash) {
			r.t.Fatalf("%v", err)
		}
		r.net.set(func() { r.net.up[name] = false })
		if err := stable.Close(); err != nil {
			r.t.Errorf("%v", err)
		}
		return true
	}
	r.await("a crash or the end", func() bool { return len(r.fatals()) > 0 || !n.group.Status().Rebuilding })
	crash.mend() // to close what is open
	for _, err := range r.fatals() {
		failed = true
		if !errors.Is(err, errCrash) {
			r.t.Errorf("Fatal was told: %v", err)
		}
	}
	if failed {
		r.stop(name)
		r.forgive()
	}
	return failed
}

var errCrash = errors.New("crash")

// crashFS fails from some step on for good, a step being a change of names.
type crashFS struct {
	vfs.FS
	mu   sync.Mutex
	left int
	dead bool
}

func (c *crashFS) step() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left < 0 || c.dead {
		c.dead = true
		return errCrash
	}
	return nil
}

func (c *crashFS) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.dead = 1<<30, false
}

func (c *crashFS) Create(name string) (vfs.File, error) {
	if strings.Contains(name, rebuildFile) {
		if err := c.step(); err != nil {
			return nil, err
		}
	}
	return c.FS.Create(name)
}

func (c *crashFS) Rename(from, to string) error {
	return c.stepped(func() error { return c.FS.Rename(from, to) })
}

func (c *crashFS) Remove(name string) error {
	if _, err := os.Stat(name); err != nil {
		return c.FS.Remove(name)
	}
	return c.stepped(func() error { return c.FS.Remove(name) })
}

func (c *crashFS) SyncDir(dir string) error {
	return c.stepped(func() error { return c.FS.SyncDir(dir) })
}

func (c *crashFS) stepped(f func() error) error {
	if err := c.step(); err != nil {
		return err
	}
	return f()
}

func TestAgreement(t *testing.T) {
	others := []string{"b", "c"}
	for _, tt := range []struct {
		name    string
		answers map[string]PeerState
		want    target
		problem string
	}{
		{name: "none", problem: "b does not answer"},
		{name: "one is missing", answers: map[string]PeerState{"b": {"b", 3, 9}}, problem: "c does not answer"},
		{name: "one knows no leader", answers: map[string]PeerState{"b": {"b", 3, 9}, "c": {"", 3, 9}}, problem: "c knows no leader"},
		{name: "two leaders", answers: map[string]PeerState{"b": {"b", 3, 9}, "c": {"c", 3, 9}}, problem: "b and c do not follow one leader in one term"},
		{name: "one leader in two terms", answers: map[string]PeerState{"b": {"b", 3, 9}, "c": {"b", 4, 9}}, problem: "b and c do not follow one leader in one term"},
		{name: "the replica itself", answers: map[string]PeerState{"b": {"a", 3, 9}, "c": {"a", 3, 9}}, problem: "a leads for the others, and is none of them"},
		{name: "an empty leader", answers: map[string]PeerState{"b": {"b", 3, 0}, "c": {"b", 3, 9}}, problem: "the leader b has an empty log"},
		{name: "agreed", answers: map[string]PeerState{"b": {"c", 3, 12}, "c": {"c", 3, 9}}, want: target{"c", 3, 9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, problem := agreement(others, tt.answers); got != tt.want || problem != tt.problem {
				t.Errorf("agreement = %+v, %q, want %+v, %q", got, problem, tt.want, tt.problem)
			}
		})
	}
}

func testRebuildConfig(t *testing.T) *Config {
	dir := t.TempDir()
	return &Config{
		ID: 7, Node: "a", Voters: []string{"a", "b", "c"}, Dir: filepath.Join(dir, "p"), FS: vfs.OS, Rebuild: true,
		Stable: openTestStable(t, filepath.Join(dir, "stable.db")),
		Ask:    func(context.Context, string) (PeerState, error) { return PeerState{}, errCut },
	}
}

// The replica promises what the others agree on, and never less than it is known
// to have promised, however often it crashes before.
func TestRebuildPromises(t *testing.T) {
	for _, tt := range []struct {
		name       string
		lost, term Term
		wantTerm   Term
		wantVote   string
	}{
		{name: "nothing is known", term: 5, wantTerm: 5, wantVote: "b"},
		{name: "an earlier term is lost", lost: 4, term: 5, wantTerm: 5, wantVote: "b"},
		{name: "the same term is lost", lost: 5, term: 5, wantTerm: 5, wantVote: "b"},
		{name: "a later term is lost", lost: 9, term: 5, wantTerm: 9, wantVote: "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testRebuildConfig(t)
			stable := cfg.Stable.group(7)
			if tt.lost > 0 {
				if err := errors.Join(stable.SetUint64(keyTerm, uint64(tt.lost)), stable.SetUint64([]byte("other"), 1)); err != nil {
					t.Fatal(err)
				}
			}
			var r *rebuild
			for range 3 { // crashes while it asks; asked to rebuild once more
				var err error
				if r, err = openRebuild(cfg); err != nil {
					t.Fatal(err)
				}
				if exists, err := stable.exists(); exists || err != nil {
					t.Errorf("term and vote are not wiped, %v", err)
				}
				if r.mayRun() || !r.under() {
					t.Error("raft may run")
				}
				cfg.Rebuild = !cfg.Rebuild
			}
			if err := r.promise(target{leader: "b", term: tt.term, last: 12}); err != nil {
				t.Fatal(err)
			}
			cfg.Rebuild = false
			r, err := openRebuild(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if !r.mayRun() || !r.under() || r.marker.Until != 12 || r.marker.Term != tt.wantTerm {
				t.Errorf("after a crash: %+v", r.marker)
			}
			term, err1 := stable.GetUint64(keyTerm)
			voteTerm, err2 := stable.GetUint64(keyVoteTerm)
			vote, err3 := stable.Get(keyVote)
			if err := errors.Join(err1, err2, err3); err != nil || Term(term) != tt.wantTerm || Term(voteTerm) != tt.wantTerm || string(vote) != tt.wantVote {
				t.Errorf("it promised term %d, voted for %q in %d, %v", term, vote, voteTerm, err)
			}
			if _, err := stable.Get([]byte("other")); err == nil {
				t.Error("more is kept")
			}

			// A term below the promise cannot be.
			if err := stable.replace(map[string][]byte{string(keyTerm): binary.BigEndian.AppendUint64(nil, uint64(tt.wantTerm-1))}); err != nil {
				t.Fatal(err)
			}
			var damage *DamageError
			if _, err := openRebuild(cfg); !errors.As(err, &damage) {
				t.Errorf("with an earlier term: %v", err)
			}
		})
	}
}

func TestRebuildIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"one voter":  func(cfg *Config) { cfg.Voters = cfg.Voters[:1] },
		"two voters": func(cfg *Config) { cfg.Voters = cfg.Voters[:2] },
		"no Ask":     func(cfg *Config) { cfg.Ask = nil },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testRebuildConfig(t)
			change(cfg)
			if err := cfg.Stable.group(7).SetUint64(keyTerm, 3); err != nil {
				t.Fatal(err)
			}
			if _, err := openRebuild(cfg); err == nil {
				t.Error("it begins")
			}
			if exists, _ := cfg.Stable.group(7).exists(); !exists {
				t.Error("its term is wiped")
			}
			if _, err := os.Stat(filepath.Join(cfg.Dir, rebuildFile)); err == nil {
				t.Error("there is a marker")
			}
		})
	}
}

func TestRebuildMarkerDamage(t *testing.T) {
	cfg := testRebuildConfig(t)
	r, err := openRebuild(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.promise(target{leader: "b", term: 5, last: 12}); err != nil {
		t.Fatal(err)
	}
	cfg.Rebuild = false
	data, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(r.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		data[bit/8] ^= 1 << (bit % 8)
		var damage *DamageError
		if _, err := openRebuild(cfg); !errors.As(err, &damage) || damage.Path != r.path {
			t.Errorf("with bit %d changed: %v", bit, err)
		}
	}
	if err := os.WriteFile(r.path, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Rebuild = true // once more is the way out
	if r, err := openRebuild(cfg); err != nil || r.mayRun() {
		t.Errorf("once more: %v", err)
	}
}
