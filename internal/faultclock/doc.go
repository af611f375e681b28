// Package faultclock makes a running process see another wall-clock time, from
// outside and without its help: what a node does whose clock is wrong or jumps.
//
//	clock, err := faultclock.Attach(pid)
//	clock.Set(5 * time.Second)  // its time.Now is 5 s ahead from here on
//	clock.Set(-5 * time.Second) // as often as one likes
//	clock.Count()               // how many wrong times it was told so far
//	clock.Close()               // the process is as it was
//
// Time namespaces leave CLOCK_REALTIME alone, and a Go program calls no libc
// that could be replaced. It calls the vDSO, code which the kernel maps into
// every process. Attach writes into the process's memory a jump from the entry
// of clock_gettime to a stub, and the stub into the room behind the code:
//
//	time.Now -> clock_gettime (vDSO) -> stub -> the system call
//	                                         -> the offset, if CLOCK_REALTIME
//
// The pages are copied when they are written to, so no other process is
// touched. Monotonic time stays true, with it time.Since, timers and deadlines.
// True stay also what does not ask the vDSO for CLOCK_REALTIME: gettimeofday,
// the coarse clocks, system calls made by hand, the times of files. A child
// forked later has the wrong clock until it executes a program.
//
// While it is attached each of the process's readings costs a system call, some
// 0.1 µs. Attach and Close stop the process for the moment of a write, with
// SIGSTOP, and leave it stopped if it was. They work for Linux on amd64 and a Go
// program there, and need root. A Clock is safe for concurrent use, but one process
// must not be attached to or closed twice at the same time.
package faultclock

import "errors"

var (
	// ErrEnded: the process is gone; its successor needs a Clock of its own.
	ErrEnded = errors.New("the process has ended")

	// ErrPermission: this user may not write into the process; be root.
	ErrPermission = errors.New("not allowed to change the process's memory: run this as root (or with CAP_SYS_PTRACE), " +
		"on a kernel that does not run with proc_mem.force_override=never or ptrace")

	// ErrUnsupported: there is no such fault here, whatever the privileges.
	ErrUnsupported = errors.New("clocks can be skewed on Linux on amd64 only, and of 64-bit processes: leave out the clock faults here")
)
