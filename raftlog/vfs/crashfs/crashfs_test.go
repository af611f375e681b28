package crashfs

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog/vfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// script runs lines such as "create a", "write a 512 x" (a sector of x at 512),
// "truncate a 0", "sync a", "rename a b", "remove a", "syncdir /".
func script(t *testing.T, disk *FS, lines ...string) *FS {
	t.Helper()
	open := map[string]vfs.File{}
	for _, line := range lines {
		var verb, name, text string
		var at int64
		fmt.Sscan(line, &verb, &name)
		if verb == "rename" {
			fmt.Sscan(line, &verb, &name, &text)
		} else {
			fmt.Sscan(line, &verb, &name, &at, &text)
		}
		name = filepath.Join("/", name)
		if f := open[name]; f == nil && (verb == "write" || verb == "truncate" || verb == "sync") {
			f, err := disk.Open(name)
			must(t, err)
			open[name] = f
		}
		var err error
		switch verb {
		case "create":
			open[name], err = disk.Create(name)
		case "write":
			_, err = open[name].WriteAt([]byte(strings.Repeat(text, Sector)), at)
		case "truncate":
			err = open[name].Truncate(at)
		case "sync":
			err = open[name].Sync()
		case "rename":
			delete(open, name)
			delete(open, filepath.Join("/", text))
			err = disk.Rename(name, filepath.Join("/", text))
		case "remove":
			delete(open, name)
			err = disk.Remove(name)
		case "syncdir":
			err = disk.SyncDir(name)
		default:
			t.Fatalf("bad line %q", line)
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return disk
}

// show writes a file system as "a=xy b=": a letter per sector, 0 for zeros.
func show(t *testing.T, disk *FS) string {
	t.Helper()
	names, err := disk.List("/")
	must(t, err)
	var all []string
	for _, name := range names {
		data, err := vfs.ReadFile(disk, "/"+name, 1<<20)
		must(t, err)
		var sectors strings.Builder
		for piece := range slices.Chunk(data, Sector) {
			c := piece[0]
			for _, b := range piece {
				if b != c {
					t.Errorf("half a sector of %s changed", name)
				}
			}
			if c == 0 {
				c = '0'
			}
			sectors.WriteByte(c)
		}
		all = append(all, name+"="+sectors.String())
	}
	return strings.Join(all, " ")
}

func shown(t *testing.T, disk *FS, e Explore) []string {
	t.Helper()
	all := map[string]bool{}
	for crash := range disk.Crashes(e) {
		all[show(t, crash.FS())] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// durable is a file system where a holds xy and everything is durable.
func durable(t *testing.T) *FS {
	disk := script(t, New(), "create a", "write a 0 x", "write a 512 y", "sync a", "syncdir /")
	for crash := range disk.Crashes(Explore{From: disk.Ops()}) {
		return crash.FS()
	}
	t.Fatal("no crash after everything was synced")
	return nil
}

// TestStates: what a crash after the last line may leave, all of it and no more.
func TestStates(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"nothing was done", nil, []string{"a=xy"}},
		{"sectors on their own", []string{"write a 0 1", "write a 512 2"}, []string{"a=12", "a=1y", "a=x2", "a=xy"}},
		{"any of a sector's values", []string{"write a 0 1", "write a 0 2"}, []string{"a=1y", "a=2y", "a=xy"}},
		{"synced", []string{"write a 0 1", "sync a"}, []string{"a=1y"}},
		{"synced before", []string{"sync a", "write a 0 1"}, []string{"a=1y", "a=xy"}},
		{"another was synced", []string{"create b", "syncdir /", "write a 0 1", "sync b"}, []string{"a=1y b=", "a=xy b="}},
		{"lengthened", []string{"write a 1024 1"}, []string{"a=xy", "a=xy0", "a=xy1"}},
		{"a hole", []string{"write a 1536 1"}, []string{"a=xy", "a=xy00", "a=xy01"}},
		{"shortened", []string{"truncate a 512"}, []string{"a=x", "a=xy"}},
		{"shortened and longer again", []string{"truncate a 512", "truncate a 1024"}, []string{"a=x", "a=x0", "a=xy"}},
		{"names are not synced with files", []string{"create b", "write b 0 1", "sync b"}, []string{"a=xy", "a=xy b=1"}},
		{"bytes are not synced with names", []string{"create b", "write b 0 1", "syncdir /"}, []string{"a=xy b=", "a=xy b=0", "a=xy b=1"}},
		{"renamed", []string{"rename a b"}, []string{"a=xy", "b=xy"}},
		{"renamed and synced", []string{"rename a b", "syncdir /"}, []string{"b=xy"}},
		{"renamed twice is one file", []string{"rename a b", "rename b c"}, []string{"a=xy", "b=xy", "c=xy"}},
		{"renamed over", []string{"create b", "write b 0 1", "sync b", "rename b a"}, []string{"a=1", "a=xy", "a=xy b=1"}},
		{"removed", []string{"remove a"}, []string{"", "a=xy"}},
		{"removed and made again", []string{"remove a", "create a"}, []string{"", "a=", "a=xy"}},
		{"names on their own", []string{"create b", "create c", "sync b", "sync c"}, []string{"a=xy", "a=xy b=", "a=xy b= c=", "a=xy c="}},
		{"written through its new name", []string{"rename a b", "write b 0 1", "sync b"}, []string{"a=1y", "b=1y"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := script(t, durable(t), tt.lines...)
			if got := shown(t, disk, Explore{From: disk.Ops(), Exhaustive: 6}); !slices.Equal(got, tt.want) {
				t.Errorf("may be left: %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCrashAfterEachOperation(t *testing.T) {
	disk := script(t, durable(t), "write a 0 1", "sync a", "remove a", "syncdir /")
	for n, want := range [][]string{{"a=xy"}, {"a=1y", "a=xy"}, {"a=1y"}, {"", "a=1y"}, {""}} {
		if got := shown(t, disk, Explore{From: n, To: max(n, 1)}); n > 0 && !slices.Equal(got, want) {
			t.Errorf("after %d operations: %q, want %q", n, got, want)
		}
	}
	for crash := range disk.Crashes(Explore{}) {
		if crash.After != 0 || show(t, crash.FS()) != "a=xy" {
			t.Errorf("the first crash is %v", crash)
		}
		break
	}
}

func TestNoStateTwice(t *testing.T) {
	disk := script(t, durable(t), "write a 0 1", "write a 0 2", "write a 0 2", "write a 1024 3", "create b")
	seen := map[string]bool{}
	for crash := range disk.Crashes(Explore{From: 5, Exhaustive: 6}) {
		if got := show(t, crash.FS()); seen[got] {
			t.Errorf("%v: %s a second time", crash, got)
		} else {
			seen[got] = true
		}
	}
}

func TestIgnore(t *testing.T) {
	disk := script(t, durable(t), "write a 0 1", "sync a", "write a 512 2", "sync a", "create b", "syncdir /")
	for _, tt := range []struct {
		name   string
		ignore func(Sync) bool
		want   []string
	}{
		{"the first", func(s Sync) bool { return s.N == 0 }, []string{"a=12 b="}},
		{"the second", func(s Sync) bool { return s.N == 1 }, []string{"a=12 b=", "a=1y b="}},
		{"those of the file", func(s Sync) bool { return s.Path == "/a" }, []string{"a=12 b=", "a=1y b=", "a=x2 b=", "a=xy b="}},
		{"those of directories", func(s Sync) bool { return s.Dir }, []string{"a=12", "a=12 b="}},
	} {
		if got := shown(t, disk, Explore{From: disk.Ops(), Ignore: tt.ignore}); !slices.Equal(got, tt.want) {
			t.Errorf("without %s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestEveryCombination: of effects while they are few, else of operations.
func TestEveryCombination(t *testing.T) {
	disk := script(t, New(), "create a", "create b", "create c", "create d", "create e", "syncdir /",
		"truncate a 2560", "sync a")
	write := func(name string, sectors int) {
		f, err := disk.Open(name)
		must(t, err)
		_, err = f.WriteAt([]byte(strings.Repeat("1", sectors*Sector)), 0)
		must(t, err)
	}
	write("/a", 5)
	if got := shown(t, disk, Explore{From: disk.Ops(), Exhaustive: 5, Samples: 1}); len(got) != 32 {
		t.Errorf("five sectors give %d states: %q", len(got), got)
	}
	script(t, disk, "truncate a 0", "sync a")
	for _, name := range []string{"/a", "/b", "/c", "/d"} {
		write(name, 2)
	}
	got := shown(t, disk, Explore{From: disk.Ops(), Samples: 1})
	for mask := range 16 {
		want := "a= b= c= d= e="
		for i, name := range []string{"a", "b", "c", "d"} {
			if mask>>i&1 == 1 {
				want = strings.Replace(want, name+"=", name+"=11", 1)
			}
		}
		if !slices.Contains(got, want) {
			t.Errorf("%s is not among the states", want)
		}
	}
}

// TestMany: too much for every combination, so there must be the extremes, and
// not many more than was asked for.
func TestMany(t *testing.T) {
	disk := durable(t)
	var lines []string
	for i := range 10 {
		lines = append(lines, fmt.Sprintf("write a %d %d", i*Sector, i))
	}
	script(t, disk, lines...)
	f, err := disk.Open("/a")
	must(t, err)
	var sectors string
	for _, letter := range []string{"A", "B", "C", "D"} {
		sectors += strings.Repeat(letter, Sector)
	}
	_, err = f.WriteAt([]byte(sectors), 0)
	must(t, err)
	e := Explore{From: disk.Ops(), Samples: 1}
	got := shown(t, disk, e)
	for _, want := range []string{
		"a=xy", "a=ABCD456789", // nothing, everything
		"a=xy03", "a=01234567", "a=ABCD000009", // one operation, all up to one, all from one on
		"a=0123456789", "a=ABCD45678", "a=ABCD406789", // one missing
		"a=A123456789", "a=AB23456789", "a=0BCD456789", "a=01CD456789", // the newest torn
		"a=0B23456789", "a=01C3456789", "a=A1CD456789", "a=AB2D456789",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not among the states", want)
		}
	}
	if len(got) > 120 {
		t.Errorf("%d states", len(got))
	}
	e.Samples = 20
	got = shown(t, disk, e)
	if again := shown(t, disk, e); !slices.Equal(got, again) {
		t.Error("the same seed gave other states")
	}
	e.Seed = 1
	if other := shown(t, disk, e); slices.Equal(got, other) {
		t.Error("another seed gave the same states")
	}
	e.Budget = time.Nanosecond
	if brief := shown(t, disk, e); !slices.Equal(brief, []string{"a=ABCD456789", "a=xy"}) {
		t.Errorf("with the time spent: %q", brief)
	}
}

func TestKilled(t *testing.T) {
	disk := script(t, durable(t), "write a 0 1", "create b", "write a 512 2", "sync a")
	killed := disk.Killed(3)
	if got := show(t, killed); got != "a=12 b=" {
		t.Errorf("after the kill: %q", got)
	}
	if got := shown(t, killed, Explore{From: 3}); !slices.Contains(got, "a=xy") || len(got) != 8 {
		t.Errorf("what was not synced before the kill cannot be lost after it: %q", got)
	}
	script(t, killed, "sync a", "syncdir /")
	if got := shown(t, killed, Explore{From: killed.Ops()}); !slices.Equal(got, []string{"a=12 b="}) {
		t.Errorf("synced after the kill: %q", got)
	}
	if got := show(t, disk); got != "a=12 b=" || disk.Ops() != 4 {
		t.Errorf("the first file system changed: %q", got)
	}
}

// TestStatesAreApart: what is done to one state changes neither the disk nor another state.
func TestStatesAreApart(t *testing.T) {
	disk := script(t, durable(t), "write a 0 1")
	var crashes []Crash
	for crash := range disk.Crashes(Explore{}) {
		crashes = append(crashes, crash)
		script(t, crash.FS(), "write a 512 9", "create z", "sync a", "syncdir /")
	}
	var got []string
	for _, crash := range crashes {
		got = append(got, show(t, crash.FS()))
	}
	if want := []string{"a=xy", "a=xy", "a=1y"}; !slices.Equal(got, want) || show(t, disk) != "a=1y" {
		t.Errorf("states %q, want %q; disk %s", got, want, show(t, disk))
	}
}

func TestSites(t *testing.T) {
	disk := durable(t)
	helper := func() { must(t, disk.SyncDir("/")) }
	helper()
	helper()
	must(t, vfs.WriteFile(disk, "/b.x", func(w io.Writer) error { return nil }))
	syncs := disk.Syncs()
	if len(syncs) != 4 {
		t.Fatalf("%d syncs", len(syncs))
	}
	for i, s := range syncs {
		if s.N != i || s.Dir != (i != 2) || !strings.Contains(s.Site(), "crashfs_test.go") {
			t.Errorf("sync %d is %v, dir %v, at %s", i, s, s.Dir, s.Site())
		}
	}
	if syncs[0].Kind() != syncs[1].Kind() || syncs[2].Kind() == syncs[3].Kind() {
		t.Errorf("kinds: %q, %q, %q, %q", syncs[0].Kind(), syncs[1].Kind(), syncs[2].Kind(), syncs[3].Kind())
	}
	if kind := syncs[2].Kind(); !strings.HasPrefix(kind, ".tmp by ") {
		t.Errorf("a file's kind is %q", kind)
	}
}

// TestConcurrent is for the race detector: writers, a reader of crashes, a kill.
func TestConcurrent(t *testing.T) {
	disk := New()
	must(t, disk.MkdirAll("/d"))
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			name := fmt.Sprintf("/d/%d", n)
			if err := vfs.WriteFile(disk, name, func(w io.Writer) error {
				_, err := fmt.Fprint(w, n)
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		for crash := range disk.Crashes(Explore{}) {
			script(t, crash.FS(), "create x", "write x 0 1", "sync x")
		}
		disk.Killed(disk.Ops())
	})
	all.Wait()
	names, err := disk.List("/d")
	must(t, err)
	if len(names) != 4 {
		t.Errorf("names %q", names)
	}
	for crash := range disk.Crashes(Explore{From: disk.Ops()}) {
		for n, name := range names {
			if data, err := vfs.ReadFile(crash.FS(), "/d/"+name, 9); string(data) != fmt.Sprint(n) {
				t.Errorf("%v: %s holds %q, %v", crash, name, data, err)
			}
		}
	}
}
