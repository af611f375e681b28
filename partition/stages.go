package partition

import (
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Stage is a part of a message's way. The stages follow upon each other without
// a gap, and without a part that two of them count:
//
//	Receive  in the queue, from when the publish came to when the proposer takes
//	         it. That of an entry is its oldest publish's: it includes the wait
//	         for one of the entries under way to be answered
//	Propose  packing the entry, and waiting for raft's loop: to take it and, once
//	         it is durable here, to go on while it leaves other proposals lying
//	Append   in writes of the log, each with its fsync: its own, and others that
//	         raft's loop was in while the entry waited for it
//	Commit   from durable here until raft hands it on, for neither of these
//	         reasons: a majority, with the networks and disks of the followers
//	Apply    in the StateMachine, waiting for it included, until readers are woken
//	Write    from applied here until handed to a subscriber's connection, but for
//	         the time in which the machine has later entries: nobody can read then
//
// The first four of an entry are measured where it was proposed, Append of
// others too, Apply on every replica, Write where the subscriber is. All count
// messages: those of an entry share its times, those of a block the block's.
type Stage int

const (
	Receive Stage = iota
	Propose
	Append
	Commit
	Apply
	Write
	Stages // how many there are
)

var stageNames = [Stages]string{"receive", "propose", "append", "commit", "apply", "write"}

func (s Stage) String() string { return stageNames[s] }

// stagePeriod is that of the stages' histograms: their windows are as long to
// twice as long.
const stagePeriod = 5 * time.Second

// stages holds how long messages have taken of late.
type stages struct {
	of      [Stages]histogram
	publish histogram // Receive to Apply, of entries proposed here
	drift   histogram // age when handed to connections here
}

func newStages() *stages {
	s := &stages{publish: histogram{period: stagePeriod}, drift: histogram{period: stagePeriod}}
	for i := range s.of {
		s.of[i] = histogram{period: stagePeriod, past: &past{}}
	}
	return s
}

// departure is when an entry left the queue.
type departure struct {
	received time.Time        // when its oldest publish came
	taken    time.Time        // from the queue
	loop     raftlog.LoopTime // then
}

// passage is an entry's way through this replica.
type passage struct {
	times   raftlog.Times
	applied *applied // set when the batch that it came in is applied
}

// applied is when a batch of entries was.
type applied struct {
	at   time.Time
	busy time.Duration // how long the machine had worked by then
}

// since is how long ago that was, but for the time in which the machine worked.
func (a *applied) since(now time.Time, work *workClock) time.Duration {
	return now.Sub(a.at) - max(0, work.busy(now)-a.busy)
}

// workClock is how long the machine has worked on entries, all in all. One
// goroutine begins and ends; any may ask.
type workClock struct {
	before atomic.Int64 // ns, of what has ended
	began  atomic.Int64 // since epoch; 0: it does not work
}

func (c *workClock) begin() { c.began.Store(int64(time.Since(epoch)) + 1) }

func (c *workClock) end(now time.Time) applied {
	took := int64(now.Sub(epoch)) - c.began.Swap(0)
	return applied{now, time.Duration(c.before.Add(max(0, took)))}
}

func (c *workClock) busy(now time.Time) time.Duration {
	busy := c.before.Load()
	if began := c.began.Load(); began != 0 {
		busy += max(0, int64(now.Sub(epoch))-began)
	}
	return time.Duration(busy)
}

// known tells whether the entry was measured: one that was in the log when the
// node started was not.
func (p *passage) known() bool { return p.applied != nil && !p.times.Taken.IsZero() }

// published counts the messages of an entry that was proposed here.
func (s *stages) published(d departure, p passage, messages int) {
	if !p.known() {
		return
	}
	t, now := &p.times, p.applied.at
	blocked := max(0, time.Duration(t.Loop-d.loop)) // raft's loop was writing other entries
	s.of[Receive].add(d.taken.Sub(d.received), messages, now)
	s.of[Propose].add(t.Taken.Sub(d.taken)-blocked+t.Held, messages, now)
	s.of[Append].add(t.Append+blocked, messages, now)
	s.of[Commit].add(t.Commit, messages, now)
	s.publish.add(now.Sub(d.received), messages, now)
}

// applied counts the messages of an entry that was applied here; proposed tells
// that published does its part.
func (s *stages) applied(p passage, messages int, proposed bool) {
	if !p.known() {
		return
	}
	t, now := &p.times, p.applied.at
	if !proposed {
		s.of[Append].add(t.Append, messages, now)
	}
	s.of[Apply].add(now.Sub(t.Taken.Add(t.Append+t.Held+t.Commit)), messages, now)
}
