//go:build !unix

package bench

// MaxFiles is how many files and sockets this process may have open; 0: not known.
func MaxFiles() int { return 0 }
