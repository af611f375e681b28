//go:build linux

package faultfs

import (
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// script runs operations on names: "create d/f", "mkdir d", "rename a b",
// "remove f", "rmdir d", "sync d" (. is the root).
func (t *tree) script(tb testing.TB, ops ...string) {
	tb.Helper()
	for _, op := range ops {
		var errno syscall.Errno
		w := strings.Fields(op)
		dir, name := t.split(w[1])
		switch w[0] {
		case "create":
			_, errno = t.create(dir, name, syscall.S_IFREG|0o600)
		case "mkdir":
			_, errno = t.create(dir, name, syscall.S_IFDIR|0o700)
		case "remove", "rmdir":
			errno = t.remove(dir, name, w[0] == "rmdir")
		case "rename":
			to, toName := t.split(w[2])
			errno = t.rename(dir, name, to, toName, true)
		case "sync":
			t.syncDir(t.find(w[1]))
		}
		if errno != 0 {
			tb.Fatalf("%s: %v", op, errno)
		}
	}
}

func (t *tree) split(path string) (*node, string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return t.find(path[:i]), path[i+1:]
	}
	return t.root, path
}

// list gives all paths, sorted.
func (t *tree) list() string {
	var all []string
	var walk func(n *node)
	walk = func(n *node) {
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			child := n.names[name]
			all = append(all, child.path())
			if child.isDir() {
				walk(child)
			}
		}
	}
	walk(t.root)
	return strings.Join(all, " ")
}

func TestNamesAfterACut(t *testing.T) {
	for _, tt := range []struct{ name, ops, want string }{
		{"created", "create a", ""},
		{"created and synced", "create a; sync .", "a"},
		{"another directory synced", "mkdir d; sync .; create d/a; create b; sync .", "b d"},
		{"a directory's own name", "mkdir d; create d/a; sync d", ""},
		{"a directory's own name later", "mkdir d; create d/a; sync d; sync .", "d d/a"},
		{"removed", "create a; sync .; remove a", "a"},
		{"removed and synced", "create a; sync .; remove a; sync .", ""},
		{"renamed", "create a; sync .; rename a b", "a"},
		{"renamed and synced", "create a; sync .; rename a b; sync .", "b"},
		{"renamed twice", "create a; rename a b; rename b c; sync .", "c"},
		{"renamed over another", "create a; create b; sync .; rename a b; sync .", "b"},
		{"to another directory, that one synced", "mkdir d; create a; sync .; rename a d/b; sync d", "d d/b"},
		{"to another directory, the first synced", "mkdir d; create a; sync .; rename a d/b; sync .", "d d/b"},
		{"to another directory, later the first synced", "mkdir d; sync .; create a; rename a d/b; sync d; sync .", "d d/b"},
		{"to another directory and back", "mkdir d; create a; sync .; rename a d/b; rename d/b c; sync d", "c d"},
		{"to another directory, none synced", "mkdir d; create a; sync .; rename a d/b", "a d"},
		{"a directory is moved with what it has", "mkdir d; create d/a; sync d; sync .; rename d e; sync .", "e e/a"},
		{"rmdir", "mkdir d; sync .; rmdir d; sync .", ""},
		{"removed and created anew", "create a; sync .; remove a; create a; sync .", "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := newTree()
			tr.script(t, strings.Split(tt.ops, "; ")...)
			tr.cut(Survivors{})
			if got := tr.list(); got != tt.want {
				t.Errorf("left is %q, want %q", got, tt.want)
			}
		})
	}
}

// TestNamesSurviveInPart: what is left of two operations is any subset of them,
// and never a node with two names.
func TestNamesSurviveInPart(t *testing.T) {
	for _, tt := range []struct {
		name, synced, ops string
		want              []string
	}{
		{"two files", "sync .", "create a; create b", []string{"", "a", "a b", "b"}},
		{"renamed twice", "create a; sync .", "rename a b; rename b c", []string{"a", "b", "c"}},
		{"replaced", "create a; create b; sync .", "rename a b; remove b", []string{"", "a b", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := map[string]bool{}
			for seed := range uint64(100) {
				tr := newTree()
				tr.script(t, strings.Split(tt.synced, "; ")...)
				tr.script(t, strings.Split(tt.ops, "; ")...)
				tr.cut(Survivors{Seed: seed, Chance: 0.5})
				seen[tr.list()] = true
			}
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, slices.Sorted(slices.Values(tt.want))) {
				t.Errorf("left is one of %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNamesRefused(t *testing.T) {
	tr := newTree()
	tr.script(t, "mkdir d", "create d/f", "create f", "mkdir e")
	root, d := tr.root, tr.find("d")
	for _, tt := range []struct {
		name string
		got  syscall.Errno
		want syscall.Errno
	}{
		{"rmdir of a full directory", tr.remove(root, "d", true), syscall.ENOTEMPTY},
		{"unlink of a directory", tr.remove(root, "d", false), syscall.EISDIR},
		{"rmdir of a file", tr.remove(root, "f", true), syscall.ENOTDIR},
		{"unlink of nothing", tr.remove(root, "x", false), syscall.ENOENT},
		{"rename of nothing", tr.rename(root, "x", d, "x", true), syscall.ENOENT},
		{"rename that must not replace", tr.rename(root, "f", d, "f", false), syscall.EEXIST},
		{"file over directory", tr.rename(root, "f", root, "e", true), syscall.EISDIR},
		{"directory over file", tr.rename(root, "e", root, "f", true), syscall.ENOTDIR},
		{"directory over a full one", tr.rename(root, "e", root, "d", true), syscall.ENOTEMPTY},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	if got := tr.list(); got != "d d/f e f" {
		t.Errorf("left is %q", got)
	}
}

func TestRoomIsGivenBack(t *testing.T) {
	tr := newTree()
	tr.capacity = 2 * blockSize
	a, _ := tr.create(tr.root, "a", syscall.S_IFREG)
	b, _ := tr.create(tr.root, "b", syscall.S_IFREG)
	full := make([]byte, 2*blockSize)
	if e := tr.write(a, full, 0); e != 0 {
		t.Fatal(e)
	}
	if e := tr.write(a, full, 0); e != 0 {
		t.Errorf("writing over: %v", e)
	}
	if e := tr.write(b, full[:1], 0); e != syscall.ENOSPC {
		t.Errorf("one byte too many: %v", e)
	}
	tr.truncate(a, blockSize)
	if e := tr.write(b, full[:1], 0); e != 0 {
		t.Errorf("after a truncation: %v", e)
	}
	tr.script(t, "remove b")
	if e := tr.write(a, full, 0); e != 0 {
		t.Errorf("after a removal: %v", e)
	}
	a.file.sync()
	tr.script(t, "sync .")
	tr.cut(Survivors{})
	if tr.used != 2*blockSize {
		t.Errorf("%d bytes used after a cut", tr.used)
	}
}
