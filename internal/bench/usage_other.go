//go:build !linux

package bench

import (
	"errors"
	"time"
)

// errUnknownUsage: how to ask this system is not known; the figures that need it
// are null.
var errUnknownUsage = errors.New("bench: CPU time and memory of processes are read on Linux only")

func processCPU(int) (time.Duration, error) { return 0, errUnknownUsage }

func ownCPU() (time.Duration, error) { return 0, errUnknownUsage }

func residentBytes(int) (int64, error) { return 0, errUnknownUsage }

// InMemory tells whether a directory is kept in memory alone, where an fsync costs
// nothing. It is false where that is not known.
func InMemory(string) bool { return false }
