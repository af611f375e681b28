//go:build linux

package faultfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

const blockSize = 4096

type block [blockSize]byte

// image is the content of a file. Absent blocks are zeros. Images of one file
// share blocks.
type image struct {
	size   int64
	blocks map[int64]*block
}

func (m *image) clone() image { return image{m.size, maps.Clone(m.blocks)} }

// read fills p from off on and returns how much there is.
func (m *image) read(p []byte, off int64) int {
	p = p[:max(0, min(int64(len(p)), m.size-off))]
	for done := 0; done < len(p); {
		i, at := (off+int64(done))/blockSize, (off+int64(done))%blockSize
		part := p[done:min(len(p), done+int(blockSize-at))]
		if b := m.blocks[i]; b != nil {
			copy(part, b[at:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(p)
}

// write puts p at off. Blocks that shared has too are copied before; touched
// is told of each block. It returns how many blocks are new.
func (m *image) write(p []byte, off int64, shared *image, touched func(int64)) (added int64) {
	m.size = max(m.size, off+int64(len(p)))
	for len(p) > 0 {
		i, at := off/blockSize, off%blockSize
		b := m.blocks[i]
		switch {
		case b == nil:
			b = new(block)
			added++
		case b == shared.blocks[i]:
			b = clone(b)
		}
		n := copy(b[at:], p)
		m.blocks[i] = b
		touched(i)
		p, off = p[n:], off+int64(n)
	}
	return added
}

// truncate sets the size; what lies beyond is zeros from now on.
func (m *image) truncate(size int64, shared *image, touched func(int64)) (removed int64) {
	if size < m.size {
		for i, b := range m.blocks {
			switch start := i * blockSize; {
			case start >= size:
				delete(m.blocks, i)
				touched(i)
				removed++
			case start+blockSize > size:
				if b == shared.blocks[i] {
					b = clone(b)
				}
				clear(b[size-start:])
				m.blocks[i] = b
				touched(i)
			}
		}
	}
	m.size = size
	return removed
}

func clone(b *block) *block {
	c := *b
	return &c
}

// change is a write or, if data is nil, a truncation that was not synced.
type change struct {
	off  int64 // of a truncation: the new size
	data []byte
}

// content is what a file has for processes, what it has for certain after a
// power cut, and what lies between.
type content struct {
	now, durable image
	dirty        map[int64]struct{} // blocks that differ, or may
	pending      []change           // in order, since the last sync
}

func newContent() *content {
	return &content{
		now: image{blocks: map[int64]*block{}}, durable: image{blocks: map[int64]*block{}},
		dirty: map[int64]struct{}{},
	}
}

func (c *content) touch(i int64) { c.dirty[i] = struct{}{} }

// write returns how many blocks the file has more.
func (c *content) write(p []byte, off int64) int64 {
	if len(p) == 0 {
		return 0
	}
	c.pending = append(c.pending, change{off: off, data: slices.Clone(p)})
	return c.now.write(p, off, &c.durable, c.touch)
}

// truncate returns how many blocks the file has less.
func (c *content) truncate(size int64) int64 {
	if size == c.now.size {
		return 0
	}
	c.pending = append(c.pending, change{off: size})
	return c.now.truncate(size, &c.durable, c.touch)
}

// newBlocks is how many blocks a write would add.
func (c *content) newBlocks(n int, off int64) (added int64) {
	for i := off / blockSize; i*blockSize < off+int64(n); i++ {
		if c.now.blocks[i] == nil {
			added++
		}
	}
	return added
}

// sync makes everything durable.
func (c *content) sync() {
	for i := range c.dirty {
		if b := c.now.blocks[i]; b != nil {
			c.durable.blocks[i] = b
		} else {
			delete(c.durable.blocks, i)
		}
	}
	c.durable.size = c.now.size
	c.forget()
}

// forget is what a failed fsync does: what was written stays to be read, but
// counts as written out, and no later fsync brings it to the disk.
func (c *content) forget() {
	clear(c.dirty)
	c.pending = nil
}

// flip changes a bit of the file itself.
func (c *content) flip(bit int64) {
	i, at, mask := bit/8/blockSize, bit/8%blockSize, byte(1)<<(bit%8)
	now, durable := c.now.blocks[i], c.durable.blocks[i]
	if now != nil {
		c.now.blocks[i] = clone(now)
		c.now.blocks[i][at] ^= mask
	}
	if durable != nil {
		c.durable.blocks[i] = clone(durable)
		c.durable.blocks[i][at] ^= mask
	}
}

// cut makes the file what a power cut leaves of it.
func (c *content) cut(s Survivors, rng *rand.Rand) {
	left := c.durable
	if s.Chance > 0 && len(c.pending) > 0 {
		left = c.survive(s, rng)
	}
	c.durable = left
	c.now = left.clone()
	c.forget()
}

// survive replays what is pending. After a number of changes, drawn at random,
// the file's size and truncations no longer reach the disk; a write is lost if a
// truncation before it is. Of each write each sector reaches it by itself, with
// all that was written to that sector before.
func (c *content) survive(s Survivors, rng *rand.Rand) image {
	var none image // shares nothing: written images own what they change
	cached, disk := deep(&c.durable), deep(&c.durable)
	ignore := func(int64) {}
	sized := rng.IntN(len(c.pending) + 1)
	size := disk.size
	for i, ch := range c.pending {
		switch {
		case ch.data == nil && i >= sized:
			disk.size = size
			disk.truncate(size, &none, ignore)
			return disk
		case ch.data == nil:
			cached.truncate(ch.off, &none, ignore)
			disk.truncate(ch.off, &none, ignore)
		default:
			cached.write(ch.data, ch.off, &none, ignore)
			surviveWrite(&cached, &disk, ch, s, rng)
		}
		if i < sized {
			size = cached.size
		}
	}
	disk.size = max(disk.size, size) // sectors behind the end are cleared
	disk.truncate(size, &none, ignore)
	return disk
}

func surviveWrite(cached, disk *image, ch change, s Survivors, rng *rand.Rand) {
	var none image
	sector := make([]byte, s.sector())
	first := ch.off / s.sector() * s.sector()
	for at := first; at < ch.off+int64(len(ch.data)); at += s.sector() {
		if rng.Float64() < s.Chance {
			n := cached.read(sector, at)
			disk.write(sector[:n], at, &none, func(int64) {})
		}
	}
}

// deep copies an image with its blocks.
func deep(m *image) image {
	c := m.clone()
	for i, b := range c.blocks {
		c.blocks[i] = clone(b)
	}
	return c
}
