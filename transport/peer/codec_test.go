package peer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	goldenHello = hello{
		kind: kindStream, instance: instance{0: 0xa0, 15: 0xaf}, group: 0x01020304, from: "n1", to: "n2", cluster: "c",
	}
	goldenAnswer = answer{
		status: statusDuplicate, instance: instance{0: 0xb0, 15: 0xbf}, node: "n2", reason: "no", info: []byte("i"),
	}
	goldenPing = frame{typ: framePing, nonce: 0x0102}
	goldenPong = frame{typ: framePong, nonce: 0x0102, received: 3, sent: -1}
	goldenMark = frame{typ: frameMark, mark: Mark{Group: 0x01020304, Index: 4096, Hash: 0xfedcba9876543210}}
	goldenAsk  = frame{typ: frameAsk, nonce: 0x0102, group: 7}
	goldenTold = frame{typ: frameTold, nonce: 0x0102, known: true, state: State{Leader: "n3", Term: 5, Last: 0x0900}}
	goldenHeir = frame{typ: frameHeir, nonce: 0x0102, group: 7}
	goldenAway = frame{typ: frameTold, nonce: 0x0102, known: true, state: State{Leader: "n3", Term: 5, Last: 0x0900, Draining: true}}
	goldenNo   = frame{typ: frameTold, nonce: 0x0102}

	goldenPush = frame{typ: framePush, push: Push{Group: 0x01020304, Index: 0x0900, Term: 5}}

	goldenBeat = frame{typ: frameBeat, nonce: 0x0102, beat: Beat{Group: 7, Term: 5}}
	goldenGood = frame{typ: frameBeaten, nonce: 0x0102, known: true, answer: BeatAnswer{Term: 5, Last: 0x0900, OK: true}}
	goldenBad  = frame{typ: frameBeaten, nonce: 0x0102, known: true, answer: BeatAnswer{Term: 6, Last: 0x0900}}
	goldenMute = frame{typ: frameBeaten, nonce: 0x0102}

	goldenSuspect = frame{typ: frameSuspect, nonce: 0x0102, node: "n3"}
	goldenVerdict = frame{typ: frameVerdict, nonce: 0x0102, known: true}
	goldenDrained = frame{typ: frameDrained, known: true}

	goldenFrames = []frame{goldenDrained, goldenHeir, goldenAway, goldenSuspect, goldenVerdict, goldenPing, goldenPong, goldenMark, goldenAsk, goldenTold, goldenNo, goldenPush, goldenBeat, goldenGood, goldenBad, goldenMute}
)

// The bytes of version 6 never change.
func TestGoldenBytes(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"hello", goldenHello.append(nil), "524c5048 06 1d00" +
			"02 a00000000000000000000000000000af 04030201 026e31 026e32 0163"},
		{"answer", goldenAnswer.append(nil), "524c5041 06 1a00" +
			"06 b00000000000000000000000000000bf 026e32 026e6f 0100 69"},
		{"ping", goldenPing.append(nil), "0900 01 0201000000000000"},
		{"pong", goldenPong.append(nil), "1900 02 0201000000000000 0300000000000000 ffffffffffffffff"},
		{"mark", goldenMark.append(nil), "1500 03 04030201 0010000000000000 1032547698badcfe"},
		{"ask", goldenAsk.append(nil), "0d00 04 0201000000000000 07000000"},
		{"told", goldenTold.append(nil), "1d00 05 0201000000000000 01 0500000000000000 0009000000000000 026e33"},
		{"heir", goldenHeir.append(nil), "0d00 0b 0201000000000000 07000000"},
		{"told, draining", goldenAway.append(nil), "1d00 05 0201000000000000 02 0500000000000000 0009000000000000 026e33"},
		{"push", goldenPush.append(nil), "1500 06 04030201 0009000000000000 0500000000000000"},
		{"beat", goldenBeat.append(nil), "1500 07 0201000000000000 07000000 0500000000000000"},
		{"beaten, accepted", goldenGood.append(nil), "1a00 08 0201000000000000 02 0500000000000000 0009000000000000"},
		{"beaten, refused", goldenBad.append(nil), "1a00 08 0201000000000000 01 0600000000000000 0009000000000000"},
		{"beaten, no answer", goldenMute.append(nil), "1a00 08 0201000000000000 00 0000000000000000 0000000000000000"},
		{"suspect", goldenSuspect.append(nil), "0c00 09 0201000000000000 026e33"},
		{"verdict", goldenVerdict.append(nil), "0a00 0a 0201000000000000 01"},
		{"drained", goldenDrained.append(nil), "0200 0c 01"},
		{"told nothing", goldenNo.append(nil), "1b00 05 0201000000000000 00 0000000000000000 0000000000000000 00"},
	} {
		if want := strings.ReplaceAll(tt.want, " ", ""); hex.EncodeToString(tt.got) != want {
			t.Errorf("%s is %x, want %s", tt.name, tt.got, want)
		}
	}
}

func TestDecodeGolden(t *testing.T) {
	h, err := readHello(bytes.NewReader(goldenHello.append(nil)))
	if err != nil || h != goldenHello {
		t.Errorf("hello %+v, %v", h, err)
	}
	a, err := readAnswer(bytes.NewReader(goldenAnswer.append(nil)))
	if err != nil || !reflect.DeepEqual(a, goldenAnswer) {
		t.Errorf("answer %+v, %v", a, err)
	}
	for _, want := range goldenFrames {
		if f, err := readFrame(bytes.NewReader(want.append(nil))); err != nil || f != want {
			t.Errorf("frame %+v, %v", f, err)
		}
	}
}

func TestBadHandshakes(t *testing.T) {
	good := goldenHello.append(nil)
	with := func(at int, b ...byte) []byte {
		bad := bytes.Clone(good)
		copy(bad[at:], b)
		return bad
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"half a prefix", good[:3], io.ErrUnexpectedEOF},
		{"half a body", good[:20], io.ErrUnexpectedEOF},
		{"other magic", with(0, 'X'), errMalformed},
		{"an answer", goldenAnswer.append(nil), errMalformed},
		{"other version", with(4, 1), versionError(1)},
		{"beyond the bound", with(5, 0xff, 0xff), errMalformed},
		{"unknown kind", with(7, 3), errMalformed},
		{"a string too long for the body", with(28, 200), errMalformed},
		{"bytes left over", with(34, 0), errMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := readHello(bytes.NewReader(tt.in)); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestBadFrames(t *testing.T) {
	told := func(change ...byte) []byte { // known, then the lowest byte of the term
		b := goldenTold.append(nil)
		copy(b[11:], change)
		return b
	}
	long := frame{typ: frameTold, known: true, state: State{Leader: strings.Repeat("l", maxString)}}
	if got, err := readFrame(bytes.NewReader(long.append(nil))); err != nil || got != long {
		t.Errorf("the longest frame: %v", err)
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"no type", []byte{0, 0}, "type 0"},
		{"unknown type", []byte{1, 0, 6}, "type 6"},
		{"a short mark", append([]byte{0x14, 0}, goldenMark.append(nil)[2:22]...), "type 3: cut short"},
		{"a long ask", append([]byte{0x0e, 0}, append(goldenAsk.append(nil)[2:], 0)...), "type 4: 1 bytes too many"},
		{"known neither 0, 1 nor 2", told(3), "known is 3"},
		{"not known, with a term", told(0, 9), "known is 0"},
		{"dead neither 0 nor 1", append(goldenVerdict.append(nil)[:11], 2), "dead is 2"},
		{"drained neither 0 nor 1", []byte{2, 0, byte(frameDrained), 2}, "yes is 2"},
		{"one byte beyond the longest", []byte{0x1b, 0x01}, "283 bytes, at most 282"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := readFrame(bytes.NewReader(tt.in)); !errors.Is(err, errMalformed) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// A length alone takes no memory beyond the bound, and a reader takes nothing
// of what follows.
func TestReadersStopAtTheEnd(t *testing.T) {
	rest := "what follows"
	r := strings.NewReader(string(goldenHello.append(nil)) + rest)
	if _, err := readHello(r); err != nil || r.Len() != len(rest) {
		t.Errorf("after a hello %d bytes are left, %v", r.Len(), err)
	}
	r = strings.NewReader(string(goldenPong.append(nil)) + rest)
	if _, err := readFrame(r); err != nil || r.Len() != len(rest) {
		t.Errorf("after a frame %d bytes are left, %v", r.Len(), err)
	}
	if _, err := readFrame(strings.NewReader("\xff\xff")); !errors.Is(err, errMalformed) {
		t.Errorf("frame beyond the bound: %v", err)
	}
	long := answer{reason: strings.Repeat("r", 1000)}.append(nil)
	if a, err := readAnswer(bytes.NewReader(long)); err != nil || len(a.reason) != maxString {
		t.Errorf("a long reason is cut to %d bytes, %v", len(a.reason), err)
	}
}

func FuzzHello(f *testing.F) {
	f.Add(goldenHello.append(nil))
	f.Add(goldenAnswer.append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := readHello(bytes.NewReader(in))
		if err != nil {
			return
		}
		if again := h.append(nil); !bytes.HasPrefix(in, again) {
			t.Errorf("%x was read as %+v, which is written %x", in, h, again)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(goldenAnswer.append(nil))
	f.Add(answer{info: make([]byte, maxInfo)}.append(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := readAnswer(bytes.NewReader(in))
		if err != nil {
			return
		}
		if again := a.append(nil); !bytes.HasPrefix(in, again) {
			t.Errorf("%x was read as %+v, which is written %x", in, a, again)
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, golden := range goldenFrames {
		f.Add(golden.append(nil))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, err := readFrame(bytes.NewReader(in))
		if err != nil {
			return
		}
		if again := fr.append(nil); !bytes.HasPrefix(in, again) {
			t.Errorf("%x was read as %+v, which is written %x", in, fr, again)
		}
	})
}

func TestMeasure(t *testing.T) {
	const ms = time.Millisecond
	start := time.Now()
	at := func(d time.Duration) int64 { return start.Add(d).UnixNano() }
	for _, tt := range []struct {
		name           string
		received, sent int64
		arrived        time.Duration
		want           sample
		ok             bool
	}{
		{"same clock", at(5 * ms), at(7 * ms), 12 * ms, sample{10 * ms, 0}, true},
		{"theirs is ahead", at(105 * ms), at(107 * ms), 12 * ms, sample{10 * ms, 100 * ms}, true},
		{"theirs is behind", at(-95 * ms), at(-93 * ms), 12 * ms, sample{10 * ms, -100 * ms}, true},
		{"all of the way out", at(10 * ms), at(10 * ms), 10 * ms, sample{10 * ms, 5 * ms}, true},
		{"sent before received", at(7 * ms), at(5 * ms), 12 * ms, sample{}, false},
		{"held longer than the round trip", at(0), at(13 * ms), 12 * ms, sample{}, false},
		{"held exactly so long", at(0), at(12 * ms), 12 * ms, sample{0, 0}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := measure(start, start.Add(tt.arrived), tt.received, tt.sent)
			if got != tt.want || ok != tt.ok {
				t.Errorf("measured %v, %v, want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestClockTakesTheBestOfTheLastEight(t *testing.T) {
	var c clock
	if c.best() != (sample{}) {
		t.Error("a reading without a sample")
	}
	c.add(sample{rtt: 1, offset: 100})
	for range 7 {
		c.add(sample{rtt: 5, offset: 50})
	}
	if got := c.best(); got.offset != 100 {
		t.Errorf("best %+v, want the first", got)
	}
	c.add(sample{rtt: 4, offset: 40})
	if got := c.best(); got.offset != 40 {
		t.Errorf("best %+v, want the ninth: the first is too old", got)
	}
}
