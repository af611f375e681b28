package raftlog

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metrics"
	"github.com/hashicorp/raft-wal/verifier"
)

// reports takes what the verifiers of all nodes found.
type reports struct {
	mu      sync.Mutex
	stores  []*verifier.LogStore
	all     map[string][]verifier.VerificationReport
	written map[string]int // how many ranges were summed while they were written
}

func (r *reports) wrap(c *cluster, node string) func(raft.LogStore) raft.LogStore {
	isCheckpoint := func(l *raft.Log) (bool, error) {
		return l.Type == raft.LogCommand && strings.HasPrefix(string(l.Data), "checkpoint"), nil
	}
	report := func(found verifier.VerificationReport) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all[node] = append(r.all[node], found)
		if found.WrittenSum != 0 {
			r.written[node]++
		}
		c.events.happened()
	}
	return func(log raft.LogStore) raft.LogStore {
		v := verifier.NewLogStore(log, isCheckpoint, report, &metrics.NoOpCollector{})
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stores = append(r.stores, v)
		return v
	}
}

func (r *reports) covers(node string, index Index) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, found := range r.all[node] {
		if found.Range.End >= uint64(index) {
			return true
		}
	}
	return false
}

// raft-wal's verifier sums entries before they are written and after they are
// read again, on every node, and compares with the leader's sums.
func TestLogIsWhatTheLeaderWrote(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 3)
	r := &reports{all: map[string][]verifier.VerificationReport{}, written: map[string]int{}}
	c.ringBytes = 1 // all is read from disk
	c.change = func(cfg *Config) {
		cfg.SegmentBytes = smallSegment
		cfg.wrapLog = r.wrap(c, cfg.Node)
	}
	t.Cleanup(func() {
		c.end()
		for _, v := range r.stores {
			v.Close()
		}
	})
	for _, name := range c.names {
		c.open(name)
	}
	checkpoints := func(rounds int, name string) {
		t.Helper()
		for i := range rounds {
			fill(c, fmt.Sprintf("%s%d-", name, i), smallSegment/2)
			mark := fmt.Sprintf("checkpoint %s %d", name, i)
			c.publish(mark)
			for _, n := range c.alive() {
				c.await("the mark at "+n.name, func() bool { return n.machine.has(mark) })
				at := n.group.Applied()
				c.await("the report of "+n.name, func() bool { return r.covers(n.name, at) })
			}
		}
	}
	c.handTo("n1")
	checkpoints(3, "a")
	c.handTo("n2")
	checkpoints(3, "b")
	c.kill("n3")
	checkpoints(1, "c")
	c.open("n3")
	checkpoints(3, "d")

	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range c.names {
		good := 0
		for _, found := range r.all[name] {
			switch {
			case found.Err == nil && found.ReadSum == found.ExpectedSum:
				good++
			case !errors.Is(found.Err, verifier.ErrRangeMismatch):
				t.Errorf("%s: range %v: %v", name, found.Range, found.Err)
			}
		}
		if good < 6 || r.written[name] < 4 {
			t.Errorf("%s: %d good reports, %d of what was written, of %d", name, good, r.written[name], len(r.all[name]))
		}
	}
}
