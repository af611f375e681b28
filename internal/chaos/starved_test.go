package chaos

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestWaitedOf(t *testing.T) {
	for text, want := range map[string]time.Duration{"1000 2000000 3\n": 2 * time.Millisecond, "0 0 0\n": 0} {
		if got, ok := waitedOf(text); !ok || got != want {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "1", "1 x 3"} {
		if got, ok := waitedOf(text); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestStarvation: more threads that never rest than there are processors wait for each
// other, and that is seen, if the kernel tells.
func TestStarvation(t *testing.T) {
	if _, err := os.Stat("/proc/self/schedstat"); err != nil {
		t.Skip("the kernel does not tell")
	}
	var s starvation
	if d := s.longest(os.Getpid()); d != 0 {
		t.Errorf("at first: %v", d)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * runtime.NumCPU()))
	var stop atomic.Bool
	defer stop.Store(true)
	for range 2 * runtime.NumCPU() {
		go func() {
			for !stop.Load() {
			}
		}()
	}
	for began := time.Now(); s.longest(os.Getpid()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("threads that share processors never wait")
		}
	}
}
