package main

import "testing"

// TestBenchFailoverWithARig needs root. A leader that cannot be heard, or whose disk
// hangs, is not replaced before heartbeats are missed: by that the fault is seen to
// have been one. It takes 20 s of real time.
func TestBenchFailoverWithARig(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"blackhole", "stall"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := runBench(t, "failover --partitions 3 --kills 1 --fault "+fault+" --dir "+dir)
			checkFailover(t, r, dir, fault, 300)
		})
	}
}
