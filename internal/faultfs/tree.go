//go:build linux

package faultfs

import (
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// node is a file or a directory.
type node struct {
	id     uint64
	mode   uint32 // S_IFREG or S_IFDIR, and permissions
	mtime  time.Time
	parent *node  // where it was linked last
	name   string // there
	linked bool

	file *content // nil for a directory

	names, durable map[string]*node // of a directory

	durableIn *node // the directory that has it in durable; nil: none has
	durableAs string
}

func (n *node) isDir() bool { return n.file == nil }

// path is relative to the root, "" for the root itself.
func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	return path.Join(n.parent.path(), n.name)
}

// nameChange is an operation on names that was not synced: node goes from one
// name, to another, or from one to the other.
type nameChange struct {
	node             *node
	from, to         *node // directories; nil: it appears, it goes
	fromName, toName string
}

func (c *nameChange) touches(dirs map[*node]bool) bool { return dirs[c.from] || dirs[c.to] }

// apply makes it durable. A node has at most one durable name, also when earlier
// changes were not applied.
func (c *nameChange) apply() {
	n := c.node
	if n.durableIn != nil {
		delete(n.durableIn.durable, n.durableAs)
		n.durableIn = nil
	}
	if c.to == nil {
		return
	}
	if old := c.to.durable[c.toName]; old != nil {
		old.durableIn = nil
	}
	c.to.durable[c.toName] = n
	n.durableIn, n.durableAs = c.to, c.toName
}

// tree is a file system without a mount. It is plain data; FS guards it.
type tree struct {
	root    *node
	lastID  uint64
	pending []nameChange // in order

	capacity, used int64 // bytes
}

// defaultCapacity is more than any test writes.
const defaultCapacity = 1 << 40

func newTree() *tree {
	t := &tree{capacity: defaultCapacity}
	t.root = t.newNode(syscall.S_IFDIR|0o755, nil)
	t.root.linked = true
	return t
}

func (t *tree) newNode(mode uint32, file *content) *node {
	t.lastID++
	n := &node{id: t.lastID, mode: mode, mtime: time.Now(), file: file}
	if file == nil {
		n.names, n.durable = map[string]*node{}, map[string]*node{}
	}
	return n
}

// find returns the node at a path relative to the root.
func (t *tree) find(name string) *node {
	n := t.root
	for part := range strings.SplitSeq(path.Clean(name), "/") {
		if part == "." || part == "" {
			continue
		}
		if n = n.names[part]; n == nil {
			return nil
		}
	}
	return n
}

func (t *tree) create(dir *node, name string, mode uint32) (*node, syscall.Errno) {
	if dir.names[name] != nil {
		return nil, syscall.EEXIST
	}
	if !dir.linked {
		return nil, syscall.ENOENT
	}
	var file *content
	if mode&syscall.S_IFMT == syscall.S_IFREG {
		file = newContent()
	}
	n := t.newNode(mode, file)
	t.link(dir, name, n)
	t.pending = append(t.pending, nameChange{node: n, to: dir, toName: name})
	return n, 0
}

func (t *tree) link(dir *node, name string, n *node) {
	dir.names[name] = n
	dir.mtime = time.Now()
	n.parent, n.name, n.linked = dir, name, true
}

// gone takes a node's space away; whoever has it open may go on.
func (t *tree) gone(n *node) {
	n.linked = false
	if n.file != nil {
		t.used -= int64(len(n.file.now.blocks)) * blockSize
	}
}

// remove is unlink and rmdir.
func (t *tree) remove(dir *node, name string, wantDir bool) syscall.Errno {
	n := dir.names[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case n.isDir() && !wantDir:
		return syscall.EISDIR
	case !n.isDir() && wantDir:
		return syscall.ENOTDIR
	case len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	delete(dir.names, name)
	dir.mtime = time.Now()
	t.gone(n)
	t.pending = append(t.pending, nameChange{node: n, from: dir, fromName: name})
	return 0
}

func (t *tree) rename(from *node, fromName string, to *node, toName string, replace bool) syscall.Errno {
	n, old := from.names[fromName], to.names[toName]
	switch {
	case n == nil || !to.linked:
		return syscall.ENOENT
	case old == n:
		return 0
	case old == nil:
	case !replace:
		return syscall.EEXIST
	case old.isDir() && !n.isDir():
		return syscall.EISDIR
	case !old.isDir() && n.isDir():
		return syscall.ENOTDIR
	case len(old.names) > 0:
		return syscall.ENOTEMPTY
	}
	if old != nil {
		t.gone(old)
	}
	delete(from.names, fromName)
	from.mtime = time.Now()
	t.link(to, toName, n)
	t.pending = append(t.pending, nameChange{node: n, from: from, fromName: fromName, to: to, toName: toName})
	return 0
}

func (t *tree) write(n *node, p []byte, off int64) syscall.Errno {
	if need := n.file.newBlocks(len(p), off) * blockSize; n.linked {
		if need > 0 && t.used+need > t.capacity {
			return syscall.ENOSPC
		}
		t.used += need
	}
	n.file.write(p, off)
	n.mtime = time.Now()
	return 0
}

func (t *tree) truncate(n *node, size int64) {
	removed := n.file.truncate(size)
	if n.linked {
		t.used -= removed * blockSize
	}
	n.mtime = time.Now()
}

// syncDir makes dir's names durable, and those of any directory that a rename
// connects with it.
func (t *tree) syncDir(dir *node) {
	dirs := map[*node]bool{dir: true}
	for grown := true; grown; {
		grown = false
		for _, c := range t.pending {
			if c.from != nil && c.to != nil && dirs[c.from] != dirs[c.to] {
				dirs[c.from], dirs[c.to], grown = true, true, true
			}
		}
	}
	t.pending = slices.DeleteFunc(t.pending, func(c nameChange) bool {
		if !c.touches(dirs) {
			return false
		}
		c.apply()
		return true
	})
}

// syncNames makes all names durable.
func (t *tree) syncNames() {
	for i := range t.pending {
		t.pending[i].apply()
	}
	t.pending = nil
}

// Survivors tells how much of what was not synced outlives a power cut. The
// zero value: nothing does.
type Survivors struct {
	Seed   uint64
	Chance float64 // of each sector that was written and of each operation on names
	Sector int64   // bytes written in one piece; a divisor of 4096, 512 if 0
}

func (s Survivors) sector() int64 {
	if s.Sector <= 0 || blockSize%s.Sector != 0 {
		return 512
	}
	return s.Sector
}

// cut makes the tree what a power cut leaves of it. The same history and seed
// leave the same.
func (t *tree) cut(s Survivors) {
	rng := rand.New(rand.NewPCG(s.Seed, 0))
	for i := range t.pending {
		if rng.Float64() < s.Chance {
			t.pending[i].apply()
		}
	}
	t.pending = nil
	t.used = 0
	t.rebuild(t.root, s, rng)
}

func (t *tree) rebuild(n *node, s Survivors, rng *rand.Rand) {
	if !n.isDir() {
		n.file.cut(s, rng)
		t.used += int64(len(n.file.now.blocks)) * blockSize
		return
	}
	n.names = map[string]*node{}
	for _, name := range slices.Sorted(maps.Keys(n.durable)) {
		child := n.durable[name]
		n.names[name] = child
		child.parent, child.name, child.linked = n, name, true
		t.rebuild(child, s, rng)
	}
}
