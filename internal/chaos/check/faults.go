package check

import (
	"slices"
	"sort"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// faults are the nemesis's deeds.
type faults struct {
	effects map[string]int64
	windows []*window
	on      []*window
	over    []*window // by stop
	started []*window // no commit since
	stopped []*window // no commit since
	lost    []span    // without a quorum somewhere
	losing  int       // how many faults keep it so
}

type span struct{ from, to int64 } // to < 0: lasts

// window is a fault from start to stop.
type window struct {
	fault       string
	nodes       []string
	quorumLost  bool
	start, stop int64 // stop < 0: lasts
	effects     int64
	longest     int64 // wait of a room for a commit
	afterStart  int64 // first ok publish; < 0: none came
	afterStop   int64
}

func (c *Checker) fault(op *history.Op, v *history.Fault) {
	f := &c.faults
	name := string(op.F)
	f.effects[name] += v.Count
	if v.Phase == history.Start {
		f.start(op.Time, name, v)
		return
	}
	for i, w := range f.find(name, v.Nodes) {
		if i == 0 {
			w.effects += v.Count
		}
		f.stop(op.Time, w)
	}
}

func (f *faults) start(now int64, name string, v *history.Fault) {
	w := &window{fault: name, nodes: v.Nodes, quorumLost: v.QuorumLost, start: now, stop: -1, effects: v.Count, afterStart: -1, afterStop: -1}
	f.windows = append(f.windows, w)
	f.on = append(f.on, w)
	f.started = append(f.started, w)
	if !w.quorumLost {
		return
	}
	if f.losing++; f.losing == 1 {
		f.lost = append(f.lost, span{now, -1})
	}
}

func (f *faults) stop(now int64, w *window) {
	w.stop = now
	f.on = slices.DeleteFunc(f.on, func(other *window) bool { return other == w })
	f.over = append(f.over, w)
	f.stopped = append(f.stopped, w)
	if !w.quorumLost {
		return
	}
	if f.losing--; f.losing == 0 {
		f.lost[len(f.lost)-1].to = now
	}
}

// find finds the windows that a stop ends: the one of the same nodes, else the oldest;
// all, if it names no nodes.
func (f *faults) find(name string, nodes []string) (found []*window) {
	for _, w := range f.on {
		switch {
		case w.fault != name:
		case len(nodes) > 0 && slices.Equal(w.nodes, nodes):
			return []*window{w}
		default:
			found = append(found, w)
		}
	}
	if len(nodes) > 0 && len(found) > 1 {
		return found[:1]
	}
	return found
}

// committed notes a commit in a room that had waited for it since from.
func (f *faults) committed(now, from int64) {
	f.waited(now, from)
	for _, w := range f.started {
		w.afterStart = now - w.start
	}
	for _, w := range f.stopped {
		w.afterStop = now - w.stop
	}
	f.started, f.stopped = f.started[:0], f.stopped[:0]
}

// waited notes that a room waited for a commit.
func (f *faults) waited(now, from int64) {
	for _, w := range f.on {
		w.longest = max(w.longest, now-max(from, w.start))
	}
	for _, w := range slices.Backward(f.over) {
		if w.stop <= from {
			return
		}
		w.longest = max(w.longest, now-max(from, w.start))
	}
}

// withoutQuorum is how much of the time from from to to had none.
func (f *faults) withoutQuorum(from, to int64) int64 {
	var sum int64
	for _, s := range slices.Backward(f.lost) {
		end := s.to
		if end < 0 {
			end = to
		}
		if end <= from {
			break
		}
		sum += max(0, min(end, to)-max(s.from, from))
	}
	return sum
}

// near tells whether a fault was on between from and to, or within grace before.
func (f *faults) near(from, to int64, grace time.Duration) bool {
	until := func(w *window) bool { return w.from() <= to }
	late := sort.Search(len(f.over), func(i int) bool { return f.over[i].stop >= from-int64(grace) })
	return slices.ContainsFunc(f.on, until) || slices.ContainsFunc(f.over[late:], until)
}

// unnoticed is how long a machine may starve nodes before a run can tell.
const unnoticed = int64(time.Second)

// from is when the window may have begun.
func (w *window) from() int64 {
	if w.fault == string(history.Starved) {
		return w.start - unnoticed
	}
	return w.start
}

// terms are what was observed of a partition's terms.
type terms struct {
	max    uint64
	last   int64 // when max was observed last
	lastOp int64
	rises  []rise
	claims map[claim]*claimed
	split  map[uint64]bool
}

// rise is a term that was followed by a higher one.
type rise struct {
	from, to        uint64
	after, before   int64
	afterOp, seenOp int64
}

type claim struct {
	term uint64
	node string
}

type claimed struct {
	count int
	op    int64
}

func (c *Checker) leader(op *history.Op, v *history.Leader) {
	if v.Term == 0 {
		return
	}
	t := c.terms[v.Partition]
	if t == nil {
		t = &terms{max: v.Term, last: op.Time, lastOp: op.Index, claims: make(map[claim]*claimed), split: make(map[uint64]bool)}
		c.terms[v.Partition] = t
	}
	if v.Term > t.max {
		t.rises = append(t.rises, rise{t.max, v.Term, t.last, op.Time, t.lastOp, op.Index})
		t.max = v.Term
	}
	if v.Term == t.max {
		t.last, t.lastOp = op.Time, op.Index
	}
	if v.Leader == v.Node {
		c.claim(t, op, v)
	}
}

// claim notes that a node says it leads. Asked just while it steps down it may
// name the wrong term; so a claim counts from the second time on.
func (c *Checker) claim(t *terms, op *history.Op, v *history.Leader) {
	key := claim{v.Term, v.Node}
	mine := t.claims[key]
	if mine == nil {
		mine = new(claimed)
		t.claims[key] = mine
	}
	mine.count++
	mine.op = op.Index
	if mine.count != 2 || t.split[v.Term] {
		return
	}
	for other, had := range t.claims {
		if other.term == v.Term && other.node != v.Node && had.count >= 2 {
			t.split[v.Term] = true
			c.tally.add(SplitLeader, ops{had.op, op.Index}, "partition %d term %d: %s and %s claim to lead", v.Partition, v.Term, other.node, v.Node)
			return
		}
	}
}

// judgeElections finds the elections that no fault explains.
func (c *Checker) judgeElections() {
	for _, p := range sortedKeys(c.terms) {
		for _, e := range c.terms[p].rises {
			if !c.faults.near(e.after, e.before, c.options.ElectionGrace) {
				c.tally.add(PhantomElection, ops{e.afterOp, e.seenOp}, "partition %d: term %d became %d between %v and %v, and no fault was on or just over", p, e.from, e.to, time.Duration(e.after), time.Duration(e.before))
			}
		}
	}
}

// calm is how much of the time until now no fault was on or just over: in which every
// election is judged.
func (f *faults) calm(now int64, grace time.Duration) (sum int64) {
	free := int64(0)              // no fault before
	for _, w := range f.windows { // in the order of their starts
		sum += max(0, w.start-free)
		end := now
		if w.stop >= 0 {
			end = w.stop + int64(grace)
		}
		free = max(free, end)
	}
	return sum + max(0, now-free)
}
