package node

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/roomlog/roomlog/transport/peer"
)

// keptMarks is how many of a replica's marks are compared with the others'. A
// replica that lags by more is compared again when it has caught up.
const keptMarks = 64

// maxFindings bounds what waits to be logged and acted upon; findings beyond it
// are counted and shown, not logged.
const maxFindings = 1024

// marks compares this node's replicas with those of the others by their rolling
// hashes at the same indexes. What it is told it keeps and compares at once,
// under its mutex: it never blocks. watch acts upon what was found.
type marks struct {
	node       string
	voters     []string
	mismatches prometheus.Counter
	found      chan struct{} // one token: there are findings

	mu       sync.Mutex
	replicas map[int]map[string]*markRing // by partition and node, this one's too
	differ   map[int]map[string]bool      // by partition: nodes whose last hash compared is another
	findings []finding
}

// finding is a mark of this node that others contradict.
type finding struct {
	partition int
	index     uint64
	nodes     []string // newly found to differ there
	fence     string   // why this node's replica is to be fenced; "" if it is not
}

func newMarks(node string, voters ...string) *marks {
	return &marks{
		node: node, voters: voters,
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "roomlog", Name: "hash_mismatches_total",
			Help: "Marks of other nodes' replicas that differ from this node's at the same index.",
		}),
		found:    make(chan struct{}, 1),
		replicas: map[int]map[string]*markRing{},
		differ:   map[int]map[string]bool{},
	}
}

// add takes a mark of a node's replica, this node's or another's.
func (m *marks) add(node string, partition int, index, hash uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rings := m.replicas[partition]
	if rings == nil {
		rings = map[string]*markRing{}
		m.replicas[partition] = rings
	}
	ring := rings[node]
	if ring == nil {
		ring = &markRing{}
		rings[node] = ring
	}
	if ring.put(index, hash) {
		m.compare(partition, node, index)
	}
}

// compare holds own against the others' hashes at index, where node's has just
// come.
func (m *marks) compare(partition int, node string, index uint64) {
	rings := m.replicas[partition]
	own, ok := rings[m.node].at(index)
	if !ok {
		return
	}
	others := map[string]uint64{}
	for name, ring := range rings {
		if hash, ok := ring.at(index); ok && name != m.node {
			others[name] = hash
		}
	}
	differing, outvoted := judge(own, others, func(name string) bool { return slices.Contains(m.voters, name) }, len(m.voters))
	fresh := m.note(partition, node, others, differing)
	if len(fresh) == 0 && !outvoted {
		return
	}
	m.mismatches.Add(float64(len(fresh)))
	f := finding{partition: partition, index: index, nodes: fresh}
	if outvoted {
		f.fence = fmt.Sprintf("its hash at index %d is %016x, and %s", index, own, describe(differing, others))
	}
	if len(m.findings) < maxFindings {
		m.findings = append(m.findings, f)
	}
	select {
	case m.found <- struct{}{}:
	default:
	}
}

// note remembers whose hash, of those that can be compared only now, differs, and
// returns them: all of them if own has come, else the one that has.
func (m *marks) note(partition int, node string, others map[string]uint64, differing []string) (fresh []string) {
	known := m.differ[partition]
	if known == nil {
		known = map[string]bool{}
		m.differ[partition] = known
	}
	for name := range others {
		if node == m.node || node == name {
			delete(known, name)
		}
	}
	for _, name := range differing {
		if node == m.node || node == name {
			known[name] = true
			fresh = append(fresh, name)
		}
	}
	return fresh
}

// judge compares own hash at some index with those that are known of others:
// whose differ, by name, and whether a majority of all voters agree on another
// hash.
func judge(own uint64, others map[string]uint64, votes func(node string) bool, voters int) (differing []string, outvoted bool) {
	against := map[uint64]int{}
	for _, node := range slices.Sorted(maps.Keys(others)) {
		hash := others[node]
		if hash == own {
			continue
		}
		differing = append(differing, node)
		if votes(node) {
			against[hash]++
		}
		outvoted = outvoted || against[hash] > voters/2
	}
	return differing, outvoted
}

func describe(nodes []string, hashes map[string]uint64) string {
	text := ""
	for i, node := range nodes {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s has %016x", node, hashes[node])
	}
	return text
}

// diverged returns the nodes whose replica of a partition differs from this one's.
func (m *marks) diverged(partition int) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.differ[partition]))
}

// take returns the findings there are.
func (m *marks) take() []finding {
	m.mu.Lock()
	defer m.mu.Unlock()
	findings := m.findings
	m.findings = nil
	return findings
}

// markRing keeps the newest marks of one replica.
type markRing struct {
	marks [keptMarks]struct{ index, hash uint64 }
	next  int
}

// put keeps a mark and tells whether it says anything new. A replica that was
// rebuilt tells another hash for an index than before: the new one counts.
func (r *markRing) put(index, hash uint64) bool {
	for i := range r.marks {
		if at := &r.marks[i]; at.index == index && index != 0 {
			changed := at.hash != hash
			at.hash = hash
			return changed
		}
	}
	r.marks[r.next].index, r.marks[r.next].hash = index, hash
	r.next = (r.next + 1) % keptMarks
	return true
}

// at finds the hash at index; a nil ring has none.
func (r *markRing) at(index uint64) (hash uint64, ok bool) {
	if r == nil {
		return 0, false
	}
	for i := range r.marks {
		if r.marks[i].index == index && index != 0 {
			return r.marks[i].hash, true
		}
	}
	return 0, false
}

// marked takes a mark of one of this node's replicas and tells the others. It
// does not block: the replica waits for it.
func (n *Node) marked(partition int, index, hash uint64) {
	if n.cfg.MarkHash != nil {
		hash = n.cfg.MarkHash(partition, index, hash)
	}
	n.marks.add(n.cfg.Name, partition, index, hash)
	n.network.SendMark(peer.Mark{Group: uint32(partition), Index: index, Hash: hash})
}

// watchMarks logs what the comparison finds, and fences a replica that a
// majority contradicts.
func (n *Node) watchMarks() {
	for {
		select {
		case <-n.marks.found:
		case <-n.ctx.Done():
			return
		}
		for _, f := range n.marks.take() {
			if len(f.nodes) > 0 {
				n.log.Error("replicas differ", "partition", f.partition, "index", f.index, "nodes", f.nodes)
			}
			if f.fence != "" {
				n.fence(f.partition, f.fence)
			}
		}
	}
}

// fence stops this node's replica of a partition for good.
func (n *Node) fence(partition int, why string) {
	g := n.partitions[partition].Group()
	if g.Status().Fenced != "" {
		return
	}
	n.log.Error("a majority contradicts this node's replica: it stops", "partition", partition, "why", why,
		"remedy", fmt.Sprintf("start this node with --rebuild %d", partition))
	if err := g.Fence(why); err != nil {
		n.fail(fmt.Errorf("partition %d is to be fenced (%s): %w", partition, why, err))
	}
}
