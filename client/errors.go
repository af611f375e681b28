package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// What can become of a call. Every error of a publish that does not wrap
// ErrOutcomeUnknown means that the message is not in the log and never will be.
var (
	// ErrOutcomeUnknown: the message was sent and no answer came, so it may be
	// in the log or still get there. The SDK wraps it in the error that ended
	// the wait: ctx's, ErrClosed or ErrSessionExpired.
	ErrOutcomeUnknown = errors.New("outcome unknown: the message may be in the log")

	// ErrSessionExpired: the server has forgotten this publisher, so it cannot
	// tell a retry from a new message. Read the room before publishing again.
	ErrSessionExpired = errors.New("publisher session expired")

	// ErrDenied: the token is wrong or lacks the right; another is needed.
	ErrDenied = errors.New("denied")

	// ErrTooLarge: the payload is beyond the limit; send less.
	ErrTooLarge = errors.New("message too large")

	// ErrBadRoom: no room can have this name; see Publish for what names may hold.
	ErrBadRoom = errors.New("bad room name")

	// ErrClosed: the client was closed.
	ErrClosed = errors.New("client closed")
)

// OverloadedError is joined with ctx's error when ctx ended while the server
// was refusing publishes for want of room. Nothing of the message is in the log.
type OverloadedError struct {
	RetryAfter time.Duration // what the server last asked us to wait
}

func (e *OverloadedError) Error() string {
	return fmt.Sprintf("server overloaded, retry after %v", e.RetryAfter)
}

// BeyondHeadError tells a subscriber that the seq it asked for is not yet given.
type BeyondHeadError struct {
	Room string
	Want uint64 // the first seq asked for
	Head uint64 // the room's last seq
}

func (e *BeyondHeadError) Error() string {
	return fmt.Sprintf("room %q: seq %d is beyond the head %d", e.Room, e.Want, e.Head)
}

// Inside the package: why an attempt failed that will be made again.
var (
	errNoLeader   = errors.New("no leader known")
	errBackoff    = errors.New("node failed a moment ago")
	errMoved      = errors.New("leader moved")
	errNoAddress  = errors.New("node has no known address")
	errNoNode     = errors.New("no node can be reached")
	errStreamGone = errors.New("publish stream has ended")
)

// codeError is a refusal in the server's words.
type codeError struct {
	code       wire.Code
	reason     string
	retryAfter time.Duration
	head       uint64
}

func (e *codeError) Error() string {
	if e.reason == "" || e.reason == e.code.String() {
		return "server: " + e.code.String()
	}
	return fmt.Sprintf("server: %v: %s", e.code, e.reason)
}

// Is makes a refusal match the sentinel that callers branch on.
func (e *codeError) Is(target error) bool {
	switch e.code {
	case wire.CodeAuth, wire.CodeDenied:
		return target == ErrDenied
	case wire.CodeTooLarge:
		return target == ErrTooLarge
	case wire.CodeBadRoom:
		return target == ErrBadRoom
	}
	return false
}

func errorOf(f wire.Error) *codeError {
	return &codeError{code: f.Code, reason: f.Reason, retryAfter: millis(f.RetryAfter), head: f.Head}
}

// maxRetryAfter bounds what a server can ask us to wait.
const maxRetryAfter = 30 * time.Second

func millis(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(maxRetryAfter/time.Millisecond))) * time.Millisecond
}

func badRoom(room string) error {
	if err := wire.CheckRoom(room); err != nil {
		return fmt.Errorf("%w: %v", ErrBadRoom, err)
	}
	return nil
}
