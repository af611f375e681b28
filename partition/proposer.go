package partition

import (
	"context"
	"slices"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

const (
	// maxEntryBytes is how many bytes of messages go into one entry; a single
	// larger message makes a larger entry.
	maxEntryBytes = 256 << 10
	// maxInflight is how many entries of a partition are on their way at once.
	maxInflight = 2
	// proposeTimeout bounds the wait for an entry's outcome. After it the
	// outcome is unknown.
	proposeTimeout = 10 * time.Second
)

// proposer turns what is queued into entries. Nothing waits for a batch to
// fill: what has queued while the last entries were on their way goes into the
// next. run and answer are its only goroutines; run owns the packer.
// When both have ended, everything that was queued has been answered.
type proposer struct {
	queue    *queue
	gate     *gate // an entry is inside from its proposal to its answer
	propose  func(data []byte) proposal
	leading  func() bool
	now      func() int64
	ttl      time.Duration
	metrics  *Metrics
	inflight chan batch // at most maxInflight
	slots    chan struct{}
	took     func(time.Duration)     // told how long each entry took
	loopTime func() raftlog.LoopTime // of the group
	stages   *stages
	slow     func(Stage) // Config.Slow

	foresight *foresight // of a control
}

// proposal is an entry on its way (raftlog.Proposal).
type proposal interface {
	Wait(ctx context.Context) (any, error)
}

// batch is an entry on its way and whom to tell.
type batch struct {
	kind       entryKind
	entry      proposal
	departure               // proposed now
	messages   int          // those in it
	publishers []*Publisher // as in the entry's session table
	items      []int        // per publisher how many of its publishes are in the entry
	first      []Counter    // per publisher the lowest counter among them
}

func newProposer(p *Partition) *proposer {
	return &proposer{
		queue:    p.queue,
		gate:     &p.gate,
		propose:  func(data []byte) proposal { return p.group.Propose(data) },
		leading:  p.group.Leading,
		now:      func() int64 { return time.Now().UnixNano() },
		ttl:      p.cfg.SessionTTL,
		metrics:  p.metrics,
		inflight: make(chan batch, maxInflight),
		slots:    make(chan struct{}, maxInflight),
		took:     p.entryTook,
		loopTime: p.group.LoopTime,
		stages:   p.stages,
		slow:     p.slow,

		foresight: p.foresight,
	}
}

// run takes from the queue until ctx ends.
func (p *proposer) run(ctx context.Context) {
	defer close(p.inflight)
	defer func() {
		for _, it := range p.queue.close(ErrUnavailable) {
			p.drop(it, ErrUnavailable)
		}
	}()
	var pack packer
	var items []item
	for {
		select {
		case p.slots <- struct{}{}: // given back by answer
		case <-ctx.Done():
			return
		}
		p.slow(Receive)
		var err error
		if items, err = p.queue.take(ctx, maxEntryBytes, items[:0]); err != nil {
			return
		}
		received := epoch.Add(items[0].came)
		p.gate.enter(ctx)
		alive := p.alive(items)
		if len(alive) == 0 {
			p.gate.leave()
			<-p.slots
		} else {
			p.inflight <- p.start(&pack, alive, received)
		}
		clear(items) // keep nothing alive while there is nothing to do
	}
}

// alive keeps the items that are to be proposed and answers the others: those
// behind one that was refused meanwhile, and all if this node does not lead.
func (p *proposer) alive(items []item) []item {
	leading := p.leading()
	alive := items[:0]
	for _, it := range items {
		switch {
		case !leading:
			p.drop(it, ErrNotLeader)
		case it.kind != kindClose && it.from.refused(it.counter):
			it.from.answered(it.answers(), nil, nil)
		default:
			alive = append(alive, it)
		}
	}
	return alive
}

// drop answers an item that was not proposed.
func (p *proposer) drop(it item, err error) {
	if it.kind == kindClose {
		it.from.answered(1, nil, nil)
		return
	}
	r := refusalFor(it.counter, err)
	it.from.answered(it.answers(), nil, &r)
	p.metrics.refused(err, it.answers())
}

// answers is how many answers its Publisher waits for.
func (it *item) answers() int { return max(it.count, 1) }

// start proposes items, all of one kind, the oldest of which came at received.
func (p *proposer) start(pack *packer, items []item, received time.Time) batch {
	b := batch{kind: items[0].kind, departure: departure{received, time.Now(), p.loopTime()}}
	for i := range items {
		b.messages += items[i].answers()
	}
	now := p.now()
	if b.kind == kindPublish {
		var data []byte
		data, b.publishers = pack.pack(now, items)
		b.items, b.first = slices.Clone(pack.counts), slices.Clone(pack.lowest)
		pack.forget()
		if seededLeaderCounter { // a control
			data = p.foresight.stamp(data, items)
		}
		b.entry = p.propose(data)
		p.metrics.proposed(b.messages, len(data))
		if seededAckBeforeCommit { // a control
			p.foresight.ack(items, now, len(p.slots) == 1)
		}
		if seededServeBeyondCommit { // a control
			p.foresight.show(data, items, now, len(p.slots) == 1)
		}
		return b
	}
	ids := make([]SessionID, len(items))
	for i := range items {
		ids[i] = items[i].from.session
		b.publishers = append(b.publishers, items[i].from)
	}
	if b.kind == kindOpen {
		b.entry = p.propose(encodeOpen(now, p.ttl, ids))
	} else {
		b.entry = p.propose(encodeClose(now, ids))
	}
	return b
}

// answer tells the outcome of each entry, in order, until run has ended. The next one may
// be proposed before all of that is told; but what waits behind something that is refused
// must be seen to.
func (p *proposer) answer() {
	for b := range p.inflight {
		ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
		result, err := b.entry.Wait(ctx)
		cancel()
		out, ok := result.(Outcome)
		if failed, passedOver := result.(error); passedOver {
			err = failed // by every replica alike
		} else if err == nil && !ok {
			err = raftlog.ErrUnknown // raft had applied the entry in an earlier life
		}
		if err == nil {
			p.free()
		}
		p.took(time.Since(b.taken))
		p.metrics.answered(err)
		p.stages.published(b.departure, out.passage, b.messages)
		if seededAckBeforeCommit { // a control
			out.Answers = p.foresight.unacked(&b, out.Answers)
		}
		if b.kind == kindPublish {
			b.answerPublishes(out.Answers, err)
		} else {
			b.answerSessions(out.Opened, err)
		}
		if err != nil {
			p.free()
		}
	}
}

// free lets another entry be proposed.
func (p *proposer) free() {
	p.gate.leave()
	<-p.slots
}

func (b *batch) answerPublishes(answers []Answer, err error) {
	if err != nil {
		for i, pub := range b.publishers {
			r := refusalFor(b.first[i], err)
			pub.answered(b.items[i], nil, &r)
		}
		return
	}
	acks := make([][]Answer, len(b.publishers))
	refusals := make([]*Refusal, len(b.publishers))
	for _, a := range answers {
		if a.Err == nil {
			acks[a.Session] = append(acks[a.Session], a)
		} else if refusals[a.Session] == nil {
			r := refusalFor(a.Counter, a.Err)
			refusals[a.Session] = &r
		}
	}
	for i, pub := range b.publishers {
		pub.answered(b.items[i], acks[i], refusals[i])
	}
}

func (b *batch) answerSessions(opened []error, err error) {
	for i, pub := range b.publishers {
		switch {
		case b.kind == kindClose:
			pub.answered(1, nil, nil)
		case err != nil:
			pub.opened(err)
		default:
			pub.opened(opened[i])
		}
	}
}

var _ proposal = (*raftlog.Proposal)(nil)
