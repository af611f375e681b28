package partition

import "slices"

// tail holds the newest blocks of the partition's rooms in memory, up to a
// number of bytes, shared by all who read them. The oldest entry leaves first.
type tail struct {
	max     int64
	bytes   int64
	entries []tailEntry // in log order
	rooms   map[string][]Block
}

// blockCost is what a block costs in memory beside its data.
const blockCost = 192

type tailEntry struct {
	size  int64
	rooms []string
}

func newTail(max int64) tail {
	return tail{max: max, rooms: map[string][]Block{}}
}

// add takes the blocks of the next entry.
func (t *tail) add(blocks []Block) {
	if len(blocks) == 0 {
		return
	}
	e := tailEntry{rooms: make([]string, len(blocks))}
	for i, b := range blocks {
		e.rooms[i] = b.Room
		e.size += int64(len(b.Data)) + blockCost
		t.rooms[b.Room] = append(t.rooms[b.Room], b)
	}
	t.entries = append(t.entries, e)
	t.bytes += e.size
	for t.bytes > t.max && len(t.entries) > 1 {
		t.drop()
	}
}

func (t *tail) drop() {
	e := t.entries[0]
	t.entries[0] = tailEntry{}
	t.entries = t.entries[1:]
	t.bytes -= e.size
	for _, room := range e.rooms {
		if rest := t.rooms[room][1:]; len(rest) > 0 {
			t.rooms[room][0] = Block{}
			t.rooms[room] = rest
		} else {
			delete(t.rooms, room)
		}
	}
}

// from returns blocks of room from seq next on, of about max bytes; none if
// next is older than the tail. Their Data is shared and must not be changed.
func (t *tail) from(room string, next Seq, max int) []Block {
	blocks := t.rooms[room]
	if len(blocks) == 0 || next < blocks[0].First {
		return nil
	}
	i, _ := slices.BinarySearchFunc(blocks, next, func(b Block, s Seq) int {
		if b.Last < s {
			return -1
		}
		return 1
	})
	end := i
	for end < len(blocks) && max > 0 {
		max -= len(blocks[end].Data)
		end++
	}
	out := slices.Clone(blocks[i:end])
	if len(out) > 0 {
		out[0] = out[0].behind(next)
	}
	return out
}

// behind returns b for a reader who wants seq next of it, and what follows.
func (b Block) behind(next Seq) Block {
	for n := next - min(next, b.First); n > 0; n-- {
		for b.isDropped(b.Skip) {
			b.Skip++
		}
		b.Skip++
		b.First++
	}
	return b
}

func (b *Block) isDropped(pos int) bool {
	_, dropped := slices.BinarySearch(b.Dropped, uint32(pos))
	return dropped
}
