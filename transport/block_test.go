package transport

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

var dumpLine = regexp.MustCompile(`(?m)^[0-9a-f]{8}  ((?:[0-9a-f]{2} +)+)\|`)

// goldenEntry reads an entry from package partition's golden files.
func goldenEntry(t *testing.T, name string) (entry []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "partition", "testdata", "golden", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range dumpLine.FindAllStringSubmatch(string(text), -1) {
		part, err := hex.DecodeString(strings.ReplaceAll(line[1], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		entry = append(entry, part...)
	}
	return entry
}

// TestBlocksOnTheWire takes blocks from entries as they lie in the log all the
// way to a client: what partition numbers is what wire reads.
func TestBlocksOnTheWire(t *testing.T) {
	m := partition.NewMachine()
	var got strings.Builder
	index := zero(m.Apply)
	for _, name := range []string{"1-open", "2-publish", "3-publish-again", "4-tick", "5-close"} {
		index++
		out, err := m.Apply(index, goldenEntry(t, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range out.Blocks {
			fmt.Fprintf(&got, "%s %s\n", name, b.Room)
			for _, r := range overTheWire(t, b) {
				fmt.Fprintf(&got, "  %d %s: %.12q\n", r.Seq, r.Publisher, r.Payload)
			}
		}
	}
	want := `2-publish lobby
  1 Anna: "hello"
  2 Anna: ""
  3 Anne: "bye"
2-publish match
  1 : "goal"
3-publish-again lobby
  4 Anna: "xxxxxxxxxxxx"
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

// zero is the index 0, of a type that this package does not import.
func zero[I any](func(I, []byte) (partition.Outcome, error)) (index I) { return index }

// overTheWire puts b on a stream in the way that a feed does and reads it back.
func overTheWire(t *testing.T, b partition.Block) (records []wire.Record) {
	t.Helper()
	d := wire.Deliver{First: uint64(b.First), Time: b.Time, Skip: uint64(b.Skip), Dropped: b.Dropped, Block: b.Data}
	stream := append(wire.AppendDeliverHead(nil, &d), b.Data...)
	typ, body, err := wire.NewReader(strings.NewReader(string(stream)), wire.MaxDeliverFrame).Next()
	if err != nil || typ != wire.TypeDeliver {
		t.Fatalf("%v, %v", typ, err)
	}
	var back wire.Deliver
	if err := wire.ParseDeliver(body, &back); err != nil {
		t.Fatal(err)
	}
	if err := back.Records(func(r wire.Record) bool { records = append(records, r); return true }); err != nil {
		t.Fatal(err)
	}
	if back.Time != b.Time || len(records) != int(b.Last+1-b.First) {
		t.Fatalf("%d records at %d, want seqs %d to %d at %d", len(records), back.Time, b.First, b.Last, b.Time)
	}
	return records
}
