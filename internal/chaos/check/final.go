package check

import (
	"github.com/roomlog/roomlog/internal/chaos/history"
)

// headRead is a head read, open or answered.
type headRead struct {
	room        *room
	op          int64
	call, ret   int64
	last        uint64
	acked, read uint64 // what its client knew when it asked
	maxGap      int    // the room's then
}

func (c *Checker) head(op *history.Op, v *history.Head) error {
	h := c.heads[op.Process]
	if op.Type == history.Invoke {
		if h != nil {
			return misfit("a head read is open already")
		}
		r := c.room(v.Room)
		k := c.client(op.Process, r)
		c.heads[op.Process] = &headRead{room: r, op: op.Index, call: op.Time, acked: k.acked, read: k.read, maxGap: r.maxGap}
		return nil
	}
	if h == nil || h.room.name != v.Room {
		return misfit("no head read of %q is open", v.Room)
	}
	delete(c.heads, op.Process)
	if op.Type == history.OK {
		c.headAnswered(h, op, v)
	}
	return nil
}

func (c *Checker) headAnswered(h *headRead, op *history.Op, v *history.Head) {
	r := h.room
	h.ret, h.last = op.Time, v.Last
	switch {
	case v.Last < h.acked:
		c.tally.add(ReadYourWrites, ops{h.op, op.Index}, "room %q: client %d was told of the head %d, but had been acked seq %d before", r.name, op.Process, v.Last, h.acked)
	case v.Last < h.read:
		c.tally.add(MonotonicReads, ops{h.op, op.Index}, "room %q: client %d was told of the head %d, but had read seq %d before", r.name, op.Process, v.Last, h.read)
	}
	if h.maxGap > 0 {
		c.judgeGap(r, &r.gaps[h.maxGap-1], v.First, op.Index)
	}
	r.heads = append(r.heads, *h)
}

// judgeGap counts a gap that goes up to first or beyond, which was to be had.
func (c *Checker) judgeGap(r *room, g *gapSeen, first uint64, op int64) {
	if g.false || g.to < first {
		return
	}
	g.false = true
	if g.start {
		c.tally.add(PollSkip, ops{g.op, op}, "room %q: a subscription from the start began behind seq %d, but seq %d was to be had", r.name, g.to, max(first, g.from))
		return
	}
	c.tally.add(FalseGap, ops{g.op, op}, "room %q: a gap of %s, but seq %d was to be had", r.name, seqRange(g.from, g.to), max(first, g.from))
}

// final is a final read of a room from one node.
type final struct {
	room        *room
	node        string
	op          int64 // the last
	invoked     int64
	acks        uint64 // the room's highest when it was invoked
	next        uint64 // seq expected; 0: nothing came yet
	first, last uint64
}

func (c *Checker) final(op *history.Op, v *history.Final) error {
	f := c.finals[op.Process]
	if op.Type == history.Invoke {
		if f != nil {
			return misfit("a final read is open already")
		}
		r := c.room(v.Room)
		r.asked = true
		c.finals[op.Process] = &final{room: r, node: v.Node, invoked: op.Time, acks: r.acks}
		return nil
	}
	if f == nil || f.room.name != v.Room || f.node != v.Node {
		return misfit("no final read of %q from %s is open", v.Room, v.Node)
	}
	if op.Type != history.OK { // what it had was true all the same
		delete(c.finals, op.Process)
		c.tally.add(StuckReplica, ops{op.Index}, "room %q: %s does not give it whole: %s", v.Room, v.Node, op.Error)
		return nil
	}
	f.op, f.first, f.last = op.Index, max(f.first, v.First, 1), v.Last
	for _, e := range v.Msgs {
		c.finalEvent(f, op, e)
	}
	if v.More {
		return nil
	}
	delete(c.finals, op.Process)
	if f.next = max(f.next, f.first); f.next <= f.last {
		f.jump(f.next, f.last)
	}
	f.last = max(f.last, f.next-1)
	f.room.finals = append(f.room.finals, f)
	return nil
}

func (f *final) jump(from, to uint64) {
	f.room.jumps = append(f.room.jumps, jump{op: f.op, who: "final read from " + f.node, from: from, to: to, name: PollSkip, final: true})
}

func (c *Checker) finalEvent(f *final, op *history.Op, e history.Event) {
	r := f.room
	switch {
	case f.next == 0 && e.Seq > f.first:
		f.jump(f.first, e.Seq-1)
	case f.next > 0 && e.Seq > f.next:
		f.jump(f.next, e.Seq-1)
	case e.Seq < f.next:
		c.tally.add(NonmonotonicPoll, ops{op.Index}, "room %q: the final read from %s gave seq %d after seq %d", r.name, f.node, e.Seq, f.next-1)
	}
	f.next = max(f.next, after(e.End()))
	if e.IsGap() { // trimmed before, or while it was read
		r.gap(op.Index, op.Time, e)
		f.first = max(f.first, after(e.To))
		return
	}
	c.counts[op.F].Messages++
	c.finalMessage(f, op, e)
}

func (c *Checker) finalMessage(f *final, op *history.Op, e history.Event) {
	r := f.room
	ref, m := c.message(e.ID)
	s := r.slot(e.Seq)
	switch {
	case s.final == 0:
		s.final = ref
	case s.final != ref && !s.diverged:
		s.diverged = true
		other := &c.messages[s.final]
		c.tally.add(ReplicaDivergence, ops{other.loggedOp, op.Index}, "room %q seq %d: %s has %q, another node %q", r.name, e.Seq, f.node, e.ID, other.id)
	}
	if m.room == nil {
		m.room = r
	}
	if m.room != r {
		c.tally.add(Unpublished, ops{op.Index, m.invokedOp}, "room %q seq %d: message %q was published to room %q", r.name, e.Seq, e.ID, m.room.name)
		return
	}
	if m.logged == 0 {
		m.logged, m.loggedOp = e.Seq, op.Index
	}
	if m.logged != e.Seq {
		r.copies = append(r.copies, copied{op.Index, ref, [2]uint64{m.logged, e.Seq}})
	}
}

// replicaAt is a replica's state by partition and index.
type replicaAt struct {
	partition int
	applied   uint64
}

func (c *Checker) replica(op *history.Op, v *history.Replica) {
	if op.Type != history.OK {
		return
	}
	key := replicaAt{v.Partition, v.Applied}
	if other := c.replicas[key]; other == nil {
		c.replicas[key] = v
	} else if other.Hash != v.Hash {
		c.tally.add(ReplicaDivergence, ops{op.Index}, "partition %d at index %d: %s has hash %s, %s has %s", v.Partition, v.Applied, v.Node, v.Hash, other.Node, other.Hash)
	}
}

// verify takes the comparison of two nodes' disks.
func (c *Checker) verify(op *history.Op, v *history.Verify) {
	if op.Type != history.OK {
		c.tally.add(ReplicaDivergence, ops{op.Index}, "the disks of %s and %s: %s", v.Node, v.Against, op.Error)
	}
}

// ready takes whether all nodes served again after faults.
func (c *Checker) ready(op *history.Op, v *history.Ready) {
	if op.Type != history.OK {
		c.tally.add(StuckReplica, ops{op.Index}, "after %v: %s", v.After, op.Error)
	}
}

// exit takes the end of a process.
func (c *Checker) exit(op *history.Op, v *history.Exit) {
	if op.Type != history.OK {
		c.tally.add(UnexpectedExit, ops{op.Index}, "%s: %s", v.Node, v.How)
	}
}
