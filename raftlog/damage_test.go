package raftlog

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// segmentsOf returns the node's segments, oldest first.
func segmentsOf(t *testing.T, n *node) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(n.dir, logDir, "*.seg"))
	if err != nil || len(names) < 3 {
		t.Fatalf("%s has segments %q, %v; the test needs three", n.name, names, err)
	}
	slices.Sort(names)
	return names
}

// rot changes a bit in the first record of a segment.
func rot(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], 4096+60); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], 4096+60); err != nil {
		t.Fatal(err)
	}
}

// Raft reads the log when it starts, and panics when it cannot. That must stay an
// error of the one replica.
func TestDamageFoundByTheStart(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 1)
	n := c.leader()
	fill(c, "a", 3*smallSegment)
	c.kill("n1")
	rot(t, segmentsOf(t, n)[1])
	n.machine = &machine{events: c.events}
	stable := openTestStable(t, n.dir+"-stable.db")
	group, err := Open(c.config(n, stable))
	if err == nil {
		group.Close()
		t.Fatal("it started")
	}
	var damage *DamageError
	if !errors.As(err, &damage) || !strings.HasSuffix(damage.Path, ".seg") {
		t.Errorf("it failed with %v", err)
	}
}

// A replica that finds its log damaged while it runs stops by itself, and the
// others go on.
func TestDamageFoundWhileRunning(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 3)
	c.change = func(cfg *Config) { cfg.SegmentBytes, cfg.RingBytes = smallSegment, 1 }
	t.Cleanup(c.end)
	for _, name := range c.names {
		c.open(name)
	}
	fill(c, "a", 3*smallSegment)
	c.publish("before")
	c.agree("before")
	n := c.leader()
	rot(t, segmentsOf(t, n)[0])
	if _, _, err := n.group.Read(1, 1<<20); err == nil {
		t.Error("the damaged entry was read")
	}
	c.await("the fence", func() bool { return n.group.Status().Fenced != "" })
	c.await("another leader", func() bool {
		return slices.ContainsFunc(c.others(n), func(o *node) bool { return o.group.Leading() })
	})
}

// A log that has lost its first segments begins where no trim has left it.
func TestFirstSegmentsLost(t *testing.T) {
	for _, tt := range []struct {
		name     string
		kept     []Index
		boundary uint64
		lost     bool
	}{
		{"no snapshot", nil, 0, false},
		{"trimmed to the oldest", []Index{10, 20}, 10, false},
		{"trimmed within a segment", []Index{10, 20}, 7, false},
		{"installed, the older not removed yet", []Index{10, 20}, 20, false},
		{"the front is gone", []Index{10, 20}, 15, true},
	} {
		if err := frontLost(tt.kept, "dir", tt.boundary); (err != nil) != tt.lost {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
