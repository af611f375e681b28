package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/raft"
)

func testHead() snapshotHead {
	return snapshotHead{group: 7, index: 4711, term: 12, confIndex: 99, conf: raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: "n1", Address: "n1"},
		{Suffrage: raft.Nonvoter, ID: "n2", Address: "10.0.0.1:7410"},
		{Suffrage: raft.Staging, ID: "", Address: raft.ServerAddress(strings.Repeat("x", 300))},
	}}}
}

// snapshotBytes returns a snapshot's stream.
func snapshotBytes(t testing.TB, h snapshotHead, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	err := writeSnapshot(&b, &h, func(w io.Writer) error {
		_, err := w.Write(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSnapshotStream(t *testing.T) {
	for _, size := range []int{0, 1, 15, 16, 17, 4096, 256<<10 - snapshotTrailer, 256 << 10, 1<<20 + 5} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			want := testHead()
			body := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7}, size/7+1)[:size]
			stream := snapshotBytes(t, want, body)
			for name, from := range map[string]io.Reader{
				"at once":                 bytes.NewReader(stream),
				"byte by byte":            iotest.OneByteReader(bytes.NewReader(stream)),
				"EOF with the last bytes": iotest.DataErrReader(bytes.NewReader(stream)),
			} {
				if name == "byte by byte" && size > 1<<18 {
					continue
				}
				r, err := readSnapshot(from, 7)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(r.head, want) {
					t.Errorf("%s: the head is %+v", name, r.head)
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("%s: the body has %d bytes, %v", name, len(got), err)
				}
			}
			if err := iotest.TestReader(mustRead(t, stream), body); err != nil && size < 5000 {
				t.Error(err)
			}
		})
	}
	broken := errors.New("broken")
	if err := writeSnapshot(io.Discard, &snapshotHead{}, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a body that fails gives %v", err)
	}
}

func mustRead(t *testing.T, stream []byte) *snapshotReader {
	t.Helper()
	r, err := readSnapshot(bytes.NewReader(stream), 7)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func readStream(stream []byte) ([]byte, error) {
	r, err := readSnapshot(bytes.NewReader(stream), 7)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Every byte counts.
func TestSnapshotStreamWithDamage(t *testing.T) {
	stream := snapshotBytes(t, testHead(), []byte("some state of a machine"))
	for i := range stream {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(stream)
			changed[i] ^= bit
			if _, err := readStream(changed); err == nil {
				t.Errorf("byte %d of %d changed, and nobody noticed", i, len(stream))
			}
		}
		_, err := readStream(stream[:i])
		if _, ok := errors.AsType[*snapshotFault](err); !ok {
			t.Errorf("cut to %d of %d bytes: %v", i, len(stream), err)
		}
	}
	if _, err := readStream(append(bytes.Clone(stream), 0)); err == nil {
		t.Error("one byte more, and nobody noticed")
	}
	if _, err := readSnapshot(bytes.NewReader(stream), 8); err == nil || !strings.Contains(err.Error(), "group 7") {
		t.Errorf("another group's: %v", err)
	}
	broken := errors.New("broken")
	r, err := readSnapshot(io.MultiReader(bytes.NewReader(stream[:len(stream)-8]), iotest.ErrReader(broken)), 7)
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if !errors.Is(err, broken) {
		t.Errorf("a reader that fails gives %v", err)
	}
}

// Whatever comes, it is refused or it is what would be written.
func FuzzSnapshotStream(f *testing.F) {
	f.Add(snapshotBytes(f, testHead(), []byte("state")))
	f.Add(snapshotBytes(f, snapshotHead{group: 7, index: 1, term: 1}, nil))
	f.Add([]byte("RLSN"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, err := readSnapshot(bytes.NewReader(stream), 7)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return
		}
		if again := snapshotBytes(t, r.head, body); !bytes.Equal(again, stream) {
			t.Errorf("%x was read, and would be written as %x", stream, again)
		}
	})
}

// The fuzzer does not find the checksum of a head.
func FuzzSnapshotConfiguration(f *testing.F) {
	f.Add(encodeConf(testHead().conf))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := decodeConf(b); err == nil && !bytes.Equal(encodeConf(c), b) {
			t.Errorf("%x was read as %+v", b, c)
		}
	})
}
