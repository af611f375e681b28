//go:build unix

package bench

import (
	"math"

	"golang.org/x/sys/unix"
)

// MaxFiles is how many files and sockets this process may have open; Go has
// raised that to what the system allows. 0: not known.
func MaxFiles() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), math.MaxInt))
}
