package faultclock

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ownVDSO is this process's, whole.
func ownVDSO(tb testing.TB) (image []byte, vdso, stack span) {
	tb.Helper()
	vdso, stack, err := mappings(os.Getpid())
	if err != nil {
		tb.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		tb.Fatal(err)
	}
	defer mem.Close()
	image = make([]byte, vdso.to-vdso.from)
	if _, err := mem.ReadAt(image, int64(vdso.from)); err != nil {
		tb.Fatal(err)
	}
	return image, vdso, stack
}

// TestPatchFits: stub and jump lie where they shall, and nowhere else.
func TestPatchFits(t *testing.T) {
	image, vdso, stack := ownVDSO(t)
	p, err := newPatch(image, vdso, stack)
	if err != nil {
		t.Fatal(err)
	}
	if end := p.area + codeAt + uint64(len(p.code)); p.area%16 != 0 || end > vdso.to || end+16 <= vdso.to {
		t.Errorf("from %#x to %#x in %#x", p.area, end, vdso)
	}
	if area := p.in(image, vdso); !fits(area) || p.present(area) {
		t.Errorf("no room for the patch: %x", area)
	}
	for _, mark := range []uint64{offsetsMark, countMark, endMark} {
		if bytes.Contains(p.code, le64(mark)) {
			t.Errorf("%#x is left in the stub", mark)
		}
	}
	if !bytes.Contains(p.code, le64(p.area)) || !bytes.Contains(p.code, le64(p.count)) || p.code[len(p.code)-1] != 0xc3 {
		t.Errorf("stub %x", p.code)
	}
	jump := p.jump([]byte("12345678"))
	distance := int32(binary.LittleEndian.Uint32(jump[1:]))
	if jump[0] != 0xe9 || p.entry+5+uint64(distance) != p.area+codeAt || string(jump[5:]) != "678" {
		t.Errorf("jump %x", jump)
	}
}

func TestRefusedVDSO(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(image []byte) []byte
		want   string
	}{
		"of arm64": {func(b []byte) []byte { b[18] = 183; return b }, ErrUnsupported.Error()},
		"no ELF":   {func(b []byte) []byte { return make([]byte, len(b)) }, "no ELF file"},
		"cut off":  {func(b []byte) []byte { return b[:100] }, "vDSO"},
		"without the clock": {func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(clockGettime), []byte("__vdso_klock_gettime"))
		}, "no " + clockGettime},
	} {
		image, vdso, stack := ownVDSO(t)
		if _, err := newPatch(tt.change(image), vdso, stack); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestNoRoom: nothing is overwritten that is not free.
func TestNoRoom(t *testing.T) {
	image, vdso, stack := ownVDSO(t)
	p, err := newPatch(image, vdso, stack)
	if err != nil {
		t.Fatal(err)
	}
	image[len(image)-1] = 1
	if err := (&Clock{patch: p}).install(image, vdso); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error %v", err)
	}
}

// TestSetIsWhole: the offset that threads may be reading stays as it is; with
// one byte the next one holds.
func TestSetIsWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory")
	if err := os.WriteFile(file, make([]byte, codeAt), 0o600); err != nil {
		t.Fatal(err)
	}
	mem, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	c := &Clock{mem: mem, patch: &patch{}}
	look := func() (current uint64, all []byte) {
		t.Helper()
		all, err := os.ReadFile(file)
		if err != nil || len(all) != codeAt {
			t.Fatalf("%d bytes, %v", len(all), err)
		}
		if all[0] >= offsets || !bytes.Equal(all[1:offsetsAt], make([]byte, 7)) || !bytes.Equal(all[originalAt:], make([]byte, 8)) {
			t.Fatalf("memory %x", all)
		}
		return uint64(all[0]), all[offsetsAt:originalAt]
	}
	for i := range 3 * offsets {
		was, before := look()
		if err := c.Set(time.Duration(-1 - i)); err != nil {
			t.Fatal(err)
		}
		now, after := look()
		if !bytes.Equal(after[8*was:8*was+8], before[8*was:8*was+8]) || !bytes.Equal(after[8*now:8*now+8], le64(uint64(-1-i))) {
			t.Errorf("from %d, %x to %d, %x", was, before, now, after)
		}
	}
}

func TestMapping(t *testing.T) {
	const maps = "7f88accab000-7f88accad000 r-xp 00000000 00:00 0                          [vdso]\n" +
		"7fcd83754000-7fcd83756000 r--p 00000000 00:00 0                          [vvar_vclock]\n" +
		"5-4 rw-p 00000000 00:00 0 [stack]\n"
	for name, want := range map[string]span{"[vdso]": {0x7f88accab000, 0x7f88accad000}, "[stack]": {}, "[vvar]": {}} {
		if s, ok := mapping(maps, name); s != want && ok || ok != (want != span{}) {
			t.Errorf("%s: %x, %v", name, s, ok)
		}
	}
}

func TestCounterIn(t *testing.T) {
	for line, want := range map[string]uint64{
		"running\n":                    0,
		"":                             0,
		"-1 0x7ffd98c79d70 0x46e3b1\n": 0x46e3b1,
		"202 0x1 0x80 0x0 0x0 0x0 0x0 0x7ffd98c79d70 0x46e3b3\n": 0x46e3b3,
		"-1 0x7ffd98c79d70 hello\n":                              0,
	} {
		if pc, ok := counterIn(line); pc != want && ok || ok != (want != 0) {
			t.Errorf("%q: %#x, %v", line, pc, ok)
		}
	}
}

func TestBlocks(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\tffff\n": false,
		"Name:\tx\nSigBlk:\tfffffffe7ffbfeff\nSigIgn:\t0\n":    true,
		"Name:\tx\nSigBlk:\t0000000000000400\n":                true,
		"Name:\tx\nSigBlk:\t0000000000000800\n":                false,
		"Name:\tx\n":                                           true, // not known
	} {
		if got := blocks(status, syscall.SIGSEGV); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}

// TestOutside: a thread in the code, but not at its beginning, and one that may
// be in a signal handler forbid a change.
func TestOutside(t *testing.T) {
	calm, handling := startCat(t), 0
	withBlocked(t, syscall.SIGSEGV, func() { handling = startCat(t) })
	for _, tt := range []struct {
		name     string
		pid      int
		from, to int64 // from the program counter
		want     error
	}{
		{"in the middle", calm, -1, 4, errBusy},
		{"at the last byte", calm, -4, 1, errBusy},
		{"at the beginning", calm, 0, 5, nil},
		{"behind", calm, -5, 0, nil},
		{"elsewhere, in a handler", handling, 5, 10, errBusy},
	} {
		err := stopped(tt.pid, func() error {
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", tt.pid))
			pc, ok := counterIn(string(line))
			if err != nil || !ok {
				t.Fatalf("%q, %v", line, err)
			}
			return outside(tt.pid, span{pc + uint64(tt.from), pc + uint64(tt.to)})
		})
		if err != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// startCat starts a process with one thread that waits in a system call.
func startCat(t *testing.T) (pid int) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	fmt.Fprintln(in, "hello")
	if _, err := out.Read(make([]byte, 6)); err != nil { // it reads on
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// withBlocked runs f on a thread that blocks a signal, as its children do.
func withBlocked(t *testing.T, sig syscall.Signal, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	set.Val[0] = 1 << (sig - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		t.Fatal(err)
	}
	f()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		t.Fatal(err)
	}
}

// TestExplained: an error says what to do about it.
func TestExplained(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want error
	}{
		{&os.PathError{Op: "open", Path: "/proc/1/mem", Err: syscall.EACCES}, ErrPermission},
		{fmt.Errorf("signal: %w", syscall.EPERM), ErrPermission},
		{&os.PathError{Op: "write", Path: "/proc/1/mem", Err: syscall.EIO}, ErrPermission},
		{os.ErrProcessDone, ErrEnded},
	} {
		if got := explained(tt.err); !errors.Is(got, tt.want) || !strings.Contains(got.Error(), tt.err.Error()) {
			t.Errorf("%v became %v", tt.err, got)
		}
	}
	if explained(nil) != nil || explained(errBusy) != errBusy {
		t.Error("an error of its own has changed")
	}
}

func FuzzEntryIn(f *testing.F) {
	image, _, _ := ownVDSO(f)
	f.Add(image)
	f.Add(image[:64])
	f.Fuzz(func(t *testing.T, image []byte) {
		if at, err := entryIn(image); err == nil && (at < 0 || at+entrySize > len(image)) {
			t.Errorf("entry at %d of %d", at, len(image))
		}
	})
}

func FuzzProc(f *testing.F) {
	f.Add("7ffd98c59000-7ffd98c7a000 rw-p 00000000 00:00 0       [stack]\n")
	f.Add("202 0x1 0x80 0x0 0x0 0x0 0x0 0x7ffd98c79d70 0x46e3b3\n")
	f.Add("\nSigBlk:\t0000000000000400\n")
	f.Fuzz(func(t *testing.T, text string) {
		if s, ok := mapping(text, "[stack]"); ok && s.from >= s.to {
			t.Errorf("mapping %x", s)
		}
		counterIn(text)
		blocks(text, syscall.SIGSEGV)
	})
}
