package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/raftlog/vfs"
	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// both runs a test on the real file system and on the one for tests, which must
// not differ in anything that a caller may rely on.
func both(t *testing.T, test func(t *testing.T, fsys vfs.FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, vfs.OS, t.TempDir()) })
	t.Run("crashfs", func(t *testing.T) {
		disk := crashfs.New()
		dir := "/data"
		if err := disk.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
		test(t, disk, dir)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("error %v, want %v", got, want)
	}
}

func create(t *testing.T, fsys vfs.FS, name, text string) {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	must(t, errors.Join(err, f.Sync(), f.Close()))
}

func read(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	data, err := vfs.ReadFile(fsys, name, 1<<20)
	must(t, err)
	return string(data)
}

func TestNames(t *testing.T) {
	both(t, func(t *testing.T, fsys vfs.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		_, err := fsys.Open(a)
		wants(t, err, fs.ErrNotExist)
		wants(t, fsys.Remove(a), fs.ErrNotExist)
		wants(t, fsys.Rename(a, b), fs.ErrNotExist)
		_, err = fsys.Create(filepath.Join(dir, "none", "a"))
		wants(t, err, fs.ErrNotExist)
		names, err := fsys.List(filepath.Join(dir, "none"))
		if must(t, err); len(names) != 0 {
			t.Errorf("a directory that is not there lists %q", names)
		}

		create(t, fsys, a, "one")
		_, err = fsys.Create(a)
		wants(t, err, fs.ErrExist)
		create(t, fsys, b, "two")
		must(t, fsys.MkdirAll(filepath.Join(dir, "d", "e")))
		must(t, fsys.MkdirAll(filepath.Join(dir, "d", "e")))
		names, err = fsys.List(dir)
		if must(t, err); !slices.Equal(names, []string{"a", "b", "d"}) {
			t.Errorf("listed %q", names)
		}

		must(t, fsys.Rename(a, b))
		must(t, fsys.SyncDir(dir))
		if got := read(t, fsys, b); got != "one" {
			t.Errorf("renamed over: %q", got)
		}
		for name, want := range map[string]bool{a: false, b: true} {
			if ok, err := vfs.Exists(fsys, name); ok != want || err != nil {
				t.Errorf("%s exists: %v, %v", name, ok, err)
			}
		}
		must(t, fsys.Remove(b))
		_, err = fsys.Open(b)
		wants(t, err, fs.ErrNotExist)
		if err := fsys.SyncDir(filepath.Join(dir, "none")); err == nil {
			t.Error("a directory that is not there was synced")
		}
	})
}

func TestBytes(t *testing.T) {
	both(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		f, err := fsys.Create(name)
		must(t, err)
		other, err := fsys.Open(name)
		must(t, err)
		at := func(want string, off int64, n int, end error) {
			t.Helper()
			p := bytes.Repeat([]byte("-"), n)
			got, err := other.ReadAt(p, off)
			if string(p[:got]) != want || !errors.Is(err, end) {
				t.Errorf("read %d at %d: %q, %v, want %q, %v", n, off, p[:got], err, want, end)
			}
		}
		at("", 0, 1, io.EOF)
		_, err = f.WriteAt([]byte("hello"), 600)
		must(t, err)
		at("\x00\x00", 10, 2, nil)
		at("\x00\x00he", 598, 4, nil)
		at("lo", 603, 4, io.EOF)
		at("", 606, 1, io.EOF)
		must(t, f.Truncate(602))
		must(t, f.Truncate(604))
		at("he\x00\x00", 600, 9, io.EOF)
		if size, err := other.Size(); size != 604 || err != nil {
			t.Errorf("size %d, %v", size, err)
		}
		must(t, fsys.Remove(name)) // those who have it open go on
		at("he", 600, 2, nil)
		must(t, errors.Join(f.Sync(), f.Close(), other.Close()))
		_, err = f.ReadAt(make([]byte, 1), 600)
		wants(t, err, fs.ErrClosed)
		_, err = f.WriteAt(make([]byte, 1), 0)
		wants(t, err, fs.ErrClosed)
		wants(t, f.Close(), fs.ErrClosed)
		if err := f.Sync(); err == nil {
			t.Error("a closed file was synced")
		}
	})
}

func TestReadFile(t *testing.T) {
	both(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		create(t, fsys, name, "12345")
		if got, err := vfs.ReadFile(fsys, name, 5); string(got) != "12345" || err != nil {
			t.Errorf("at the limit: %q, %v", got, err)
		}
		if _, err := vfs.ReadFile(fsys, name, 4); err == nil || !strings.Contains(err.Error(), "5 bytes") {
			t.Errorf("beyond the limit: %v", err)
		}
		_, err := vfs.ReadFile(fsys, filepath.Join(dir, "b"), 4)
		wants(t, err, fs.ErrNotExist)
	})
}

func put(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		for piece := range slices.Chunk([]byte(text), 700) {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestWriteFile(t *testing.T) {
	both(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		must(t, vfs.WriteFile(fsys, name, put("one two")))
		must(t, vfs.WriteFile(fsys, name, put("three")))
		refused := errors.New("refused")
		wants(t, vfs.WriteFile(fsys, name, func(w io.Writer) error {
			return errors.Join(put("four")(w), refused)
		}), refused)
		if got := read(t, fsys, name); got != "three" {
			t.Errorf("read %q", got)
		}
		names, err := fsys.List(dir)
		if must(t, err); !slices.Equal(names, []string{"a"}) {
			t.Errorf("listed %q", names)
		}
	})
}

// writeFiles writes a file twice and returns the disk and the number of
// operations made when each call returned.
func writeFiles(t *testing.T, first, second string) (disk *crashfs.FS, returned [2]int) {
	disk = crashfs.New()
	for i, text := range []string{first, second} {
		must(t, vfs.WriteFile(disk, "/a", put(text)))
		returned[i] = disk.Ops()
	}
	return disk, returned
}

// checkWriteFiles tells what a crash may not leave.
func checkWriteFiles(disk *crashfs.FS, returned [2]int, first, second string, e crashfs.Explore) error {
	for crash := range disk.Crashes(e) {
		after := crash.FS()
		got, err := vfs.ReadFile(after, "/a", 1<<20)
		switch {
		case string(got) == second:
		case string(got) == first && crash.After < returned[1]:
		case errors.Is(err, fs.ErrNotExist) && crash.After < returned[0]:
		default:
			return errors.New(crash.String() + ": found " + string(got))
		}
		if err := vfs.WriteFile(after, "/a", put("next")); err != nil {
			return err
		}
		names, err := after.List("/")
		if err != nil || !slices.Equal(names, []string{"a"}) {
			return errors.New(crash.String() + ": names left: " + strings.Join(names, " "))
		}
	}
	return nil
}

func TestWriteFileSurvivesCrashes(t *testing.T) {
	first, second := strings.Repeat("one ", 300), strings.Repeat("two ", 500)
	disk, returned := writeFiles(t, first, second)
	must(t, checkWriteFiles(disk, returned, first, second, crashfs.Explore{Exhaustive: 6}))
	for _, left := range disk.Syncs() {
		ignore := func(s crashfs.Sync) bool { return s.N == left.N }
		if checkWriteFiles(disk, returned, first, second, crashfs.Explore{Ignore: ignore}) == nil {
			t.Errorf("without %v no crash did any harm", left)
		}
	}
}

func TestIsAside(t *testing.T) {
	disk := crashfs.New()
	must(t, vfs.WriteFile(disk, "/a", func(io.Writer) error {
		names, err := disk.List("/")
		if len(names) != 1 || !vfs.IsAside(names[0]) {
			t.Errorf("while a file is written there are %q", names)
		}
		return err
	}))
	if vfs.IsAside("a") {
		t.Error("a file's own name counts as left behind")
	}
}

func TestMkdirAllOfAFile(t *testing.T) {
	both(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		create(t, fsys, name, "")
		if fsys.MkdirAll(name) == nil || fsys.MkdirAll(filepath.Join(name, "b")) == nil {
			t.Error("a file counts as a directory")
		}
		if fsys.SyncDir(filepath.Join(name, "b")) == nil {
			t.Error("there is a directory in a file")
		}
	})
}
