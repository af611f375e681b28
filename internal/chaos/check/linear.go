package check

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// sliceOps is how many appends and head reads Porcupine is given at once.
const sliceOps = 24

// step is an append or a head read. A room's appends have their seqs, so the
// only order that may be linearizable is known: by version, appends before the
// heads that name them. It must agree with real time.
type step struct {
	version   uint64 // seq, or the head's last
	head      bool
	call, ret int64
	op        int64
	lo        uint64 // the append before: the version cannot have been lower
}

func (s *step) rank(other *step) int {
	if d := cmp.Compare(s.version, other.version); d != 0 {
		return d
	}
	switch {
	case s.head == other.head:
		return 0
	case s.head:
		return 1
	}
	return -1
}

// Linear says how many slices of rooms Porcupine was given, and what it found.
type Linear struct {
	Steps        int64 `json:"steps"`
	Slices       int64 `json:"slices"` // of all steps
	Checked      int64 `json:"checked"`
	Linearizable int64 `json:"linearizable"`
	Illegal      int64 `json:"illegal"`
	Unknown      int64 `json:"unknown"` // not decided in time
}

// judgeLinear looks at appends and head reads of every room, twice: all of them in one
// go, by the order that seqs dictate, and slices of them with Porcupine, which
// knows nothing of that reasoning.
//
// A slice is a run of consecutive versions. Were the whole linearizable, so
// were the run, starting from the version before it: so an illegal slice proves
// that the whole is not. What spans slices only the first way finds.
func (c *Checker) judgeLinear() Linear {
	var sum Linear
	var all []slice
	for _, r := range c.inOrder {
		steps := c.steps(r)
		sum.Steps += int64(len(steps))
		bad := c.judgeOrder(r, steps)
		for from := 0; from < len(steps); from += sliceOps {
			to := min(from+sliceOps, len(steps))
			all = append(all, slice{r, steps[from:to], slices.Contains(bad[from:to], true)})
		}
	}
	sum.Slices = int64(len(all))
	stride := max(1, (len(all)+c.options.Slices-1)/c.options.Slices)
	for i := 0; i < len(all); i += stride {
		c.judgeSlice(all[i], &sum)
	}
	return sum
}

// steps are a room's, by rank.
func (c *Checker) steps(r *room) []step {
	var list []step
	for _, seq := range r.bounds.seqs {
		s := r.slots[seq]
		for _, id := range []ref{s.acked, s.holder()} {
			m := &c.messages[id]
			if id != 0 && m.room == r && m.version() == seq {
				list = append(list, step{version: seq, call: m.invoked, ret: m.returned(), op: m.invokedOp})
				break
			}
		}
	}
	for _, h := range r.heads {
		list = append(list, step{version: h.last, head: true, call: h.call, ret: h.ret, op: h.op})
	}
	slices.SortStableFunc(list, func(a, b step) int { return a.rank(&b) })
	var lo uint64
	for i := range list {
		list[i].lo = lo
		if !list[i].head {
			lo = list[i].version
		}
	}
	return list
}

// judgeOrder finds the steps that began after a later version was there.
func (c *Checker) judgeOrder(r *room, steps []step) (bad []bool) {
	bad = make([]bool, len(steps))
	earliest := step{ret: math.MaxInt64} // to return, of those of a higher rank
	for end := len(steps); end > 0; {
		begin := end - 1
		for begin > 0 && steps[begin-1].rank(&steps[begin]) == 0 {
			begin--
		}
		for i := begin; i < end; i++ {
			if s := &steps[i]; s.call > earliest.ret {
				bad[i] = true
				c.tally.add(NonLinearizable, ops{earliest.op, s.op}, "room %q: %s began %v after %s was done", r.name, s.text(), time.Duration(s.call-earliest.ret), earliest.text())
			}
		}
		for _, s := range steps[begin:end] {
			if s.ret < earliest.ret {
				earliest = s
			}
		}
		end = begin
	}
	c.judgeHeads(r)
	return bad
}

// judgeHeads finds head reads that named a seq which the log never had.
func (c *Checker) judgeHeads(r *room) {
	for _, h := range r.heads {
		after := slices.ContainsFunc(r.finals, func(f *final) bool { return f.invoked > h.ret })
		if after && h.last > r.bounds.last {
			c.tally.add(NonLinearizable, ops{h.op}, "room %q: the head was said to be %d, the log ends at seq %d", r.name, h.last, r.bounds.last)
		}
	}
}

func (s *step) text() string {
	if s.head {
		return "a head read that gave " + decimal(s.version)
	}
	return "the append of seq " + decimal(s.version)
}

type slice struct {
	room  *room
	steps []step
	bad   bool // has been counted
}

// model is a room's head: a step is legal between the append before it and its own version.
// Seqs whose append is not known to the history may come to be at any time.
func model(from uint64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return from },
		Step: func(state, input, _ any) (bool, any) {
			head, s := state.(uint64), input.(*step)
			legal := s.lo <= head && (head < s.version || s.head && head == s.version)
			return legal, s.version
		},
	}
}

func (c *Checker) judgeSlice(s slice, sum *Linear) {
	history := make([]porcupine.Operation, len(s.steps))
	for i := range s.steps {
		history[i] = porcupine.Operation{ClientId: i, Input: &s.steps[i], Call: s.steps[i].call, Return: max(s.steps[i].call, s.steps[i].ret)}
	}
	sum.Checked++
	switch porcupine.CheckOperationsTimeout(model(s.steps[0].lo), history, c.options.SliceTime) {
	case porcupine.Ok:
		sum.Linearizable++
	case porcupine.Unknown:
		sum.Unknown++
	case porcupine.Illegal:
		sum.Illegal++
		if !s.bad {
			first, last := &s.steps[0], &s.steps[len(s.steps)-1]
			c.tally.add(NonLinearizable, ops{first.op, last.op}, "room %q: no order of the steps from version %d to %d agrees with real time", s.room.name, first.version, last.version)
		}
	}
}
