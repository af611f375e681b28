package raftlog

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestTimes plays what happens to entries, and compares what their Times are
// with what they should be. A step takes place so many milliseconds after the
// one before: p is a proposal, [ and ] begin and end a write of the next entry,
// x ends one that failed, and the StateMachine is given the next entry at { and is
// done with it at }. K tells that by then raft knows two entries more to be
// committed.
func TestTimes(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		after time.Duration
		what  string
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  []Times // but for Taken
	}{
		{
			"one entry",
			[]step{{0, "p"}, {1, "["}, {2, "]"}, {4, "{"}, {8, "}"}},
			[]Times{{Append: 2 * ms, Commit: 4 * ms}},
		}, {
			"the second one is written while the first one is on its way",
			[]step{{0, "["}, {2, "]"}, {1, "["}, {5, "]"}, {1, "{"}, {0, "}"}, {3, "{"}, {0, "}"}},
			[]Times{{Append: 7 * ms, Commit: 2 * ms}, {Loop: LoopTime(2 * ms), Append: 5 * ms, Commit: 4 * ms}},
		}, {
			"the second one is being written when the first one is handed on",
			[]step{{0, "["}, {2, "]"}, {1, "["}, {5, "{"}, {0, "}"}, {3, "]"}, {1, "{"}, {0, "}"}},
			[]Times{{Append: 7 * ms, Commit: 1 * ms}, {Loop: LoopTime(2 * ms), Append: 8 * ms, Commit: 1 * ms}},
		}, {
			"the loop leaves the second one lying while the first one is on its way",
			[]step{{0, "["}, {2, "]"}, {1, "p"}, {6, "["}, {1, "]"}, {1, "{"}, {0, "}"}, {0, "{"}, {0, "}"}},
			[]Times{{Append: 3 * ms, Held: 6 * ms, Commit: 2 * ms}, {Loop: LoopTime(2 * ms), Append: 1 * ms, Commit: 1 * ms}},
		}, {
			"the second one comes during the write of the first one, and lies behind it",
			[]step{{0, "["}, {2, "p"}, {3, "]"}, {4, "["}, {1, "]"}, {1, "{"}, {0, "}"}, {0, "{"}, {0, "}"}},
			[]Times{{Append: 6 * ms, Held: 4 * ms, Commit: 1 * ms}, {Loop: LoopTime(5 * ms), Append: 1 * ms, Commit: 1 * ms}},
		}, {
			"the second one is written and the third one lies behind it, while the first one is on its way",
			[]step{{0, "["}, {2, "]"}, {1, "["}, {2, "p"}, {3, "]"}, {2, "["}, {1, "{"}, {0, "}"}},
			[]Times{{Append: 8 * ms, Held: 2 * ms, Commit: 1 * ms}},
		}, {
			"the second one waits for the machine, which has the first one",
			[]step{{0, "["}, {1, "]"}, {1, "{"}, {1, "["}, {1, "]"}, {6, "}K"}, {1, "{"}, {0, "}"}},
			[]Times{{Append: 1 * ms, Commit: 1 * ms}, {Loop: LoopTime(1 * ms), Append: 1 * ms, Wait: 7 * ms}},
		}, {
			"the second one is committed before the machine has the first one",
			[]step{{0, "["}, {1, "]"}, {1, "["}, {1, "]"}, {2, "{"}, {6, "}K"}, {1, "{"}, {0, "}"}},
			[]Times{{Append: 2 * ms, Commit: 3 * ms}, {Loop: LoopTime(1 * ms), Append: 1 * ms, Commit: 2 * ms, Wait: 7 * ms}},
		}, {
			"the machine is done before the second one is committed",
			[]step{{0, "["}, {1, "]"}, {1, "["}, {1, "]"}, {2, "{"}, {6, "}"}, {1, "{"}, {0, "}"}},
			[]Times{{Append: 2 * ms, Commit: 3 * ms}, {Loop: LoopTime(1 * ms), Append: 1 * ms, Commit: 9 * ms}},
		}, {
			"a write that fails counts as one",
			[]step{{0, "["}, {1, "]"}, {1, "["}, {3, "x"}, {1, "{"}, {0, "}"}},
			[]Times{{Append: 4 * ms, Commit: 2 * ms}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &stopwatch{}
				var taken []time.Time
				wrote, gave := uint64(0), uint64(0)
				for _, s := range tt.steps {
					time.Sleep(s.after * ms)
					switch s.what {
					case "p":
						w.proposed()
					case "[":
						taken = append(taken, time.Now())
						w.begin()
					case "]":
						wrote++
						w.end([]*raft.Log{{Index: wrote}})
					case "x":
						w.end(nil)
					case "{":
						gave++
						entries := []Entry{{Index: Index(gave)}}
						w.hand(entries)
						want := tt.want[gave-1]
						want.Taken = taken[gave-1]
						if got := entries[0].Times; got != want {
							t.Errorf("entry %d: %+v, want %+v", gave, got, want)
						}
					case "}", "}K":
						known := gave
						if s.what == "}K" {
							known += 2
						}
						w.handed(known)
					}
				}
			})
		})
	}
}

// TestTimesOfOthers: an entry of an earlier life or of long ago has none, and one
// that was written twice has those of the second time.
func TestTimesOfOthers(t *testing.T) {
	w := &stopwatch{}
	write := func(first, last uint64) {
		w.begin()
		w.end([]*raft.Log{{Index: first}, {Index: last}})
	}
	times := func(index Index) Times {
		entries := []Entry{{Index: index}}
		w.hand(entries)
		return entries[0].Times
	}
	write(5, 9)
	if got := times(4); got != (Times{}) {
		t.Errorf("of an earlier life: %+v", got)
	}
	first := times(7).Taken
	write(6, 8) // after a cut
	if got := times(7).Taken; !got.After(first) {
		t.Errorf("written again: %v after %v", got, first)
	}
	if got := times(9).Taken; got != first {
		t.Errorf("of the first write: %v, want %v", got, first)
	}
	for i := range uint64(len(w.spans)) {
		write(10+i, 10+i)
	}
	if got := times(7); got != (Times{}) {
		t.Errorf("of long ago: %+v", got)
	}
	if got := times(10).Taken; got.IsZero() {
		t.Error("the oldest write that is kept is not found")
	}
}

// BenchmarkStopwatch is what an entry costs.
func BenchmarkStopwatch(b *testing.B) {
	w := &stopwatch{}
	entries := make([]Entry, 1)
	logs := []*raft.Log{{}}
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		w.proposed()
		w.begin()
		logs[0].Index, entries[0].Index = i, Index(i)
		w.end(logs)
		w.hand(entries)
		w.handed(i)
	}
}
