//go:build !linux

package faultfs

import "errors"

var errNeedsLinux = errors.New("a file system with faults needs Linux")

// FS is not to be had here: Mount gives an error.
type FS struct{ faults faults }

// Options are for Linux.
type Options struct{}

// Survivors are for Linux.
type Survivors struct {
	Seed   uint64
	Chance float64
	Sector int64
}

// Mount gives an error.
func Mount(string, Options) (*FS, error) { return nil, errNeedsLinux }

// Cut does nothing.
func Cut(...*FS) {}

func (f *FS) Dir() string                  { return "" }
func (f *FS) Inject(fault Fault) *Injected { return f.faults.add(fault) }
func (f *FS) SetFree(int64)                {}
func (f *FS) Free() int64                  { return 0 }
func (f *FS) Flip(string, int64) error     { return errNeedsLinux }
func (f *FS) Restore(Survivors) error      { return errNeedsLinux }
func (f *FS) Close() error                 { return nil }
func (f *FS) Stats() Stats                 { return Stats{} }

// Stats are for Linux.
type Stats struct{ Full int64 }
