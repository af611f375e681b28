//go:build linux

package faultfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if do := children[os.Getenv("FAULTFS_CHILD")]; do != nil {
		if err := do(os.Getenv("FAULTFS_DIR")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// children are what a process of its own does for a test.
var children = map[string]func(dir string) error{"mmap": mapFile, "mount": mountForEver}

func child(name, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FAULTFS_CHILD="+name, "FAULTFS_DIR="+dir)
	return cmd
}

// patience bounds what must happen.
const patience = 10 * time.Second

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func start(tb testing.TB, opts Options) *FS {
	tb.Helper()
	return Start(tb, tb.TempDir(), opts)
}

// put writes a file, and syncs it and its directory if asked.
func (f *FS) put(tb testing.TB, name, data string, sync bool) {
	tb.Helper()
	file, err := os.OpenFile(filepath.Join(f.Dir(), name), os.O_CREATE|os.O_WRONLY, 0o600)
	must(tb, err)
	_, err = file.WriteString(data)
	must(tb, err)
	if sync {
		must(tb, file.Sync())
	}
	must(tb, file.Close())
	if sync {
		must(tb, f.syncDir("."))
	}
}

func (f *FS) syncDir(name string) error {
	d, err := os.Open(filepath.Join(f.Dir(), name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *FS) get(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(f.Dir(), name))
	must(tb, err)
	return string(b)
}

func (f *FS) ls(tb testing.TB) string {
	tb.Helper()
	entries, err := os.ReadDir(f.Dir())
	must(tb, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestSyncedSurvives(t *testing.T) {
	f := start(t, Options{})
	f.put(t, "kept", "old", true)
	f.put(t, "kept", "NEW and longer", false)
	f.put(t, "lost", "lost", false)
	if got := f.get(t, "kept"); got != "NEW and longer" {
		t.Fatalf("before the cut: %q", got)
	}
	Cut(f)
	if _, err := os.ReadDir(f.Dir()); !errors.Is(err, syscall.EIO) {
		t.Errorf("after the cut: %v", err)
	}
	must(t, f.Restore(Survivors{}))
	if got := f.ls(t); got != "kept" {
		t.Errorf("left are %s", got)
	}
	if got := f.get(t, "kept"); got != "old" { // and not what the page cache had
		t.Errorf("kept has %q", got)
	}
	f.put(t, "kept", "again", true)
	must(t, f.Restore(Survivors{}))
	if got := f.get(t, "kept"); got != "again" {
		t.Errorf("after a second cut kept has %q", got)
	}
}

// TestFdatasync: the size is durable with it, the name with the directory alone,
// unless file systems do more.
func TestFdatasync(t *testing.T) {
	for _, with := range []bool{false, true} {
		f := start(t, Options{NamesWithFile: with})
		file, err := os.Create(filepath.Join(f.Dir(), "a"))
		must(t, err)
		_, err = file.WriteString("data")
		must(t, err)
		must(t, unix.Fdatasync(int(file.Fd())))
		must(t, file.Close())
		must(t, f.Restore(Survivors{}))
		want := ""
		if with {
			want = "a"
		}
		if got := f.ls(t); got != want {
			t.Errorf("NamesWithFile %v: left is %q", with, got)
		} else if with && f.get(t, "a") != "data" {
			t.Errorf("a has %q", f.get(t, "a"))
		}
	}
}

func TestSomeSurvive(t *testing.T) {
	f := start(t, Options{})
	f.put(t, "a", strings.Repeat("a", 64<<10), true)
	f.put(t, "a", strings.Repeat("b", 64<<10), false)
	must(t, f.Restore(Survivors{Seed: 1, Chance: 0.5}))
	got := f.get(t, "a")
	if as := strings.Count(got, "a"); len(got) != 64<<10 || as == 0 || as == len(got) || as%512 != 0 {
		t.Errorf("of %d bytes %d are old", len(got), as)
	}
}

func TestLying(t *testing.T) {
	f := start(t, Options{})
	f.put(t, "a", "old", true)
	f.SetLying(true)
	f.put(t, "a", "new", true)
	f.put(t, "b", "new", true)
	if lied := f.Stats().Lied; lied != 4 {
		t.Errorf("lied %d times", lied)
	}
	must(t, f.Restore(Survivors{}))
	if f.ls(t) != "a" || f.get(t, "a") != "old" {
		t.Errorf("left are %s", f.ls(t))
	}
}

func TestFiles(t *testing.T) {
	f := start(t, Options{})
	path := filepath.Join(f.Dir(), "a")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	must(t, err)
	if _, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("O_EXCL of an existing file: %v", err)
	}
	must(t, os.Chmod(path, 0o640))
	if info, err := file.Stat(); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	_, err = file.WriteAt([]byte("far"), 5000)
	must(t, err)
	must(t, file.Truncate(5002))
	if got := f.get(t, "a"); got != strings.Repeat("\x00", 5000)+"fa" {
		t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-5):])
	}
	log, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = log.WriteString("ter")
	must(t, errors.Join(err, log.Close()))
	f.put(t, "b", "b", false)
	rename := func(flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, filepath.Join(f.Dir(), "b"), unix.AT_FDCWD, path, flags)
	}
	if err := rename(unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Errorf("rename that must not replace: %v", err)
	}
	if err := rename(unix.RENAME_EXCHANGE); err != unix.EINVAL {
		t.Errorf("exchange: %v", err)
	}
	must(t, os.Rename(filepath.Join(f.Dir(), "b"), path))
	tail := make([]byte, 10)
	n, err := file.ReadAt(tail, 5000)
	if got := string(tail[:n]); got != "fater" || err != io.EOF {
		t.Errorf("the replaced file, still open, ends in %q, %v", got, err)
	}
	must(t, file.Close())
	if f.ls(t) != "a" || f.get(t, "a") != "b" {
		t.Errorf("after a rename: %s", f.ls(t))
	}
	must(t, os.WriteFile(path, []byte("x"), 0o600)) // O_TRUNC
	if f.get(t, "a") != "x" {
		t.Errorf("written over: %q", f.get(t, "a"))
	}
}

func TestDirectories(t *testing.T) {
	f := start(t, Options{})
	sub := filepath.Join(f.Dir(), "x", "y")
	must(t, os.MkdirAll(sub, 0o700))
	for i := range 1000 {
		must(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("a-long-name-to-fill-the-buffer-%d", i)), nil, 0o600))
	}
	if entries, err := os.ReadDir(sub); err != nil || len(entries) != 1000 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if err := os.Remove(sub); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("rmdir of a full directory: %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(f.Dir(), "x")))
	if got := f.ls(t); got != "" {
		t.Errorf("left are %s", got)
	}
}

func TestFlock(t *testing.T) {
	f := start(t, Options{})
	open := func() *os.File {
		file, err := os.OpenFile(filepath.Join(f.Dir(), "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
		must(t, err)
		return file
	}
	lock := func(file *os.File) error { return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
	one, two := open(), open()
	must(t, lock(one))
	if err := lock(two); err != syscall.EWOULDBLOCK {
		t.Errorf("the second lock: %v", err)
	}
	must(t, one.Close())
	must(t, lock(two))
	must(t, two.Close())
	must(t, f.Restore(Survivors{}))
	three := open()
	defer three.Close()
	must(t, lock(three))
}

// TestMmap: in another process, a file mapped read-only and shared shows what
// was written with pwrite, also after it has grown, as bbolt needs it; and after
// a cut what was durable.
func TestMmap(t *testing.T) {
	f := start(t, Options{})
	for range 2 {
		if out, err := child("mmap", f.Dir()).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		must(t, f.Restore(Survivors{}))
	}
}

func mapFile(dir string) error {
	file, err := os.OpenFile(filepath.Join(dir, "db"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	const size = 1 << 20
	if info.Size() != 0 && info.Size() != size {
		return fmt.Errorf("size %d", info.Size())
	}
	if err := file.Truncate(size); err != nil {
		return err
	}
	m, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	if want := byte(info.Size() / size * 'd'); m[size-1] != want { // the second time: what was durable
		return fmt.Errorf("at first the mapping has %q, want %q", m[size-1], want)
	}
	for i, step := range []string{"a", "b", "c", "d", "lost"} {
		if _, err := file.WriteAt(bytes.Repeat([]byte(step[:1]), size/2), size/2); err != nil {
			return err
		}
		if m[size-1] != step[0] || m[size/2] != step[0] || m[size/2-1] != 0 {
			return fmt.Errorf("step %d: the mapping has %q, want %q", i, m[size-1], step[0])
		}
		if step == "d" {
			d, err := os.Open(dir)
			if err != nil {
				return err
			}
			if err := errors.Join(file.Sync(), d.Sync(), d.Close()); err != nil {
				return err
			}
		}
	}
	return syscall.Munmap(m)
}

func TestMountsAreApart(t *testing.T) {
	a, b := start(t, Options{}), start(t, Options{})
	a.put(t, "a", "a", true)
	b.put(t, "b", "b", true)
	Cut(a)
	if got := b.ls(t); got != "b" {
		t.Errorf("b has %s", got)
	}
	Cut(a, b)
	must(t, a.Restore(Survivors{}))
	must(t, b.Restore(Survivors{}))
	if a.ls(t) != "a" || b.ls(t) != "b" {
		t.Errorf("a has %s, b has %s", a.ls(t), b.ls(t))
	}
}

func TestRestoreRefusesWithAFileOpen(t *testing.T) {
	f := start(t, Options{})
	f.closing = 0
	f.put(t, "a", "a", true)
	file, err := os.Open(filepath.Join(f.Dir(), "a"))
	must(t, err)
	if err := f.Restore(Survivors{}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("with an open file: %v", err)
	}
	must(t, file.Close())
	f.closing = patience
	must(t, f.Restore(Survivors{}))
	if f.get(t, "a") != "a" {
		t.Error("a is not there")
	}
}

func mounted(tb testing.TB, dir string) bool {
	tb.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	must(tb, err)
	return strings.Contains(string(b), " "+dir+" fuse.faultfs ")
}

func TestCloseWithAFileOpen(t *testing.T) {
	dir := t.TempDir()
	f, err := Mount(dir, Options{})
	must(t, err)
	f.closing = 0
	f.put(t, "a", "a", false)
	file, err := os.Open(filepath.Join(dir, "a"))
	must(t, err)
	defer file.Close()
	if !mounted(t, dir) {
		t.Error("not in the mount table")
	}
	if err := f.Close(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("Close: %v", err)
	}
	if mounted(t, dir) {
		t.Error("still mounted")
	}
}

func mountForEver(dir string) error {
	f, err := Mount(dir, Options{})
	if err != nil {
		return err
	}
	stall := f.Inject(Fault{Ops: DirSyncs, Stall: UntilOff})
	go f.syncDir(".")
	for stall.Count() == 0 {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("mounted")
	select {}
}

// TestAKilledProcessLeavesNoMount kills a process that has mounted, and waits
// for an answer from itself.
func TestAKilledProcessLeavesNoMount(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) }) // else it hangs when it fails
	cmd := child("mount", dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line := make([]byte, len("mounted\n"))
	_, err = io.ReadFull(out, line)
	if err != nil || !mounted(t, dir) {
		t.Errorf("the child said %q, %v", line, err)
	}
	must(t, cmd.Process.Kill())
	dead := make(chan error, 1)
	go func() { dead <- cmd.Wait() }()
	select {
	case <-dead:
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
	until(t, "the mount is gone", func() bool { return !mounted(t, dir) })
}

// until looks often until cond holds.
func until(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
	}
}

func TestMountSaysWhatIsMissing(t *testing.T) {
	for err, want := range map[error]string{
		syscall.ENOENT: "modprobe fuse", syscall.ENODEV: "modprobe fuse",
		syscall.EPERM: "CAP_SYS_ADMIN", syscall.EACCES: "CAP_SYS_ADMIN",
	} {
		if got := explain(err).Error(); !strings.Contains(got, want) {
			t.Errorf("%v: %q", err, got)
		}
	}
	if _, err := Mount(filepath.Join(t.TempDir(), "nowhere"), Options{}); err == nil {
		t.Error("mounted on nothing")
	}
}
