package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// records lists what a subscriber gets of d.
func records(d *Deliver) (list string, err error) {
	var b strings.Builder
	err = d.Records(func(r Record) bool {
		fmt.Fprintf(&b, "%d %s: %s\n", r.Seq, r.Publisher, r.Payload)
		return true
	})
	return b.String(), err
}

func TestRecords(t *testing.T) {
	block := makeBlock([]string{"anna", "", "ben"}, rec{0, "a"}, rec{2, "b"}, rec{1, ""}, rec{0, "d"})
	for _, tt := range []struct {
		name string
		d    Deliver
		want string
	}{
		{"all", Deliver{First: 7, Block: block}, "7 anna: a\n8 ben: b\n9 : \n10 anna: d\n"},
		{"empty block", Deliver{First: 7, Block: makeBlock(nil)}, ""},
		{"skip one", Deliver{First: 8, Skip: 1, Block: block}, "8 ben: b\n9 : \n10 anna: d\n"},
		{"skip all but one", Deliver{First: 10, Skip: 3, Block: block}, "10 anna: d\n"},
		{"skip all", Deliver{First: 11, Skip: 4, Block: block}, ""},
		{"skip more than all", Deliver{First: 11, Skip: 1 << 40, Block: block}, ""},
		{"first dropped", Deliver{First: 7, Dropped: []uint32{0}, Block: block}, "7 ben: b\n8 : \n9 anna: d\n"},
		{"last dropped", Deliver{First: 7, Dropped: []uint32{3}, Block: block}, "7 anna: a\n8 ben: b\n9 : \n"},
		{"all dropped", Deliver{First: 7, Dropped: []uint32{0, 1, 2, 3}, Block: block}, ""},
		{"dropped beyond the end", Deliver{First: 7, Dropped: []uint32{4, 5}, Block: block}, "7 anna: a\n8 ben: b\n9 : \n10 anna: d\n"},
		{"dropped inside the skip", Deliver{First: 8, Skip: 2, Dropped: []uint32{0}, Block: block}, "8 : \n9 anna: d\n"},
		{"dropped behind the skip", Deliver{First: 8, Skip: 1, Dropped: []uint32{1, 2}, Block: block}, "8 anna: d\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := records(&tt.d); err != nil || got != tt.want {
				t.Errorf("got %v\n%s\nwant\n%s", err, got, tt.want)
			}
		})
	}
}

func TestRecordsStops(t *testing.T) {
	d := Deliver{First: 1, Block: makeBlock([]string{"a"}, rec{0, "x"}, rec{0, "y"}, rec{9, "broken"})}
	n := 0
	if err := d.Records(func(Record) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("%d records, %v, want 2 and no error", n, err)
	}
}

func TestRecordsRefuses(t *testing.T) {
	whole := makeBlock([]string{"anna"}, rec{0, "a"}, rec{0, "b"})
	for _, tt := range []struct {
		name  string
		block []byte
		want  string
	}{
		{"nothing", nil, "records is missing"},
		{"cut short", whole[:len(whole)-1], "payload is cut short"},
		{"bytes behind the end", append(bytes.Clone(whole), 0), "1 bytes too many"},
		{"more records than bytes", uvarints(1<<62, 0), "records is 4611686018427387904, at most 0 fit"},
		{"more publishers than bytes", uvarints(1, 3, 0, 0), "publishers is 3, at most 2 fit"},
		{"publisher not in the table", makeBlock([]string{"a"}, rec{1, "x"}), "publisher of a record is not in the table"},
		{"no publishers", makeBlock(nil, rec{0, "x"}), "publisher of a record is not in the table"},
		{"publisher name too long", makeBlock([]string{strings.Repeat("n", MaxName+1)}, rec{0, "x"}), "publisher has 65 bytes"},
		{"payload too long", makeBlock([]string{"a"}, rec{0, strings.Repeat("x", MaxPayload+1)}), "payload has 1048577 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Deliver{First: 1, Block: tt.block}
			if got, err := records(&d); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\n%s\nwant %q", err, got, tt.want)
			}
		})
	}
	largest := Deliver{First: 1, Block: makeBlock([]string{strings.Repeat("n", MaxName)}, rec{0, strings.Repeat("x", MaxPayload)})}
	if _, err := records(&largest); err != nil {
		t.Errorf("the largest message: %v", err)
	}
}

// TestDeliverHead: a head and the block behind it are the frame.
func TestDeliverHead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &Deliver{
			First:   rapid.Uint64Min(1).Draw(t, "first"),
			Time:    rapid.Int64().Draw(t, "time"),
			Skip:    rapid.Uint64().Draw(t, "skip"),
			Dropped: rapid.SliceOfNDistinct(rapid.Uint32Max(300), 0, 100, rapid.ID[uint32]).Draw(t, "dropped"),
			Block:   make([]byte, rapid.IntRange(0, 20_000).Draw(t, "size")),
		}
		before := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "before")
		got := append(AppendDeliverHead(bytes.Clone(before), d), d.Block...)
		if want := Append(bytes.Clone(before), d); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, want %d", len(got), len(want))
		}
	})
}
