package check

import (
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

func (c *Checker) publish(op *history.Op, v *history.Publish) error {
	r := c.room(v.Room)
	ref, m := c.message(v.ID)
	if op.Type == history.Invoke {
		if m.state != unborn {
			return misfit("id %q is in use", v.ID)
		}
		m.state, m.room, m.process = open, r, op.Process
		m.invoked, m.invokedOp = op.Time, op.Index
		m.floor = c.client(op.Process, r).read
		c.waitBegins(r, op)
		return nil
	}
	if m.state != open || m.room != r || m.process != op.Process {
		return misfit("%q has no open publish of %q", v.Room, v.ID)
	}
	m.answered, m.answeredOp = op.Time, op.Index
	switch op.Type {
	case history.OK:
		m.state = acked
		c.acked(op, ref, v)
	case history.Fail:
		m.state = failed
	default:
		m.state = unknown
	}
	c.waitEnds(r, op)
	return nil
}

func (c *Checker) acked(op *history.Op, ref ref, v *history.Publish) {
	m := &c.messages[ref]
	m.seq, m.stamp, m.retried = v.Seq, v.Stamp, v.Duplicate
	r := m.room
	r.acks = max(r.acks, v.Seq)
	who := c.client(op.Process, r)
	who.acked = max(who.acked, v.Seq)
	if v.Seq <= m.floor {
		c.tally.add(WritesFollowReads, ops{m.invokedOp, op.Index}, "room %q: client %d had read up to seq %d, then published %q and got seq %d", r.name, op.Process, m.floor, m.id, v.Seq)
	}
	s := r.slot(v.Seq)
	if s.acked == 0 {
		s.acked = ref
		return
	}
	other := &c.messages[s.acked]
	if !m.retried && !other.retried {
		s.split = true
		c.tally.add(SplitAck, ops{other.answeredOp, op.Index}, "room %q seq %d: acked for %q and for %q", r.name, v.Seq, other.id, m.id)
	}
	if other.retried && !m.retried {
		s.acked = ref // a retry's ack is the weaker word
	}
}

// waitBegins starts the clock of stuck-room.
func (c *Checker) waitBegins(r *room, op *history.Op) {
	if r.open == 0 {
		r.since = op.Time
		if r.waited == 0 {
			r.from, r.fromOp = op.Time, op.Index
		}
	}
	r.open++
}

// waitEnds stops the clock: a commit sets it back.
func (c *Checker) waitEnds(r *room, op *history.Op) {
	c.judgeWait(r, op.Index, op.Time)
	waited := r.waitedAt(op.Time, &c.faults)
	r.open--
	if op.Type == history.OK {
		c.faults.committed(op.Time, r.from)
		r.waited, r.since, r.from, r.fromOp, r.stuck = 0, op.Time, op.Time, op.Index, false
		return
	}
	r.waited, r.since = waited, op.Time
}

// judgeWait counts a room that has waited too long, once per wait.
func (c *Checker) judgeWait(r *room, op, now int64) {
	if r.open == 0 {
		return
	}
	wait := time.Duration(r.waitedAt(now, &c.faults))
	c.timing.longestWait = max(c.timing.longestWait, wait)
	if wait > c.options.StuckAfter && !r.stuck {
		r.stuck = true
		c.tally.add(StuckRoom, ops{r.fromOp, op}, "room %q: nothing was acked for %v while publishes were open, with a quorum there", r.name, wait.Round(time.Millisecond))
	}
}

// waitedAt is how long publishes have been open without a commit, but for the time without a quorum.
func (r *room) waitedAt(now int64, f *faults) int64 {
	if r.open == 0 {
		return r.waited
	}
	return r.waited + max(0, now-r.since-f.withoutQuorum(r.since, now))
}
