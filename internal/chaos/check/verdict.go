package check

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// judge draws the conclusions that need the whole history.
func (c *Checker) judge() {
	for _, r := range c.inOrder {
		c.judgeWait(r, -1, c.now)
		if r.open > 0 {
			c.faults.waited(c.now, r.from)
		}
		c.judgeRoom(r)
	}
	for i := range c.messages[1:] {
		c.judgeMessage(ref(i+1), &c.messages[i+1])
	}
	c.judgeSends()
	c.judgeElections()
}

// held is what the final reads of a room hold between them.
type held struct {
	known       bool
	first, last uint64 // none is held by all below first, or by any beyond last
	seqs        []uint64
}

func (c *Checker) held(r *room) held {
	h := held{known: len(r.finals) > 0, seqs: r.seqs()}
	for _, f := range r.finals {
		h.first, h.last = max(h.first, f.first), max(h.last, f.last)
	}
	if c.untrimmed() {
		h.first = min(h.first, 1)
	}
	return h
}

func (c *Checker) judgeRoom(r *room) {
	h := c.held(r)
	r.bounds = h
	for _, seq := range h.seqs {
		if s := r.slots[seq]; s.read != 0 {
			m := &c.messages[s.read]
			op := int64(-1)
			if m.at == seq {
				op = m.seenOp
			}
			c.judgeRead(r, clash{op, seq, s.read}, false)
		}
	}
	for _, k := range r.clash {
		c.judgeRead(r, k, true)
	}
	for _, k := range r.copies {
		c.judgeCopy(r, k)
	}
	c.judgeJumps(r)
	c.judgeGaps(r)
	c.judgePlaces(r)
	c.judgeShort(r)
}

// judgeRead holds what a subscription was handed against the log in the end.
// another: it was handed something else at the same seq before.
func (c *Checker) judgeRead(r *room, k clash, another bool) {
	m, s, h := &c.messages[k.m], r.slots[k.seq], &r.bounds
	if m.room != r || s.diverged || s.final == k.m {
		return
	}
	switch {
	case s.final != 0 && m.logged == 0, s.final == 0 && h.known && k.seq > h.last:
		c.tally.add(PrecommittedRead, ops{k.op}, "room %q seq %d: %q was handed to a subscription; the log does not hold it", r.name, k.seq, m.id)
	case s.final != 0 && m.state == acked && k.op < m.answeredOp:
		c.tally.add(PrecommittedRead, ops{k.op, m.answeredOp}, "room %q seq %d: %q was handed to a subscription before it was committed; the log holds it at seq %d", r.name, k.seq, m.id, m.logged)
	case s.final != 0:
		c.tally.add(InconsistentOffsets, ops{k.op}, "room %q seq %d: %q was handed to a subscription; the log holds %q", r.name, k.seq, m.id, c.messages[s.final].id)
	case another:
		c.tally.add(InconsistentOffsets, ops{k.op}, "room %q seq %d: both %q and %q were handed to subscriptions", r.name, k.seq, c.messages[s.read].id, m.id)
	}
}

// holder is the message that lies at a seq, as far as is known.
func (s *slot) holder() ref {
	if s.final != 0 {
		return s.final
	}
	return s.read
}

// judgeCopy counts a message that lies at two seqs, once however many.
func (c *Checker) judgeCopy(r *room, k copied) {
	m := &c.messages[k.m]
	if m.room != r || m.copied {
		return
	}
	for _, seq := range k.seqs {
		if s := r.slots[seq]; s.diverged || s.holder() != k.m {
			return
		}
	}
	m.copied, m.void = true, true
	lower, upper := min(k.seqs[0], k.seqs[1]), max(k.seqs[0], k.seqs[1])
	name := Duplicate
	if m.state == acked && m.seq > lower {
		name = DedupMiss
	}
	c.tally.add(name, ops{m.invokedOp, k.op}, "room %q: %q lies at seq %d and at seq %d", r.name, m.id, lower, upper)
}

// judgeJumps tells a subscription that left something out from a log that lacks it.
func (c *Checker) judgeJumps(r *room) {
	h := &r.bounds
	holes := make(map[uint64]bool)
	for _, j := range r.jumps {
		switch {
		case j.final && r.shown(h.seqs, j.from, j.to):
			c.tally.add(PollSkip, ops{j.op}, "room %q: the %s lacks %s, of which others were given some", r.name, j.who, seqRange(j.from, j.to))
		case j.final && !holes[j.from]:
			holes[j.from] = true
			c.tally.add(SeqHole, ops{j.op}, "room %q: the log lacks %s", r.name, seqRange(j.from, j.to))
		case j.final:
		case !h.known || j.from < h.first || r.shown(h.seqs, j.from, j.to):
			c.tally.add(j.name, ops{j.op}, "room %q: %s went past %s without a gap", r.name, j.who, seqRange(j.from, j.to))
		}
	}
}

func seqRange(from, to uint64) string {
	if from == to {
		return "seq " + decimal(from)
	}
	return "seq " + decimal(from) + " to " + decimal(to)
}

// untrimmed tells whether the run's retention kept all.
func (c *Checker) untrimmed() bool { return c.run != nil && c.run.Untrimmed }

func (c *Checker) judgeGaps(r *room) {
	for i := range r.gaps {
		g := &r.gaps[i]
		first, op := uint64(0), int64(-1)
		if c.untrimmed() {
			c.judgeGap(r, g, 1, -1)
		}
		for _, f := range r.finals {
			if f.invoked >= g.given && f.first > first {
				first, op = f.first, f.op
			}
		}
		if first > 0 {
			c.judgeGap(r, g, first, op)
		}
	}
}

// judgePlaces looks at where subscriptions from a time began.
func (c *Checker) judgePlaces(r *room) {
	stamp := func(seq uint64) (int64, *message) {
		if s := r.slots[seq]; s != nil && s.acked != 0 {
			m := &c.messages[s.acked]
			return m.stamp, m
		}
		return 0, nil
	}
	for _, p := range r.places {
		if at, m := stamp(p.first - 1); r.bounds.known && at >= p.from && p.first > r.bounds.first {
			c.tally.add(PollSkip, ops{p.op, m.answeredOp}, "room %q: a subscription from %s began at seq %d, but seq %d is as young", r.name, wall(p.from), p.first, p.first-1)
		}
		if at, m := stamp(p.first); at > 0 && at < p.from {
			c.tally.add(ResumeRegression, ops{p.op, m.answeredOp}, "room %q: a subscription from %s began at seq %d, which is of %s", r.name, wall(p.from), p.first, wall(at))
		}
	}
}

func wall(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// judgeShort finds final reads that lack what had been acked before they began
// and another node has.
func (c *Checker) judgeShort(r *room) {
	for _, f := range r.finals {
		if f.last < f.acks && r.bounds.last > f.last {
			c.tally.add(ReplicaDivergence, ops{f.op}, "room %q: the final read from %s ends at seq %d, but seq %d had been acked and another node has seq %d", r.name, f.node, f.last, f.acks, r.bounds.last)
		}
	}
}

func (c *Checker) judgeMessage(id ref, m *message) {
	seenOp := m.seenOp
	if seenOp < 0 {
		seenOp = m.loggedOp
	}
	switch {
	case m.state == unborn:
		c.tally.add(Unpublished, ops{seenOp}, "room %q: message %q was read and never published", m.room.name, m.id)
	case m.state == failed && seenOp >= 0:
		c.tally.add(G1a, ops{m.answeredOp, seenOp}, "room %q: %q was reported failed and was read", m.room.name, m.id)
	case m.state == acked:
		c.judgeSeq(id, m)
		c.judgeFate(m)
	}
	if s := m.room.slots[m.logged]; s != nil && s.diverged {
		m.void = true
	}
	if m.lives > 1 {
		c.timing.spread(time.Duration(m.lastLive - m.firstLive))
	}
}

// judgeSeq holds an acked seq against the log.
func (c *Checker) judgeSeq(id ref, m *message) {
	r := m.room
	s, h := r.slots[m.seq], &r.bounds
	holder := s.holder()
	if s.diverged {
		m.void = true
		return
	}
	if holder == id {
		return
	}
	elsewhere := h.known && m.seq >= h.first && m.logged != 0
	if holder == 0 && s.acked == id && !elsewhere {
		return
	}
	m.void = true
	if holder == 0 && s.acked != id {
		holder = s.acked
	}
	switch {
	case m.retried:
		c.tally.add(DedupGhost, ops{m.answeredOp}, "room %q: a retry of %q was acked with seq %d, which holds %s", r.name, m.id, m.seq, c.named(holder))
	case s.split || s.acked != id: // counted when it was acked, or the other is a retry
	case m.logged == 0 && holder != 0:
		c.tally.add(StaleFence, ops{m.answeredOp, c.messages[holder].loggedOp}, "room %q seq %d: acked for %q, which the log does not hold; the seq holds %s", r.name, m.seq, m.id, c.named(holder))
	default:
		c.tally.add(InconsistentOffsets, ops{m.answeredOp, m.loggedOp}, "room %q: %q was acked with seq %d, which holds %s; the log has it at seq %d", r.name, m.id, m.seq, c.named(holder), m.logged)
	}
}

func (c *Checker) named(m ref) string {
	if m == 0 {
		return "nothing"
	}
	return `"` + c.messages[m].id + `"`
}

// judgeFate finds acked messages that are gone.
func (c *Checker) judgeFate(m *message) {
	r := m.room
	h := &r.bounds
	switch {
	case m.logged != 0, h.known && m.seq < h.first: // there, or trimmed
	case h.known && m.seq <= h.last:
		c.tally.add(LostWrite, ops{m.invokedOp, m.answeredOp}, "room %q: %q was acked with seq %d; the log goes on to seq %d without it", r.name, m.id, m.seq, h.last)
	case m.seenOp < 0 && !r.asked:
		r.unread = true
	case m.seenOp < 0:
		c.tally.add(Unseen, ops{m.invokedOp, m.answeredOp}, "room %q: %q was acked with seq %d and never read", r.name, m.id, m.seq)
	}
}

// version is the seq of a message, 0 if it has none or that is in doubt.
func (m *message) version() uint64 {
	switch {
	case m.void || m.state == unborn || m.state == failed:
		return 0
	case m.state == acked:
		return m.seq
	case m.logged != 0:
		return m.logged
	}
	return m.at
}

// returned is when the message was certainly in the log.
func (m *message) returned() int64 {
	at := int64(math.MaxInt64)
	if m.state == acked {
		at = m.answered
	}
	if m.seenOp >= 0 {
		at = min(at, m.seen)
	}
	return at
}

// judgeSends looks at each publisher's order in each room.
func (c *Checker) judgeSends() {
	for i := range c.messages[1:] {
		id, m := ref(i+1), &c.messages[i+1]
		if m.version() == 0 {
			continue
		}
		k := c.client(m.process, m.room)
		before := &c.messages[k.sent] // no message has version 0
		switch {
		case m.version() > before.version():
			k.sent = id
			continue
		case m.invokedOp < before.invokedOp: // it was read before it was published
			continue
		}
		c.tally.add(outOfOrder(before, m), ops{before.invokedOp, before.answeredOp, m.invokedOp, m.answeredOp}, "room %q: publisher %d made %q before %q, which have seq %d and %d", m.room.name, m.process, before.id, m.id, before.version(), m.version())
	}
}

func outOfOrder(before, m *message) Name {
	switch {
	case before.state != acked || m.state != acked:
		return MonotonicWrites
	case m.invoked > before.answered:
		return NonmonotonicSend
	}
	return IntNonmonotonicSend
}
