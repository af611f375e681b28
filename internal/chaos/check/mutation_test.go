package check

import (
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// mutant is a history to be broken.
type mutant struct {
	t   *rapid.T
	ops []history.Op
	did string
}

// mutations break one promise each and tell which anomalies would show it;
// nil if the history offers no place for it.
var mutations = map[string]func(*mutant) []Name{
	"ack overwritten":      (*mutant).ackOverwritten,
	"ack of another's seq": (*mutant).ackMoved,
	"fail of what is read": (*mutant).failed,
	"final hole":           (*mutant).hole,
	"final end missing":    (*mutant).truncated,
	"final copy":           (*mutant).copied,
	"final of one node":    (*mutant).diverged,
	"gap of what is held":  (*mutant).falseGap,
	"hash of one replica":  (*mutant).hash,
	"head too low":         (*mutant).headLow,
	"head too high":        (*mutant).headHigh,
	"now too low":          (*mutant).nowLow,
	"poll left out":        (*mutant).pollSkip,
	"poll repeated":        (*mutant).pollRepeat,
	"poll of another":      (*mutant).pollOther,
	"poll of nobody's":     (*mutant).pollUnknown,
	"refusal of an ack":    (*mutant).refusal,
	"resume too low":       (*mutant).resumeLow,
	"sends swapped":        (*mutant).swapped,
	"term without fault":   (*mutant).phantom,
}

func choose[T any](m *mutant, label string, list []T) (T, bool) {
	var none T
	if len(list) == 0 {
		return none, false
	}
	return list[rapid.IntRange(0, len(list)-1).Draw(m.t, label)], true
}

func (m *mutant) broke(format string, args ...any) { m.did = fmt.Sprintf(format, args...) }

// indexes of ops whose value is a V for which keep is true.
func indexes[V history.Value](m *mutant, typ history.Type, keep func(v V) bool) []int {
	var list []int
	for i, op := range m.ops {
		if v, ok := op.Value.(V); ok && op.Type == typ && (keep == nil || keep(v)) {
			list = append(list, i)
		}
	}
	return list
}

// logged are the seqs of a room's final reads by id, and its bounds.
func (m *mutant) logged(room string) (seqs map[string]uint64, first, last uint64) {
	seqs = make(map[string]uint64)
	for _, i := range indexes(m, history.OK, func(v *history.Final) bool { return v.Room == room }) {
		v := m.ops[i].Value.(*history.Final)
		first, last = v.First, v.Last
		for _, e := range v.Msgs {
			seqs[e.ID] = e.Seq
		}
	}
	return seqs, first, last
}

// acked picks an acked publish that is still held in the end.
func (m *mutant) acked() (int, *history.Publish) {
	i, ok := choose(m, "ack", indexes(m, history.OK, func(v *history.Publish) bool {
		_, first, _ := m.logged(v.Room)
		return v.Seq >= first
	}))
	if !ok {
		return -1, nil
	}
	return i, m.ops[i].Value.(*history.Publish)
}

// inFinals changes the events of a room's final reads.
func (m *mutant) inFinals(room string, change func(v *history.Final)) {
	for _, i := range indexes(m, history.OK, func(v *history.Final) bool { return v.Room == room }) {
		change(m.ops[i].Value.(*history.Final))
	}
}

func rename(es history.Events, seq uint64, id string) {
	for i := range es {
		if !es[i].IsGap() && es[i].Seq == seq {
			es[i].ID = id
		}
	}
}

func (m *mutant) ackOverwritten() []Name {
	i, v := m.acked()
	if v == nil {
		return nil
	}
	m.broke("%q at seq %d is overwritten", v.ID, v.Seq)
	m.publishOther(i, "x-1", v.Room)
	m.inFinals(v.Room, func(f *history.Final) { rename(f.Msgs, v.Seq, "x-1") })
	return []Name{StaleFence, DedupGhost}
}

// publishOther adds a publish of unknown outcome before op i, by a client of its own.
func (m *mutant) publishOther(i int, id, room string) {
	op := history.Op{Time: m.ops[i].Time, Process: 5000, F: history.FPublish, Value: &history.Publish{Room: room, ID: id}}
	invoke, info := op, op
	invoke.Type, info.Type = history.Invoke, history.Info
	m.ops = slices.Insert(m.ops, 1, invoke, info)
	m.ops[1].Time, m.ops[2].Time = m.ops[0].Time, m.ops[0].Time
}

func (m *mutant) ackMoved() []Name {
	_, v := m.acked()
	if v == nil {
		return nil
	}
	seqs, _, _ := m.logged(v.Room)
	for id, seq := range seqs {
		if id != v.ID && seq == v.Seq+1 {
			m.broke("%q is acked with seq %d", v.ID, seq)
			v.Seq = seq
			return []Name{SplitAck, InconsistentOffsets, DedupGhost}
		}
	}
	return nil
}

func (m *mutant) failed() []Name {
	i, v := m.acked()
	if v == nil {
		return nil
	}
	m.broke("%q failed", v.ID)
	m.ops[i].Type, m.ops[i].Value = history.Fail, &history.Publish{Room: v.Room, ID: v.ID}
	return []Name{G1a}
}

func (m *mutant) hole() []Name {
	_, v := m.acked()
	if v == nil {
		return nil
	}
	m.broke("%q is not in final reads", v.ID)
	m.inFinals(v.Room, func(f *history.Final) {
		f.Msgs = slices.DeleteFunc(f.Msgs, func(e history.Event) bool { return e.Seq == v.Seq })
	})
	return []Name{LostWrite}
}

func (m *mutant) truncated() []Name {
	_, v := m.acked()
	if v == nil {
		return nil
	}
	m.broke("final reads end before %q", v.ID)
	m.inFinals(v.Room, func(f *history.Final) {
		f.Last = v.Seq - 1
		f.Msgs = slices.DeleteFunc(f.Msgs, func(e history.Event) bool { return e.Seq >= v.Seq })
	})
	return []Name{Unseen, PrecommittedRead}
}

func (m *mutant) copied() []Name {
	_, v := m.acked()
	if v == nil {
		return nil
	}
	_, _, last := m.logged(v.Room)
	m.broke("%q lies at seq %d too", v.ID, last+1)
	m.inFinals(v.Room, func(f *history.Final) {
		f.Last++
		if !f.More {
			f.Msgs = append(f.Msgs, history.Event{Seq: last + 1, ID: v.ID})
		}
	})
	return []Name{Duplicate}
}

func (m *mutant) diverged() []Name {
	i, ok := choose(m, "final", indexes(m, history.OK, func(v *history.Final) bool { return len(v.Msgs) > 0 }))
	if !ok {
		return nil
	}
	v := m.ops[i].Value.(*history.Final)
	m.broke("%s has another message at seq %d", v.Node, v.Msgs[0].Seq)
	m.publishOther(i, "x-1", v.Room)
	v.Msgs[0].ID = "x-1"
	return []Name{ReplicaDivergence}
}

// polled picks a poll of which keep is true for some event; and that.
func (m *mutant) polled(keep func(room string, v *history.Poll, i int) bool) (*history.Op, int) {
	type place struct{ op, event int }
	var places []place
	for _, i := range indexes[*history.Poll](m, history.OK, nil) {
		v := m.ops[i].Value.(*history.Poll)
		for k, e := range v.Msgs {
			if !e.IsGap() && keep(v.Room, v, k) {
				places = append(places, place{i, k})
			}
		}
	}
	p, ok := choose(m, "poll", places)
	if !ok {
		return nil, 0
	}
	return &m.ops[p.op], p.event
}

func (m *mutant) falseGap() []Name {
	op, i := m.polled(func(room string, v *history.Poll, i int) bool {
		_, first, _ := m.logged(room)
		return v.Msgs[i].Seq >= first
	})
	if op == nil {
		return nil
	}
	e := &op.Value.(*history.Poll).Msgs[i]
	m.broke("seq %d is a gap", e.Seq)
	*e = history.Event{Seq: e.Seq, To: e.Seq, Reason: "trimmed"}
	return []Name{FalseGap}
}

func (m *mutant) pollSkip() []Name {
	op, i := m.polled(func(_ string, v *history.Poll, i int) bool { return i > 0 && i < len(v.Msgs)-1 })
	if op == nil {
		return nil
	}
	v := op.Value.(*history.Poll)
	m.broke("seq %d is left out", v.Msgs[i].Seq)
	v.Msgs = slices.Delete(v.Msgs, i, i+1)
	return []Name{IntPollSkip}
}

func (m *mutant) pollRepeat() []Name {
	op, i := m.polled(func(string, *history.Poll, int) bool { return true })
	if op == nil {
		return nil
	}
	v := op.Value.(*history.Poll)
	m.broke("seq %d is repeated", v.Msgs[i].Seq)
	v.Msgs = slices.Insert(v.Msgs, i, v.Msgs[i])
	return []Name{IntNonmonotonicPoll}
}

func (m *mutant) pollOther() []Name {
	op, i := m.polled(func(room string, v *history.Poll, i int) bool {
		_, first, _ := m.logged(room)
		return i > 0 && !v.Msgs[i-1].IsGap() && v.Msgs[i].Seq >= first
	})
	if op == nil {
		return nil
	}
	v := op.Value.(*history.Poll)
	m.broke("seq %d is shown as %q", v.Msgs[i].Seq, v.Msgs[i-1].ID)
	v.Msgs[i].ID = v.Msgs[i-1].ID
	return []Name{InconsistentOffsets, PrecommittedRead} // the latter if the other has been trimmed
}

func (m *mutant) pollUnknown() []Name {
	op, i := m.polled(func(string, *history.Poll, int) bool { return true })
	if op == nil {
		return nil
	}
	op.Value.(*history.Poll).Msgs[i].ID = "nobody's"
	m.broke("op %d has a message of nobody's", op.Index)
	return []Name{Unpublished}
}

func (m *mutant) hash() []Name {
	i, _ := choose(m, "replica", indexes[*history.Replica](m, history.OK, nil))
	m.ops[i].Value.(*history.Replica).Hash = "other"
	m.broke("op %d has another hash", i)
	return []Name{ReplicaDivergence}
}

// acks is the highest seq of a room acked before op i.
func (m *mutant) acks(i int, room string) (most uint64) {
	for _, op := range m.ops[:i] {
		if v, ok := op.Value.(*history.Publish); ok && op.Type == history.OK && v.Room == room {
			most = max(most, v.Seq)
		}
	}
	return most
}

// call finds the invocation that op i answers.
func (m *mutant) call(i int) int {
	for k := i - 1; ; k-- {
		if m.ops[k].Process == m.ops[i].Process && m.ops[k].F == m.ops[i].F {
			return k
		}
	}
}

func (m *mutant) headLow() []Name {
	acksBefore := func(i int) uint64 { return m.acks(m.call(i), m.ops[i].Value.(*history.Head).Room) }
	i, ok := choose(m, "head", slices.DeleteFunc(indexes[*history.Head](m, history.OK, nil), func(i int) bool { return acksBefore(i) == 0 }))
	if !ok {
		return nil
	}
	v := m.ops[i].Value.(*history.Head)
	v.Last = acksBefore(i) - 1
	m.broke("head %d, though seq %d was acked", v.Last, v.Last+1)
	return []Name{NonLinearizable}
}

func (m *mutant) headHigh() []Name {
	i, ok := choose(m, "head", indexes[*history.Head](m, history.OK, nil))
	if !ok {
		return nil
	}
	v := m.ops[i].Value.(*history.Head)
	_, _, last := m.logged(v.Room)
	v.Last = last + 1
	m.broke("head %d", v.Last)
	return []Name{NonLinearizable}
}

func (m *mutant) nowLow() []Name {
	i, v := m.acked()
	if v == nil {
		return nil
	}
	m.broke("a subscription from now begins at seq %d", v.Seq)
	op := history.Op{Time: m.ops[i].Time, Process: 6000, Type: history.Invoke, F: history.FSubscribe, Value: &history.Subscribe{Room: v.Room, From: "now", Client: m.ops[i].Process}}
	poll := op
	poll.Type, poll.F, poll.Value = history.OK, history.FPoll, &history.Poll{Room: v.Room, Msgs: history.Events{{Seq: v.Seq, ID: v.ID}}}
	m.ops = slices.Insert(m.ops, i+1, op, poll)
	return []Name{ReadYourWrites}
}

func (m *mutant) refusal() []Name {
	i, v := m.acked()
	if v == nil {
		return nil
	}
	client := rapid.SampledFrom([]history.Process{m.ops[i].Process, 7000}).Draw(m.t, "client")
	m.broke("after seq %d is refused to client %d", v.Seq, client)
	after, head := v.Seq, v.Seq-1
	op := history.Op{Time: m.ops[i].Time, Process: 6000, Type: history.Invoke, F: history.FSubscribe, Value: &history.Subscribe{Room: v.Room, After: &after, Client: client}}
	fail := op
	fail.Type, fail.Value = history.Fail, &history.Subscribe{Room: v.Room, Head: &head}
	m.ops = slices.Insert(m.ops, i+1, op, fail)
	if client == 7000 {
		return []Name{NonLinearizable}
	}
	return []Name{ReadYourWrites}
}

// resumeLow asks for a place behind what a subscription is handed first.
func (m *mutant) resumeLow() []Name {
	var list []int
	for _, i := range indexes(m, history.Invoke, func(v *history.Subscribe) bool { return v.After != nil }) {
		for _, op := range m.ops[i:] {
			if op.Process == m.ops[i].Process && op.F == history.FPoll {
				list = append(list, i)
				break
			}
		}
	}
	i, ok := choose(m, "subscribe", list)
	if !ok {
		return nil
	}
	v := m.ops[i].Value.(*history.Subscribe)
	*v.After++
	m.broke("op %d resumes after seq %d", i, *v.After)
	return []Name{ResumeRegression}
}

// swapped gives two messages of a publisher each other's place, everywhere.
func (m *mutant) swapped() []Name {
	i, v := m.acked()
	if v == nil {
		return nil
	}
	for k := i + 1; k < len(m.ops); k++ {
		w, ok := m.ops[k].Value.(*history.Publish)
		if ok && m.ops[k].Type == history.OK && m.ops[k].Process == m.ops[i].Process && w.Room == v.Room {
			m.broke("%q and %q are swapped", v.ID, w.ID)
			m.swap(v, w)
			return []Name{NonmonotonicSend, IntNonmonotonicSend}
		}
	}
	return nil
}

func (m *mutant) swap(v, w *history.Publish) {
	v.Seq, w.Seq = w.Seq, v.Seq
	for _, op := range m.ops {
		var es history.Events
		switch value := op.Value.(type) {
		case *history.Poll:
			if value.Room == v.Room {
				es = value.Msgs
			}
		case *history.Final:
			if value.Room == v.Room {
				es = value.Msgs
			}
		}
		rename(es, v.Seq, v.ID)
		rename(es, w.Seq, w.ID)
	}
}

func (m *mutant) phantom() []Name {
	end := m.ops[len(m.ops)-1]
	leaders := indexes[*history.Leader](m, history.Info, nil)
	last := m.ops[leaders[len(leaders)-1]].Value.(*history.Leader)
	for n := range uint64(2) {
		op := end
		op.Process, op.Type, op.F = 1000, history.Info, history.FLeader
		op.Time += int64(6e9 * (n + 1))
		op.Value = &history.Leader{Node: "n1", Term: last.Term + n, Leader: "n1"}
		m.ops = append(m.ops, op)
	}
	m.broke("term %d rises", last.Term)
	return []Name{PhantomElection}
}
