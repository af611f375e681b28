package faultclock_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roomlog/roomlog/internal/clustertest"
	"github.com/roomlog/roomlog/internal/faultclock"
)

const (
	helperVar = "FAULTCLOCK_HELPER"
	loaders   = 16 // goroutines of a helper under load
)

func TestMain(m *testing.M) {
	if os.Getenv(helperVar) != "" {
		help(os.Stdin, os.Stdout)
		return
	}
	code := m.Run()
	clustertest.CleanUp()
	os.Exit(code)
}

// reading is one look at Go's clocks between two looks at the true ones, which
// system calls tell. All are ns.
type reading struct {
	Before, Now, After          int64
	MonoBefore, Mono, MonoAfter int64 // Mono since start
	Nanosecond                  int
}

// start is where a helper's monotonic time begins, and what it was then.
var start, startMono = time.Now(), trueTime(unix.CLOCK_MONOTONIC)

func trueTime(clock int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

func read() (r reading) {
	r.Before = trueTime(unix.CLOCK_REALTIME)
	now := time.Now()
	r.After = trueTime(unix.CLOCK_REALTIME)
	r.Now, r.Nanosecond = now.UnixNano(), now.Nanosecond()
	r.MonoBefore = trueTime(unix.CLOCK_MONOTONIC) - startMono
	r.Mono = int64(time.Since(start))
	r.MonoAfter = trueTime(unix.CLOCK_MONOTONIC) - startMono
	return r
}

// startSlack is how long start may lie before startMono.
const startSlack = 50 * time.Millisecond

// check returns what is wrong with a reading under any one of the offsets.
func (r reading) check(offsets ...time.Duration) error {
	if r.Nanosecond < 0 || r.Nanosecond >= 1e9 {
		return fmt.Errorf("%d nanoseconds in a second", r.Nanosecond)
	}
	if r.Mono < r.MonoBefore || r.Mono > r.MonoAfter+int64(startSlack) {
		return fmt.Errorf("monotonic time is off: %+v", r)
	}
	for _, o := range offsets {
		if r.Before+int64(o) <= r.Now && r.Now <= r.After+int64(o) {
			return nil
		}
	}
	return fmt.Errorf("the clock is off by %v, want one of %v", time.Duration(r.Now-r.Before), offsets)
}

// order is what a helper is asked: to read its clocks or, with Offsets, to read
// them without pause until the next order, and to say what was wrong.
type order struct{ Offsets []time.Duration }

type answer struct {
	Reading reading
	Checked int64
	Wrong   string
}

// help is the main function of a helper process.
func help(orders io.Reader, answers io.Writer) {
	out := json.NewEncoder(answers)
	halt := func() answer { return answer{Reading: read()} }
	for in := json.NewDecoder(bufio.NewReader(orders)); ; {
		var o order
		if in.Decode(&o) != nil {
			return
		}
		a := halt()
		halt = func() answer { return answer{Reading: read()} }
		if o.Offsets != nil {
			halt = work(o.Offsets)
		}
		out.Encode(a)
	}
}

// work reads the clock in many goroutines, with all that makes Go send signals
// to its threads: preemption, garbage collection, a profile.
func work(offsets []time.Duration) (halt func() answer) {
	var a answer
	var checked atomic.Int64
	var stop atomic.Bool
	var wrong sync.Once
	var all sync.WaitGroup
	pprof.StartCPUProfile(io.Discard)
	for range loaders {
		all.Go(func() {
			for !stop.Load() {
				if err := read().check(offsets...); err != nil {
					wrong.Do(func() { a.Wrong = err.Error() })
				}
				checked.Add(1)
			}
		})
	}
	all.Go(func() {
		for !stop.Load() {
			runtime.GC()
		}
	})
	return func() answer {
		stop.Store(true)
		all.Wait()
		pprof.StopCPUProfile()
		a.Checked = checked.Load()
		return a
	}
}

// helper is a process that tells what it takes the time for.
type helper struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startHelper(t *testing.T) *helper {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), helperVar+"=1", "GORACE=atexit_sleep_ms=0") // else it takes a second to end
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	h := &helper{t: t, cmd: cmd, in: in, out: json.NewDecoder(out)}
	t.Cleanup(h.end)
	h.ask() // it is up
	return h
}

// end closes the helper's input and fails the test unless it ends well.
func (h *helper) end() {
	if h.cmd.ProcessState != nil {
		return
	}
	h.in.Close()
	if err := h.cmd.Wait(); err != nil {
		h.t.Errorf("the helper: %v", err)
	}
}

func (h *helper) pid() int { return h.cmd.Process.Pid }

func (h *helper) ask(offsets ...time.Duration) (a answer) {
	h.t.Helper()
	must(h.t, json.NewEncoder(h.in).Encode(order{offsets}))
	must(h.t, h.out.Decode(&a))
	return a
}

// reads fails the test unless the helper's clock is off by offset.
func (h *helper) reads(offset time.Duration) reading {
	h.t.Helper()
	r := h.ask().Reading
	if err := r.check(offset); err != nil {
		h.t.Fatal(err)
	}
	return r
}

// attach attaches to a process for the time of the test.
func attach(t *testing.T, pid int) *faultclock.Clock {
	t.Helper()
	c, err := faultclock.Attach(pid)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func count(t *testing.T, c *faultclock.Clock) uint64 {
	t.Helper()
	n, err := c.Count()
	must(t, err)
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
