package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/raftlog"
)

// TestVerify: what a replica keeps is what its log makes, and every byte of it
// is looked at.
func TestVerify(t *testing.T) {
	l := storedLedger()
	from := raftlog.Index(0)
	for _, to := range []raftlog.Index{3, 8, 12} {
		start := func() io.Reader {
			if from == 0 {
				return nil
			}
			return bytes.NewReader(l.snaps[from])
		}
		check := func(snap, rooms []byte) (error, error) {
			return VerifySnapshot(ledgerGroup, from, start(), entriesOf(l, from+1, l.last), bytes.NewReader(snap)),
				VerifyChunk(ledgerGroup, from, start(), entriesOf(l, from+1, l.last), bytes.NewReader(rooms))
		}
		snap, rooms := l.snaps[to], l.files[to]
		if bad, worse := check(snap, rooms); bad != nil || worse != nil {
			t.Errorf("chunk %d to %d: %v, %v", from, to, bad, worse)
		}
		differs := func(what string, at int, snap, rooms []byte) {
			t.Helper()
			for _, err := range slices.Collect(func(yield func(error) bool) {
				bad, worse := check(snap, rooms)
				_ = yield(bad) && yield(worse)
			}) {
				var d *DifferenceError
				if !errors.As(err, &d) || at >= 0 && int(d.Offset) != at {
					t.Errorf("chunk %d to %d: %s at %d: %v", from, to, what, at, err)
				}
			}
		}
		for at := range min(len(snap), len(rooms)) {
			differs("flipped", at, flip(snap, at), flip(rooms, at))
			differs("cut", at, snap[:at], rooms[:at])
		}
		for at := range max(len(snap), len(rooms)) {
			differs("flipped near the end", -1, flip(snap, min(at, len(snap)-1)), flip(rooms, min(at, len(rooms)-1)))
		}
		differs("more", -1, append(bytes.Clone(snap), 0), append(bytes.Clone(rooms), 0))
		from = to
	}
}

func flip(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 1
	return data
}

// TestReplayOnward: one replay goes through all chunks, from the beginning or
// from any snapshot, and ends up with the same hash.
func TestReplayOnward(t *testing.T) {
	l := storedLedger()
	for _, from := range []raftlog.Index{0, 3, 8, 12} {
		var snap io.Reader
		if from > 0 {
			snap = bytes.NewReader(l.snaps[from])
		}
		r, err := NewReplay(ledgerGroup, from, snap)
		if err != nil {
			t.Fatal(err)
		}
		seen := ""
		for e := range entriesOf(l, from+1, l.last) {
			done, err := r.Apply(e)
			if err != nil {
				t.Fatal(err)
			}
			if done {
				seen += fmt.Sprint(e.Index, " ")
				if err := errors.Join(r.CheckRooms(bytes.NewReader(l.files[e.Index])), r.CheckSnapshot(bytes.NewReader(l.snaps[e.Index]))); err != nil {
					t.Errorf("from %d, at %d: %v", from, e.Index, err)
				}
			}
		}
		if !strings.HasSuffix("3 8 12 ", seen) || r.Hash() != l.hash || r.Index() != l.last {
			t.Errorf("from %d: checkpoints %s, hash %x after entry %d, want %x after %d", from, seen, r.Hash(), r.Index(), l.hash, l.last)
		}
	}
}

func TestReplayFails(t *testing.T) {
	l := storedLedger()
	r, _ := NewReplay(ledgerGroup, 0, nil)
	if _, err := r.Chunk(entriesOf(l, 1, 2)); err == nil {
		t.Error("a chunk without a checkpoint")
	}
	if _, err := r.Apply(raftlog.Entry{Index: 2, Data: l.entries[2]}); err == nil {
		t.Error("an entry twice")
	}
	if _, err := r.Apply(raftlog.Entry{Index: 3, Data: []byte{entryVersion}}); err != nil {
		t.Errorf("a malformed entry, which replicas pass over: %v", err)
	}
	if _, err := r.Apply(raftlog.Entry{Index: 4, Data: []byte{entryVersion + 1}}); !errors.Is(err, errEntryVersion) {
		t.Errorf("an entry of a later version: %v", err)
	}
	if _, err := NewReplay(ledgerGroup, 3, strings.NewReader("?")); !errors.Is(err, errSnapshotVersion) {
		t.Errorf("a snapshot that is none: %v", err)
	}
	delete(l.entries, 2)
	if _, err := r.Chunk(entriesOf(l, 2, 3)); !errors.Is(err, raftlog.ErrNotFound) {
		t.Errorf("a missing entry: %v", err)
	}
	if _, err := r.Chunk(entriesOf(l, 100, 101)); !errors.Is(err, errAhead) {
		t.Errorf("an entry to come: %v", err)
	}
}
