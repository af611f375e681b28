package raftlog

import (
	"sync"

	"github.com/hashicorp/raft"
)

// entryOverhead is what an entry costs in memory beside its data: no-ops and
// barriers have none, and must be evicted too.
const entryOverhead = 128

// ring holds the newest entries of a log in memory, up to a number of bytes: it
// serves replication, apply and readers that follow closely. Its entries are
// contiguous. Safe for concurrent use.
type ring struct {
	mu    sync.RWMutex
	logs  []raft.Log // copies: raft's own are part of its futures
	bytes int64
	max   int64
}

// get copies the entry at index into l, if it is held.
func (r *ring) get(index uint64, l *raft.Log) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.logs) == 0 || index < r.logs[0].Index {
		return false
	}
	i := index - r.logs[0].Index
	if i >= uint64(len(r.logs)) {
		return false
	}
	*l = r.logs[i]
	return true
}

// add appends logs, which the caller has made durable. The newest entry stays
// whatever its size.
func (r *ring) add(logs []*raft.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range logs {
		if n := len(r.logs); n > 0 && r.logs[n-1].Index+1 != l.Index {
			r.logs, r.bytes = nil, 0
		}
		r.logs = append(r.logs, *l)
		r.bytes += cost(l)
	}
	drop := 0
	for r.bytes > r.max && drop < len(r.logs)-1 {
		r.bytes -= cost(&r.logs[drop])
		r.logs[drop] = raft.Log{}
		drop++
	}
	r.logs = r.logs[drop:]
}

// drop forgets the entries up to index.
func (r *ring) drop(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(r.logs) && r.logs[n].Index <= index {
		r.bytes -= cost(&r.logs[n])
		r.logs[n] = raft.Log{}
		n++
	}
	r.logs = r.logs[n:]
}

// cut forgets the entries from index on.
func (r *ring) cut(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := len(r.logs); n > 0 && r.logs[n-1].Index >= index; n-- {
		r.bytes -= cost(&r.logs[n-1])
		r.logs[n-1] = raft.Log{}
		r.logs = r.logs[:n-1]
	}
}

func cost(l *raft.Log) int64 { return int64(len(l.Data)) + entryOverhead }
