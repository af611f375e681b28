// Package partition decides the order of messages in a room.
//
// A room lives in exactly one partition; a partition is one Raft group. A
// message gets its sequence number when its entry is applied, never earlier,
// so every replica numbers alike:
//
//	Publisher.Publish -> queue -> proposer -> raftlog (replicate)
//	  -> Machine.Apply (number) -> tail -> Read (deliver)
//
// Machine is plain data: no goroutine, no clock, no network; what varies
// travels in the entry. Partition owns the goroutines and is safe for
// concurrent use.
//
// The log is the message store. Checkpoints, which are entries of it, divide it
// into chunks:
//
//	... ─ checkpoint C1 ─ entries ─ checkpoint C2 ─ entries that are new
//	        snapshot C1   chunk C2     snapshot C2     open chunk: hot places
//	                      C2.rooms
//
// At a checkpoint every replica freezes a view of its Machine (view.go) and
// writes down beside its work where the chunk's messages are (roomfile.go) and
// the state itself (snapshot.go). Whoever starts reads the newest snapshot and
// what follows it. Readers go from the tail to hot places to index files
// (read.go, course.go). Retention (retention.go) is an entry too: it raises floors
// to a checkpoint, everywhere alike; files follow. Snapshot and log together make
// every other byte again, so all of it can be checked (replay.go), and replicas
// compare rolling hashes (marks.go).
package partition

import (
	"errors"
	"fmt"
	"time"
)

// Seq is a message's number in its room, from 1.
type Seq uint64

// Counter is a publisher's own number of a publish within its session, from 1.
type Counter uint64

// SessionID names a publisher's session.
type SessionID [16]byte

var (
	// ErrNotLeader: nothing was proposed; ask the leader.
	ErrNotLeader = errors.New("partition: not the leader")

	// ErrOverloaded: nothing was proposed, the queue is full; come back later.
	ErrOverloaded = errors.New("partition: queue is full")

	// ErrUnavailable: nothing was proposed, leadership is moving or the node
	// stops; come back in a moment.
	ErrUnavailable = errors.New("partition: unavailable")

	// ErrOutcomeUnknown: the publish may or may not be in the log. Retry with
	// the same counter.
	ErrOutcomeUnknown = errors.New("partition: outcome unknown")

	// ErrSessionExpired: the session is not (or no longer) known; what it
	// published before keeps its numbers.
	ErrSessionExpired = errors.New("partition: session expired")

	// ErrTooManySessions: the session table is full.
	ErrTooManySessions = errors.New("partition: too many sessions")

	// ErrConflict: the counter was used before, for another room or payload.
	ErrConflict = errors.New("partition: counter was used for another message")

	// ErrWindow: more counters are unanswered than a session may have.
	ErrWindow = errors.New("partition: too many publishes without an answer")
)

// OutOfOrderError: a counter was left out; resend from Want.
type OutOfOrderError struct{ Got, Want Counter }

func (e *OutOfOrderError) Error() string {
	return fmt.Sprintf("partition: counter %d came, %d was expected", e.Got, e.Want)
}

// BeyondHeadError tells a subscriber that the seq it asked for is not yet given.
type BeyondHeadError struct {
	Room       string
	Want, Head Seq
}

func (e *BeyondHeadError) Error() string {
	return fmt.Sprintf("room %q: seq %d is beyond the head %d", e.Room, e.Want, e.Head)
}

// Limits of a partition, the same on every replica: the Machine's answers
// depend on them.
const (
	// MaxWindow bounds the publishes of one session without an answer.
	MaxWindow = 8192
	// maxSessions bounds the session table, maxAnswers what it remembers: 96 MiB.
	maxSessions = 1 << 16
	maxAnswers  = 1 << 22
	// maxClockStep is how far one entry can advance logical time, so that a
	// cluster that was down for a day does not expire everybody at once.
	maxClockStep = time.Second
)
