package partition

import (
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Stage is a part of a message's way. The stages follow upon each other without
// a gap, and without a part that two of them count:
//
//	Receive  in the queue, from when the publish came to when the proposer takes
//	         it. That of an entry is its oldest publish's: it includes the wait
//	         for one of the entries under way to be answered
//	Propose  packing the entry, and waiting until raft's loop takes it
//	Append   in writes of the log, each with its fsync: its own, and others that
//	         raft's loop was in while the entry waited for it
//	Commit   from durable here until raft hands it on: a majority, with the
//	         networks and disks of the followers
//	Apply    in the StateMachine, waiting for it included, until readers are woken
//	Write    from applied here until handed to a subscriber's connection
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
	received time.Time     // when its oldest publish came
	taken    time.Time     // from the queue
	written  time.Duration // raftlog's Group.Written then
}

// passage is an entry's way through this replica.
type passage struct {
	times   raftlog.Times
	applied *time.Time // set when the batch that it came in is applied
}

// known tells whether the entry was measured: one that was in the log when the
// node started was not.
func (p *passage) known() bool { return p.applied != nil && !p.times.Taken.IsZero() }

// published counts the messages of an entry that was proposed here.
func (s *stages) published(d departure, p passage, messages int) {
	if !p.known() {
		return
	}
	t, now := &p.times, *p.applied
	blocked := max(0, t.Written-d.written) // raft's loop was writing other entries
	s.of[Receive].add(d.taken.Sub(d.received), messages, now)
	s.of[Propose].add(t.Taken.Sub(d.taken)-blocked, messages, now)
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
	t, now := &p.times, *p.applied
	if !proposed {
		s.of[Append].add(t.Append, messages, now)
	}
	s.of[Apply].add(now.Sub(t.Taken.Add(t.Append+t.Commit)), messages, now)
}
