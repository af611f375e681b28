package clustertest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/internal/verify"
)

// dataCluster is a cluster whose nodes keep little, in small files: soon there
// are sealed, dropped and recycled segments, snapshots and room indexes.
type dataCluster struct {
	*Cluster
	pub   *Publisher
	rooms []string
	last  map[string]node.Config // as a node was opened last
}

func startData(t *testing.T, edit func(*node.Config)) *dataCluster {
	t.Helper()
	d := &dataCluster{last: map[string]node.Config{}, rooms: []string{"lobby", "match/1", "match/2", "café"}}
	d.Cluster = Start(t, 3, 1, func(cfg *node.Config) {
		cfg.SegmentBytes, cfg.Retention = 64<<10, node.Retention{Messages: 1600}
		if edit != nil {
			edit(cfg)
		}
		d.last[cfg.Name] = *cfg
	})
	d.pub = &Publisher{Name: "p", Client: d.Client("p", "n1", "n2"), History: &d.History}
	return d
}

func (d *dataCluster) dataDir(name string) string { return filepath.Join(d.dir, name) }

// publish publishes so many messages to each room.
func (d *dataCluster) publish(n int) {
	d.tb.Helper()
	for range n {
		for _, room := range d.rooms {
			d.must(d.pub.Send(room, 100))
		}
	}
	d.must(d.pub.Wait())
}

// checkpoint publishes until the nodes have a snapshot that is newer than what was
// published before.
func (d *dataCluster) checkpoint(nodes ...string) {
	d.tb.Helper()
	d.publish(130)
	index := d.Node(nodes[0]).Partitions()[0].Applied
	d.Until("a checkpoint", func() bool {
		for _, name := range nodes {
			if d.Node(name).Partitions()[0].Snapshot < index {
				d.publish(1)
				return false
			}
		}
		return true
	})
}

// A replica that was given the floor's snapshot makes the same snapshots as the
// others from then on, and so do all after a restart.
func TestVerifyAgainst(t *testing.T) {
	t.Parallel()
	d := startData(t, nil)
	all := []string{"n1", "n2", "n3"}
	d.checkpoint(all...)
	missing := d.Node("n3").Partitions()[0].Last + 1
	d.Stop("n3")
	for d.Node("n1").Partitions()[0].First <= missing || d.Node("n2").Partitions()[0].First <= missing {
		d.checkpoint("n1", "n2")
	}
	d.Run("n3")
	d.WaitReady()
	d.checkReplicas()
	for _, name := range all {
		d.Stop(name)
	}
	for _, other := range []string{"n2", "n3"} {
		here, there, c, err := verify.RunAgainst(t.Context(), verify.Options{Dir: d.dataDir("n1"), Against: d.dataDir(other)})
		if err != nil {
			t.Fatal(err)
		}
		if here.Fault != nil || there.Fault != nil {
			t.Fatalf("faults: %v, %v", here.Fault, there.Fault)
		}
		if c.Difference != nil {
			t.Errorf("n1 and %s: %v", other, c.Difference)
		}
		if c.Snapshots == 0 || c.Entries < 10 {
			t.Errorf("only %d snapshots and %d entries were compared", c.Snapshots, c.Entries)
		}
	}
}

// What kill -9 leaves in the middle of the load, with segments being sealed,
// dropped and used again, is no fault; nor do the nodes differ.
func TestProcessesVerifyAfterKill(t *testing.T) {
	t.Parallel()
	p := startProcesses(t, devcluster.Options{Nodes: 3, Partitions: 2, Settings: map[string]string{
		"segment-bytes": "1MiB", "retention-messages": "1600",
	}})
	rooms := []string{"lobby", "match/1", "match/2", "café"}
	pub := p.Publisher("p")
	dir := func(name string) string { n, _ := p.Layout().Node(name); return n.Dir }
	var snapshots, torn int
	for round := range envInt(t, "ROOMLOG_KILL_ROUNDS", 3) {
		pub.Stream(time.Millisecond/2, rooms...)
		p.Flows(pub, 1000+137*round)
		p.must(p.Kill("n3"))
		<-p.Ended("n3")
		pub.Halt()
		p.must(pub.Wait())
		r, err := verify.Run(t.Context(), verify.Options{Dir: dir("n3")})
		p.must(err)
		if r.Fault != nil {
			t.Fatalf("after %d kills: %v", round+1, r.Fault)
		}
		for _, part := range r.Partitions {
			snapshots += part.Snapshots
			if part.Torn > 0 {
				torn++
			}
			if part.Clean || part.Entries == 0 {
				t.Errorf("after a kill: %+v", part)
			}
		}
		if _, err := verify.Run(t.Context(), verify.Options{Dir: dir("n1")}); err == nil || !strings.Contains(err.Error(), "in use by process") {
			t.Errorf("a running node is verified: %v", err)
		}
		p.must(p.Start("n3"))
		p.Ready("n3")
	}
	if snapshots == 0 {
		t.Error("no snapshot was verified")
	}
	p.CheckReplicas()
	for _, name := range []string{"n1", "n2", "n3"} {
		p.must(p.Kill(name))
		<-p.Ended(name)
	}
	here, there, c, err := verify.RunAgainst(t.Context(), verify.Options{Dir: dir("n3"), Against: dir("n1")})
	p.must(err)
	if here.Fault != nil || there.Fault != nil || c.Difference != nil {
		t.Errorf("%v, %v, %v", here.Fault, there.Fault, c.Difference)
	}
	t.Logf("%d snapshots, %d torn writes, %d entries compared", snapshots, torn, c.Entries)
}

// Three nodes that are all told to rebuild everything, by mistake and at once,
// find no one to rebuild from and remove nothing.
func TestRebuildAllAtOnceRemovesNothing(t *testing.T) {
	t.Parallel()
	d := startData(t, nil)
	d.publish(50)
	names := d.Names()
	for _, name := range names {
		d.Stop(name)
	}
	before := d.contents()
	var wg sync.WaitGroup
	var nodes [3]*node.Node
	var errs [3]error
	for i, name := range names {
		cfg := d.last[name]
		cfg.Rebuild = []int{0}
		wg.Go(func() { nodes[i], errs[i] = node.Open(cfg) })
	}
	wg.Wait()
	for i, err := range errs {
		if err == nil {
			nodes[i].Close()
		}
		if err == nil || !strings.Contains(err.Error(), "nothing was removed") {
			t.Errorf("%s: %v", names[i], err)
		}
	}
	if after := d.contents(); !maps.Equal(before, after) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
	for _, name := range names {
		d.Run(name)
	}
	d.WaitReady()
	for _, room := range d.rooms {
		if last := d.CheckRoom(room); last != 50 {
			t.Errorf("room %s has %d messages of 50", room, last)
		}
	}
}

// contents has a sum of each file of the cluster but for the locks.
func (d *dataCluster) contents() map[string]string {
	d.tb.Helper()
	all := map[string]string{}
	d.must(filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "LOCK" {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	}))
	return all
}
