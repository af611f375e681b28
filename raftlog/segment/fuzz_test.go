package segment

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/vfs"
	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// FuzzRecord decodes arbitrary bytes; and what is encoded from them is decoded again,
// and nothing shorter.
func FuzzRecord(f *testing.F) {
	for _, e := range []*raft.Log{entry(1, 1, 0), entry(3, 2, 100), entry(4, 9, 7)} {
		b, _ := appendRecord(nil, e, seedOf(42), 7, 3)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		seed := seedOf(42)
		if r, err := decodeRecord(b, seed); err == nil {
			var e raft.Log
			r.log(&e)
			again, sum := appendRecord(nil, &e, seed, r.chain, int(r.batch))
			if sum != r.sum || int64(len(again)) != r.size || !bytes.Equal(again, b[:r.size]) {
				t.Fatalf("%x is decoded, and encoded as %x", b, again)
			}
		}
		e := &raft.Log{Index: 7, Term: math.MaxUint64, Type: raft.LogType(len(b)), Extensions: b[:len(b)/3], Data: b[len(b)/3:]}
		if len(b)%2 == 1 {
			e.AppendedAt = time.Unix(0, int64(len(b)))
		}
		out, sum := appendRecord(nil, e, seed, 5, 6)
		if int64(len(out)) != recordSize(e) {
			t.Fatalf("%d bytes instead of %d", len(out), recordSize(e))
		}
		r, err := decodeRecord(append(out, b...), seed)
		if err != nil || r.sum != sum || r.chain != 5 || r.batch != 6 {
			t.Fatalf("encoded and not decoded: %v", err)
		}
		var got raft.Log
		if r.log(&got); differs(&got, e) != "" {
			t.Fatal(differs(&got, e))
		}
		if _, err := decodeRecord(out[:len(out)-1], seed); err == nil {
			t.Fatal("a shorter one is decoded")
		}
		if _, err := decodeRecord(out, seedOf(43)); err == nil {
			t.Fatal("a record of another life is decoded")
		}
	})
}

func FuzzHeader(f *testing.F) {
	h := header{recycled: true, group: 1, chain: 2, salt: 3, first: 4, term: 5}
	f.Add(h.page()[:headerSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err == nil && !bytes.Equal(h.page()[:headerSize], b[:headerSize]) {
			t.Fatalf("%x is decoded as %+v", b, h)
		}
	})
}

func FuzzIndex(f *testing.F) {
	x := index{group: 1, first: 9, salt: 3, last: place{index: 10, term: 4, chain: 5, end: pageSize + 200}, offsets: []uint32{pageSize, pageSize + 64}}
	f.Add(x.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4 { // let it get behind the checksum
			b = bytes.Clone(b)
			le.PutUint32(b[len(b)-4:], checksum(b[:len(b)-4]))
		}
		x, err := decodeIndex(b)
		if err != nil {
			return
		}
		if x.last.index != x.first+uint64(len(x.offsets))-1 || len(x.offsets) == 0 {
			t.Fatalf("%+v", x)
		}
		for i, at := range x.offsets {
			end := x.last.end
			if i+1 < len(x.offsets) {
				end = int64(x.offsets[i+1])
			}
			if at < pageSize || int64(at)+headSize > end {
				t.Fatalf("%+v", x)
			}
		}
	})
}

func FuzzMark(f *testing.F) {
	m := mark{magic: magicIntent, kind: intentReset, group: 1, chain: 2, index: 3, number: 4}
	f.Add(m.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, magic := range []string{magicClean, magicIntent} {
			if m, err := decodeMark(b, magic); err == nil {
				if !bytes.Equal(m.encode()[:8], b[:8]) || !bytes.Equal(m.encode(), b) {
					t.Fatalf("%x is decoded as %+v", b, m)
				}
			}
		}
	})
}

// FuzzOpen puts arbitrary bytes behind a segment's header. Open and Verify find damage,
// or the entries that were encoded with that salt; they do not panic, and take no more
// memory than the file has bytes, a few times over.
func FuzzOpen(f *testing.F) {
	h := header{group: 3, chain: 77, salt: 42, first: 5, term: 2}
	seed := seedOf(h.salt)
	records := func(batches ...int) (b []byte) {
		chain, index := h.chain, h.first
		for _, n := range batches {
			for i := range n {
				b, chain = appendRecord(b, entry(index, 2, 40), seed, chain, i)
				index++
			}
		}
		return b
	}
	f.Add(records(1, 2, 3), false, uint16(0))
	f.Add(records(3, 3), true, uint16(0))
	f.Add(append(records(3, 3), 1, 2, 3), false, uint16(100))
	f.Add(append(records(1), records(4)...), false, uint16(200))
	f.Fuzz(func(t *testing.T, b []byte, recycled bool, flip uint16) {
		if len(b) > 1<<20 {
			return
		}
		b = bytes.Clone(b)
		if int(flip) < len(b) {
			b[flip] ^= 1
		}
		disk := crashfs.New()
		h := h
		h.recycled = recycled
		opt := Options{FS: disk, Dir: "/log", Group: 3, SegmentBytes: 1 << 20}
		put(t, disk, opt.path(h.first, suffixSegment), append(h.page(), b...))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		rep, verr := Verify(opt, nil)
		l, err := Open(opt)
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 8<<20+64*uint64(len(b)) {
			t.Fatalf("%d bytes are taken for a file of %d", taken, len(b))
		}
		if (err == nil) != (verr == nil) || err != nil && !errors.As(err, new(*DamageError)) {
			t.Fatalf("open: %v, verify: %v", err, verr)
		}
		if err != nil {
			return
		}
		defer l.Abandon()
		last, _ := l.LastIndex()
		if last != rep.Last {
			t.Fatalf("verified up to %d, opened up to %d", rep.Last, last)
		}
		chain := h.chain
		for i := h.first; i <= last; i++ {
			var e raft.Log
			if err := l.GetLog(i, &e); err != nil {
				t.Fatal(err)
			}
			r, err := decodeRecord(b[l.segments[0].at[i-h.first]-pageSize:], seed)
			if err != nil || r.chain != chain || r.index != i {
				t.Fatalf("entry %d was made up: %v", i, err)
			}
			chain = r.sum
		}
		if err := l.StoreLog(&raft.Log{Index: max(last, h.first-1) + 1, Term: math.MaxUint64}); err != nil {
			t.Fatal(err)
		}
	})
}

func put(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	if err := fs.MkdirAll("/log"); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(name)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
