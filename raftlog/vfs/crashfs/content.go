package crashfs

import (
	"hash/maphash"
	"io"
	"slices"
)

// Sector is what a disk writes whole or not at all, in bytes.
const Sector = 512

// sector holds one sector's bytes and never changes, so that all the states of
// a file share those they have in common. A nil *sector is all zeros.
type sector struct {
	bytes [Sector]byte
	sum   uint64
}

var seed = maphash.MakeSeed()

func newSector(b *[Sector]byte) *sector {
	if *b == ([Sector]byte{}) {
		return nil
	}
	return &sector{bytes: *b, sum: maphash.Bytes(seed, b[:])}
}

func same(a, b *sector) bool {
	return a == b || a != nil && b != nil && a.sum == b.sum && a.bytes == b.bytes
}

// content is a file's bytes. Behind the size there are only zeros, except while
// a crash state is being put together.
type content struct {
	size    int64
	sectors []*sector
}

func (c *content) clone() *content {
	return &content{size: c.size, sectors: slices.Clone(c.sectors)}
}

func (c *content) sector(i int) *sector {
	if i >= len(c.sectors) {
		return nil
	}
	return c.sectors[i]
}

func (c *content) set(i int, s *sector) {
	if n := i + 1 - len(c.sectors); n > 0 {
		if s == nil {
			return
		}
		c.sectors = append(c.sectors, make([]*sector, n)...)
	}
	c.sectors[i] = s
}

// resize sets the size and turns everything behind it to zeros.
func (c *content) resize(size int64) {
	c.size = size
	whole, rest := int(size/Sector), int(size%Sector)
	if whole >= len(c.sectors) {
		return
	}
	end := whole
	if rest > 0 {
		if s := c.sectors[whole]; s != nil {
			var b [Sector]byte
			copy(b[:rest], s.bytes[:])
			c.sectors[whole] = newSector(&b)
		}
		end++
	}
	c.sectors = c.sectors[:end]
}

func (c *content) readAt(p []byte, off int64) (int, error) {
	if off >= c.size {
		return 0, io.EOF
	}
	var err error
	if left := c.size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		to := p[done:min(len(p), done+int(Sector-at%Sector))]
		if s := c.sector(int(at / Sector)); s != nil {
			copy(to, s.bytes[at%Sector:])
		} else {
			clear(to)
		}
		done += len(to)
	}
	return len(p), err
}

// writes are the effects of writing p at off to a file with content c: the size
// first, then each sector that changes.
func (c *content) writes(file int, off int64, p []byte) []effect {
	var all []effect
	if end := off + int64(len(p)); end > c.size {
		all = append(all, effect{what: sizes, file: file, size: end})
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		i, in := int(at/Sector), int(at%Sector)
		var b [Sector]byte
		old := c.sector(i)
		if old != nil {
			b = old.bytes
		}
		done += copy(b[in:], p[done:])
		if s := newSector(&b); !same(s, old) {
			all = append(all, effect{what: bytes, file: file, at: i, to: s})
		}
	}
	return all
}

// sum tells contents apart.
func (c *content) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, c.size)
	for i, s := range c.sectors {
		if s != nil {
			maphash.WriteComparable(&h, [2]uint64{uint64(i), s.sum})
		}
	}
	return h.Sum64()
}
