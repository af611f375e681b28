package raftlog

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Times tells how long an entry took on its way through this replica, from when
// raft's loop had it to when the StateMachine is given it. Its parts follow upon
// each other, cut as if each had come in one piece:
//
//	Taken ── Append ── Held ── Commit ── Wait ──▶ Apply
//
// Raft has one loop for everything: while it writes the log, or does something
// else and leaves proposals lying, nothing of the group moves. So Append has all
// the time that the entry spends while the log is written, be it itself or
// another one, and Held that in which raft's loop has left other proposals lying.
type Times struct {
	Taken  time.Time     // raft's loop begins to write it to the log; zero: in an earlier life, or long ago
	Loop   LoopTime      // as of then
	Append time.Duration // in writes of this replica's log, with their fsyncs
	Held   time.Duration // durable, in no write, while raft's loop leaves proposals lying
	Commit time.Duration // the rest until raft hands it on: others are waited for
	Wait   time.Duration // while the StateMachine has the entries before
}

// LoopTime is how long, together, raft's loop has been in writes of the log. The
// difference between two moments is how long it was in one between them.
type LoopTime time.Duration

// LoopTime is that of now.
func (g *Group) LoopTime() LoopTime {
	now := time.Now()
	w := &g.store.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	return LoopTime(w.writtenAt(now))
}

// stopwatch notes when the newest entries were written and handed on. What it
// does costs no allocation, and its mutex is held for some nanoseconds.
type stopwatch struct {
	mu      sync.Mutex
	began   time.Time      // of the write under way; zero: there is none
	written time.Duration  // by the writes that have ended
	lying   time.Time      // since when there is a proposal and no write; zero: there is none
	held    time.Duration  // proposals have lain before
	spans   [256]writeSpan // the newest writes, a ring
	next    int            // where the next one goes

	// Of the last batch that the StateMachine was given. They belong to the
	// goroutine that applies.
	given moment
	known uint64 // what was known to be committed when it was done
}

// writeSpan is a write of entries.
type writeSpan struct {
	first, last uint64
	began       time.Time
	before      time.Duration // written before it
	ended       moment
}

// moment is a time with what the loop had done by then.
type moment struct {
	at            time.Time
	written, held time.Duration
}

// proposed is called when raft's loop is given a proposal.
func (w *stopwatch) proposed() {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lying.IsZero() {
		w.lying = now
	}
}

// begin is called before a write of entries, end behind it with what was written.
// With the write raft's loop takes all that is proposed.
func (w *stopwatch) begin() {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = w.heldAt(now)
	w.lying, w.began = time.Time{}, now
}

func (w *stopwatch) end(logs []*raft.Log) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	began, before := w.began, w.written
	w.written += now.Sub(began)
	w.began = time.Time{}
	if !w.lying.IsZero() {
		w.lying = now // before, the write was the reason
	}
	if n := len(logs); n > 0 {
		w.spans[w.next] = writeSpan{first: logs[0].Index, last: logs[n-1].Index, began: began, before: before, ended: w.moment(now)}
		w.next = (w.next + 1) % len(w.spans)
	}
}

// The others need w.mu.

func (w *stopwatch) moment(now time.Time) moment { return moment{now, w.writtenAt(now), w.heldAt(now)} }

func (w *stopwatch) writtenAt(now time.Time) time.Duration {
	if w.began.IsZero() {
		return w.written
	}
	return w.written + max(0, now.Sub(w.began))
}

func (w *stopwatch) heldAt(now time.Time) time.Duration {
	if w.lying.IsZero() || !w.began.IsZero() {
		return w.held
	}
	return w.held + max(0, now.Sub(w.lying))
}

// span finds the newest write that had the entry at index.
func (w *stopwatch) span(index uint64) *writeSpan {
	for i := range w.spans {
		s := &w.spans[(w.next+len(w.spans)-1-i)%len(w.spans)]
		if s.first <= index && index <= s.last {
			return s
		}
	}
	return nil
}

// hand fills in the Times of entries that the StateMachine is given now. What
// was committed while it had the batch before has waited for it, at the
// earliest since it was given that: when exactly raft found it committed it does
// not say.
func (w *stopwatch) hand(entries []Entry) {
	at := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.moment(at)
	for i := range entries {
		e := &entries[i]
		if s := w.span(uint64(e.Index)); s != nil {
			committed := now
			if uint64(e.Index) <= w.known {
				committed = w.given
			}
			e.Times = s.times(committed)
			e.Times.Wait = max(0, at.Sub(s.ended.at)-committed.since(s.ended))
		}
	}
	w.given = now
}

// since is how long m is after the other, not below zero.
func (m moment) since(other moment) time.Duration { return max(0, m.at.Sub(other.at)) }

// times are those of an entry of s that raft handed on at a moment.
func (s *writeSpan) times(committed moment) Times {
	t := Times{Taken: s.began, Loop: LoopTime(s.before), Append: s.ended.at.Sub(s.began)}
	rest := committed.since(s.ended)
	if rest > 0 {
		others := min(rest, committed.written-s.ended.written)
		t.Append += others
		t.Held = min(rest-others, committed.held-s.ended.held)
		t.Commit = rest - others - t.Held
	}
	return t
}

// handed is called when the StateMachine is done with the batch; commit is what
// is known to be committed by now.
func (w *stopwatch) handed(commit uint64) { w.known = commit }
