//go:build linux

package faultfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func (m *image) bytes() []byte {
	p := make([]byte, m.size)
	m.read(p, 0)
	return p
}

// TestContentModel compares a file with plain byte slices over random writes,
// truncations, syncs and power cuts.
func TestContentModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newContent()
		var now, durable []byte
		size := rapid.Int64Range(0, 3*blockSize)
		same := func() {
			if !bytes.Equal(c.now.bytes(), now) || !bytes.Equal(c.durable.bytes(), durable) {
				t.Fatalf("now or durable differ from the model (sizes %d, %d; want %d, %d)",
					c.now.size, c.durable.size, len(now), len(durable))
			}
		}
		resize := func(n int64) {
			now = append(slices.Clone(now[:min(n, int64(len(now)))]), make([]byte, max(0, n-int64(len(now))))...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { same() },
			"write": func(t *rapid.T) {
				off, n := size.Draw(t, "off"), rapid.IntRange(1, 2*blockSize).Draw(t, "n")
				p := bytes.Repeat([]byte{rapid.Byte().Draw(t, "fill")}, n)
				before := int64(len(c.now.blocks))
				want := c.newBlocks(n, off)
				if got := c.write(p, off); got != want || int64(len(c.now.blocks)) != before+got {
					t.Fatalf("write added %d blocks, newBlocks said %d", got, want)
				}
				resize(max(int64(len(now)), off+int64(n)))
				copy(now[off:], p)
			},
			"truncate": func(t *rapid.T) {
				n := size.Draw(t, "size")
				c.truncate(n)
				resize(n)
			},
			"sync": func(*rapid.T) {
				c.sync()
				durable = slices.Clone(now)
			},
			"cut": func(*rapid.T) {
				c.cut(Survivors{}, nil)
				now = slices.Clone(durable)
			},
			"flip": func(t *rapid.T) {
				c.sync()
				if durable = slices.Clone(now); len(now) == 0 {
					return
				}
				bit := rapid.Int64Range(0, int64(len(now))*8-1).Draw(t, "bit")
				if c.now.blocks[bit/8/blockSize] == nil {
					return // a hole has no bits on the disk
				}
				c.flip(bit)
				now[bit/8] ^= 1 << (bit % 8)
				durable[bit/8] ^= 1 << (bit % 8)
			},
		})
	})
}

// TestSectorsSurviveByThemselves writes a file over twice without a sync: after
// the cut each sector has one of its three versions, and over the seeds all do.
func TestSectorsSurviveByThemselves(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		seen := map[byte]int{}
		mixed := 0
		for seed := range uint64(30) {
			got := overwritten(seed, sector)
			if again := overwritten(seed, sector); !bytes.Equal(got, again) {
				t.Fatalf("seed %d gives this and that", seed)
			}
			if len(got) != 4*blockSize {
				t.Fatalf("size %d", len(got))
			}
			versions := map[byte]bool{}
			for s := range slices.Chunk(got, int(sector)) {
				if !bytes.Equal(s, bytes.Repeat(s[:1], len(s))) {
					t.Fatalf("sector %d: a sector in two versions", sector)
				}
				seen[s[0]]++
				versions[s[0]] = true
			}
			if len(versions) > 1 {
				mixed++
			}
		}
		if len(seen) != 3 || seen['a'] == 0 || seen['b'] == 0 || seen['c'] == 0 || mixed < 20 {
			t.Errorf("sector %d: versions %v, mixed in %d of 30", sector, seen, mixed)
		}
	}
}

// TestNothingSyncedIsInDoubt: what was written before a sync does not come back.
func TestNothingSyncedIsInDoubt(t *testing.T) {
	c := newContent()
	c.write([]byte("old"), 0)
	c.write([]byte("new"), 0)
	c.sync()
	c.cut(Survivors{Chance: 0.5}, rand.New(rand.NewPCG(0, 0)))
	c.write([]byte("x"), 4*blockSize)
	c.cut(Survivors{Chance: 1}, rand.New(rand.NewPCG(0, 0)))
	if got := c.now.bytes(); string(got[:3]) != "new" {
		t.Errorf("left is %q", got[:3])
	}
	if len(c.pending) > 0 {
		t.Errorf("%d changes pending after a cut", len(c.pending))
	}
}

func overwritten(seed uint64, sector int64) []byte {
	c := newContent()
	c.write(bytes.Repeat([]byte{'a'}, 4*blockSize), 0)
	c.sync()
	c.write(bytes.Repeat([]byte{'b'}, 4*blockSize), 0)
	c.write(bytes.Repeat([]byte{'c'}, 4*blockSize), 0)
	c.cut(Survivors{Seed: seed, Chance: 0.5, Sector: sector}, rand.New(rand.NewPCG(seed, 0)))
	return c.now.bytes()
}

// TestSizesSurvive appends and truncates without a sync: the size is one that
// the file had, what a lost truncation made room for is lost too, and behind
// the end there is nothing.
func TestSizesSurvive(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(200) {
		c := newContent()
		c.write([]byte("aaaa"), 0)
		c.sync()
		c.truncate(2)
		c.write([]byte("bb"), 4)
		c.cut(Survivors{Seed: seed, Chance: 0.5}, rand.New(rand.NewPCG(seed, 0)))
		seen[fmt.Sprintf("%q", c.now.bytes())] = true
		c.truncate(8)
		if tail := c.now.bytes(); !bytes.Equal(tail[6:], []byte{0, 0}) {
			t.Fatalf("seed %d: %q behind the end", seed, tail)
		}
	}
	want := []string{`"aaaa"`, `"aa"`, `"aa\x00\x00\x00\x00"`, `"aa\x00\x00bb"`}
	for _, w := range want {
		if !seen[w] {
			t.Errorf("%s never came about", w)
		}
		delete(seen, w)
	}
	if len(seen) > 0 {
		t.Errorf("these cannot be: %v", seen)
	}
}

// TestAFailedFsyncDrops: what it should have made durable is not made so by the
// next one, which succeeds.
func TestAFailedFsyncDrops(t *testing.T) {
	c := newContent()
	c.write(bytes.Repeat([]byte{'a'}, blockSize), 0)
	c.forget()
	c.write([]byte("b"), blockSize)
	c.sync()
	if got := c.now.bytes(); got[0] != 'a' || got[blockSize] != 'b' {
		t.Errorf("now %q", got[:1])
	}
	if got := c.durable.bytes(); got[0] != 0 || got[blockSize] != 'b' {
		t.Errorf("durable %q, %q", got[0], got[blockSize])
	}
}
