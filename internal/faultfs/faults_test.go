//go:build linux

package faultfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func under(prefix string) func(string) bool {
	return func(path string) bool { return strings.HasPrefix(path, prefix) }
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		op   Op
		do   func(dir string, file *os.File) error
	}{
		{"write", Writes, func(_ string, f *os.File) error { _, err := f.WriteAt([]byte("x"), 0); return err }},
		{"truncate", Writes, func(_ string, f *os.File) error { return f.Truncate(1) }},
		{"open to truncate", Writes, func(dir string, _ *os.File) error {
			return os.WriteFile(filepath.Join(dir, "a"), nil, 0o600)
		}},
		{"read", Reads, func(_ string, f *os.File) error { _, err := f.ReadAt(make([]byte, 1), 0); return err }},
		{"fsync", Syncs, func(_ string, f *os.File) error { return f.Sync() }},
		{"fsync of a directory", DirSyncs, func(dir string, _ *os.File) error { return (&FS{dir: dir}).syncDir(".") }},
		{"create", Names, func(dir string, _ *os.File) error { return os.WriteFile(filepath.Join(dir, "b"), nil, 0o600) }},
		{"mkdir", Names, func(dir string, _ *os.File) error { return os.Mkdir(filepath.Join(dir, "d"), 0o700) }},
		{"rename", Names, func(dir string, _ *os.File) error {
			return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c"))
		}},
		{"remove", Names, func(dir string, _ *os.File) error { return syscall.Unlink(filepath.Join(dir, "a")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, Options{})
			f.put(t, "a", "data", true)
			file, err := os.OpenFile(filepath.Join(f.Dir(), "a"), os.O_RDWR, 0)
			must(t, err)
			defer file.Close()
			others := f.Inject(Fault{Ops: ^tt.op, Err: syscall.EBADF})
			times := 1
			if tt.op == Reads {
				times = 2 // reading ahead, and then the page
			}
			fault := f.Inject(Fault{Ops: tt.op, Err: syscall.EIO, Times: times})
			if err := tt.do(f.Dir(), file); !errors.Is(err, syscall.EIO) {
				t.Errorf("error %v, want EIO", err)
			}
			others.Off()
			if err := tt.do(f.Dir(), file); err != nil {
				t.Errorf("the second time: %v", err)
			}
			if fault.Count() != times || others.Count() != 0 {
				t.Errorf("counts %d, %d", fault.Count(), others.Count())
			}
		})
	}
}

func TestFaultsMatchPaths(t *testing.T) {
	f := start(t, Options{})
	must(t, os.Mkdir(filepath.Join(f.Dir(), "d"), 0o700))
	fault := f.Inject(Fault{Ops: Writes | Names, Match: under("d/"), Err: syscall.EDQUOT})
	f.put(t, "a", "a", false)
	for range 2 {
		if err := os.WriteFile(filepath.Join(f.Dir(), "d", "a"), nil, 0o600); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("create below d: %v", err)
		}
	}
	if fault.Count() != 2 {
		t.Errorf("count %d", fault.Count())
	}
	fault.Off()
	f.put(t, "d/a", "a", false)
	again := f.Inject(Fault{Ops: Writes, Match: func(path string) bool { return path == "d/a" }, Err: syscall.EIO})
	if err := os.Truncate(filepath.Join(f.Dir(), "d", "a"), 0); !errors.Is(err, syscall.EIO) || again.Count() != 1 {
		t.Errorf("truncate: %v, count %d", err, again.Count())
	}
}

func TestAFailedFsyncIsNotMadeGood(t *testing.T) {
	f := start(t, Options{})
	f.put(t, "a", "old", true)
	file, err := os.OpenFile(filepath.Join(f.Dir(), "a"), os.O_RDWR, 0)
	must(t, err)
	_, err = file.WriteString("new")
	must(t, err)
	f.Inject(Fault{Ops: Syncs, Err: syscall.EIO, Times: 1})
	if err := file.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("fsync: %v", err)
	}
	must(t, file.Sync())
	must(t, file.Close())
	if got := f.get(t, "a"); got != "new" {
		t.Errorf("read %q", got)
	}
	must(t, f.Restore(Survivors{}))
	if got := f.get(t, "a"); got != "old" {
		t.Errorf("after the cut %q", got)
	}
}

// stalled starts an fsync of a new file which stalls; its outcome comes over
// the channel.
func stalled(t *testing.T, f *FS, fault Fault) (*Injected, chan error) {
	t.Helper()
	file, err := os.Create(filepath.Join(f.Dir(), "stalls"))
	must(t, err)
	_, err = file.WriteString("data")
	must(t, err)
	i := f.Inject(fault)
	done := make(chan error, 1)
	go func() { done <- errors.Join(file.Sync(), file.Close()) }()
	until(t, "the fsync stalls", func() bool { return i.Count() == 1 })
	return i, done
}

func outcome(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("it stalls for ever")
		return nil
	}
}

func TestAStallEndsWithOff(t *testing.T) {
	f := start(t, Options{})
	fault, done := stalled(t, f, Fault{Ops: Syncs, Stall: UntilOff})
	f.put(t, "b", "others go on", false)
	if f.get(t, "b") != "others go on" {
		t.Error("b")
	}
	select {
	case err := <-done:
		t.Fatalf("it did not stall: %v", err)
	default:
	}
	fault.Off()
	fault.Off()
	must(t, outcome(t, done))
	must(t, f.syncDir("."))
	must(t, f.Restore(Survivors{}))
	if got := f.get(t, "stalls"); got != "data" {
		t.Errorf("after the stall the fsync made durable %q", got)
	}
}

func TestAStallEndsByItself(t *testing.T) {
	f := start(t, Options{})
	begin := time.Now()
	_, done := stalled(t, f, Fault{Ops: Syncs, Stall: 30 * time.Millisecond, Err: syscall.EIO})
	if err := outcome(t, done); !errors.Is(err, syscall.EIO) {
		t.Errorf("fsync: %v", err)
	}
	if took := time.Since(begin); took < 30*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestAStallEndsWithTheCut(t *testing.T) {
	f := start(t, Options{})
	must(t, f.syncDir("."))
	_, done := stalled(t, f, Fault{Ops: Syncs, Stall: UntilOff})
	Cut(f)
	if err := outcome(t, done); !errors.Is(err, syscall.EIO) {
		t.Errorf("fsync: %v", err)
	}
	must(t, f.Restore(Survivors{}))
	if got := f.ls(t); got != "" {
		t.Errorf("left are %s", got)
	}
	f.put(t, "a", "a", true) // and the fault is gone
}

func TestFull(t *testing.T) {
	f := start(t, Options{})
	f.put(t, "a", "a", true)
	f.SetFree(2 * blockSize)
	var st syscall.Statfs_t
	must(t, syscall.Statfs(f.Dir(), &st))
	if free := int64(st.Bavail) * st.Bsize; free != 2*blockSize || f.Free() != free {
		t.Errorf("statfs says %d free, Free %d", free, f.Free())
	}
	err := os.WriteFile(filepath.Join(f.Dir(), "b"), make([]byte, 3*blockSize), 0o600)
	if !errors.Is(err, syscall.ENOSPC) || f.Stats().Full != 1 {
		t.Errorf("a write too large: %v, %d refused", err, f.Stats().Full)
	}
	f.put(t, "b", strings.Repeat("b", 2*blockSize), false)
	must(t, syscall.Statfs(f.Dir(), &st))
	if st.Bavail != 0 {
		t.Errorf("%d blocks free", st.Bavail)
	}
	must(t, os.Remove(filepath.Join(f.Dir(), "b")))
	if f.Free() != 2*blockSize {
		t.Errorf("after a removal %d free", f.Free())
	}
}

func TestFlip(t *testing.T) {
	f := start(t, Options{})
	must(t, os.Mkdir(filepath.Join(f.Dir(), "d"), 0o700))
	f.put(t, "d/a", strings.Repeat("\x00", 2*blockSize), true)
	must(t, f.syncDir("d"))
	file, err := os.Open(filepath.Join(f.Dir(), "d", "a"))
	must(t, err)
	p := make([]byte, 2*blockSize)
	_, err = file.ReadAt(p, 0) // now it is cached
	must(t, err)
	must(t, f.Flip("d/a", 8*(blockSize+7)+2))
	_, err = file.ReadAt(p, 0)
	must(t, errors.Join(err, file.Close()))
	want := strings.Repeat("\x00", blockSize+7) + "\x04" + strings.Repeat("\x00", blockSize-8)
	if string(p) != want {
		t.Error("an open file does not show the flipped bit")
	}
	must(t, f.Restore(Survivors{}))
	if f.get(t, "d/a") != want {
		t.Error("after the cut the bit is as it was")
	}
	for path, bit := range map[string]int64{"x": 0, "d": 0, "d/a": 8 * 2 * blockSize} {
		if err := f.Flip(path, bit); err == nil {
			t.Errorf("%s: flipped bit %d", path, bit)
		}
	}
}
