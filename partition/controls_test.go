//go:build controls

package partition

import (
	"slices"
	"testing"
	"time"
)

// eachWay runs a test without a bug, which must do no harm, and with it, which must.
func eachWay(t *testing.T, control string, harm func(t *testing.T) bool) {
	for _, name := range []string{"none", control} {
		t.Run(name, func(t *testing.T) {
			Seed(name)
			t.Cleanup(func() { Seed("") })
			if got, want := harm(t), name == control; got != want {
				t.Errorf("harm is done: %v, want %v", got, want)
			}
		})
	}
}

// mustAdd applies an entry that all replicas take.
func (l *ledger) mustAdd(t *testing.T, data []byte) Outcome {
	t.Helper()
	out, err := l.add(data)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A retry of what came before a checkpoint is taken for a new message, also by a
// replica that has begun there.
func TestControlForgetSessions(t *testing.T) {
	eachWay(t, "forget-sessions", func(t *testing.T) bool {
		l := newLedger()
		l.mustAdd(t, encodeOpen(1, time.Minute, sessionIDs("p")))
		l.mustAdd(t, packed(2, sent{session: "p", counter: 1, floor: 1, room: "r", payload: "a"}, sent{session: "p", counter: 2, floor: 1, room: "r", payload: "b"}))
		l.mustAdd(t, encodeCheckpoint(3, 0))
		again, err := l.restored(l.last)
		if err != nil {
			t.Fatal(err)
		}
		retry := packed(4, sent{session: "p", counter: 2, floor: 1, room: "r", payload: "b"})
		a := again.mustAdd(t, retry).Answers[0]
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		if b := l.mustAdd(t, retry).Answers[0]; a != b {
			t.Errorf("replicas answer %+v and %+v", a, b)
		}
		next := packed(5, sent{session: "p", counter: 3, floor: 3, room: "r", payload: "c"})
		if a := again.mustAdd(t, next).Answers[0]; a.Err != nil {
			t.Errorf("the session does not go on: %v", a.Err)
		}
		if err := checkMachine(again.Machine); err != nil {
			t.Error(err)
		}
		return !a.Duplicate && a.Seq == 3
	})
}

// A retry uses up a number, and so does what never got into the log. Readers of the
// memory and of the log have the same holes.
func TestControlLeaderCounter(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spend func(t *testing.T, propose func(...sent) []byte, add func([]byte))
	}{
		{"retry", func(t *testing.T, propose func(...sent) []byte, add func([]byte)) {
			add(propose(sent{session: "p", counter: 2, floor: 1, room: "r", payload: "b"}))
		}},
		{"lost", func(t *testing.T, propose func(...sent) []byte, add func([]byte)) {
			propose(sent{session: "p", counter: 3, floor: 1, room: "r", payload: "c"})
		}},
		{"retry and more", func(t *testing.T, propose func(...sent) []byte, add func([]byte)) {
			add(propose(sent{session: "p", counter: 2, floor: 1, room: "r", payload: "b"}, sent{session: "q", counter: 1, floor: 1, room: "r", payload: "d"}))
			propose(sent{session: "p", counter: 3, floor: 1, room: "r", payload: "c"})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachWay(t, "leader-counter", func(t *testing.T) bool {
				l := newLedger()
				leader := newForesight(&Partition{machine: l.Machine})
				now := int64(1)
				propose := func(all ...sent) []byte {
					now++
					data := packed(now, all...)
					if seededLeaderCounter {
						data = leader.stamp(data, messagesOf(all))
					}
					return data
				}
				add := func(data []byte) { l.mustAdd(t, data) }
				add(encodeOpen(now, time.Minute, sessionIDs("p", "q")))
				add(propose(sent{session: "p", counter: 1, floor: 1, room: "r", payload: "a"}, sent{session: "p", counter: 2, floor: 1, room: "r", payload: "b"}))
				tt.spend(t, propose, add)
				add(propose(sent{session: "p", counter: 3, floor: 1, room: "r", payload: "c"}))
				read, err := l.read("r", 1)
				if err != nil {
					t.Fatal(err)
				}
				var seqs []Seq
				for _, m := range read {
					seqs = append(seqs, m.seq)
				}
				if last := l.rooms["r"].last; seqs[len(seqs)-1] != last {
					t.Errorf("the log reads %v, the machine is at %d", seqs, last)
				}
				if got, err := l.read("r", 3); err != nil || len(got) != len(read)-2 {
					t.Errorf("from seq 3 on: %v, %v", got, err)
				}
				if !slices.IsSorted(seqs) || len(slices.Compact(slices.Clone(seqs))) != len(seqs) {
					t.Errorf("seqs %v", seqs)
				}
				return seqs[len(seqs)-1] != Seq(len(seqs))
			})
		})
	}
}
