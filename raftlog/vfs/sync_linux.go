package vfs

import (
	"errors"
	"os"
	"syscall"
)

// Sync is fdatasync: bytes and size, not the times.
func (f osFile) Sync() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = syscall.Fdatasync(int(fd)); !errors.Is(failed, syscall.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", failed)
}

const fadviseDontNeed = 4 // POSIX_FADV_DONTNEED

func (f osFile) uncache(from, to int64) {
	if conn, err := f.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) {
			syscall.Syscall6(syscall.SYS_FADVISE64, fd, uintptr(from), uintptr(to-from), fadviseDontNeed, 0, 0)
		})
	}
}
