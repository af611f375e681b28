package raftlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// leading is one term of office of this node.
type leading struct {
	term Term
	ctx  context.Context // ends with it
	end  context.CancelFunc
	// confirmed is closed once everything committed before has been applied
	// here: from then on this node knows every room's head.
	confirmed chan struct{}
}

func isRoleChange(o *raft.Observation) bool {
	switch o.Data.(type) {
	case raft.LeaderObservation, raft.RaftState:
		return true
	}
	return false
}

// watch follows the roles of inst until it is left. An event only says that
// something changed: the state is read anew, so lost events do no harm.
func (g *Group) watch(inst *instance, events <-chan raft.Observation) {
	tick := time.NewTicker(UntilNext(g.cfg.Heartbeat)) // terms change without an event
	defer tick.Stop()
	for {
		g.readRole(inst)
		select {
		case <-events:
		case <-tick.C:
			tick.Reset(UntilNext(g.cfg.Heartbeat))
			g.store.checkHang(g.cfg.Heartbeat)
		case <-g.retry:
			// It does not matter what becomes of it: if raft has no room, it has entries.
			inst.raft.Barrier(time.Millisecond)
		case <-inst.done:
			return
		}
	}
}

func (g *Group) retryReplication() {
	select {
	case g.retry <- struct{}{}:
	default:
	}
}

func (g *Group) readRole(inst *instance) {
	leads, term := g.leads(inst), Term(inst.raft.CurrentTerm())
	current := g.leadingNow()
	switch {
	case leads && (current == nil || current.term != term): // another term may have passed unseen
		l := &leading{term: term, confirmed: make(chan struct{})}
		l.ctx, l.end = context.WithCancel(g.ctx)
		g.stuck.reset()
		if g.setLeading(inst, l) {
			g.tasks.Go(func() { g.confirm(inst, l) })
		} else {
			l.end()
		}
	case !leads && current != nil:
		g.setLeading(inst, nil)
	}

	known := g.readLeader(inst)
	old := g.leader.Swap(known)
	if *old == *known {
		return
	}
	g.mu.Lock()
	close(g.led)
	g.led = make(chan struct{})
	g.mu.Unlock()
	if g.cfg.LeaderChanged != nil {
		g.cfg.LeaderChanged(known.node, known.term)
	}
}

// AwaitLeader returns when this replica knows a leader, which may be itself, or when
// ctx ends.
func (g *Group) AwaitLeader(ctx context.Context) {
	for {
		g.mu.RLock()
		changes := g.led
		g.mu.RUnlock()
		if node, _ := g.Leader(); node != "" && (node != g.cfg.Node || g.Leading()) {
			return
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// readLeader returns a leader with its own term, not another's.
func (g *Group) readLeader(inst *instance) *leadership {
	for {
		term := inst.raft.CurrentTerm()
		_, leader := inst.raft.LeaderWithID()
		if inst.raft.CurrentTerm() != term {
			continue
		}
		if string(leader) == g.cfg.Node && !g.leads(inst) {
			leader = "" // it cannot step down, but it leads nobody
		}
		return &leadership{node: string(leader), term: Term(term)}
	}
}

// leads tells whether this node leads: raft says so, and its disk is alive.
func (g *Group) leads(inst *instance) bool {
	return inst.raft.State() == raft.Leader && !g.store.stalled()
}

// confirm waits until the FSM has applied all that was committed before l began.
func (g *Group) confirm(inst *instance, l *leading) {
	for l.ctx.Err() == nil {
		if g.await(l.ctx, inst, barrier) == nil {
			g.pushBarrier(inst)
			close(l.confirmed)
			return
		}
		select {
		case <-time.After(g.cfg.Heartbeat / 10):
		case <-l.ctx.Done():
		}
	}
}

func (g *Group) leadingNow() *leading {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.leading
}

func (g *Group) leadingContext() context.Context {
	if l := g.leadingNow(); l != nil {
		return l.ctx
	}
	return nil
}

// setLeading begins or, with nil, ends a term of office, unless inst has been left.
func (g *Group) setLeading(inst *instance, l *leading) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current != inst {
		return false
	}
	g.endLeading()
	g.leading = l
	return true
}

// endLeading needs g.mu.
func (g *Group) endLeading() {
	if g.leading != nil {
		g.leading.end()
		g.leading = nil
	}
}

// await asks raft and waits for the answer or for ctx. Raft may be slow to take
// the question, and may never answer it when it shuts down.
func (g *Group) await(ctx context.Context, inst *instance, ask func(*raft.Raft) raft.Future) error {
	answer := make(chan error, 1)
	go func() { answer <- ask(inst.raft).Error() }()
	select {
	case err := <-answer:
		return roleError(err)
	case <-ctx.Done():
		return ctx.Err()
	case <-inst.done:
	}
	if g.ctx.Err() != nil {
		return ErrClosed
	}
	return ErrNotLeader // raft is being restarted, as a follower
}

func barrier(r *raft.Raft) raft.Future { return r.Barrier(0) }
func verify(r *raft.Raft) raft.Future  { return r.VerifyLeader() }

// Leader returns the leader that this replica knows, "" if none, and the term.
func (g *Group) Leader() (node string, term Term) {
	l := g.leader.Load()
	return l.node, l.term
}

// Leading tells whether this node leads, as far as it knows.
func (g *Group) Leading() bool {
	inst := g.instance()
	return inst != nil && g.leads(inst)
}

// LastContact is when this replica last heard from its leader; a leader has it
// now, and who has heard of none since its start had it then. While a write of the
// log is stalled, and once the replica is fenced, it is long ago: readers are better
// off elsewhere.
func (g *Group) LastContact() time.Time {
	inst := g.instance()
	switch {
	case inst == nil || g.store.stalled():
		return time.Time{}
	case g.leads(inst):
		return time.Now()
	}
	if last := inst.raft.LastContact(); !last.IsZero() {
		return last
	}
	return inst.began
}

// Confirm returns nil if this node leads and its StateMachine has been given
// everything that was acknowledged before the call. It asks a majority, without
// a write. The answer can be stale if a majority's messages were under way for
// longer than an election takes; where that would do lasting harm use Barrier.
func (g *Group) Confirm(ctx context.Context) error {
	l := g.leadingNow()
	inst := g.instance()
	if l == nil || inst == nil {
		return ErrNotLeader
	}
	select {
	case <-l.confirmed:
	case <-l.ctx.Done():
		return ErrNotLeader
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := g.verify(ctx, inst, l); err != nil {
		return err
	}
	if Term(inst.raft.CurrentTerm()) != l.term {
		return ErrNotLeader // it may lead again, but has not confirmed that term
	}
	return nil
}

// verify asks a majority, by heartbeats that do not wait for others.
func (g *Group) verify(ctx context.Context, inst *instance, l *leading) error {
	g.verifying.Add(1)
	defer g.verifying.Add(-1)
	voters, nonvoters := servers(inst.raft)
	var votes *poll
	if len(nonvoters) > 0 {
		votes = inst.trans.polls.begin(l.term, g.cfg.Node, voters)
		defer inst.trans.polls.end(votes)
	}
	if g.cfg.HurryBeats != nil {
		g.cfg.HurryBeats() // raft lets one that waits answer for the next
	}
	if err := g.await(ctx, inst, verify); err != nil || votes == nil {
		return err
	}
	select {
	case <-votes.done:
		return nil
	case <-l.ctx.Done():
		return ErrNotLeader
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Barrier is Confirm by way of the log: it returns nil once an entry of its own
// has been committed and applied here. Callers who wait share an entry.
func (g *Group) Barrier(ctx context.Context) error {
	if !g.Leading() {
		return ErrNotLeader
	}
	return g.barriers.wait(ctx, func() error {
		inst := g.instance()
		if inst == nil {
			return g.notRunning()
		}
		limit := 10 * g.cfg.Heartbeat
		bounded, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err := g.await(bounded, inst, barrier)
		if err == nil {
			g.pushBarrier(inst)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("raftlog: no barrier was committed within %v", limit)
		}
		return err
	})
}

// sharedBarrier runs one barrier at a time; who comes while one is under way
// waits for the next, which all of them share.
type sharedBarrier struct {
	mu      sync.Mutex
	running bool
	next    *barrierRound
}

type barrierRound struct {
	done chan struct{}
	err  error
}

func (b *sharedBarrier) wait(ctx context.Context, run func() error) error {
	b.mu.Lock()
	if b.next == nil {
		b.next = &barrierRound{done: make(chan struct{})}
	}
	round := b.next
	if !b.running {
		b.running = true
		go b.runAll(run)
	}
	b.mu.Unlock()
	select {
	case <-round.done:
		return round.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *sharedBarrier) runAll(run func() error) {
	for {
		b.mu.Lock()
		round := b.next
		b.next = nil
		b.running = round != nil
		b.mu.Unlock()
		if round == nil {
			return
		}
		round.err = run()
		close(round.done)
	}
}

// Transfer hands leadership to the voter to, or to any one if to is "". Writes
// racing with it can make raft give up, so it tries twice.
func (g *Group) Transfer(ctx context.Context, to string) error {
	var err error
	for try := range 2 {
		inst := g.instance()
		if inst == nil {
			return g.notRunning()
		}
		if inst.raft.State() != raft.Leader {
			return ErrNotLeader
		}
		var ask func(*raft.Raft) raft.Future
		if ask, err = g.handOver(inst, to, try); err != nil {
			break
		}
		if err = g.await(ctx, inst, ask); err == nil || ctx.Err() != nil || errors.Is(err, ErrClosed) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("hand over leadership: %w", err)
	}
	return nil
}

// handOver prepares a try to hand leadership over. Raft does not know which
// peers are away: it may choose one, and a second transfer to it while its
// replication is held back would never end (hashicorp/raft#696). So raft
// chooses only while all are there.
func (g *Group) handOver(inst *instance, to string, try int) (func(*raft.Raft) raft.Future, error) {
	if to == "" {
		up, all := g.othersUp(inst.raft)
		switch {
		case len(up) == 0:
			return nil, errors.New("no other voter is reachable")
		case all && try == 0:
			return func(r *raft.Raft) raft.Future { return r.LeadershipTransfer() }, nil
		}
		to = up[try%len(up)]
	}
	if voters, _ := servers(inst.raft); !slices.Contains(voters, to) { // raft would let it stand for election
		return nil, fmt.Errorf("node %s has no vote", to)
	}
	if to != g.cfg.Node && !g.cfg.Links.Up(to) {
		return nil, fmt.Errorf("node %s is not reachable", to)
	}
	return func(r *raft.Raft) raft.Future {
		return r.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to))
	}, nil
}

// othersUp returns the other voters that are reachable, and whether all are.
func (g *Group) othersUp(r *raft.Raft) (up []string, all bool) {
	all = true
	voters, _ := servers(r)
	for _, node := range voters {
		switch {
		case node == g.cfg.Node:
		case g.cfg.Links.Up(node):
			up = append(up, node)
		default:
			all = false
		}
	}
	return up, all
}

// stuckTransfer finds a leadership transfer that never ends: hashicorp/raft can
// leave its flag set (#696), and the node then leads without taking proposals.
type stuckTransfer struct {
	limit time.Duration

	mu    sync.Mutex
	since time.Time // of the first refusal in an unbroken row of them, within one term of office
}

// reset forgets the row: refusals of an earlier term of office, perhaps long
// ago, say nothing about this one.
func (s *stuckTransfer) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Time{}
}

// observe takes a proposal's error and tells whether refusals have lasted too long.
func (s *stuckTransfer) observe(err error, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !errors.Is(err, errStuckTransfer):
		s.since = time.Time{}
	case s.since.IsZero():
		s.since = now
	case now.Sub(s.since) > s.limit:
		s.since = time.Time{}
		return true
	}
	return false
}

// watchTransfer restarts raft when a transfer is stuck: a new instance over the
// same stores is an ordinary follower that has forgotten the flag.
func (g *Group) watchTransfer(err error) {
	if !g.stuck.observe(err, time.Now()) {
		return
	}
	g.log.Warn("a leadership transfer is stuck, raft is restarted", "refused_for", g.stuck.limit)
	g.restart()
}

// restart leaves the running raft instance and starts another.
func (g *Group) restart() {
	g.restarting.Lock()
	defer g.restarting.Unlock()
	if g.ctx.Err() != nil || g.fenced.Load() != nil || !g.rebuild.mayRun() {
		return
	}
	if err := g.stop(); err != nil {
		g.log.Warn("stopping raft", "err", err)
	}
	if err := g.start(); err != nil {
		g.cfg.Fatal(fmt.Errorf("group %d: restart raft: %w", g.cfg.ID, err))
	}
}
