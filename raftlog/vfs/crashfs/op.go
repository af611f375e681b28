package crashfs

import (
	"fmt"
	"maps"
	"path/filepath"
)

// effect is one thing an operation changes, which is lost or kept as a whole.
type effect struct {
	what kind
	file int

	at int // bytes: which sector
	to *sector

	size int64 // sizes

	from, name string // names: from goes, name comes to mean file; either may be ""
}

type kind int

const (
	bytes kind = iota
	sizes
	names
)

// op is one operation as it was made. It never changes.
type op struct {
	text    string // for people
	effects []effect
	dirs    []string // operations on names: the directories that must be synced
	sync    *Sync    // neither effects nor dirs
	file    int      // what a Sync of a file covers
}

// image is all files and names at one moment. Contents may be shared between
// images: change tells when one must be copied first.
type image struct {
	names map[string]int // path to file
	files map[int]*content
	owned map[int]bool // contents that no other image has
}

func newImage() *image {
	return &image{names: map[string]int{}, files: map[int]*content{}, owned: map[int]bool{}}
}

// clone leaves both images sharing their contents.
func (m *image) clone() *image {
	clear(m.owned)
	return &image{names: maps.Clone(m.names), files: maps.Clone(m.files), owned: map[int]bool{}}
}

func (m *image) change(file int) *content {
	c := m.files[file]
	switch {
	case c == nil:
		c = &content{}
	case !m.owned[file]:
		c = c.clone()
	}
	m.files[file], m.owned[file] = c, true
	return c
}

func (m *image) apply(e *effect) {
	switch e.what {
	case bytes:
		m.change(e.file).set(e.at, e.to)
	case sizes:
		if c := m.change(e.file); e.size < c.size {
			c.resize(e.size)
		} else {
			c.size = e.size
		}
	case names:
		if e.name == "" {
			delete(m.names, e.from)
			return
		}
		for name, file := range m.names {
			if file == e.file {
				delete(m.names, name)
			}
		}
		m.names[e.name] = e.file
	}
}

// settle drops the bytes whose size was lost, and files without a name.
func (m *image) settle() {
	for file := range m.owned {
		c := m.files[file]
		c.resize(c.size)
	}
	named := make(map[int]bool, len(m.names))
	for _, file := range m.names {
		named[file] = true
	}
	for file := range m.files {
		if !named[file] {
			delete(m.files, file)
			delete(m.owned, file)
		}
	}
}

// sum tells images apart, whatever their files' numbers.
func (m *image) sum() uint64 {
	var all uint64
	for name, file := range m.names {
		var sum uint64
		if c := m.files[file]; c != nil {
			sum = c.sum()
		}
		all += hash(name, sum)
	}
	return all
}

func created(name string, file int) *op {
	return &op{
		text:    "create " + filepath.Base(name),
		effects: []effect{{what: names, file: file, name: name}},
		dirs:    []string{filepath.Dir(name)},
	}
}

func removed(name string, file int) *op {
	return &op{
		text:    "remove " + filepath.Base(name),
		effects: []effect{{what: names, file: file, from: name}},
		dirs:    []string{filepath.Dir(name)},
	}
}

func renamed(from, to string, file int) *op {
	o := &op{
		text:    fmt.Sprintf("rename %s to %s", filepath.Base(from), filepath.Base(to)),
		effects: []effect{{what: names, file: file, from: from, name: to}},
		dirs:    []string{filepath.Dir(to)},
	}
	if dir := filepath.Dir(from); dir != o.dirs[0] {
		o.dirs = append(o.dirs, dir)
	}
	return o
}
