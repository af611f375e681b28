package faultclock_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/faultclock"
)

func TestSkew(t *testing.T) {
	h := startHelper(t)
	c := attach(t, h.pid())
	h.reads(0)
	if n := count(t, c); n != 0 {
		t.Fatalf("%d readings counted of a true clock", n)
	}
	was := uint64(0)
	for _, offset := range []time.Duration{
		3 * time.Second, -3 * time.Second, 1, -1, time.Second - 1, 1 - time.Second, -time.Second, time.Second, 5*time.Hour + 7,
		-100_000 * time.Hour,
	} {
		must(t, c.Set(offset))
		for range 20 { // at any place within a second
			h.reads(offset)
		}
		n := count(t, c)
		if n < was+20 {
			t.Errorf("offset %v: %d readings counted after %d", offset, n, was)
		}
		was = n
	}
	must(t, c.Set(0))
	before := count(t, c)
	h.reads(0)
	if n := count(t, c); n != before {
		t.Errorf("%d readings counted of a true clock", n-before)
	}
}

// TestCarry goes through all places within a second.
func TestCarry(t *testing.T) {
	t.Parallel()
	h := startHelper(t)
	c := attach(t, h.pid())
	nanos := time.Duration(h.ask().Reading.Now % 1e9)
	for _, offset := range []time.Duration{-nanos, time.Second - nanos, -nanos - 5*time.Second, 1500 * time.Millisecond, -1500 * time.Millisecond} {
		must(t, c.Set(offset))
		h.ask(offset)
		time.Sleep(1100 * time.Millisecond) // the load is to cross a second
		if a := h.ask(); a.Wrong != "" || a.Checked < 1000 {
			t.Errorf("offset %v: %d readings, %s", offset, a.Checked, a.Wrong)
		}
	}
}

// TestOneProcessOnly: neither a process of the same program nor this one sees
// what is done to another.
func TestOneProcessOnly(t *testing.T) {
	skewed, other, own := startHelper(t), startHelper(t), read()
	c := attach(t, skewed.pid())
	must(t, c.Set(time.Hour))
	skewed.reads(time.Hour)
	other.reads(0)
	must(t, read().check(0))
	if mine := attach(t, other.pid()); count(t, mine) != 0 {
		t.Error("the other process is counted")
	}
	startHelper(t).reads(0) // one that began later
	if since := time.Duration(read().Now - own.Now); since > time.Minute {
		t.Errorf("this process's clock went on by %v", since)
	}
}

// TestAttachAgain: a second Clock of a process finds what the first one did,
// and after a Close it begins anew.
func TestAttachAgain(t *testing.T) {
	h := startHelper(t)
	first, err := faultclock.Attach(h.pid())
	must(t, err)
	must(t, first.Set(time.Minute))
	h.reads(time.Minute)
	second := attach(t, h.pid())
	h.reads(time.Minute)
	if n := count(t, second); n == 0 {
		t.Error("the count is lost")
	}
	must(t, second.Set(-time.Minute))
	h.reads(-time.Minute)
	must(t, first.Close())
	h.reads(0)
	must(t, second.Set(time.Minute))
	h.reads(0)
	third := attach(t, h.pid())
	h.reads(time.Minute)
	must(t, third.Set(0))
	h.reads(0)
}

// TestAttachesUnderLoad changes the code of a busy process again and again.
func TestAttachesUnderLoad(t *testing.T) {
	const a, b = 3 * time.Second, -3 * time.Second
	h := startHelper(t)
	h.ask(0, a, b)
	var counted uint64
	for i := range 150 {
		c, err := faultclock.Attach(h.pid())
		must(t, err)
		must(t, c.Set(a))
		must(t, c.Set(b))
		if i%10 == 0 { // long enough to be read
			for before := count(t, c); count(t, c) < before+10; {
			}
		}
		counted = count(t, c)
		must(t, c.Close())
	}
	if answer := h.ask(); answer.Wrong != "" || answer.Checked < 1000 {
		t.Errorf("%d readings: %s", answer.Checked, answer.Wrong)
	}
	h.reads(0)
	if counted < 150 {
		t.Errorf("%d readings counted", counted)
	}
}

// TestStrobe: a busy process has either of two offsets at any time, never a
// mixture of their bytes.
func TestStrobe(t *testing.T) {
	const a, b = time.Duration(0x0102030405060708), time.Duration(-0x0112233445566778)
	h := startHelper(t)
	c := attach(t, h.pid())
	must(t, c.Set(a))
	h.ask(a, b)
	for count(t, c) < 100_000 {
		must(t, c.Set(b))
		must(t, c.Set(a))
	}
	if answer := h.ask(); answer.Wrong != "" || answer.Checked < 1000 {
		t.Errorf("%d readings: %s", answer.Checked, answer.Wrong)
	}
}

// TestStoppedStaysStopped: a pause that somebody else has made is not ended.
func TestStoppedStaysStopped(t *testing.T) {
	h := startHelper(t)
	must(t, h.cmd.Process.Signal(syscall.SIGSTOP))
	for !stoppedNow(t, h.pid()) {
		time.Sleep(time.Millisecond)
	}
	c := attach(t, h.pid())
	must(t, c.Set(time.Second))
	if !stoppedNow(t, h.pid()) {
		t.Error("it goes on")
	}
	must(t, h.cmd.Process.Signal(syscall.SIGCONT))
	h.reads(time.Second)
}

// stoppedNow tells whether all of a process's threads stand still.
func stoppedNow(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	must(t, err)
	for _, thread := range threads {
		if stat, err := os.ReadFile(thread); err == nil && !strings.Contains(string(stat), ") T ") {
			return false
		}
	}
	return len(threads) > 0
}

func TestEnded(t *testing.T) {
	h := startHelper(t)
	c := attach(t, h.pid())
	h.end()
	if err := c.Set(1); !errors.Is(err, faultclock.ErrEnded) {
		t.Errorf("Set: %v", err)
	}
	if _, err := c.Count(); !errors.Is(err, faultclock.ErrEnded) {
		t.Errorf("Count: %v", err)
	}
	for name, pid := range map[string]int{"ended": h.pid(), "a thread of the kernel": 2, "none": 0} {
		if _, err := faultclock.Attach(pid); !errors.Is(err, faultclock.ErrEnded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWithoutPrivilege attaches as another user than the process's.
func TestWithoutPrivilege(t *testing.T) {
	h := startHelper(t)
	asNobody(t, func() {
		if _, err := faultclock.Attach(h.pid()); !errors.Is(err, faultclock.ErrPermission) {
			t.Errorf("Attach: %v", err)
		}
	})
	h.reads(0)
}

// asNobody runs f on a thread of another user, who has no privileges.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	const nobody, keep = 65534, ^uintptr(0)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	root := uintptr(os.Geteuid())
	for _, uid := range []uintptr{nobody, root} {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uid, keep); errno != 0 {
			t.Fatalf("become user %d: %v", uid, errno)
		}
		if uid == nobody {
			f()
		}
	}
}

func TestOffsetTooLarge(t *testing.T) {
	c := attach(t, startHelper(t).pid())
	for _, offset := range []time.Duration{math.MaxInt64, math.MinInt64} {
		if err := c.Set(offset); err == nil {
			t.Errorf("%d is taken", offset)
		}
	}
	if n := count(t, c); n != 0 {
		t.Errorf("%d readings counted", n)
	}
}
