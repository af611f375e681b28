package raftlog

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Times tells how long an entry took on its way through this replica, from when
// raft's loop had it to when the StateMachine is given it. Its parts follow upon
// each other:
//
//	Taken ── Append ── Commit ── Wait ──▶ Apply
//
// Raft has one loop for everything: while it is in a write of the log, nothing
// else of the group moves. So Append has all the time that the entry spends
// while the log is written, be it itself or another one.
type Times struct {
	Taken   time.Time     // raft's loop begins to write it to the log; zero: in an earlier life, or long ago
	Written time.Duration // Group.Written at that moment
	Append  time.Duration // in writes of this replica's log, with their fsyncs
	Commit  time.Duration // from then until raft hands it on, in no write: others are waited for
	Wait    time.Duration // while the StateMachine has the entries before
}

// Written is how long the writes of this replica's log have taken together, the
// one under way included. The difference between two moments is how long raft's
// loop was in a write between them.
func (g *Group) Written() time.Duration {
	now := time.Now()
	w := &g.store.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writtenAt(now)
}

// stopwatch notes when the newest entries were written and handed on. What it
// does costs no allocation, and its mutex is held for some nanoseconds.
type stopwatch struct {
	mu      sync.Mutex
	began   time.Time     // of the write under way; zero: there is none
	written time.Duration // by the writes that have ended
	spans   [64]writeSpan // the newest writes, a ring
	next    int           // where the next one goes

	// Of the last batch that the StateMachine was given. They belong to the
	// goroutine that applies.
	given        time.Time
	givenWritten time.Duration
	known        uint64 // what was known to be committed when it was done
}

// writeSpan is a write of entries.
type writeSpan struct {
	first, last  uint64
	began, ended time.Time
	before       time.Duration // written before it
}

// begin is called before a write of entries, end behind it with what was written.
func (w *stopwatch) begin() {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = now
}

func (w *stopwatch) end(logs []*raft.Log) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(logs); n > 0 {
		w.spans[w.next] = writeSpan{first: logs[0].Index, last: logs[n-1].Index, began: w.began, ended: now, before: w.written}
		w.next = (w.next + 1) % len(w.spans)
	}
	w.written += now.Sub(w.began)
	w.began = time.Time{}
}

// writtenAt needs w.mu.
func (w *stopwatch) writtenAt(now time.Time) time.Duration {
	if w.began.IsZero() {
		return w.written
	}
	return w.written + max(0, now.Sub(w.began))
}

// span finds the newest write that had the entry at index. It needs w.mu.
func (w *stopwatch) span(index uint64) (writeSpan, bool) {
	for i := range w.spans {
		s := &w.spans[(w.next+len(w.spans)-1-i)%len(w.spans)]
		if s.first <= index && index <= s.last {
			return *s, true
		}
	}
	return writeSpan{}, false
}

// hand fills in the Times of entries that the StateMachine is given now. What
// was committed while it had the batch before has waited for it, at the
// earliest since it was given that: when exactly raft found it committed it does
// not say.
func (w *stopwatch) hand(entries []Entry) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	written := w.writtenAt(now)
	for i := range entries {
		e := &entries[i]
		s, ok := w.span(uint64(e.Index))
		if !ok {
			continue
		}
		handed, ownEnd := now, s.before+s.ended.Sub(s.began)
		writtenThen := written
		if uint64(e.Index) <= w.known {
			if handed, writtenThen = w.given, w.givenWritten; handed.Before(s.ended) {
				handed, writtenThen = s.ended, ownEnd
			}
		}
		others := max(0, writtenThen-ownEnd)
		e.Times = Times{
			Taken: s.began, Written: s.before,
			Append: s.ended.Sub(s.began) + others,
			Commit: max(0, handed.Sub(s.ended)-others),
			Wait:   now.Sub(handed),
		}
	}
	w.given, w.givenWritten = now, written
}

// handed is called when the StateMachine is done with the batch; commit is what
// is known to be committed by now.
func (w *stopwatch) handed(commit uint64) { w.known = commit }
