package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// chooser draws the numbers of a simulation: from rapid, or from a generator.
type chooser func(n int) int // 0 to n-1

// sim is a log server that keeps its promises, with clients, and the history of both.
// A step is a thing that can happen at any time: a publish is made, lands in
// the log, is answered; a reader begins, is handed messages, leaves; a room is trimmed; a
// fault comes and goes and moves leaders.
type sim struct {
	choose  chooser
	ops     []history.Op
	now     int64
	rooms   []*simRoom
	clients []*simClient
	subs    []*simSub
	heads   []*simHead
	process history.Process // last given away
	fault   bool
	term    uint64
}

type simRoom struct {
	name  string
	log   []simMessage // seq 1 first
	first uint64
}

func (r *simRoom) last() uint64 { return uint64(len(r.log)) }

type simMessage struct {
	id    string
	stamp int64
}

type simClient struct {
	process history.Process
	made    uint64
	open    []*simPublish
	read    map[*simRoom]uint64 // what it was acked or handed
}

type simPublish struct {
	id       string
	room     *simRoom
	seq      uint64 // once landed
	stamp    int64
	dropped  bool // never lands
	answered bool
}

type simSub struct {
	process history.Process
	client  *simClient
	room    *simRoom
	next    uint64
}

type simHead struct {
	process     history.Process
	room        *simRoom
	first, last uint64
	sampled     bool
}

func newSim(choose chooser, rooms, clients int) *sim {
	s := &sim{choose: choose, term: 1}
	for i := range rooms {
		s.rooms = append(s.rooms, &simRoom{name: fmt.Sprintf("r%d", i), first: 1})
	}
	for range clients {
		s.process++
		s.clients = append(s.clients, &simClient{process: s.process, read: make(map[*simRoom]uint64)})
	}
	s.emit(history.Nemesis, history.Info, history.FRun, &history.Run{Seed: 1})
	return s
}

func (s *sim) emit(p history.Process, t history.Type, f history.F, v history.Value) {
	s.ops = append(s.ops, history.Op{Index: int64(len(s.ops)), Time: s.now, Process: p, Type: t, F: f, Value: v})
	s.now += 1 + int64(s.choose(1_000_000))
}

func pick[T any](s *sim, list []T) T { return list[s.choose(len(list))] }

func (s *sim) run(steps int) []history.Op {
	weighted := []func(){
		s.publish, s.publish, s.publish, s.land, s.land, s.land, s.answer, s.answer, s.answer,
		s.deliver, s.deliver, s.deliver, s.subscribe, s.leave, s.head, s.head, s.trim, s.nemesis, s.observe,
	}
	for range steps {
		pick(s, weighted)()
	}
	s.finish()
	return s.ops
}

func (s *sim) publish() {
	c, r := pick(s, s.clients), pick(s, s.rooms)
	c.made++
	p := &simPublish{id: history.ID(c.process, c.made), room: r}
	c.open = append(c.open, p)
	s.emit(c.process, history.Invoke, history.FPublish, &history.Publish{Room: r.name, ID: p.id})
}

// land appends a client's oldest publish to a room that is neither there nor dropped, or
// drops it: it was refused, or its session is gone.
func (s *sim) land() {
	c := pick(s, s.clients)
	if len(c.open) == 0 {
		return
	}
	r := pick(s, c.open).room
	i := slices.IndexFunc(c.open, func(p *simPublish) bool { return p.room == r && p.seq == 0 && !p.dropped })
	if i < 0 {
		return
	}
	p := c.open[i]
	if !p.answered && s.choose(8) == 0 {
		p.dropped = true
		return
	}
	p.stamp = s.now
	r.log = append(r.log, simMessage{p.id, p.stamp})
	p.seq = r.last()
	s.forget(c)
}

// forget drops what is answered and will not change any more.
func (s *sim) forget(c *simClient) {
	c.open = slices.DeleteFunc(c.open, func(p *simPublish) bool { return p.answered && (p.seq > 0 || p.dropped) })
}

func (s *sim) answer() {
	c := pick(s, s.clients)
	var waiting []*simPublish
	for _, p := range c.open {
		if !p.answered {
			waiting = append(waiting, p)
		}
	}
	if len(waiting) > 0 {
		s.answerOne(c, pick(s, waiting))
	}
}

func (s *sim) answerOne(c *simClient, p *simPublish) {
	v := &history.Publish{Room: p.room.name, ID: p.id}
	typ := history.Info
	switch unknown := s.choose(6) == 0; {
	case p.seq > 0 && !unknown:
		typ = history.OK
		v.Seq, v.Stamp, v.Duplicate = p.seq, p.stamp, s.choose(5) == 0
		c.read[p.room] = max(c.read[p.room], p.seq)
	case p.dropped && !unknown:
		typ = history.Fail
	}
	p.answered = true
	s.forget(c)
	s.emit(c.process, typ, history.FPublish, v)
}

func (s *sim) subscribe() {
	c, r := pick(s, s.clients), pick(s, s.rooms)
	s.process++
	sub := &simSub{process: s.process, client: c, room: r}
	v := &history.Subscribe{Room: r.name, Client: c.process}
	switch s.choose(5) {
	case 0:
		v.From, sub.next = "start", r.first
	case 1:
		v.From, sub.next = "now", r.last()+1
	case 2:
		at := int64(s.choose(int(s.now) + 1))
		v.From, sub.next = time.Unix(0, at).UTC().Format(time.RFC3339Nano), r.at(at)
	case 3: // behind its own last
		n := c.read[r]
		v.After, sub.next = &n, n+1
	case 4:
		n := uint64(s.choose(len(r.log) + 2))
		v.After, sub.next = &n, n+1
	}
	s.emit(sub.process, history.Invoke, history.FSubscribe, v)
	if sub.next > r.last()+1 {
		head := r.last()
		s.emit(sub.process, history.Fail, history.FSubscribe, &history.Subscribe{Room: r.name, Head: &head})
		return
	}
	s.subs = append(s.subs, sub)
}

// at is the first seq held that is as young as at.
func (r *simRoom) at(at int64) uint64 {
	seq := r.first
	for seq <= r.last() && r.log[seq-1].stamp < at {
		seq++
	}
	return seq
}

func (s *sim) deliver() {
	if len(s.subs) == 0 {
		return
	}
	sub := pick(s, s.subs)
	if n := 1 + s.choose(5); sub.next <= sub.room.last() {
		s.poll(sub, n)
	}
}

func (s *sim) poll(sub *simSub, n int) {
	r := sub.room
	var list history.Events
	if sub.next < r.first {
		list = append(list, history.Event{Seq: sub.next, To: r.first - 1, Reason: "trimmed"})
		sub.next = r.first
	}
	for ; n > 0 && sub.next <= r.last(); n-- {
		list = append(list, history.Event{Seq: sub.next, ID: r.log[sub.next-1].id})
		sub.next++
	}
	sub.client.read[r] = max(sub.client.read[r], sub.next-1)
	s.emit(sub.process, history.OK, history.FPoll, &history.Poll{Room: r.name, Msgs: list})
}

func (s *sim) leave() {
	if len(s.subs) == 0 || s.choose(3) > 0 {
		return
	}
	i := s.choose(len(s.subs))
	sub := s.subs[i]
	s.subs = slices.Delete(s.subs, i, i+1)
	s.emit(sub.process, pick(s, []history.Type{history.OK, history.Info}), history.FSubscribe, &history.Subscribe{Room: sub.room.name})
}

// head begins a head read, or lets one see the head, or answers one.
func (s *sim) head() {
	if len(s.heads) == 0 || s.choose(3) == 0 {
		c := pick(s, s.clients)
		if slices.ContainsFunc(s.heads, func(h *simHead) bool { return h.process == c.process }) {
			return
		}
		h := &simHead{process: c.process, room: pick(s, s.rooms)}
		s.heads = append(s.heads, h)
		s.emit(h.process, history.Invoke, history.FHead, &history.Head{Room: h.room.name})
		return
	}
	i := s.choose(len(s.heads))
	h := s.heads[i]
	if !h.sampled {
		h.sampled, h.first, h.last = true, h.room.first, h.room.last()
		return
	}
	s.heads = slices.Delete(s.heads, i, i+1)
	s.emit(h.process, history.OK, history.FHead, &history.Head{Room: h.room.name, First: h.first, Last: h.last})
}

func (s *sim) trim() {
	if r := pick(s, s.rooms); s.choose(4) == 0 && len(r.log) > 10 {
		r.first += uint64(s.choose(int(r.last()-r.first)/3 + 1))
	}
}

func (s *sim) nemesis() {
	v := &history.Fault{Phase: history.Start, Count: 1}
	if s.fault {
		v = &history.Fault{Phase: history.Stop}
	}
	s.fault = !s.fault
	s.emit(history.Nemesis, history.Info, "leader-kill", v)
	if s.fault {
		s.term++
	}
}

func (s *sim) observe() {
	leader := fmt.Sprintf("n%d", 1+s.term%3)
	s.emit(1000, history.Info, history.FLeader, &history.Leader{Node: pick(s, []string{"n1", "n2", "n3"}), Term: s.term, Leader: leader})
}

// finish answers everything and reads all rooms from all nodes.
func (s *sim) finish() {
	for _, c := range s.clients {
		for _, p := range slices.Clone(c.open) {
			if !p.answered {
				s.answerOne(c, p)
			}
		}
	}
	if s.fault {
		s.nemesis()
	}
	s.observe()
	for _, r := range s.rooms {
		for _, node := range []string{"n1", "n2", "n3"} {
			s.final(r, node)
		}
	}
	for _, node := range []string{"n1", "n2", "n3"} {
		s.emit(1001, history.OK, history.FReplica, &history.Replica{Node: node, Applied: 77, Hash: strings.Repeat("ab", 8)})
	}
}

func (s *sim) final(r *simRoom, node string) {
	s.process++
	s.emit(s.process, history.Invoke, history.FFinal, &history.Final{Room: r.name, Node: node})
	for seq, more := r.first, true; more; {
		v := &history.Final{Room: r.name, Node: node, First: r.first, Last: r.last()}
		for n := 0; seq <= r.last() && n < 1+s.choose(100); n++ {
			v.Msgs = append(v.Msgs, history.Event{Seq: seq, ID: r.log[seq-1].id})
			seq++
		}
		more = seq <= r.last()
		v.More = more
		s.emit(s.process, history.OK, history.FFinal, v)
	}
}
