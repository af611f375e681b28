package partition

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// blockOf makes a block of records, of which those at dropped have no seq. A
// record's payload is its seq, and "dropped" if it has none.
func blockOf(room string, first Seq, records int, dropped ...uint32) Block {
	data := binary.AppendUvarint(nil, uint64(records))
	data = appendText(append(data, 1), "n")
	b := Block{Room: room, First: first, Last: first - 1, Dropped: dropped}
	for pos := range records {
		payload := "dropped"
		if !slices.Contains(dropped, uint32(pos)) {
			b.Last++
			payload = fmt.Sprint(b.Last)
		}
		data = appendText(append(data, 0), payload)
	}
	b.Data = data
	return b
}

// checkRead tells what is wrong with blocks for a reader who wants next.
func checkRead(blocks []Block, next Seq) error {
	for _, b := range blocks {
		if b.First != next {
			return fmt.Errorf("a block begins at seq %d, want %d", b.First, next)
		}
		records, err := readBlock(b)
		if err != nil {
			return err
		}
		for _, m := range records {
			if m.seq != next || m.payload != fmt.Sprint(next) {
				return fmt.Errorf("got seq %d %q, want %d", m.seq, m.payload, next)
			}
			next++
		}
	}
	return nil
}

func TestBehind(t *testing.T) {
	for _, tt := range []struct {
		name    string
		dropped []uint32
		next    Seq
		skip    int
	}{
		{"the first", nil, 10, 0},
		{"the second", nil, 11, 1},
		{"the last", nil, 14, 4},
		{"first dropped, wanting the first", []uint32{0}, 10, 0}, // readers drop before they skip
		{"first dropped, wanting the second", []uint32{0}, 11, 2},
		{"dropped in the middle, wanting what is before", []uint32{2}, 11, 1},
		{"dropped in the middle, wanting what is behind", []uint32{2}, 12, 2},
		{"dropped in the middle, wanting the next", []uint32{2}, 13, 4},
		{"two dropped", []uint32{1, 2}, 11, 1},
		{"two dropped, wanting the last", []uint32{1, 2}, 12, 4},
		{"last dropped", []uint32{4}, 13, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whole := blockOf("r", 10, 5, tt.dropped...)
			b := whole.behind(tt.next)
			if b.First != tt.next || b.Skip != tt.skip || b.Last != whole.Last {
				t.Errorf("got First %d, Skip %d, Last %d, want First %d, Skip %d", b.First, b.Skip, b.Last, tt.next, tt.skip)
			}
			if err := checkRead([]Block{b}, tt.next); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTailAny adds entries of blocks to a tail of some size and reads it from
// every seq of every room: it gives what follows, or nothing if that has left.
func TestTailAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tl := newTail(int64(rapid.IntRange(1, 3000).Draw(t, "max")))
		last := map[string]Seq{}
		var kept []tailEntry // what should be there
		for range rapid.IntRange(1, 40).Draw(t, "entries") {
			var blocks []Block
			var e tailEntry
			for _, room := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID[string]).Draw(t, "rooms") {
				n := rapid.IntRange(1, 6).Draw(t, "records")
				drop := rapid.SliceOfNDistinct(rapid.Uint32Max(uint32(n)-1), 0, n-1, rapid.ID[uint32]).Draw(t, "dropped")
				slices.Sort(drop)
				b := blockOf(room, last[room]+1, n, drop...)
				last[room] = b.Last
				blocks = append(blocks, b)
				e.size += int64(len(b.Data)) + blockCost
				e.rooms = append(e.rooms, room)
			}
			tl.add(blocks)
			if len(blocks) > 0 {
				kept = append(kept, e)
			}
			kept = checkTail(t, &tl, kept)
			for room, last := range last {
				readTail(t, &tl, room, last, rapid.IntRange(1, 300).Draw(t, "read"))
			}
		}
	})
}

// checkTail drops from kept what the tail should have dropped and compares.
func checkTail(t *rapid.T, tl *tail, kept []tailEntry) []tailEntry {
	bytes := int64(0)
	for _, e := range kept {
		bytes += e.size
	}
	for bytes > tl.max && len(kept) > 1 {
		bytes -= kept[0].size
		kept = kept[1:]
	}
	if tl.bytes != bytes || len(tl.entries) != len(kept) {
		t.Fatalf("the tail has %d entries of %d bytes, want %d of %d", len(tl.entries), tl.bytes, len(kept), bytes)
	}
	blocks := map[string]int{}
	for _, e := range kept {
		for _, room := range e.rooms {
			blocks[room]++
		}
	}
	for room, have := range tl.rooms {
		if len(have) != blocks[room] || len(have) == 0 {
			t.Fatalf("room %s has %d blocks, want %d", room, len(have), blocks[room])
		}
	}
	if len(tl.rooms) != len(blocks) {
		t.Fatalf("%d rooms, want %d", len(tl.rooms), len(blocks))
	}
	return kept
}

func readTail(t *rapid.T, tl *tail, room string, last Seq, max int) {
	first := last + 1 // that the tail has
	if have := tl.rooms[room]; len(have) > 0 {
		first = have[0].First
	}
	for next := Seq(1); next <= last+1; next++ {
		blocks := tl.from(room, next, max)
		switch {
		case next < first || next > last:
			if len(blocks) > 0 {
				t.Fatalf("room %s from %d: %d blocks, it has %d to %d", room, next, len(blocks), first, last)
			}
			continue
		case len(blocks) == 0:
			t.Fatalf("room %s from %d: nothing, it has %d to %d", room, next, first, last)
		}
		if err := checkRead(blocks, next); err != nil {
			t.Fatalf("room %s from %d: %v", room, next, err)
		}
		bytes := 0
		for _, b := range blocks[:len(blocks)-1] {
			bytes += len(b.Data)
		}
		end := blocks[len(blocks)-1]
		if bytes >= max || bytes+len(end.Data) < max && end.Last != last {
			t.Fatalf("room %s from %d: %d blocks of %d bytes to seq %d of %d, asked for %d", room, next, len(blocks), bytes, end.Last, last, max)
		}
	}
}

// TestTailMany: what is not data counts too, so that many tiny messages are as
// bounded as few large ones.
func TestTailMany(t *testing.T) {
	tl := newTail(1 << 20)
	for i := range 100_000 {
		tl.add([]Block{blockOf("r", Seq(i)+1, 1)})
	}
	if n := len(tl.entries); n > 1<<20/blockCost || n < 1<<20/blockCost/2 {
		t.Errorf("%d entries of one tiny message are in a tail of 1 MiB", n)
	}
}

func TestTailKeepsNewest(t *testing.T) {
	tl := newTail(1)
	tl.add([]Block{blockOf("a", 1, 100)})
	tl.add(nil)
	if got := tl.from("a", 1, 1); len(got) != 1 {
		t.Errorf("the newest entry is gone")
	}
	tl.add([]Block{blockOf("b", 1, 1)})
	if got := tl.from("a", 1, 1); got != nil || len(tl.entries) != 1 {
		t.Errorf("an older one is kept: %v", got)
	}
}

// TestTailShares: a reader's blocks stay as they are when the tail moves on.
func TestTailShares(t *testing.T) {
	tl := newTail(600)
	tl.add([]Block{blockOf("a", 1, 3)})
	tl.add([]Block{blockOf("a", 4, 3)})
	blocks := tl.from("a", 2, 1000)
	for i := range 10 {
		tl.add([]Block{blockOf("a", Seq(7+i), 1)})
	}
	if err := checkRead(blocks, 2); err != nil || len(blocks) != 2 {
		t.Errorf("%d blocks, %v", len(blocks), err)
	}
}
