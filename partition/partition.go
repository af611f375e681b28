package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Config is what a partition is made of. Group's ID is the partition's number;
// Open fills its Machine.
type Config struct {
	Group      raftlog.Config
	QueueBytes int64         // publishes waiting to be proposed; default 16 MiB
	TailBytes  int64         // newest messages in memory; default 8 MiB
	SessionTTL time.Duration // default 10 minutes
	Metrics    *Metrics
	Logger     *slog.Logger
}

// Partition is this node's replica of a partition.
type Partition struct {
	cfg     Config
	id      int
	log     *slog.Logger
	metrics *Metrics
	group   *raftlog.Group
	queue   *queue

	cancel context.CancelFunc
	tasks  sync.WaitGroup

	full      atomic.Bool  // no more answers can be kept
	entryTime atomic.Int64 // how long an entry takes from proposal to answer, ns, smoothed

	mu      sync.RWMutex
	machine *Machine
	failed  error // why the machine was left behind; the process is about to end
	tail    tail
	waits   map[string]chan struct{} // per room, closed when it grows
	loose   []string                 // rooms in waits that had no subscriber then
	applied time.Time                // of the last entry, by this node's clock
	watched map[string]*roomStats    // rooms with subscribers here
	stale   chan struct{}            // closed while no leader is heard of
	isStale bool
}

// Open opens or creates the replica and starts it.
func Open(cfg Config) (*Partition, error) {
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = 16 << 20
	}
	if cfg.TailBytes == 0 {
		cfg.TailBytes = 8 << 20
	}
	if cfg.SessionTTL == 0 {
		cfg.SessionTTL = 10 * time.Minute
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	p := &Partition{
		cfg:     cfg,
		id:      int(cfg.Group.ID),
		log:     cfg.Logger.With("partition", cfg.Group.ID),
		metrics: cfg.Metrics,
		queue:   newQueue(cfg.QueueBytes),
		machine: NewMachine(),
		tail:    newTail(cfg.TailBytes),
		waits:   map[string]chan struct{}{},
		watched: map[string]*roomStats{},
		stale:   make(chan struct{}),
	}
	cfg.Group.Machine = applier{p}
	group, err := raftlog.Open(cfg.Group)
	if err != nil {
		return nil, err
	}
	p.group = group

	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	prop := newProposer(p)
	p.tasks.Go(func() { prop.run(ctx) })
	p.tasks.Go(prop.answer)
	p.tasks.Go(func() { p.tick(ctx) })
	return p, nil
}

// applier is the StateMachine that raftlog sees.
type applier struct{ p *Partition }

// Apply numbers the entries' messages and wakes who waits for them.
func (a applier) Apply(entries []raftlog.Entry) []any {
	p := a.p
	results := make([]any, len(entries))
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, e := range entries {
		if p.failed != nil {
			results[i] = p.failed
			continue
		}
		out, err := p.machine.Apply(e.Index, e.Data)
		if err != nil {
			results[i] = p.passOver(err)
			continue
		}
		results[i] = out
		p.tail.add(out.Blocks)
		for _, b := range out.Blocks {
			p.metrics.applied(int(b.Last+1-b.First), len(b.Data))
			p.wake(b.Room)
		}
	}
	p.applied = time.Now()
	p.full.Store(p.machine.sessions.kept >= p.machine.keep)
	return results
}

// passOver says what becomes of an entry that the machine did not take. One of a
// later version others have taken: this replica knows nothing any more.
func (p *Partition) passOver(err error) error {
	p.log.Error("an entry was passed over", "err", err)
	if errors.Is(err, errEntryVersion) {
		err = fmt.Errorf("%w: %w", raftlog.ErrUnknown, err)
		p.failed = err
		p.cfg.Group.Fatal(err)
	}
	return err
}

// wake wakes who waits for room. It needs p.mu.
func (p *Partition) wake(room string) {
	if wait, ok := p.waits[room]; ok {
		close(wait)
		delete(p.waits, room)
	}
}

// wakeLoose wakes who waits for a room without a subscriber: they ask again if
// they are still there, and a room nobody asks for any more costs nothing.
func (p *Partition) wakeLoose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, room := range p.loose {
		if p.watched[room] == nil {
			p.wake(room)
		}
	}
	p.loose = nil
}

// staleAfter is how long a replica serves readers who have all it knows
// without hearing of a leader. It is far longer than an election takes.
const staleAfter = 3 * time.Second

// tick looks at the replica once a second.
func (p *Partition) tick(ctx context.Context) {
	every := time.NewTicker(maxClockStep)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			p.expire()
			p.checkStale()
			p.wakeLoose()
		case <-ctx.Done():
			return
		}
	}
}

// expire lets logical time pass while sessions are open and nothing is
// published, so that idle ones expire.
func (p *Partition) expire() {
	p.mu.RLock()
	idle := len(p.machine.sessions.byID) > 0 && time.Since(p.applied) >= maxClockStep
	p.mu.RUnlock()
	if idle && p.group.Leading() {
		p.group.Propose(encodeTick(time.Now().UnixNano(), p.cfg.SessionTTL))
	}
}

func (p *Partition) checkStale() {
	stale := time.Since(p.group.LastContact()) > staleAfter
	p.mu.Lock()
	defer p.mu.Unlock()
	if stale == p.isStale {
		return
	}
	if p.isStale = stale; stale {
		close(p.stale)
	} else {
		p.stale = make(chan struct{})
	}
}

// Stale returns a channel that is closed once this replica has heard of no
// leader for some seconds: others may know more.
func (p *Partition) Stale() <-chan struct{} {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.stale
}

func (p *Partition) entryTook(d time.Duration) {
	old := p.entryTime.Load()
	p.entryTime.Store(old + (int64(d)-old)/8) // one writer
}

// drainTime estimates how long it takes to propose what is queued.
func (p *Partition) drainTime() time.Duration {
	entries := p.queue.size()/maxEntryBytes + 1
	return min(max(time.Duration(entries*p.entryTime.Load()/maxInflight), minRetryAfter), maxRetryAfter)
}

// ID is the partition's number.
func (p *Partition) ID() int { return p.id }

// Group is the Raft group below, for operators' questions and hand-overs.
func (p *Partition) Group() *raftlog.Group { return p.group }

// Gap is a range of seqs that a reader cannot have because retention has
// removed them.
type Gap struct{ From, To Seq }

// Batch is what a reader gets: a gap or blocks or, when there is nothing yet, a
// channel that is closed when there may be. Next is the seq to ask for afterwards.
type Batch struct {
	Gap    *Gap
	Blocks []Block
	Next   Seq
	Wait   <-chan struct{}
}

// Read returns messages of room from seq next on, of about maxBytes together
// and at least one if there is one. next runs from 1 and must not be beyond the
// head + 1. Blocks may be shared with other readers and must not be changed.
func (p *Partition) Read(room string, next Seq, maxBytes int) (Batch, error) {
	maxBytes = max(maxBytes, 1)
	p.mu.RLock()
	r := p.machine.rooms[room]
	switch {
	case r == nil || next > r.last:
		p.mu.RUnlock()
		return p.wait(room, next), nil
	case next < r.first:
		gap := Gap{next, r.first - 1}
		p.mu.RUnlock()
		return Batch{Gap: &gap, Next: gap.To + 1}, nil
	}
	if blocks := p.tail.from(room, next, maxBytes); len(blocks) > 0 {
		p.mu.RUnlock()
		return Batch{Blocks: blocks, Next: blocks[len(blocks)-1].Last + 1}, nil
	}
	p.mu.RUnlock()
	return p.readLog(r, next, maxBytes)
}

// wait returns a batch that waits for room's seq next, unless it has come.
func (p *Partition) wait(room string, next Seq) Batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.machine.rooms[room]; r != nil && next <= r.last {
		return Batch{Next: next, Wait: ready}
	}
	wait, ok := p.waits[room]
	if !ok {
		wait = make(chan struct{})
		p.waits[room] = wait
		if p.watched[room] == nil {
			p.loose = append(p.loose, room)
		}
	}
	return Batch{Next: next, Wait: wait}
}

// ready is the channel for those who need not wait.
var ready = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// readLog reads what is older than the tail. Nobody waits for a disk or for the
// decoding of an entry: the mutex is held only to look up places.
func (p *Partition) readLog(r *room, next Seq, maxBytes int) (Batch, error) {
	var e entry
	batch := Batch{Next: next}
	for maxBytes > 0 {
		p.mu.RLock()
		if batch.Next > r.last {
			p.mu.RUnlock()
			break
		}
		if batch.Next < r.first { // trimmed meanwhile
			p.mu.RUnlock()
			batch.Wait = ready
			break
		}
		at, last := r.find(batch.Next)
		p.mu.RUnlock()

		entries, _, err := p.group.Read(at.index, 1)
		if err != nil {
			return Batch{}, err
		}
		if len(entries) == 0 { // just applied, the log is about to hand it out
			if len(batch.Blocks) == 0 {
				batch.Wait = ready
			}
			break
		}
		if entries[0].Index != at.index {
			return Batch{}, raftlog.ErrNotFound
		}
		b, n, err := at.reread(&e, r.name, last, entries[0].Data)
		if err != nil {
			return Batch{}, err
		}
		p.mu.RLock()
		b.Dropped = p.machine.dropped[blockID{at.index, n}]
		p.mu.RUnlock()
		batch.Blocks = append(batch.Blocks, b.behind(batch.Next))
		batch.Next = b.Last + 1
		maxBytes -= len(b.Data)
	}
	return batch, nil
}

// Head returns the seqs that this replica holds of room: 1 and 0 if none were
// ever given.
func (p *Partition) Head(room string) (first, last Seq) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.machine.rooms[room]; r != nil {
		return r.first, r.last
	}
	return 1, 0
}

// Place returns Head and the first seq published at or after t (nanoseconds
// since 1970 UTC), as of now: it fails with ErrNotLeader unless this node leads.
func (p *Partition) Place(ctx context.Context, room string, t int64) (first, last, at Seq, err error) {
	if err := p.group.Confirm(ctx); err != nil {
		return 0, 0, 0, leaderError(err)
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.machine.rooms[room]; r != nil {
		return r.first, r.last, r.at(t), nil
	}
	return 1, 0, 1, nil
}

// CheckBeyond decides about a subscriber who asks for seq next, which this
// replica does not know yet: nil if it exists or is the next to come,
// *BeyondHeadError if not. It fails with ErrNotLeader unless this node leads; an
// entry in the log makes sure that it does.
func (p *Partition) CheckBeyond(ctx context.Context, room string, next Seq) error {
	if err := p.group.Barrier(ctx); err != nil {
		return leaderError(err)
	}
	if _, last := p.Head(room); next > last+1 {
		return &BeyondHeadError{Room: room, Want: next, Head: last}
	}
	return nil
}

func leaderError(err error) error {
	if errors.Is(err, raftlog.ErrNotLeader) {
		return ErrNotLeader
	}
	return errors.Join(ErrUnavailable, err)
}

// Close stops the replica. Every publish that was accepted is answered first,
// some with ErrOutcomeUnknown.
func (p *Partition) Close() error {
	p.cancel()
	err := p.group.Close()
	p.tasks.Wait()
	return err
}
