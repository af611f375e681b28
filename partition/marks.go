package partition

import (
	"slices"

	"github.com/roomlog/roomlog/raftlog"
)

// Mark is the rolling hash after the entry at Index, a multiple of MarkEvery.
// Replicas whose marks at the same index differ have applied different things.
type Mark struct {
	Index raftlog.Index
	Hash  uint64
}

// MarkEvery is the distance of marks.
const MarkEvery = 4096

// maxMarks is how many are remembered.
const maxMarks = 64

// markBefore returns the mark that is due before the entry at index is applied:
// if a multiple has been passed since the last entry, the newest one.
func (m *Machine) markBefore(index raftlog.Index) (Mark, bool) {
	at := (index - 1) / MarkEvery * MarkEvery
	return Mark{at, m.hash}, at > 0 && at >= m.index
}

// Marks returns the newest marks, oldest first. Those from before a restart or
// an installed snapshot are forgotten.
func (p *Partition) Marks() []Mark {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Clone(p.marks)
}

// mark keeps the mark that is due before index, if one is. It needs p.mu.
func (p *Partition) mark(index raftlog.Index, due []Mark) []Mark {
	mark, ok := p.machine.markBefore(index)
	if !ok {
		return due
	}
	if len(p.marks) == maxMarks {
		p.marks = slices.Delete(p.marks, 0, 1)
	}
	p.marks = append(p.marks, mark)
	return append(due, mark)
}
