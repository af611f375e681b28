package raftlog

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
)

var ours = []error{ErrNotLeader, ErrTransferring, ErrClosed, ErrUnknown, ErrNotFound, ErrNoSpace}

func TestProposalError(t *testing.T) {
	disk := errors.New("store entries: no space left on device")
	for _, tt := range []struct {
		err, want error
	}{
		{nil, nil},
		{raft.ErrEnqueueTimeout, ErrNotLeader},
		{raft.ErrNotLeader, ErrNotLeader},
		{raft.ErrLeadershipTransferInProgress, ErrTransferring},
		{raft.ErrLeadershipLost, ErrUnknown},
		{raft.ErrRaftShutdown, ErrUnknown},
		{raft.ErrAbortedByRestore, ErrUnknown},
		{disk, ErrUnknown},
		{fmt.Errorf("store entries: %w: %w", ErrNoSpace, disk), ErrNoSpace},
		{fmt.Errorf("wrapped: %w", raft.ErrNotLeader), ErrNotLeader},
		{fmt.Errorf("wrapped: %w", raft.ErrLeadershipLost), ErrUnknown},
	} {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) { meansOnly(t, proposalError(tt.err), tt.want, tt.err) })
	}
}

func TestRoleError(t *testing.T) {
	other := errors.New("leadership transfer timeout")
	for _, tt := range []struct {
		err, want error
	}{
		{nil, nil},
		{raft.ErrNotLeader, ErrNotLeader},
		{raft.ErrLeadershipLost, ErrNotLeader},
		{raft.ErrLeadershipTransferInProgress, ErrTransferring},
		{raft.ErrRaftShutdown, ErrClosed},
		{raft.ErrEnqueueTimeout, raft.ErrEnqueueTimeout},
		{other, other},
	} {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) { meansOnly(t, roleError(tt.err), tt.want, tt.err) })
	}
}

// meansOnly checks that got is want and none of our other errors. What is unknown
// keeps the cause's words for the operator.
func meansOnly(t *testing.T, got, want, cause error) {
	t.Helper()
	if !errors.Is(got, want) || (want == nil) != (got == nil) {
		t.Fatalf("it means %v, want %v", got, want)
	}
	for _, other := range ours {
		if other != want && errors.Is(got, other) {
			t.Errorf("%v also means %v", got, other)
		}
	}
	if want == ErrUnknown && !errors.Is(got, cause) {
		t.Errorf("%v does not tell the cause %v", got, cause)
	}
}
