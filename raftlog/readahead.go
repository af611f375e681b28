package raftlog

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
)

// readAheadBytes is about how much is read at once for one who reads entry after
// entry.
const readAheadBytes = 256 << 10

// readAhead makes large reads of raft's many small ones: at its start it reads
// every entry after the snapshot, and for a peer that lags every entry that the
// peer lacks. It follows two readers at a time. Safe for concurrent use.
type readAhead struct {
	mu      sync.Mutex
	windows [2]window
	victim  int // the window that the next reader gets
}

// window is what was read ahead for a reader.
type window struct {
	next uint64     // what the reader asks for if it goes on
	logs []raft.Log // contiguous
}

// get copies the entry at index into l, from disk if nobody has read it ahead.
func (a *readAhead) get(disk *segment.Log, index uint64, l *raft.Log) error {
	if a.follow(disk, index, l) {
		return nil
	}
	return disk.GetLog(index, l)
}

// follow returns false if the entry is not ahead of a reader.
func (a *readAhead) follow(disk *segment.Log, index uint64, l *raft.Log) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.windows {
		w := &a.windows[i]
		if w.next != index {
			continue
		}
		w.next++
		return w.get(index, l) || w.load(disk, index) && w.get(index, l)
	}
	w := &a.windows[a.victim]
	a.victim = (a.victim + 1) % len(a.windows)
	clear(w.logs)
	w.next, w.logs = index+1, w.logs[:0]
	return false
}

func (w *window) get(index uint64, l *raft.Log) bool {
	if len(w.logs) == 0 || index < w.logs[0].Index || index-w.logs[0].Index >= uint64(len(w.logs)) {
		return false
	}
	*l = w.logs[index-w.logs[0].Index]
	return true
}

// load reads the entries from index on.
func (w *window) load(disk *segment.Log, index uint64) bool {
	last, err := disk.LastIndex()
	if err != nil || index > last {
		return false
	}
	clear(w.logs)
	w.logs = w.logs[:0]
	var bytes int64
	err = disk.Read(index, last, func(l *raft.Log) bool {
		w.logs = append(w.logs, *l)
		bytes += cost(l)
		return bytes < readAheadBytes
	})
	return err == nil
}

// forget forgets entries that the log may no longer have.
func (a *readAhead) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.windows = [2]window{}
}
