package devcluster

import "syscall"

const (
	sigTerm = syscall.SIGTERM
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// childAttr puts a child into its own process group, so that a Ctrl-C on the
// terminal reaches this process alone, and has it stopped if this process dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
