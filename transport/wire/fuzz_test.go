package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
)

// FuzzReader cuts any bytes, in pieces of any size, into frames. They come to
// the same frames and the same end as in one piece.
func FuzzReader(f *testing.F) {
	f.Add(sampleStream(), uint16(7))
	f.Add([]byte("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), uint16(1))
	f.Add(Append(nil, &Ping{}), uint16(3))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint16) {
		const max = 4 << 10
		size := int(piece)%97 + 1
		var src pieces
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			src = append(src, rest[:n])
			rest = rest[n:]
		}
		whole, parts := NewReader(bytes.NewReader(stream), max), NewReader(&src, max)
		for {
			typ, body, err := whole.Next()
			buffered := parts.Buffered()
			src0 := len(src)
			typ2, body2, err2 := parts.Next()
			if typ != typ2 || !bytes.Equal(body, body2) || (err == nil) != (err2 == nil) {
				t.Fatalf("%v %x %v, in pieces %v %x %v", typ, body, err, typ2, body2, err2)
			}
			if buffered && len(src) != src0 {
				t.Fatal("Next read though a frame was buffered")
			}
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrMalformed) {
					t.Fatalf("unexpected error %v", err)
				}
				return
			}
			if len(body) >= max {
				t.Fatalf("a frame of %d bytes came through", len(body)+1)
			}
		}
	})
}

// FuzzParse reads any body as any frame. What can be read can be written and
// read again as the same, and what was written in the shortest form comes out
// byte by byte.
func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add(byte(s.frame.frameType()), s.frame.appendBody(nil))
	}
	f.Add(byte(TypeGoAway), []byte{0x85, 0x80, 0x00})
	f.Fuzz(func(t *testing.T, typ byte, body []byte) {
		frame, err := parse(Type(typ), body)
		if err != nil {
			return
		}
		if hello, ok := frame.(*Hello); ok && hello.Version != Version {
			return // its rest was not read
		}
		written := frame.appendBody(nil)
		again, err := parse(Type(typ), written)
		if err != nil || !alike(frame, again) {
			t.Fatalf("%+v came back as %+v, %v", frame, again, err)
		}
		if len(written) == len(body) && Type(typ) != TypePing && Type(typ) != TypePong && !bytes.Equal(written, body) {
			t.Fatalf("%x came out as %x", body, written)
		}
		if len(written) > len(body) {
			t.Fatalf("%d bytes came out as %d", len(body), len(written))
		}
	})
}

// FuzzRecords reads any block. Whatever it holds, seqs run on from First, and
// skipping some records changes nothing about the others.
func FuzzRecords(f *testing.F) {
	f.Add(sampleBlock, uint8(0), []byte{})
	f.Add(sampleBlock, uint8(1), []byte{0, 2})
	f.Add(makeBlock([]string{"a"}, rec{0, "x"}, rec{0, "y"}, rec{0, "z"}), uint8(2), []byte{1})
	f.Fuzz(func(t *testing.T, block []byte, skip uint8, drop []byte) {
		d := Deliver{First: 5, Block: block}
		pos := uint32(math.MaxUint32)
		for _, apart := range drop {
			pos += uint32(apart) + 1
			d.Dropped = append(d.Dropped, pos)
		}
		var all []Record
		err := d.Records(func(r Record) bool { all = append(all, r); return true })
		for i, r := range all {
			if r.Seq != 5+uint64(i) || len(r.Payload) > MaxPayload || len(r.Publisher) > MaxName {
				t.Fatalf("record %d is %+v", i, r)
			}
		}
		if err != nil {
			return
		}
		kept := uint64(0) // records before the skip that have a seq
		for i := range min(uint64(skip), uint64(len(all)+len(d.Dropped))) {
			dropped := false
			for _, pos := range d.Dropped {
				dropped = dropped || uint64(pos) == i
			}
			if !dropped {
				kept++
			}
		}
		kept = min(kept, uint64(len(all)))
		behind := Deliver{First: 5 + kept, Skip: uint64(skip), Dropped: d.Dropped, Block: block}
		rest := all[kept:]
		err = behind.Records(func(r Record) bool {
			if len(rest) == 0 || r.Seq != rest[0].Seq || !bytes.Equal(r.Payload, rest[0].Payload) {
				t.Fatalf("behind %d records came %+v", skip, r)
			}
			rest = rest[1:]
			return true
		})
		if err != nil || len(rest) != 0 {
			t.Fatalf("%d records are missing behind %d: %v", len(rest), skip, err)
		}
	})
}
