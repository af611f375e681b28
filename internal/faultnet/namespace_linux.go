package faultnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace. It lasts until the file is closed and no
// process is in it.
type namespace struct{ file *os.File }

// newNamespace makes one with nothing but a loopback interface that is up.
func newNamespace() (*namespace, error) {
	s := &namespace{}
	err := aside(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return explain(fmt.Errorf("make a network namespace: %w", err))
		}
		if s.file, err = current(); err != nil {
			return err
		}
		return setUp("lo")
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// current opens the namespace of the calling thread.
func current() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// do runs run with the calling thread inside.
func (s *namespace) do(run func() error) error {
	return aside(func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return explain(fmt.Errorf("enter a host's network namespace: %w", err))
		}
		return run()
	})
}

// aside runs run on a thread that is its alone meanwhile, and then takes the thread
// back to the namespace where it was. If that fails, the thread is not given
// back and ends with the goroutine.
func aside(run func() error) (err error) {
	runtime.LockOSThread()
	was, err := current()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer was.Close()
	defer func() {
		if back := unix.Setns(int(was.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave a host's network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return run()
}

// Close is for a nil namespace, too.
func (s *namespace) Close() error {
	if s == nil || s.file == nil {
		return nil
	}
	return s.file.Close()
}

// explain tells what must be done so that there are hosts.
func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: the kernel needs TUN devices (modprobe tun), a container also --device %s", err, tunDevice)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: hosts need root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and access to %s; "+
			"in a container: --cap-add SYS_ADMIN --cap-add NET_ADMIN --device %s", err, tunDevice, tunDevice)
	}
	return err
}
