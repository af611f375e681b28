//go:build unix

package main

import (
	"context"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// untilClosed returns a context that also ends when nobody reads the output any
// more: in "subscribe lobby | head -1" no later write may come to notice it. A
// write to it then fails with EPIPE and does not kill the process.
func untilClosed(ctx context.Context, output io.Writer) (_ context.Context, stop func()) {
	f, ok := output.(*os.File)
	if !ok {
		return ctx, func() {}
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
		return ctx, func() {}
	}
	wakeRead, wakeWrite, err := os.Pipe()
	if err != nil {
		return ctx, func() {} // it is only a convenience
	}
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(ctx)
	var task sync.WaitGroup
	task.Go(func() {
		// Nothing is asked for: that the other end is closed is always told.
		fds := []unix.PollFd{{Fd: int32(f.Fd())}, {Fd: int32(wakeRead.Fd())}}
		for {
			if _, err := unix.Poll(fds, -1); err == unix.EINTR {
				continue
			}
			cancel()
			return
		}
	})
	return ctx, func() {
		wakeWrite.Close()
		task.Wait()
		wakeRead.Close()
		signal.Stop(broken)
		cancel()
	}
}
