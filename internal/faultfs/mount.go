//go:build linux

package faultfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mount is one mount of an FS.
type mount struct {
	dir    string
	server *fuse.Server
	served chan struct{} // closed when the server has ended
}

const device = "/dev/fuse"

// newMount opens the device and mounts by itself, without fusermount: a file
// system whose device another process has inherited does not end with this one.
func (f *FS) newMount() (*mount, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d", fd, unix.S_IFDIR, os.Geteuid(), os.Getegid())
	if err := unix.Mount("faultfs", f.dir, "fuse.faultfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		return nil, explain(fmt.Errorf("mount on %s: %w", f.dir, err))
	}
	m := &mount{dir: f.dir, served: make(chan struct{})}
	m.server, err = fuse.NewServer(newServer(f), fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		MaxWrite:                 256 << 10,
		ExplicitDataCacheControl: true,
		DisableReadDirPlus:       true,
		DisableSplice:            true,
	})
	if err != nil {
		return nil, errors.Join(explain(err), m.detach())
	}
	go func() {
		defer close(m.served)
		m.server.Serve()
	}()
	m.forbidPoll()
	return m, nil
}

// explain tells what must be done so that a mount succeeds.
func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("faultfs: %w: the kernel needs FUSE (modprobe fuse), a container also --device %s", err, device)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("faultfs: %w: FUSE mounts need root (CAP_SYS_ADMIN) and access to %s; "+
			"in a container: --cap-add SYS_ADMIN --device %s", err, device, device)
	}
	return fmt.Errorf("faultfs: %w", err)
}

// forbidPoll has the kernel ask once whether files can be polled, which go-fuse
// denies for this name and thereby for good. Otherwise the runtime would ask
// from its only thread that could answer when this process opens a file here.
func (m *mount) forbidPoll() {
	fd, err := unix.Open(filepath.Join(m.dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
}

// closing bounds how long files of processes that have ended take to be closed.
const closing = 2 * time.Second

func (m *mount) unmount(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		err := unix.Unmount(m.dir, 0)
		switch {
		case err == nil:
			<-m.served
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("faultfs: unmount %s: %w", m.dir, err)
		}
		time.Sleep(time.Millisecond) // the kernel tells nobody when it could
	}
}

// detach takes the mount out of sight also when files are open.
func (m *mount) detach() error {
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("faultfs: detach %s: %w", m.dir, err)
	}
	return nil
}

// dropPages has the kernel forget the page at off.
func (m *mount) dropPages(id uint64, off int64) {
	m.server.InodeNotify(id, off/blockSize*blockSize, blockSize)
}

// guard is a process that takes the mount away when this one dies. Force ends
// operations of this one that wait for an answer from it; it could not die else.
type guard struct {
	life  io.Closer // its end ends the guard
	ended chan struct{}
}

// The signal comes when this process begins to die, the end of life when it is
// told to go. It says when it is ready for both.
const guardScript = `trap exit TERM; trap 'umount -f -l "$1" 2>/dev/null' EXIT; echo ready; exec 3<&0; cat <&3 >/dev/null & wait`

func newGuard(dir string) (*guard, error) {
	cmd := exec.Command("sh", "-c", guardScript, "faultfs-guard", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // spared by a Ctrl-C that ends this process
		Pdeathsig: syscall.SIGTERM,
	}
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	says, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the signal comes with the end of the thread that started it
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			_, err = bufio.NewReader(says).ReadString('\n')
		}
		started <- err
		if cmd.Process != nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("faultfs: start %s: %w", cmd.Path, err)
	}
	return &guard{life: life, ended: ended}, nil
}

// end ends the guard, when its mount has gone. It may be called again.
func (g *guard) end() {
	g.life.Close()
	<-g.ended
}
