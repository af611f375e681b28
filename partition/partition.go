package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/raftlog/vfs"
)

// Config is what a partition is made of. Group's ID is the partition's number;
// Open fills its Machine.
type Config struct {
	Group      raftlog.Config
	QueueBytes int64         // publishes waiting to be proposed; default 16 MiB
	TailBytes  int64         // newest messages in memory; default 8 MiB
	SessionTTL time.Duration // default 10 minutes
	Retention  Retention     // must have passed its Check; the same on all nodes
	ChunkBytes int64         // a checkpoint comes after so much of the log; default 64 MiB
	// Full tells that publishes are to be refused because the disk is nearly full.
	// It is asked for each publish, by many goroutines; nil: never.
	Full func() bool
	// Marked is told of each new mark, in order, from one goroutine. Apply
	// waits for it.
	Marked func(index raftlog.Index, hash uint64)
	// Objective is what nine and ninety of a hundred messages shall not take,
	// from received to being handed to a subscriber's connection; default DefaultObjective.
	Objective time.Duration
	// Ahead tells how far a node's clock is ahead of this one's; nil: all are alike.
	Ahead func(node string) time.Duration
	// Slow, if not nil, is called at the beginning of the stages Receive, Propose
	// and Apply of each entry: for tests of a slow one.
	Slow    func(Stage)
	Metrics *Metrics
	Logger  *slog.Logger
}

// Partition is this node's replica of a partition.
type Partition struct {
	cfg     Config
	id      int
	log     *slog.Logger
	metrics *Metrics
	group   *raftlog.Group
	queue   *queue
	gate    gate // before the proposer
	files   *roomFiles
	stages  *stages
	work    workClock // of the machine
	waker   waker

	foresight *foresight // of a control

	standing standing

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	opened  chan struct{} // closed when group is set
	trimmed chan struct{} // one token: something can be removed
	unled   atomic.Bool   // isStale, for cursors

	messages   atomic.Uint64 // applied here
	deliveries atomic.Uint64 // handed to connections here
	ahead      atomic.Int64  // how far the leader's clock is ahead, ns

	full      atomic.Bool  // no more answers can be kept
	clock     steadyClock  // belongs to tick
	entryTime atomic.Int64 // how long an entry takes from proposal to answer, ns, smoothed

	mu      sync.RWMutex
	machine *Machine
	failed  error // why the machine was left behind; the process is about to end
	tail    tail
	waits   map[string]chan struct{} // per room, closed when it grows
	loose   []string                 // rooms in waits that had no subscriber then
	applied time.Time                // of the last entry, by this node's clock
	watched map[string]*watchedRoom  // rooms with subscribers here
	watches []*watchedRoom           // the same, in any order
	grown   []*watchedRoom           // by the entries that are being applied
	stale   chan struct{}            // closed while no leader is heard of
	isStale bool
	marks   []Mark
	job     *job // that of the last checkpoint
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
	if cfg.ChunkBytes == 0 {
		cfg.ChunkBytes = defaultChunkBytes
	}
	if cfg.Group.FS == nil {
		cfg.Group.FS = vfs.OS
	}
	if cfg.Objective == 0 {
		cfg.Objective = DefaultObjective
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
		stages:  newStages(),
		machine: NewMachine(),
		tail:    newTail(cfg.TailBytes),
		waits:   map[string]chan struct{}{},
		watched: map[string]*watchedRoom{},
		stale:   make(chan struct{}),
		opened:  make(chan struct{}),
		trimmed: make(chan struct{}, 1),
		waker:   waker{kick: make(chan struct{}, 1)},
	}
	p.foresight = newForesight(p)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.files = &roomFiles{
		fs: cfg.Group.FS, dir: filepath.Join(cfg.Group.Dir, "rooms"), group: cfg.Group.ID, log: p.log,
		remake: p.remakeRooms, ctx: p.ctx, tasks: &p.tasks,
		cache: map[recordKey]*record{}, mends: map[raftlog.Index]*mend{},
	}
	cfg.Group.Machine = applier{p}
	if cfg.Slow != nil {
		cfg.Group.Slow = func() { cfg.Slow(Propose) }
	}
	group, err := raftlog.Open(cfg.Group)
	if err != nil {
		p.cancel()
		p.tasks.Wait()
		return nil, err
	}
	p.mu.Lock()
	p.group = group
	p.machine.chunks.hold(lacks(group))
	p.mu.Unlock()
	close(p.opened)

	prop := newProposer(p)
	p.tasks.Go(func() { prop.run(p.ctx) })
	p.tasks.Go(prop.answer)
	p.tasks.Go(func() { p.tick(p.ctx) })
	p.tasks.Go(func() { p.clean(p.ctx) })
	p.tasks.Go(func() { p.watchDrift(p.ctx) })
	p.tasks.Go(func() { p.waker.run(p.ctx) })
	return p, nil
}

// applier is the StateMachine that raftlog sees.
type applier struct{ p *Partition }

// Apply numbers the entries' messages and wakes who waits for them.
func (a applier) Apply(entries []raftlog.Entry) []any {
	p := a.p
	results := make([]any, len(entries))
	var marks []Mark
	p.mu.Lock()
	done := new(applied)
	p.work.begin()
	for i, e := range entries {
		p.slow(Apply)
		if previous, ok := checkpointBehind(e.Data); ok && previous == p.machine.chunks.last() {
			p.awaitJob()
		}
		if p.failed != nil {
			results[i] = p.failed
			continue
		}
		marks = p.mark(e.Index, marks)
		results[i] = p.apply(e, done)
	}
	p.applied = time.Now()
	*done = p.work.end(p.applied)
	p.full.Store(p.machine.sessions.kept >= p.machine.keep)
	grown := p.grown
	p.grown = nil
	p.mu.Unlock()
	for _, r := range grown {
		p.waker.wake(r)
	}
	p.measure(results)
	if p.cfg.Marked != nil {
		for _, m := range marks {
			p.cfg.Marked(m.Index, m.Hash)
		}
	}
	return results
}

// measure counts how long it took to apply what had the results.
func (p *Partition) measure(results []any) {
	leading := p.isLeading()
	for _, result := range results {
		if out, ok := result.(Outcome); ok {
			messages := 0
			for _, b := range out.Blocks {
				messages += int(b.Last + 1 - b.First)
			}
			p.messages.Add(uint64(messages))
			p.stages.applied(out.passage, max(1, messages), leading)
		}
	}
}

// isLeading is for Apply, which runs before Open has the group.
func (p *Partition) isLeading() bool {
	select {
	case <-p.opened:
		return p.group.Leading()
	default:
		return false
	}
}

// slow calls Config.Slow.
func (p *Partition) slow(s Stage) {
	if p.cfg.Slow != nil {
		p.cfg.Slow(s)
	}
}

// apply returns an Outcome or an error, with done to be set when that is the
// case. It needs p.mu.
func (p *Partition) apply(e raftlog.Entry, done *applied) any {
	out, err := p.machine.Apply(e.Index, e.Data)
	if err != nil {
		return p.passOver(err)
	}
	out.passage = passage{e.Times, done}
	for i := range out.Blocks {
		out.Blocks[i].applied = done
	}
	p.tail.add(out.Blocks)
	for _, b := range out.Blocks {
		p.metrics.applied(int(b.Last+1-b.First), len(b.Data))
		if seededServeBeyondCommit { // a control
			p.foresight.applied(&b)
		}
		p.wake(b.Room)
		if r := p.watched[b.Room]; r != nil {
			r.last.Store(uint64(b.Last))
			p.grown = append(p.grown, r)
		}
	}
	if out.Checkpoint {
		p.startJob()
	}
	if out.Trimmed {
		p.metrics.trimmed()
		p.nudge()
	}
	return out
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
	every := time.NewTicker(raftlog.UntilNext(maxClockStep))
	defer every.Stop()
	for {
		select {
		case <-every.C:
			every.Reset(raftlog.UntilNext(maxClockStep))
			p.expire()
			if now := time.Now(); p.group.Leading() {
				p.retain(now, p.clock.steady(now))
			}
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
	if stale != p.isStale {
		p.setStale(stale)
	}
}

// setStale needs p.mu.
func (p *Partition) setStale(stale bool) {
	p.isStale = stale
	p.unled.Store(stale)
	if !stale {
		p.stale = make(chan struct{})
		return
	}
	close(p.stale)
	for _, r := range p.watches {
		p.waker.later(r.takeWaiting())
	}
}

// Stale returns a channel that is closed once this replica has heard of no
// leader for some seconds, or hangs on its disk: others may know more.
func (p *Partition) Stale() <-chan struct{} {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.stale
}

// IsStale tells whether this replica is stale now: a leader may be back since tick
// has looked.
func (p *Partition) IsStale() bool {
	if p.unled.Load() && time.Since(p.group.LastContact()) <= staleAfter {
		p.checkStale()
	}
	return p.unled.Load()
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

// Close stops the replica. Every publish that was accepted is answered first,
// some with ErrOutcomeUnknown.
func (p *Partition) Close() error {
	p.cancel()
	err := p.group.Close()
	p.files.stop()
	p.tasks.Wait()
	return err
}
