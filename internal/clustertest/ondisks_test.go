//go:build linux

package clustertest

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/faultfs"
)

// onDisks is a cluster of processes each of which has its data on a file system
// of its own that can lose power.
type onDisks struct {
	*Processes
	disks []*faultfs.FS // in the order of the nodes
	rooms []string
	rng   *rand.Rand

	mu    sync.Mutex
	exits map[string]devcluster.Exit // by node, of its last process that has ended
}

// startOnDisks runs three processes, which end, with their disks, when the test
// does. If the test fails and ROOMLOG_DISKS_KEEP names a directory, what the disks
// hold then and the nodes' logs go there. ROOMLOG_DISKS_SEED repeats the choices
// of rng, though not the moments at which they are made.
func startOnDisks(t *testing.T, partitions int, opts faultfs.Options, settings map[string]string) *onDisks {
	t.Helper()
	layout, err := devcluster.Prepare(devcluster.Options{
		Dir: t.TempDir(), Nodes: 3, Partitions: partitions, BasePort: devcluster.FreePorts,
		Data: "data", Settings: settings,
	})
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(envInt(t, "ROOMLOG_DISKS_SEED", rand.Int()))
	t.Logf("ROOMLOG_DISKS_SEED=%d", seed)
	d := &onDisks{
		rooms: []string{"lobby", "match/1", "match/2", "café"}, rng: rand.New(rand.NewPCG(seed, 0)),
		exits: map[string]devcluster.Exit{},
	}
	d.Processes = &Processes{Cluster: devcluster.New(devcluster.Config{Layout: layout, Binary: Binary(t), OnExit: d.exited}), tb: t}
	for _, n := range layout.Nodes {
		d.disks = append(d.disks, faultfs.Start(t, n.Data, opts))
	}
	t.Cleanup(d.stop) // before the disks go
	d.must(d.StartAll())
	d.Ready()
	return d
}

func (d *onDisks) exited(e devcluster.Exit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.exits[e.Node] = e
}

// exit tells how the last process of a node that has ended did so.
func (d *onDisks) exit(node string) devcluster.Exit {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.exits[node]
}

// node finds a node of the layout.
func (d *onDisks) node(name string) devcluster.Node {
	n, _ := d.Layout().Node(name)
	return n
}

// logText is what a node has printed so far, in all its lives.
func (d *onDisks) logText(node string) string {
	d.tb.Helper()
	text, err := os.ReadFile(d.node(node).Log)
	d.must(err)
	return string(text)
}

func (d *onDisks) stop() {
	keep := os.Getenv("ROOMLOG_DISKS_KEEP")
	if d.tb.Failed() && keep != "" {
		d.kill()
		for i, n := range d.Layout().Nodes {
			err := os.CopyFS(filepath.Join(keep, n.Name, "data"), os.DirFS(d.disks[i].Dir()))
			text, logErr := os.ReadFile(n.Log)
			if err := errors.Join(err, logErr, os.WriteFile(filepath.Join(keep, n.Name, "log"), text, 0o600)); err != nil {
				d.tb.Errorf("keep %s: %v", n.Name, err)
			}
		}
	}
	faultfs.Cut(d.disks...) // lets go what a disk holds up
	if err := d.Close(); err != nil {
		d.tb.Error(err)
	}
}

// kill kills the processes that run and returns when they are gone.
func (d *onDisks) kill() {
	for _, n := range d.Layout().Nodes {
		_ = d.Kill(n.Name) // it may have ended by itself: its disk has failed
	}
	for _, n := range d.Layout().Nodes {
		<-d.Ended(n.Name)
	}
}

func envInt(tb testing.TB, name string, def int) int {
	tb.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return n
}

// powerCut cuts the power of all disks at one instant, kills the processes and
// brings the disks back; each node's gets a part of its own of what was not synced.
func (d *onDisks) powerCut(chance float64) {
	d.tb.Helper()
	faultfs.Cut(d.disks...)
	d.kill()
	for _, disk := range d.disks {
		s := faultfs.Survivors{Seed: d.rng.Uint64(), Chance: chance, Sector: []int64{512, 4096}[d.rng.IntN(2)]}
		d.must(disk.Restore(s))
	}
}
