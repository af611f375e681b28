//go:build unix && !linux

package devcluster

import "syscall"

const (
	sigTerm = syscall.SIGTERM
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// childAttr puts a child into its own process group, so that a Ctrl-C on the
// terminal reaches this process alone.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
