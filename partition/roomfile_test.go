package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/raftlog/vfs"
	"pgregory.net/rapid"
)

func drawImage(t *rapid.T) *roomImage {
	img := &roomImage{name: rapid.StringN(1, 20, -1).Draw(t, "name")}
	var p place
	for range rapid.IntRange(1, 20).Draw(t, "places") {
		p.first += Seq(rapid.Uint64Range(1, 1<<40).Draw(t, "first"))
		p.index += raftlog.Index(rapid.Uint64Range(1, 1<<40).Draw(t, "index"))
		p.time += rapid.Int64Range(0, 1<<50).Draw(t, "time")
		p.at += rapid.Uint64Range(0, 1<<30).Draw(t, "at")
		img.hot = append(img.hot, p)
	}
	index := raftlog.Index(0)
	for range rapid.IntRange(0, 5).Draw(t, "drops") {
		index += raftlog.Index(rapid.Uint64Range(1, 1000).Draw(t, "step"))
		d := drop{index: index, positions: rapid.SliceOfNDistinct(rapid.Uint32(), 0, 5, rapid.ID[uint32]).Draw(t, "positions")}
		if len(d.positions) == 0 {
			d.positions = nil
		}
		slices.Sort(d.positions)
		img.drops = append(img.drops, d)
	}
	return img
}

// TestRecordAny: a record is read as it was written, at any offset, and no other
// room's is taken for it.
func TestRecordAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := drawImage(t)
		offset := rapid.Uint32Max(100).Draw(t, "offset")
		data := append(make([]byte, offset), appendRecord(nil, img)...)
		r, err := readRecord(bytes.NewReader(data), offset, img.name)
		if err != nil || !reflect.DeepEqual(r.places, img.hot) || !reflect.DeepEqual(r.drops, img.drops) {
			t.Fatalf("got %+v, %v, want %+v", r, err, img)
		}
		if _, err := readRecord(bytes.NewReader(data), offset, img.name+"x"); !errors.Is(err, errRoomFile) {
			t.Fatalf("another room's: %v", err)
		}
		bad := bytes.Clone(data)
		bad[int(offset)+rapid.IntRange(0, len(data)-int(offset)-1).Draw(t, "flipped")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := readRecord(bytes.NewReader(bad), offset, img.name); !errors.Is(err, errRoomFile) {
			t.Fatalf("a flipped bit: %v", err)
		}
		for n := range data {
			if _, err := readRecord(bytes.NewReader(data[:n]), offset, img.name); !errors.Is(err, errRoomFile) {
				t.Fatalf("the first %d bytes of %d: %v", n, len(data), err)
			}
		}
	})
}

// FuzzRecord reads any bytes as the body of a record. What is taken is written
// as bytes that say the same.
func FuzzRecord(f *testing.F) {
	for _, file := range storedLedger().files {
		f.Add(file[roomFileHeader+8 : len(file)-roomFileFooter])
	}
	f.Add(appendRecord(nil, &roomImage{
		name: "r", hot: []place{{first: 1, index: 2, time: math.MaxInt64, at: 3}, {first: math.MaxUint64, index: math.MaxUint64, time: math.MinInt64, at: 1}},
		drops: []drop{{index: 3}, {index: 4, positions: []uint32{0, math.MaxUint32}}},
	})[8:])
	f.Fuzz(func(t *testing.T, body []byte) {
		r, name, ok := decodeRecord(body)
		if !ok {
			return
		}
		again := appendRecord(nil, &roomImage{name: name, hot: r.places, drops: r.drops})
		twice, err := readRecord(bytes.NewReader(again), 0, name)
		if err != nil || !reflect.DeepEqual(twice, r) {
			t.Fatalf("%+v, %v, want %+v", twice, err, r)
		}
	})
}

func TestCheckRoomFile(t *testing.T) {
	file := storedLedger().files[8]
	check := func(data []byte, group uint32, from, to raftlog.Index) error {
		return checkRoomFile(bytes.NewReader(data), int64(len(data)), group, from, to)
	}
	if err := check(file, ledgerGroup, 3, 8); err != nil {
		t.Error(err)
	}
	for n := range file {
		if err := check(file[:n], ledgerGroup, 3, 8); !errors.Is(err, errRoomFile) {
			t.Errorf("the first %d bytes of %d: %v", n, len(file), err)
		}
	}
	for what, err := range map[string]error{
		"more behind it":      check(append(bytes.Clone(file), 0), ledgerGroup, 3, 8),
		"another group's":     check(file, ledgerGroup+1, 3, 8),
		"another chunk's":     check(file, ledgerGroup, 3, 9),
		"a longer chunk's":    check(file, ledgerGroup, 0, 8),
		"zeros of its length": check(make([]byte, len(file)), ledgerGroup, 3, 8),
	} {
		if !errors.Is(err, errRoomFile) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func testFiles(t *testing.T) *roomFiles {
	ctx, cancel := context.WithCancel(t.Context())
	f := &roomFiles{
		fs: vfs.OS, dir: t.TempDir(), group: ledgerGroup, log: slog.New(slog.DiscardHandler), ctx: ctx, tasks: new(sync.WaitGroup),
		cache: map[recordKey]*record{}, mends: map[raftlog.Index]*mend{},
	}
	t.Cleanup(func() { cancel(); f.stop(); f.tasks.Wait() })
	return f
}

// TestRoomFilesMend: a file that is missing or damaged is made again once,
// however many want it; a failure is told and not repeated at once.
func TestRoomFilesMend(t *testing.T) {
	l := storedLedger()
	f := testFiles(t)
	begun, goOn := make(chan raftlog.Index, 10), make(chan error)
	f.remake = func(_ context.Context, from, to raftlog.Index) error {
		begun <- from
		if err := <-goOn; err != nil {
			return err
		}
		return f.write(to, func(w io.Writer) error { _, err := w.Write(l.files[to]); return err })
	}
	lobby := l.inFile(l.rooms["lobby"], 0) // of chunk 8
	find := func() (location, <-chan struct{}, error) {
		loc := lobby
		wait, err := f.find(&loc, "lobby")
		return loc, wait, err
	}
	mended := func(outcome error) {
		t.Helper()
		_, wait, err := find()
		_, again, _ := find()
		if wait == nil || err != nil || again != wait {
			t.Fatalf("a missing file: %v, %v", wait, err)
		}
		if from := receive(t, begun); from != 3 {
			t.Errorf("made again from %d", from)
		}
		goOn <- outcome
		receive(t, wait)
	}
	mended(io.ErrClosedPipe)
	if _, wait, err := find(); wait != nil || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after a failure: %v, %v", wait, err)
	}
	f.mends[8].began = f.mends[8].began.Add(-mendAgain)
	mended(nil)
	loc, wait, err := find()
	if err != nil || wait != nil || len(loc.places) != 1 || len(loc.drops) != 2 {
		t.Fatalf("%+v, %v", loc, err)
	}
	data, _ := os.ReadFile(f.path(8))
	data[lobby.offset+10] ^= 1
	os.WriteFile(f.path(8), data, 0o600)
	if _, wait, err := find(); wait != nil || err != nil {
		t.Errorf("what is in memory is not used: %v, %v", wait, err)
	}
	f.forget(8)
	mended(nil)
	if len(begun) > 0 {
		t.Error("it was made again once too often")
	}
}

func TestRoomFilesCache(t *testing.T) {
	f := testFiles(t)
	large := &record{places: make([]place, recordCache/32/4)}
	for i := range 100 {
		f.keep(recordKey{raftlog.Index(i / 2), uint32(i)}, large)
		f.keep(recordKey{raftlog.Index(i / 2), uint32(i)}, large)
	}
	if len(f.cache) != 3 || len(f.order) != 3 || f.bytes != 3*large.size() {
		t.Errorf("%d records of %d bytes, %d in order", len(f.cache), f.bytes, len(f.order))
	}
	f.forget(49)
	if len(f.cache) != 1 || len(f.order) != 1 || f.bytes != large.size() {
		t.Errorf("%d records of %d bytes, %d in order", len(f.cache), f.bytes, len(f.order))
	}
}

func TestRoomFilesTrim(t *testing.T) {
	f := testFiles(t)
	for _, to := range []raftlog.Index{3, 8, 12} {
		f.write(to, func(io.Writer) error { return nil })
	}
	for _, name := range []string{"00000000000000000002.rooms.tmp", "2.rooms", "00000000000000000002.roomsx", "other"} {
		os.WriteFile(f.dir+"/"+name, nil, 0o600)
	}
	for _, tt := range []struct {
		floor raftlog.Index
		left  string
	}{{2, "3 8 12 "}, {8, "12 "}, {8, "12 "}, {20, ""}} {
		if err := f.trim(tt.floor); err != nil {
			t.Fatal(err)
		}
		left := ""
		for _, to := range []raftlog.Index{3, 8, 12} {
			if ok, _ := vfs.Exists(f.fs, f.path(to)); ok {
				left += fmt.Sprint(to, " ")
			}
		}
		if left != tt.left {
			t.Errorf("trimmed to %d there are %q, want %q", tt.floor, left, tt.left)
		}
	}
	if names, _ := f.fs.List(f.dir); len(names) != 4 {
		t.Errorf("what is not an index file was removed: %q are left", names)
	}
	f.dir += "/nowhere"
	if err := f.trim(5); err != nil {
		t.Error(err)
	}
}
