package raftlog

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// By itself a leader beats ten times in a heartbeat timeout, for each group and
// follower, and that is most of what idle groups cost. So heartbeats have a way of their own
// between nodes, Config.Beat, on which those of all groups go together. Nothing else
// changes: the follower's raft gets the same request, in its main loop
// (hashicorp/raft#695), and the answer is its own.

// BeatEvery is the time between two beats of a node, all its groups together, for a
// Config.Heartbeat. Raft asks for the next heartbeat a tenth to a fifth of that
// after an answer, so it is there in time, with another tenth to spare, and a
// follower hears of its leader once in each. The lease, seven tenths of the
// timeout, bears that one heartbeat gets lost.
func BeatEvery(heartbeat time.Duration) time.Duration { return heartbeat * 3 / 10 }

// UntilNext is how long it is to a multiple of every by the wall clock, to the next
// one that is not less than half of every away. What each group of a node does now and then costs little if all do it at the same
// time: an idle node pays for waking up.
func UntilNext(every time.Duration) time.Duration {
	wait := every - time.Duration(time.Now().UnixNano()%int64(every))
	if wait < every/2 {
		wait += every
	}
	return wait
}

// BeatAnswer is what a replica's raft says to a heartbeat.
type BeatAnswer struct {
	Term Term
	Last Index // of its log
	OK   bool  // false: it has left the term
}

// maxBeats bounds the heartbeats that raft has not taken yet. Each leader has one
// on its way, and there is one leader, or two where one does not know better.
const maxBeats = 8

// beat is a heartbeat that has come.
type beat struct {
	leader string
	term   uint64
	answer func(a BeatAnswer, known bool) // to be called once; it does not block
}

func (b beat) refuse() { b.answer(BeatAnswer{}, false) }

func (b beat) request() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(b.leader), Addr: []byte(b.leader)},
		Term:      b.term,
	}
}

// heartbeat sends one of raft's heartbeats by the group's own way.
func (t *transport) heartbeat(node string, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	ctx, cancel := context.WithTimeout(t.ctx, rpcTimeout)
	defer cancel()
	a, err := t.beat(ctx, node, Term(req.Term), t.verifying())
	if err != nil {
		return err
	}
	*resp = raft.AppendEntriesResponse{RPCHeader: req.RPCHeader, Term: uint64(a.Term), LastLog: uint64(a.Last), Success: a.OK}
	return nil
}

// Beaten takes what another node's Config.Beat was told. It does not block; answer
// is called once, perhaps from another goroutine, and must not block either. It is
// told false where there is no raft to answer.
func (g *Group) Beaten(leader string, term Term, answer func(a BeatAnswer, known bool)) {
	b := beat{leader, uint64(term), answer}
	if inst := g.instance(); inst != nil && leader != g.cfg.Node {
		inst.trans.inbox.beaten(b)
	} else {
		b.refuse()
	}
}

// beaten queues a heartbeat for raft. One of the same leader that raft has not taken
// has been given up by now.
func (b *inbox) beaten(new beat) {
	b.mu.Lock()
	var old beat
	i := slices.IndexFunc(b.beats, func(q beat) bool { return q.leader == new.leader })
	switch {
	case b.ended:
		old = new
	case i >= 0:
		old, b.beats[i] = b.beats[i], new
	case len(b.beats) == maxBeats:
		old, b.beats = b.beats[0], append(b.beats[1:], new)
	default:
		b.beats = append(b.beats, new)
	}
	b.mu.Unlock()
	if old.answer != nil {
		old.refuse()
	}
	b.signal()
}

func (b *inbox) nextBeat() (next beat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.beats) > 0 {
		next, b.beats = b.beats[0], b.beats[1:]
	}
	return next
}

// answer waits for raft's answer to a heartbeat that it has taken: it takes nothing
// else before that.
func (b *inbox) answer(to beat, rpc <-chan raft.RPCResponse) {
	select {
	case r := <-rpc:
		if a, ok := r.Response.(*raft.AppendEntriesResponse); ok && r.Error == nil {
			to.answer(BeatAnswer{Term: Term(a.Term), Last: Index(a.LastLog), OK: a.Success}, true)
			return
		}
	case <-b.closed:
	}
	to.refuse()
}

// end refuses what raft has not taken.
func (b *inbox) end(current beat) {
	b.mu.Lock()
	left := b.beats
	b.beats, b.ended = nil, true
	b.mu.Unlock()
	if current.answer != nil {
		left = append(left, current)
	}
	for _, q := range left {
		q.refuse()
	}
}
