package partition

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/roomlog/roomlog/raftlog"
)

// TestMarkBefore: a mark is the hash after the multiple, told when the first
// entry beyond it comes.
func TestMarkBefore(t *testing.T) {
	for _, tt := range []struct {
		name       string
		last, next raftlog.Index
		want       raftlog.Index // 0: none
	}{
		{"the first of all", 0, 1, 0},
		{"the first, after no-ops", 0, MarkEvery + 3, MarkEvery},
		{"before the multiple", MarkEvery - 2, MarkEvery - 1, 0},
		{"the multiple itself", MarkEvery - 1, MarkEvery, 0},
		{"the first beyond", MarkEvery, MarkEvery + 1, MarkEvery},
		{"a jump over the multiple", MarkEvery - 1, MarkEvery + 1, MarkEvery},
		{"the second beyond", MarkEvery + 1, MarkEvery + 2, 0},
		{"a jump over two", MarkEvery - 1, 2*MarkEvery + 5, 2 * MarkEvery},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMachine()
			m.index, m.hash = tt.last, 5
			got, ok := m.markBefore(tt.next)
			if ok != (tt.want > 0) || ok && got != (Mark{tt.want, 5}) {
				t.Errorf("%+v, %v, want %d", got, ok, tt.want)
			}
		})
	}
}

// TestMarksAgree: a machine restored anywhere tells the same marks as one that
// was not.
func TestMarksAgree(t *testing.T) {
	marks := func(m *Machine, from raftlog.Index) (all []Mark, snap []byte) {
		for i := from; i < 3*MarkEvery+10; i++ {
			if mark, ok := m.markBefore(i); ok {
				all = append(all, mark)
			}
			data := encodeTick(int64(i), 1e9)
			if i%1000 == 0 || i == MarkEvery || i == 2*MarkEvery+1 {
				data = encodeCheckpoint(int64(i), m.chunks.last())
			}
			m.Apply(i, data)
			if m.view != nil {
				var b bytes.Buffer
				m.view.writeSnapshot(m, noLock{}, &b, onward)
				snap = b.Bytes()
				m.settle(1)
			}
		}
		return all, snap
	}
	whole, _ := marks(NewMachine(), 1)
	if len(whole) != 3 || whole[0].Hash == whole[1].Hash {
		t.Fatalf("%+v", whole)
	}
	for _, at := range []raftlog.Index{1000, 4000, MarkEvery, 5000, 2*MarkEvery + 1, 12000} {
		m := NewMachine()
		for i := raftlog.Index(1); i <= at; i++ {
			data := encodeTick(int64(i), 1e9)
			if i%1000 == 0 || i == MarkEvery || i == 2*MarkEvery+1 {
				data = encodeCheckpoint(int64(i), m.chunks.last())
			}
			if m.view != nil {
				m.settle(1)
			}
			m.Apply(i, data)
		}
		var b bytes.Buffer
		m.view.writeSnapshot(m, noLock{}, &b, onward)
		restored, err := readSnapshot(at, &b)
		if err != nil {
			t.Fatal(err)
		}
		rest, _ := marks(restored, at+1)
		want := slices.DeleteFunc(slices.Clone(whole), func(m Mark) bool { return m.Index < at })
		if fmt.Sprint(rest) != fmt.Sprint(want) {
			t.Errorf("restored at %d: %v, want %v", at, rest, want)
		}
	}
}
