package partition

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// storedLedger has had three checkpoints and a trim, and has entries behind them.
func storedLedger() *ledger {
	l := newLedger()
	l.add(encodeOpen(1e9, time.Minute, sessionIDs("anna", "ben")))
	l.add(packed(2e9,
		sent{session: "anna", counter: 1, room: "lobby", name: "Anna", payload: "hello"},
		sent{session: "ben", counter: 1, room: "match", payload: "goal"},
		sent{session: "ben", counter: 3, room: "match", payload: "too early"},
	))
	l.add(encodeCheckpoint(3e9, 0))
	l.add(packed(4e9, sent{session: "anna", counter: 2, room: "lobby", payload: "two"}))
	l.add(packed(4e9+1, sent{session: "anna", counter: 3, floor: 2, room: "lobby", payload: "three"}))
	l.add(packed(4e9+2, sent{session: "anna", counter: 3, floor: 2, room: "lobby", payload: "three"}))
	l.add(packed(4e9+3,
		sent{session: "anna", counter: 3, floor: 2, room: "lobby", payload: "three"},
		sent{session: "ben", counter: 2, floor: 2, room: "lobby", name: "Ben", payload: "four"},
		sent{session: "ben", counter: 3, floor: 2, room: "a", payload: "a"},
	))
	l.add(encodeCheckpoint(5e9, 3))
	l.add(encodeTrim(6e9, 3, []prefixFloor{{prefix: "a", index: 8}}))
	l.add(encodeTick(6e9, time.Minute))
	l.add(packed(7e9, sent{session: "ben", counter: 4, floor: 4, room: "match", payload: "again"}))
	l.add(encodeCheckpoint(8e9, 8))
	l.add(packed(9e9, sent{session: "ben", counter: 5, floor: 4, room: "match", payload: "end"}))
	return l
}

// TestGoldenFiles holds the bytes of snapshots and index files fast.
func TestGoldenFiles(t *testing.T) {
	l := storedLedger()
	for _, index := range []raftlog.Index{3, 8, 12} {
		for kind, data := range map[string][]byte{"snapshot": l.snaps[index], "rooms": l.files[index]} {
			path := filepath.Join("testdata", "golden", fmt.Sprintf("%s-%d.txt", kind, index))
			text := fmt.Sprintf("%s at the checkpoint %d of storedLedger\n\n%s", kind, index, hex.Dump(data))
			if rewriting() {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != text || !bytes.Equal(undump(t, string(want)), data) {
				t.Errorf("%s has\n%s\nnow it is\n%s", path, want, text)
			}
		}
	}
}

// TestSnapshotDamaged: no beginning of a snapshot is one, nor is one with more
// behind it, of another index, or of a later version.
func TestSnapshotDamaged(t *testing.T) {
	l := storedLedger()
	for index, snap := range l.snaps {
		for n := range snap {
			if _, err := readSnapshot(index, bytes.NewReader(snap[:n])); !errors.Is(err, errSnapshot) {
				t.Errorf("the first %d bytes of %d: %v", n, len(snap), err)
			}
		}
		later := bytes.Clone(snap)
		later[0]++
		for what, err := range map[string]error{
			"more behind it":  second(readSnapshot(index, strings.NewReader(string(snap)+"x"))),
			"another index":   second(readSnapshot(index+1, bytes.NewReader(snap))),
			"a later version": second(readSnapshot(index, bytes.NewReader(later))),
		} {
			if want := map[bool]error{true: errSnapshotVersion, false: errSnapshot}[what == "a later version"]; !errors.Is(err, want) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

func second[A any](_ A, err error) error { return err }

// FuzzSnapshot reads any bytes. What is taken is sound, goes on, and is written
// again as it was.
func FuzzSnapshot(f *testing.F) {
	l := storedLedger()
	for index, snap := range l.snaps {
		f.Add(uint64(index), snap)
	}
	f.Fuzz(func(t *testing.T, index uint64, data []byte) {
		m, err := readSnapshot(raftlog.Index(index), bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, errSnapshot) && !errors.Is(err, errSnapshotVersion) {
				t.Fatal(err)
			}
			return
		}
		// As if the checkpoint had just been applied.
		m.view = &view{
			index: m.index, rooms: m.table.len(), slots: len(m.sessions.slots), saved: map[*room]roomState{},
			hash: m.hash, wall: m.wall, clock: m.clock, ttl: m.ttl, chunks: m.chunks,
		}
		m.sessions.freeze()
		var again bytes.Buffer
		if err := m.view.writeSnapshot(m, noLock{}, &again, onward); err != nil {
			t.Fatal(err)
		}
		twice, err := readSnapshot(m.index, bytes.NewReader(again.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		m.view = nil
		m.sessions.thaw()
		if twice.dump() != m.dump() {
			t.Fatalf("written again it is\n%s\nit was\n%s", twice.dump(), m.dump())
		}
		if m.index < 1<<60 {
			m.Apply(m.index+1, goldenEntries[1].data)
			m.Apply(m.index+1, encodeCheckpoint(1, m.chunks.last()))
			if m.view != nil {
				if err := m.settle(1); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
