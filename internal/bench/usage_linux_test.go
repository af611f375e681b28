package bench

import (
	"os"
	"testing"
	"time"
)

// TestProcessCPU: the CPU clock of a process named by its id is its own.
func TestProcessCPU(t *testing.T) {
	before, err := ownCPU()
	if err != nil {
		t.Fatal(err)
	}
	for used := before; used < before+20*time.Millisecond; { // busy until the kernel has seen it
		if used, err = ownCPU(); err != nil {
			t.Fatal(err)
		}
	}
	named, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	after, err := ownCPU()
	if err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond // getrusage may round
	if named < before+20*time.Millisecond-tick || named > after+tick {
		t.Errorf("process %d has used %v; it said %v before and %v after", os.Getpid(), named, before, after)
	}
	if _, err := processCPU(1 << 22); err == nil {
		t.Error("a process that cannot be has CPU time")
	}
}

func TestResidentBytes(t *testing.T) {
	before, err := residentBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, 64<<20)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	after, err := residentBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown < 56<<20 {
		t.Errorf("grew by %d bytes while %d were taken", grown, len(held))
	}
	if held[4096] != 1 {
		t.Error("unreachable, but keeps the memory")
	}
	if _, err := residentBytes(1 << 22); err == nil {
		t.Error("a process that cannot be has memory")
	}
}
