//go:build !(linux && amd64)

package faultclock

import (
	"fmt"
	"time"
)

// Clock is a process's wall clock; there is none here.
type Clock struct{}

// Attach fails with ErrUnsupported.
func Attach(pid int) (*Clock, error) {
	return nil, fmt.Errorf("attach to the clock of process %d: %w", pid, ErrUnsupported)
}

// Set fails with ErrUnsupported.
func (*Clock) Set(time.Duration) error { return ErrUnsupported }

// Count fails with ErrUnsupported.
func (*Clock) Count() (uint64, error) { return 0, ErrUnsupported }

// Close does nothing.
func (*Clock) Close() error { return nil }
