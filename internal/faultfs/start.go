//go:build linux

package faultfs

import "testing"

// Start mounts a file system for a test, which fails if that cannot be done, and
// closes it when the test ends. Processes that use it must end before: let the
// clean-up that ends them be registered later.
func Start(tb testing.TB, dir string, opts Options) *FS {
	tb.Helper()
	f, err := Mount(dir, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
	})
	return f
}
