package check

import (
	"fmt"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// subscription is a reader's place. client is nil for one that is nobody's.
type subscription struct {
	room   *room
	ask    *history.Subscribe
	op     int64
	began  int64
	client *client // whose it is

	acked, read, anyAcked uint64 // when it began: by its client, by any

	next  uint64 // seq expected; 0: nothing came yet
	floor int64  // from a time: Unix ns
}

func (c *Checker) subscribe(op *history.Op, v *history.Subscribe) error {
	s := c.subs[op.Process]
	if op.Type != history.Invoke {
		if s == nil || s.room.name != v.Room {
			return misfit("no subscription of %q is open", v.Room)
		}
		delete(c.subs, op.Process)
		c.subscriptionEnds(s, op, v)
		return nil
	}
	if s != nil {
		return misfit("a subscription is open already")
	}
	r := c.room(v.Room)
	from, _ := v.FromTime() // the decoder has checked it
	who := op.Process
	if v.Client != 0 {
		who = v.Client
	}
	k := c.client(who, r)
	c.subs[op.Process] = &subscription{
		room: r, ask: v, op: op.Index, began: op.Time, client: k,
		acked: k.acked, read: k.read, anyAcked: r.acks, floor: from,
	}
	return nil
}

// subscriptionEnds judges a refusal, and what was due and did not come.
func (c *Checker) subscriptionEnds(s *subscription, op *history.Op, v *history.Subscribe) {
	if op.Type == history.Fail && v.Head != nil && s.ask.After != nil {
		c.refused(s, op, *s.ask.After, *v.Head)
	}
	if op.Type != history.OK || s.next == 0 {
		return
	}
	if due := s.room.slots[s.next]; due != nil && due.acked != 0 {
		c.late(s, &c.messages[due.acked], op.Index, op.Time)
	}
}

// refused judges a refusal "beyond the head" against what was known when it was asked.
func (c *Checker) refused(s *subscription, op *history.Op, after, head uint64) {
	name, why := Name(""), ""
	switch {
	case after <= s.acked:
		name, why = ReadYourWrites, "its client had been acked"
	case after <= s.read:
		name, why = MonotonicReads, "its client had read"
	case after <= s.anyAcked:
		name, why = NonLinearizable, "some client had been acked"
	default:
		return
	}
	c.tally.add(name, ops{s.op, op.Index}, "room %q: after seq %d was refused as beyond the head %d, but %s it before", s.room.name, after, head, why)
}

func (c *Checker) poll(op *history.Op, v *history.Poll) error {
	s := c.subs[op.Process]
	if op.Type != history.OK {
		return misfit("a poll is ok or not told")
	}
	if s == nil || s.room.name != v.Room {
		return misfit("no subscription of %q is open", v.Room)
	}
	given := op.Time
	if v.Given > 0 {
		given = min(v.Given, op.Time)
	}
	for i, e := range v.Msgs {
		c.place(s, op, e, i > 0)
		if e.IsGap() {
			s.room.gap(op.Index, given, e)
		} else {
			c.counts[op.F].Messages++
			c.read(s, op, e, given)
		}
		s.next = max(s.next, after(e.End()))
		s.client.read = max(s.client.read, e.End())
	}
	return nil
}

// after is the seq behind seq, and stays at the last that there can be.
func after(seq uint64) uint64 { return max(seq, seq+1) }

// place judges where an event lies; within: not the first of its poll.
func (c *Checker) place(s *subscription, op *history.Op, e history.Event, within bool) {
	if s.next == 0 {
		c.firstPlace(s, op, e)
		return
	}
	skip, back := PollSkip, NonmonotonicPoll
	if within {
		skip, back = IntPollSkip, IntNonmonotonicPoll
	}
	switch {
	case e.Seq > s.next:
		s.room.jump(op, s.next, e.Seq-1, skip)
	case e.Seq < s.next:
		c.tally.add(back, ops{op.Index}, "room %q: subscription %d was handed seq %d after seq %d", s.room.name, op.Process, e.Seq, s.next-1)
	}
}

// firstPlace judges where a subscription begins.
func (c *Checker) firstPlace(s *subscription, op *history.Op, e history.Event) {
	r := s.room
	switch {
	case s.ask.After != nil && e.Seq <= *s.ask.After:
		c.tally.add(ResumeRegression, ops{s.op, op.Index}, "room %q: subscription %d after seq %d began at seq %d", r.name, op.Process, *s.ask.After, e.Seq)
	case s.ask.After != nil && e.Seq > after(*s.ask.After):
		r.jump(op, *s.ask.After+1, e.Seq-1, PollSkip)
	case s.ask.After != nil:
	case s.ask.From == "start":
		if e.Seq > 1 { // as good as a gap: trimmed
			r.gaps = append(r.gaps, gapSeen{op: op.Index, given: op.Time, from: 1, to: e.Seq - 1, start: true})
		}
	case s.floor != 0:
		r.places = append(r.places, timePlace{op.Index, s.floor, e.Seq})
	case e.Seq <= s.acked:
		c.tally.add(ReadYourWrites, ops{s.op, op.Index}, "room %q: subscription %d from now began at seq %d, its client had been acked seq %d before", r.name, op.Process, e.Seq, s.acked)
	case e.Seq <= s.read:
		c.tally.add(MonotonicReads, ops{s.op, op.Index}, "room %q: subscription %d from now began at seq %d, its client had read seq %d before", r.name, op.Process, e.Seq, s.read)
	case e.Seq <= s.anyAcked:
		c.tally.add(NonLinearizable, ops{s.op, op.Index}, "room %q: subscription %d from now began at seq %d, seq %d had been acked before", r.name, op.Process, e.Seq, s.anyAcked)
	}
}

func (r *room) jump(op *history.Op, from, to uint64, name Name) {
	r.jumps = append(r.jumps, jump{op: op.Index, who: fmt.Sprintf("subscription %d", op.Process), from: from, to: to, name: name})
}

func (r *room) gap(op, given int64, e history.Event) {
	r.gaps = append(r.gaps, gapSeen{op: op, given: given, from: e.Seq, to: e.To})
	if r.maxGap == 0 || e.To > r.gaps[r.maxGap-1].to {
		r.maxGap = len(r.gaps)
	}
}

// read notes a message that a subscription was handed.
func (c *Checker) read(s *subscription, op *history.Op, e history.Event, given int64) {
	ref, m := c.message(e.ID)
	r := s.room
	sl := r.slot(e.Seq)
	switch {
	case sl.read == 0:
		sl.read = ref
	case sl.read != ref:
		r.clash = append(r.clash, clash{op.Index, e.Seq, ref})
	}
	if m.seenOp < 0 {
		m.at, m.seenOp, m.seen = e.Seq, op.Index, given
		if m.room == nil {
			m.room = r
		}
	}
	if m.at != e.Seq {
		r.copies = append(r.copies, copied{op.Index, ref, [2]uint64{m.at, e.Seq}})
	}
	if m.room != r {
		c.tally.add(Unpublished, ops{op.Index, m.invokedOp}, "room %q seq %d: message %q was published to room %q", r.name, e.Seq, e.ID, m.room.name)
		return
	}
	c.late(s, m, op.Index, given)
	if m.state != unborn && m.invoked > s.began {
		if m.lives++; m.lives == 1 {
			m.firstLive = given
		}
		m.lastLive = max(m.lastLive, given)
	}
}

// late measures how long after its ack a message was handed over, or was not.
func (c *Checker) late(s *subscription, m *message, op, given int64) {
	var lag time.Duration // none of what came before its ack
	switch m.state {
	case open:
	case acked:
		lag = time.Duration(max(0, given-max(m.answered, s.began)))
	default:
		return
	}
	if m.invoked > s.began {
		c.timing.lag(lag)
	}
	c.timing.worstLag = max(c.timing.worstLag, lag)
	if c.options.MaxLag > 0 && lag > c.options.MaxLag {
		c.tally.add(RealtimeLag, ops{m.answeredOp, op}, "room %q: %q was acked and not handed to a subscription for %v", s.room.name, m.id, lag)
	}
}
