package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// processCPU is the CPU time that a process has used so far, user and system, of
// all its threads, those that have ended included. It is the process's CPU clock
// (clock_getcpuclockid(3)), which counts nanoseconds; /proc/PID/stat counts the
// same in ticks of 10 ms, and /proc/PID/schedstat only the first thread.
func processCPU(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &used); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}

// ownCPU is the CPU time of this process.
func ownCPU() (time.Duration, error) {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return 0, err
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), nil
}

// residentBytes is the memory of a process that is in RAM, its share of files
// that others have mapped too included. The kernel counts it when asked; the
// VmRSS of /proc/PID/status may be off by some hundred KiB for each CPU.
func residentBytes(pid int) (int64, error) {
	name := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) == 3 && string(fields[0]) == "Rss:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New(name + " has no line Rss")
}

// InMemory tells whether a directory is kept in memory alone, where an fsync costs
// nothing. It is false where that is not known.
func InMemory(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
}
