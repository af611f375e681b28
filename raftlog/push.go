package raftlog

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Raft tells a follower of a commit with the next AppendEntries. After a lone
// message there is none until CommitTimeout, and a follower's readers would wait
// for it. So the leader pushes (index, term): the entry at index has that term,
// which is the leader's own, and is committed. The replica makes an empty
// AppendEntries of it and hands it to its raft, which checks it like any other.
//
// Why that is safe:
//
//   - Nothing uncommitted is shown. Whoever holds an entry with that index and
//     that term holds what the leader held up to there (raft's log matching), and
//     that is committed. The AppendEntries names the entry as the previous one, so
//     raft refuses it unless it holds just that; and as LeaderCommitIndex, so
//     nothing behind the entry, which may be another leader's, counts as committed.
//     Who sent the push, and how late it comes, does not matter for this.
//   - The term of an AppendEntries must be its leader's current one: raft adopts it,
//     and follows whom it names. The push has only the entry's term, so it is made
//     only where the two are the same. Entries of earlier terms are committed by
//     an entry of the leader's own, and a push of that tells of them.
//   - Of a push that comes after its term has ended, raft takes no notice: its own
//     term is higher. It cannot raise a term either, for the replica holds an entry
//     of it. And it cannot depose a leader of that term, who does not push to itself.
//   - It counts as contact with the leader, as an AppendEntries does, and must not
//     make a dead leader look alive. A push whose entry is there is handed over at
//     once, and so is as fresh as a heartbeat that took the same way. One that waits
//     for its entry is handed over when that has come, which itself is contact, with
//     the leader of that term or with a later one, and then the push is refused.
//     Where raft is stuck in a write meanwhile, that write is what the leader sent,
//     and its end counts as contact, too.

// pushPause is how long the leader leaves it to the next AppendEntries to tell of a
// commit, if entries are on their way: then there most often is one at once.
const pushPause = time.Millisecond

// pusher tells the other replicas how far the log is committed, unless raft has.
// It outlives the raft instance.
type pusher struct {
	send    func(node string, index Index, term Term) bool // Config.Push
	stalled func() bool

	mu     sync.Mutex
	term   uint64            // the last one that this node leads, or led, somebody in
	index  uint64            // the newest entry of that term known to be committed; 0: none
	told   map[string]uint64 // up to where each replica has been told, by raft or by a push
	timer  *time.Timer       // nil: has never run
	armed  bool              // the timer runs
	closed bool
}

// sending takes note of an AppendEntries that leaves for a node, a heartbeat too.
func (p *pusher) sending(node string, req *raft.AppendEntriesRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if req.Term > p.term || p.told == nil {
		p.term, p.index, p.told = req.Term, 0, map[string]uint64{}
	}
	if req.Term == p.term {
		p.told[node] = max(p.told[node], req.LeaderCommitIndex)
	}
}

// answered takes note of how it went. After a failure nothing that the node was
// told counts, and it is told again as soon as it answers.
func (p *pusher) answered(node string, req *raft.AppendEntriesRequest, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case req.Term != p.term:
	case err != nil:
		p.told[node] = 0
	default:
		p.push(node)
	}
}

// committed takes note of a committed entry, which the last one in the log may be.
func (p *pusher) committed(index, term uint64, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case term != p.term || index <= p.index:
		return
	case last:
		p.index = index
		p.pushAll()
		return
	}
	p.index = index
	switch {
	case p.armed || p.closed:
		return
	case p.timer == nil:
		p.timer = time.AfterFunc(pushPause, p.late)
	default:
		p.timer.Reset(pushPause)
	}
	p.armed = true
}

func (p *pusher) late() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	p.pushAll()
}

// pushAll needs mu.
func (p *pusher) pushAll() {
	for node := range p.told {
		p.push(node)
	}
}

// push needs mu.
func (p *pusher) push(node string) {
	if p.closed || p.told[node] >= p.index || p.stalled() {
		return
	}
	if p.send(node, Index(p.index), Term(p.term)) {
		p.told[node] = p.index
	}
}

// close ends all pushing.
func (p *pusher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// tellCommit is called with the newest entry that the FSM has.
func (g *Group) tellCommit(index, term uint64) {
	if inst := g.instance(); inst != nil && inst.raft.State() == raft.Leader {
		g.pusher.committed(index, term, inst.raft.LastIndex() == index)
	}
}

// pushBarrier tells of what the FSM is not given: a leader's first entry and its
// barriers. With the first, all entries of earlier terms are committed.
func (g *Group) pushBarrier(inst *instance) {
	var l raft.Log
	if g.store.GetLog(inst.raft.CommitIndex(), &l) == nil && inst.raft.State() == raft.Leader {
		g.pusher.committed(l.Index, l.Term, true)
	}
}

// Pushed takes what another node's Config.Push was told. It does not block.
func (g *Group) Pushed(leader string, index Index, term Term) {
	if inst := g.instance(); inst != nil && leader != g.cfg.Node {
		inst.trans.inbox.pushed(push{leader, uint64(index), uint64(term)})
	}
}

// push tells that a leader's entry is committed. The zero push tells nothing.
type push struct {
	leader      string
	index, term uint64
}

func (p push) newer(o push) bool { return p.term > o.term || p.term == o.term && p.index > o.index }

// request is what raft is to make of it.
func (p push) request() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(p.leader), Addr: []byte(p.leader)},
		Term:      p.term, PrevLogEntry: p.index, PrevLogTerm: p.term, LeaderCommitIndex: p.index,
	}
}

// inbox is where raft gets its requests: those that came over the network, in
// their order, and between them heartbeats and what has been pushed. One goroutine runs it, from
// newTransport to close.
type inbox struct {
	local  local
	votes  *voteBlock // nil: votes are free
	in     <-chan raft.RPC
	out    chan raft.RPC
	own    chan offer    // of this node itself
	wake   chan struct{} // one token: look at what is kept
	closed chan struct{}
	once   sync.Once // closes closed
	ran    sync.WaitGroup

	mu       sync.Mutex
	beats    []beat        // of other nodes, on their way to raft; at most maxBeats
	ended    bool          // no more of them
	kept     push          // the newest push, until the log has its entry
	awaiting atomic.Uint64 // kept.index: raft's main loop must not wait for mu
}

func newInbox(in <-chan raft.RPC, votes *voteBlock, l local) *inbox {
	b := &inbox{
		local: l, votes: votes, in: in,
		out: make(chan raft.RPC), own: make(chan offer), wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	b.ran.Go(b.run)
	return b
}

func (b *inbox) close() {
	b.once.Do(func() { close(b.closed) })
	b.ran.Wait()
}

func (b *inbox) run() {
	var current beat // what raft is offered first, until it takes it
	defer func() { b.end(current) }()
	for {
		// Raft is offered something of ours beside what comes in, so that a push which
		// it does not take, being busy, makes room for a newer one.
		if current.answer == nil {
			current = b.nextBeat()
		}
		var out chan<- raft.RPC
		var kept push
		rpc, answer := raft.RPC{}, make(chan raft.RPCResponse, 1)
		if current.answer != nil {
			out, rpc = b.out, raft.RPC{Command: current.request(), RespChan: answer}
		} else if kept = b.due(); kept != (push{}) {
			out, rpc = b.out, raft.RPC{Command: kept.request(), RespChan: answer}
		}
		select {
		case rpc := <-b.in:
			if b.votes != nil && b.votes.answers(rpc) {
				continue
			}
			select {
			case b.out <- rpc:
			case <-b.closed:
				return
			}
		case own := <-b.own:
			select {
			case b.out <- own.rpc:
			case <-own.late:
			case <-b.closed:
				return
			}
		case out <- rpc:
			if current.answer != nil {
				b.answer(current, answer)
				current = beat{}
			} else {
				b.forget(kept)
			}
		case <-b.wake:
		case <-b.closed:
			return
		}
	}
}

// offer is a request that is void when it is late.
type offer struct {
	rpc  raft.RPC
	late <-chan time.Time
}

// offer offers raft a request for so long.
func (b *inbox) offer(rpc raft.RPC, limit time.Duration) {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case b.own <- offer{rpc, time.After(limit)}:
	case <-late.C:
	case <-b.closed:
	}
}

// due returns the kept push if raft is to have it now.
func (b *inbox) due() push {
	b.mu.Lock()
	kept := b.kept
	b.mu.Unlock()
	switch term, held := b.termAt(kept.index); { // which may read the disk: without mu, for that is waited for by the link
	case kept == (push{}):
	case kept.index <= b.local.commit() || held && term > kept.term:
		b.forget(kept) // raft knows it, or another leader has gone on from before it
	case !held || term < kept.term || b.local.stalled() || b.votes != nil && b.votes.blocked():
	default:
		return kept
	}
	return push{}
}

func (b *inbox) termAt(index uint64) (term uint64, held bool) {
	if index == 0 {
		return 0, false
	}
	return b.local.termAt(index)
}

func (b *inbox) forget(p push) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept == p {
		b.keep(push{})
	}
}

// keep needs mu.
func (b *inbox) keep(p push) {
	b.kept = p
	b.awaiting.Store(p.index)
}

func (b *inbox) pushed(p push) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.newer(b.kept) {
		b.keep(p)
		b.signal()
	}
}

// stored is called by raft's main loop when the log has grown up to last.
func (b *inbox) stored(last uint64) {
	if index := b.awaiting.Load(); index != 0 && index <= last {
		b.signal()
	}
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
