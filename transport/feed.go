package transport

import (
	"sort"
	"sync"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

// feeds are the newest messages of rooms with subscribers here, as frames.
type feeds struct {
	mu    sync.Mutex
	rooms map[string]*feed
}

// feed is a room's newest messages as frames, made once for all its cursors: those
// at the head are handed the same bytes. It keeps them while they are new; it reads
// nothing that the partition does not have in memory, and no large block.
type feed struct {
	room      string
	partition source
	cursors   int // guarded by feeds.mu

	mu    sync.Mutex
	old   *chunk // the one before, for those who are a little late
	chunk *chunk
	used  bool // since the last drop
}

// chunk is frames, one behind the other. What is in it never changes; more is
// added behind.
type chunk struct {
	buf    []byte
	ends   []int // of the frames, in buf
	blocks []partition.Block
	next   partition.Seq // behind the last
}

const (
	minChunk = 1 << 10
	maxChunk = 256 << 10
	maxHead  = 48       // the most that a frame has before its dropped positions
	feedStep = 64 << 10 // is read from the partition at once

	maxFeedBlock = 128 << 10
)

// source is what feeds and cursors read of a partition.
type source interface {
	Newest(room string, next partition.Seq, maxBytes int) []partition.Block
	Read(room string, next partition.Seq, maxBytes int) (partition.Batch, error)
	IsStale() bool
}

// join returns the feed of a room, for one more cursor.
func (f *feeds) join(room string, p source) *feed {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.rooms[room]
	if d == nil {
		d = &feed{room: room, partition: p}
		f.rooms[room] = d
	}
	d.cursors++
	return d
}

func (f *feeds) leave(d *feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.cursors--; d.cursors == 0 {
		delete(f.rooms, d.room)
	}
}

// drop lets go of what nobody has asked for since the call before.
func (f *feeds) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.rooms {
		d.drop()
	}
}

func (d *feed) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.used {
		d.old, d.chunk = nil, nil
	}
	d.used = false
}

// frames are frames that follow upon each other, shared with others.
type frames struct {
	bytes  []byte
	ends   []int // of each, in bytes plus base
	base   int
	blocks []partition.Block
}

// from returns frames from seq next on, about max bytes and at least one, or none
// if there are none or they have to be read in another way. Last is the newest seq
// of the room that the caller knows of.
func (d *feed) from(next, last partition.Seq, max int) frames {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used = true
	if d.chunk == nil || d.chunk.next <= last {
		d.fill(next)
	}
	for _, c := range []*chunk{d.chunk, d.old} {
		if f := c.from(next, max); len(f.ends) > 0 {
			return f
		}
	}
	return frames{}
}

// fill adds what has come since, up to next at least if it can.
func (d *feed) fill(next partition.Seq) {
	for d.chunk != nil && d.chunk.next < next {
		if !d.read(d.chunk.next) {
			d.old, d.chunk = nil, nil
		}
	}
	if d.chunk != nil {
		next = d.chunk.next
	}
	d.read(next)
}

// read adds what comes from seq next on. It returns false if there is nothing, or
// only what is too large.
func (d *feed) read(next partition.Seq) bool {
	blocks := d.partition.Newest(d.room, next, feedStep)
	for i := range blocks {
		if len(blocks[i].Data) > maxFeedBlock {
			return i > 0
		}
		d.add(&blocks[i])
	}
	return len(blocks) > 0
}

func (d *feed) add(b *partition.Block) {
	size := len(b.Data) + maxHead + 5*len(b.Dropped)
	if c := d.chunk; c == nil || c.next != b.First {
		d.old, d.chunk = nil, newChunk(max(size, minChunk), b.First)
	} else if cap(c.buf)-len(c.buf) < size {
		d.old, d.chunk = c, newChunk(max(size, min(2*cap(c.buf), maxChunk)), b.First)
	}
	d.chunk.add(b)
}

func newChunk(size int, next partition.Seq) *chunk {
	return &chunk{buf: make([]byte, 0, size), next: next}
}

func (c *chunk) add(b *partition.Block) {
	c.buf = append(head(c.buf, b), b.Data...)
	c.ends = append(c.ends, len(c.buf))
	c.next = b.Last + 1
	kept := *b
	kept.Data, kept.Dropped = nil, nil
	c.blocks = append(c.blocks, kept)
}

func (c *chunk) from(next partition.Seq, max int) (f frames) {
	if c == nil || len(c.blocks) == 0 || next < c.blocks[0].First || next >= c.next {
		return f
	}
	i := sort.Search(len(c.blocks), func(i int) bool { return c.blocks[i].Last >= next })
	if c.blocks[i].First != next {
		return f // in the middle of a block
	}
	if i > 0 {
		f.base = c.ends[i-1]
	}
	n := i + 1
	for n < len(c.ends) && c.ends[n]-f.base <= max {
		n++
	}
	return frames{bytes: c.buf[f.base:c.ends[n-1]:c.ends[n-1]], ends: c.ends[i:n:n], base: f.base, blocks: c.blocks[i:n:n]}
}

// head adds a block's frame up to the block.
func head(dst []byte, b *partition.Block) []byte {
	return wire.AppendDeliverHead(dst, &wire.Deliver{
		First: uint64(b.First), Time: b.Time, Skip: uint64(b.Skip), Dropped: b.Dropped, Block: b.Data,
	})
}
