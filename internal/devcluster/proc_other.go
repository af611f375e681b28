//go:build !unix

package devcluster

import "syscall"

// Without POSIX signals a process can only be killed: stopping is killing, and
// pausing fails.
const (
	sigTerm = syscall.SIGKILL
	sigStop = syscall.Signal(0x13)
	sigCont = syscall.Signal(0x12)
)

func childAttr() *syscall.SysProcAttr { return nil }
