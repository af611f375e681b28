package raftlog

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
)

// DamageError tells that the bytes of a file are not what was written, or that
// files are missing. The replica must not run: rebuild it from the others.
type DamageError = segment.DamageError

// FencedError: the replica was fenced and must not run again.
type FencedError struct {
	Path   string // of the marker
	Reason string
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("%s: this replica was fenced: %s", e.Path, e.Reason)
}

var (
	// ErrNotLeader: nothing was proposed; ask the leader.
	ErrNotLeader = errors.New("raftlog: not the leader")

	// ErrTransferring: nothing was proposed, leadership is being handed over;
	// ask again in a few milliseconds.
	ErrTransferring = errors.New("raftlog: leadership is being handed over")

	// ErrClosed: nothing was proposed, the group is closed.
	ErrClosed = errors.New("raftlog: group is closed")

	// ErrNoSpace: nothing was proposed, Config.Space refused the leader the room.
	ErrNoSpace = errors.New("raftlog: no room for the log")

	// ErrUnknown: the entry may or may not be in the log. Only a repeat that
	// the StateMachine can recognise is safe.
	ErrUnknown = errors.New("raftlog: outcome unknown")

	// ErrOvertaken: a newer snapshot has come from another node meanwhile.
	ErrOvertaken = errors.New("raftlog: a newer snapshot was installed meanwhile")

	// ErrNotYet: raft has not come that far since it was started; ask later.
	ErrNotYet = errors.New("raftlog: raft has not come that far")

	// ErrNotFound: the log does not hold that index (any more).
	ErrNotFound = errors.New("raftlog: no such entry")
)

// errStuckTransfer is what hashicorp/raft answers while it believes that a
// leadership transfer is under way; see (*Group).watchTransfer.
var errStuckTransfer = raft.ErrLeadershipTransferInProgress

// proposalError translates what an Apply future says. Raft uses
// ErrRaftShutdown both before anything was proposed and after the entry was
// committed, and reports a failed disk write as free text after it may have
// written: all of those are unknown.
func proposalError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrTransferring
	case errors.Is(err, ErrNoSpace):
		return err
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: raft took no proposal in time", ErrNotLeader)
	default:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
}

// roleError translates errors of calls that propose nothing.
func roleError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrTransferring
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrClosed
	default:
		return err
	}
}
