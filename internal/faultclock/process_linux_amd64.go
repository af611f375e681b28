package faultclock

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	stopPatience = 5 * time.Second
	stopPoll     = 200 * time.Microsecond
)

// errBusy: a thread is in the very bytes, or may be; let it go on a little.
var errBusy = errors.New("a thread is in the code to be changed")

// whileOutside runs change while the process stands still with no thread inside
// code, which is to say behind its first byte.
func whileOutside(pid int, code span, change func() error) error {
	for deadline := time.Now().Add(stopPatience); ; {
		err := stopped(pid, func() error {
			if err := outside(pid, code); err != nil {
				return err
			}
			return change()
		})
		if !errors.Is(err, errBusy) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w for %v: try again", err, stopPatience)
		}
		time.Sleep(stopPoll)
	}
}

// stopped runs f while the process is stopped. A process that was stopped
// before stays so.
func stopped(pid int, f func() error) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer p.Release()
	already, err := allStopped(pid)
	if err != nil {
		return err
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	if !already {
		defer p.Signal(syscall.SIGCONT)
	}
	if err := awaitStop(pid); err != nil {
		return err
	}
	return f()
}

func awaitStop(pid int) error {
	for deadline := time.Now().Add(stopPatience); ; time.Sleep(stopPoll) {
		if all, err := allStopped(pid); all || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not all threads stopped for %v: one hangs in a system call, or a debugger holds the process", stopPatience)
		}
	}
}

// allStopped tells whether every thread is stopped by a signal.
func allStopped(pid int) (bool, error) {
	all := true
	err := eachThread(pid, "stat", func(stat string) error {
		_, state, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
		all = all && (strings.HasPrefix(state, "T") || strings.HasPrefix(state, "Z"))
		return nil
	})
	return all, err
}

// outside fails with errBusy unless no thread is inside code, nor comes back
// into it from a signal handler. Go's handlers block every signal while they
// run, and nothing else blocks SIGSEGV.
func outside(pid int, code span) error {
	err := eachThread(pid, "syscall", func(line string) error {
		if pc, ok := counterIn(line); !ok || pc > code.from && pc < code.to {
			return errBusy
		}
		return nil
	})
	if err != nil {
		return err
	}
	return eachThread(pid, "status", func(status string) error {
		if blocks(status, syscall.SIGSEGV) {
			return errBusy
		}
		return nil
	})
}

// counterIn returns the program counter from what /proc/PID/task/TID/syscall says:
//
//	running
//	-1 0x7ffd98c79d70 0x46e3b1
//	202 0x1234 0x80 0x0 0x0 0x0 0x0 0x7ffd98c79d70 0x46e3b1
func counterIn(line string) (pc uint64, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 3 && len(fields) != 9 {
		return 0, false
	}
	pc, err := strconv.ParseUint(fields[len(fields)-1], 0, 64)
	return pc, err == nil
}

// blocks tells whether a thread blocks a signal, from what /proc/PID/task/TID/status says.
func blocks(status string, sig syscall.Signal) bool {
	_, rest, _ := strings.Cut(status, "\nSigBlk:")
	line, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err != nil || mask&(1<<(sig-1)) != 0
}

// eachThread calls look with a file of each thread of the process.
func eachThread(pid int, file string, look func(string) error) error {
	dir := fmt.Sprintf("/proc/%d/task/", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(dir + thread.Name() + "/" + file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return err
		}
		if err := look(string(text)); err != nil {
			return err
		}
	}
	return nil
}
