//go:build controls

package partition

import (
	"encoding/binary"
	"os"
	"slices"
	"sync"
)

// The seeded bugs of this package; internal/chaos/controls says what each breaks.
var (
	// seededAckBeforeCommit: a publish is acked when it has been proposed.
	seededAckBeforeCommit bool
	// seededServeBeyondCommit: the leader's readers get what it has proposed.
	seededServeBeyondCommit bool
	// seededForgetSessions: sessions are no part of snapshots, and so are forgotten at
	// each checkpoint, that replicas may agree. One that is not known is begun anew
	// with the counter that comes.
	seededForgetSessions bool
	// seededLeaderCounter: the leader numbers what it proposes; a number is used up
	// whatever becomes of the message.
	seededLeaderCounter bool
	// seededOwnHead: a replica answers for the room's head without asking whether it
	// leads.
	seededOwnHead bool
)

func init() { Seed(os.Getenv("ROOMLOG_CONTROL")) }

// Seed switches on the bug of that name, if it is here, and all others off. No
// partition may be open.
func Seed(control string) {
	seededAckBeforeCommit = control == "ack-before-commit"
	seededServeBeyondCommit = control == "serve-beyond-commit"
	seededForgetSessions = control == "forget-sessions"
	seededLeaderCounter = control == "leader-counter"
	seededOwnHead = control == "own-head"
}

// foresight is what a leader expects of the entries that it has proposed. It belongs
// to the proposer's run, all but acked and shown.
type foresight struct {
	partition *Partition
	heads     map[string]Seq
	counters  map[SessionID]Counter

	mu    sync.Mutex
	acked map[*Publisher]Counter // up to where

	shown map[string][]Block // to readers, not yet applied; guarded by the partition's mutex
}

func newForesight(p *Partition) *foresight {
	return &foresight{
		partition: p, heads: map[string]Seq{}, counters: map[SessionID]Counter{},
		acked: map[*Publisher]Counter{}, shown: map[string][]Block{},
	}
}

// renew forgets what was expected when nothing is under way any more.
func (f *foresight) renew(alone bool) {
	if alone {
		clear(f.heads)
		clear(f.counters)
	}
}

// expects returns the seq that the first of it will get if all goes well; 0 if it is
// no new publish of a session.
func (f *foresight) expects(it *item) Seq {
	room := string(it.room)
	m := f.partition.machine
	s := m.sessions.byID[it.from.session]
	if s == nil || it.counter != max(s.last, f.counters[it.from.session])+1 {
		return 0
	}
	head := f.heads[room]
	if r := m.rooms[room]; r != nil {
		head = max(head, r.last)
	}
	f.heads[room] = head + Seq(it.count)
	f.counters[it.from.session] = it.counter + Counter(it.count) - 1
	return head + 1
}

// ack acks publishes that have been proposed at time now. Alone: nothing else is
// under way.
func (f *foresight) ack(items []item, now int64, alone bool) {
	f.renew(alone)
	for i := range items {
		it := &items[i]
		f.partition.mu.RLock()
		seq := f.expects(it)
		f.partition.mu.RUnlock()
		if seq > 0 {
			f.mu.Lock()
			f.acked[it.from] = it.counter + Counter(it.count) - 1
			f.mu.Unlock()
			it.from.answered(0, []Answer{{Counter: it.counter, Count: it.count, Seq: seq, Time: now}}, nil)
		}
	}
}

// unacked returns the answers that have not been given already.
func (f *foresight) unacked(b *batch, answers []Answer) []Answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(answers, func(a Answer) bool {
		return a.Err == nil && !a.Duplicate && a.Counter <= f.acked[b.publishers[a.Session]]
	})
}

// show gives readers the messages of an entry that has been proposed, if all of
// them are new.
func (f *foresight) show(data []byte, items []item, now int64, alone bool) {
	var e entry
	if e.decode(data) != nil {
		return
	}
	p := f.partition
	p.mu.Lock()
	defer p.mu.Unlock()
	f.renew(alone)
	first := map[string]Seq{}
	for i := range items {
		seq := f.expects(&items[i])
		if seq == 0 {
			return
		}
		if room := string(items[i].room); first[room] == 0 {
			first[room] = seq
		}
	}
	for _, b := range e.blocks {
		from := first[string(b.room)]
		block := Block{Room: string(b.room), First: from, Last: from + Seq(b.count) - 1, Time: now, Data: b.data}
		before := slices.DeleteFunc(f.shown[block.Room], func(s Block) bool { return s.First >= from })
		f.shown[block.Room] = append(before, block)
		p.wake(block.Room)
		if r := p.watched[block.Room]; r != nil {
			r.last.Store(uint64(block.Last))
			p.waker.later(r.takeWaiting())
		}
	}
}

// beyond returns what follows on seq next-1 of what has been shown. It needs the
// partition's mutex.
func (f *foresight) beyond(room string, next Seq) []Block {
	for i, b := range f.shown[room] {
		if b.First <= next && next <= b.Last {
			out := slices.Clone(f.shown[room][i:])
			out[0] = out[0].behind(next)
			return out
		}
	}
	return nil
}

// applied forgets what was shown in the place of a block. It needs the partition's
// mutex.
func (f *foresight) applied(b *Block) {
	left := slices.DeleteFunc(f.shown[b.Room], func(s Block) bool { return s.First <= b.Last })
	if f.shown[b.Room] = left; len(left) == 0 {
		delete(f.shown, b.Room)
	}
}

// unknown begins a session anew that is not known.
func (m *Machine) unknown(ref sessionRef, counter Counter) *session {
	s := m.sessions.open(ref.id, m.clock)
	s.last, s.floor = counter-1, counter
	return s
}

// stamp adds the numbers that the entry's rooms are to go on with. Each publish takes
// one, a retry too.
func (f *foresight) stamp(data []byte, items []item) []byte {
	f.partition.mu.RLock()
	defer f.partition.mu.RUnlock()
	first := map[string]Seq{}
	order := []string{}
	for i := range items {
		room := string(items[i].room)
		if r := f.partition.machine.rooms[room]; r != nil {
			f.heads[room] = max(f.heads[room], r.last)
		}
		if first[room] == 0 {
			first[room] = f.heads[room] + 1
			order = append(order, room)
		}
		f.heads[room] += Seq(items[i].count)
	}
	size := len(data)
	for _, room := range order {
		data = binary.AppendUvarint(appendText(data, room), uint64(first[room]))
	}
	return binary.LittleEndian.AppendUint32(data, uint32(len(data)-size))
}

// claimedIn returns the number that a stamped entry has for a room, 0 if it has none.
func claimedIn(data []byte, room string) Seq {
	n := len(data) - 4
	if n < 10 {
		return 0
	}
	size := int(binary.LittleEndian.Uint32(data[n:]))
	if size > n {
		return 0
	}
	for d := (decoder{rest: data[n-size : n]}); len(d.rest) > 0; {
		name, seq := d.text(), Seq(d.number())
		if string(name) == room && !d.bad {
			return seq
		}
	}
	return 0
}

// claim notes what the leader has numbered the entry's blocks with.
func (m *Machine) claim(data []byte) {
	for i := range m.state {
		m.state[i].claimed = claimedIn(data, m.state[i].room.name)
	}
}
