//go:build !controls

package segment

import "github.com/roomlog/roomlog/raftlog/vfs"

// Bugs that tests of the tests switch on, in a binary built for nothing else: see
// seeded_controls.go. Here they are constants, and what they guard is left out.
const (
	seededSkipFsync    = false
	seededStaleRecords = false
)

const recordAlign = 8 // what records are padded to

func seldomSynced(vfs.FS) vfs.FS { return nil }
