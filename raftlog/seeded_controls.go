//go:build controls

package raftlog

import (
	"os"
	"sync"
)

// seededNoBoundaryRecord: what is at or below the floor is not there for raft, as in
// stores that know only what they hold. internal/chaos/controls says what that breaks.
var seededNoBoundaryRecord = os.Getenv("ROOMLOG_CONTROL") == "no-boundary-record"

// Seed switches on the bug of that name, if it is here, and all others off. No group
// may be open.
func Seed(control string) { seededNoBoundaryRecord = control == "no-boundary-record" }

var floors sync.Map // *logStore, up to where its log has been trimmed

func (s *logStore) trimmed(index uint64) { floors.Store(s, index) }

func (s *logStore) isTrimmed(index uint64) bool {
	floor, ok := floors.Load(s)
	return ok && index <= floor.(uint64)
}
