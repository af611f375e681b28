package partition

import (
	"slices"
	"sort"
	"strings"

	"github.com/roomlog/roomlog/raftlog"
)

// chunk is a stretch of the log: the entries behind one checkpoint up to and
// including the next. What retention removes is whole chunks.
type chunk struct {
	to       raftlog.Index // the checkpoint that closed it
	time     int64         // of its newest message, 0 without one
	bytes    uint64        // of the log, about
	messages uint64        // numbered in it
}

// openChunk is the chunk that the next entry belongs to.
type openChunk struct {
	bytes, messages uint64
	began           int64 // time of its first message
	time            int64 // of its newest
}

// entryDiskCost is what an entry costs on disk beside its data.
const entryDiskCost = 64

func (o *openChunk) add(now int64, messages uint64) {
	if o.messages == 0 {
		o.began = now
	}
	o.messages += messages
	o.time = max(o.time, now)
}

// prefixFloor is the floor of the rooms whose names begin with prefix.
type prefixFloor struct {
	prefix string
	index  raftlog.Index
	chunk  uint32 // number of the first chunk above it
}

// chunks are the log's chunks above the floor. They have running numbers, from
// 0 for the first of all.
type chunks struct {
	number   uint32 // of closed[0] or, if there is none, of the open one
	closed   []chunk
	open     openChunk
	floor    raftlog.Index // entries up to here are trimmed, a checkpoint or 0
	prefixes []prefixFloor // above floor; replaced as a whole

	// What this replica's log lacks. Another may have it: this is no part of
	// the state that replicas agree on.
	held      raftlog.Index
	heldChunk uint32
}

// last is the newest checkpoint, 0 if there is none.
func (c *chunks) last() raftlog.Index {
	if n := len(c.closed); n > 0 {
		return c.closed[n-1].to
	}
	return c.floor
}

// close makes index a checkpoint.
func (c *chunks) close(index raftlog.Index) {
	c.closed = append(c.closed, chunk{to: index, time: c.open.time, bytes: c.open.bytes, messages: c.open.messages})
	c.open = openChunk{}
}

// has tells whether the open chunk has messages of r.
func (c *chunks) has(r *room) bool {
	n := len(r.hot)
	return n > 0 && r.hot[n-1].index > c.last()
}

// openNumber is the number of the open chunk.
func (c *chunks) openNumber() uint32 { return c.number + uint32(len(c.closed)) }

// bounds returns the checkpoints that chunk number lies between.
func (c *chunks) bounds(number uint32) (from, to raftlog.Index) {
	i := int(number - c.number)
	if i == 0 {
		return c.floor, c.closed[0].to
	}
	return c.closed[i-1].to, c.closed[i].to
}

// find returns where in closed the chunk stands that ends at index.
func (c *chunks) find(index raftlog.Index) (i int, ok bool) {
	i = sort.Search(len(c.closed), func(i int) bool { return c.closed[i].to >= index })
	return i, i < len(c.closed) && c.closed[i].to == index
}

// raise raises the floor and those of prefixes as far as the indexes are known
// checkpoints. It tells whether anything has changed.
func (c *chunks) raise(floor raftlog.Index, prefixes []prefixFloor) (raised bool) {
	if i, ok := c.find(floor); ok {
		c.floor, raised = floor, true
		c.closed, c.number = c.closed[i+1:], c.number+uint32(i)+1
	}
	merged := slices.DeleteFunc(slices.Clone(c.prefixes), func(p prefixFloor) bool { return p.index <= c.floor })
	for _, p := range prefixes {
		i, ok := c.find(p.index)
		if !ok {
			continue
		}
		p.chunk = c.number + uint32(i) + 1
		at, known := slices.BinarySearchFunc(merged, p.prefix, func(p prefixFloor, s string) int { return strings.Compare(p.prefix, s) })
		switch {
		case !known:
			merged, raised = slices.Insert(merged, at, p), true
		case merged[at].index < p.index:
			merged[at], raised = p, true
		}
	}
	if raised {
		c.prefixes = merged
	}
	return raised
}

// floorOf returns the floor of a room and the number of the first chunk above it.
func (c *chunks) floorOf(room string) (index raftlog.Index, chunk uint32) {
	index, chunk = c.floor, c.number
	for i := range c.prefixes {
		if p := &c.prefixes[i]; p.index > index && strings.HasPrefix(room, p.prefix) {
			index, chunk = p.index, p.chunk
		}
	}
	return index, chunk
}

// floorHere is floorOf on this replica, whose log may begin later.
func (c *chunks) floorHere(room string) (index raftlog.Index, chunk uint32) {
	index, chunk = c.floorOf(room)
	return max(index, c.held), max(chunk, c.heldChunk)
}

// hold tells that this replica's log begins behind index. Of a chunk that it has
// in part nothing counts as held: a trim that has come further than the snapshot
// removed the rest.
func (c *chunks) hold(index raftlog.Index) {
	i, from := 0, c.floor
	for ; i < len(c.closed) && from < index; i++ {
		from = c.closed[i].to
	}
	c.held, c.heldChunk = from, c.number+uint32(i)
}
