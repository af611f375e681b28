//go:build !controls

package raftlog

// seededNoBoundaryRecord is a bug that tests of the tests switch on, in a binary built
// for nothing else: see seeded_controls.go.
const seededNoBoundaryRecord = false

func (s *logStore) trimmed(uint64)        {}
func (s *logStore) isTrimmed(uint64) bool { return false }
