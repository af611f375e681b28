package wire

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// pieces gives a stream in the pieces in which it came.
type pieces [][]byte

func (p *pieces) Read(b []byte) (int, error) {
	for len(*p) > 0 && len((*p)[0]) == 0 {
		*p = (*p)[1:]
	}
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	(*p)[0] = (*p)[0][n:]
	return n, nil
}

// stream has one of every sample.
func sampleStream() (stream []byte) {
	for _, s := range samples {
		stream = Append(stream, s.frame)
	}
	return stream
}

// readSamples reads all samples and the stream's end.
func readSamples(t *testing.T, src io.Reader) {
	t.Helper()
	r := NewReader(src, MaxDeliverFrame)
	for _, s := range samples {
		typ, body, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if f, err := parse(typ, body); err != nil || !alike(f, s.frame) {
			t.Fatalf("%s: got %+v, %v", s.name, f, err)
		}
	}
	if _, _, err := r.Next(); err != io.EOF {
		t.Fatalf("at the end: %v, want io.EOF", err)
	}
}

func TestReaderSplit(t *testing.T) {
	stream := sampleStream()
	for at := range len(stream) + 1 {
		readSamples(t, &pieces{stream[:at:at], stream[at:]})
	}
	for name, src := range map[string]io.Reader{
		"byte by byte":            iotest.OneByteReader(bytes.NewReader(stream)),
		"halves":                  iotest.HalfReader(bytes.NewReader(stream)),
		"end with the last bytes": iotest.DataErrReader(bytes.NewReader(stream)),
		"end with the last byte":  iotest.DataErrReader(iotest.OneByteReader(bytes.NewReader(stream))),
	} {
		t.Run(name, func(t *testing.T) { readSamples(t, src) })
	}
}

// TestReaderAnySplit reads frames of all sizes in pieces of all sizes.
func TestReaderAnySplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 200_000)), 1, 12).Draw(t, "sizes")
		var stream []byte
		for i, n := range sizes {
			stream = AppendPublish(stream, uint64(i)+1, 0, "", "r", bytes.Repeat([]byte{byte(i)}, n))
		}
		var src pieces
		for rest := stream; len(rest) > 0; {
			n := rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 100_000)).Draw(t, "piece")
			n = min(n, len(rest))
			src = append(src, rest[:n])
			rest = rest[n:]
		}
		r := NewReader(&src, MaxPublishFrame)
		for i, n := range sizes {
			_, body, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			m, err := ParsePublish(body)
			if err != nil || m.Counter != uint64(i)+1 || !bytes.Equal(m.Payload, bytes.Repeat([]byte{byte(i)}, n)) {
				t.Fatalf("publish %d: counter %d, %d bytes, %v", i, m.Counter, len(m.Payload), err)
			}
			if largest := slices.Max(sizes); len(r.buf) > 2*(largest+100)+maxStep {
				t.Fatalf("%d bytes are held for frames of %d", len(r.buf), largest)
			}
		}
	})
}

func TestReaderRefuses(t *testing.T) {
	broken := errors.New("connection lost")
	frame := Append(nil, &GoAway{Delay: 300})
	for _, tt := range []struct {
		name string
		in   string
		max  int
		want error
	}{
		{"nothing", "", 100, io.EOF},
		{"length without end", strings.Repeat("\x80", 10), 100, ErrMalformed},
		{"length beyond 64 bits", strings.Repeat("\xff", 9) + "\x02", 100, ErrMalformed},
		{"length not yet whole", strings.Repeat("\x80", 9), 100, io.ErrUnexpectedEOF},
		{"empty frame", "\x00", 100, ErrMalformed},
		{"empty frame in two bytes", "\x80\x00", 100, ErrMalformed},
		{"just too large", string(frame), len(frame) - 2, ErrMalformed},
		{"largest length", strings.Repeat("\xff", 9) + "\x01", 1 << 30, ErrMalformed},
		{"type missing", "\x01", 100, io.ErrUnexpectedEOF},
		{"body missing", string(frame[:2]), 100, io.ErrUnexpectedEOF},
		{"last byte missing", string(frame[:len(frame)-1]), 100, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := NewReader(strings.NewReader(tt.in), tt.max).Next(); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.want == ErrMalformed {
				return
			}
			src := io.MultiReader(strings.NewReader(tt.in), iotest.ErrReader(broken))
			if _, _, err := NewReader(src, tt.max).Next(); err != broken {
				t.Errorf("on a lost connection got %v, want %v", err, broken)
			}
		})
	}
	if _, _, err := NewReader(bytes.NewReader(frame), len(frame)-1).Next(); err != nil {
		t.Errorf("a frame just small enough: %v", err)
	}
}

// TestReaderLongNumbers: a number may take more bytes than it needs, a length too.
func TestReaderLongNumbers(t *testing.T) {
	typ, body, err := NewReader(strings.NewReader("\x84\x80\x00\x84\x85\x80\x00"), 100).Next()
	if err != nil || typ != TypeGoAway {
		t.Fatalf("got %v, %v", typ, err)
	}
	if f, err := ParseGoAway(body); err != nil || f.Delay != 5 {
		t.Errorf("got %+v, %v", f, err)
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestReaderMemory: what a peer announces costs nothing, only what it sends.
func TestReaderMemory(t *testing.T) {
	const huge = 1 << 30
	for _, tt := range []struct {
		name string
		in   []byte
		max  int
		most uint64
	}{
		{"a length beyond the limit", uvarints(huge + 1), huge, 4 << 10},
		{"a length within the limit", uvarints(huge), huge, 4 << 10},
		{"a length and some of it", append(uvarints(huge), make([]byte, 10_000)...), huge, 128 << 10},
		{"one byte", []byte{0x40}, huge, 4 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := bytes.NewReader(tt.in)
			var err error
			got := allocated(func() { _, _, err = NewReader(src, tt.max).Next() })
			if err == nil || got > tt.most {
				t.Errorf("%d bytes allocated (%v), want at most %d", got, err, tt.most)
			}
		})
	}
}

// TestReaderGivesBack: the buffer of a large frame is not kept for small ones,
// whether the stream pauses between them or not.
func TestReaderGivesBack(t *testing.T) {
	large := AppendPublish(nil, 1, 0, "", "r", make([]byte, MaxPayload))
	small := AppendPublish(nil, 2, 0, "", "r", make([]byte, 100))
	for _, tt := range []struct {
		name string
		src  pieces
	}{
		{"with a pause", pieces{large, small, small}},
		{"without", pieces{bytes.Join([][]byte{large, bytes.Repeat(small, 20_000)}, nil)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReader(&tt.src, MaxPublishFrame)
			largest, last := 0, 0
			for {
				_, _, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				last = len(r.buf)
				largest = max(largest, last)
			}
			if largest < MaxPayload || largest > 2*MaxPublishFrame {
				t.Errorf("at most %d bytes were held for a frame of %d", largest, len(large))
			}
			if last > maxStep {
				t.Errorf("%d bytes are held in the end, want at most %d", last, maxStep)
			}
		})
	}
}

// TestReaderIdle: a stream that never had much to say holds little.
func TestReaderIdle(t *testing.T) {
	ping := Append(nil, &Ping{})
	src := make(pieces, 100)
	for i := range src {
		src[i] = ping
	}
	r := NewReader(&src, MaxSmallFrame)
	for range src {
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.buf) != minStep {
		t.Errorf("%d bytes are held, want %d", len(r.buf), minStep)
	}
}

// TestReaderCopies: taking in a large frame that comes in packets moves it a few
// times, not once per packet.
func TestReaderCopies(t *testing.T) {
	frame := AppendPublish(nil, 1, 0, "", "r", make([]byte, MaxPayload))
	var src pieces
	for rest := frame; len(rest) > 0; {
		n := min(1200, len(rest))
		src = append(src, rest[:n])
		rest = rest[n:]
	}
	got := allocated(func() {
		if _, _, err := NewReader(&src, MaxPublishFrame).Next(); err != nil {
			t.Fatal(err)
		}
	})
	if want := uint64(4 * len(frame)); got > want {
		t.Errorf("%d bytes allocated for a frame of %d, want at most %d", got, len(frame), want)
	}
}

func TestReaderBuffered(t *testing.T) {
	frame := Append(nil, &GoAway{Delay: 300})
	for _, tt := range []struct {
		name string
		more []byte // behind a first frame
		want bool
	}{
		{"nothing", nil, false},
		{"a beginning", frame[:len(frame)-1], false},
		{"half a length", []byte{0x80}, false},
		{"a frame", frame, true},
		{"a frame and more", append(bytes.Clone(frame), frame[0]), true},
		{"an error", []byte{0x00}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(append(bytes.Clone(frame), tt.more...)), 100)
			if r.Buffered() {
				t.Error("something is buffered before the first read")
			}
			if _, _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
			if got := r.Buffered(); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReaderSetMax(t *testing.T) {
	large := AppendPublish(nil, 1, 0, "", "r", make([]byte, 1000))
	r := NewReader(bytes.NewReader(append(Append(nil, &Attach{}), large...)), 100)
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if !r.Buffered() {
		t.Error("the frame that is too large now is not told")
	}
	if _, _, err := r.Next(); !errors.Is(err, ErrMalformed) {
		t.Fatalf("got %v, want %v", err, ErrMalformed)
	}
	r.SetMax(2000)
	if typ, _, err := r.Next(); err != nil || typ != TypePublish {
		t.Errorf("got %v, %v", typ, err)
	}
}

// TestReaderBody: a frame's body cannot be grown into the next frame.
func TestReaderBody(t *testing.T) {
	frame := Append(nil, &GoAway{Delay: 300})
	r := NewReader(bytes.NewReader(append(bytes.Clone(frame), frame...)), 100)
	_, body, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	_ = append(body, 0xff)
	if _, body, err = r.Next(); err != nil || !bytes.Equal(body, frame[2:]) {
		t.Errorf("got %x, %v, want %x", body, err, frame[2:])
	}
}
