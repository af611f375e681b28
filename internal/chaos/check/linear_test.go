package check

import "testing"

// TestPorcupineJudgesAlone: a slice is found illegal without the order of seqs.
func TestPorcupineJudgesAlone(t *testing.T) {
	append1 := step{version: 1, call: 10, ret: 20}
	for _, tt := range []struct {
		name    string
		head    step
		illegal int64
	}{
		{"a head that is too low", step{version: 0, head: true, call: 21, ret: 30}, 1},
		{"a head that may have come first", step{version: 0, head: true, call: 19, ret: 30}, 0},
		{"a head that is too high", step{version: 1, head: true, call: 1, ret: 9, lo: 1}, 1},
		{"a head of an append in between that is not known", step{version: 3, head: true, call: 21, ret: 30, lo: 1}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sum Linear
			c := New(Options{})
			steps := []step{tt.head, append1}
			if append1.rank(&steps[0]) < 0 {
				steps = []step{append1, tt.head}
			}
			c.judgeSlice(slice{room: c.room("r"), steps: steps}, &sum)
			if sum.Illegal != tt.illegal || sum.Checked != 1 || c.tally.counts()[NonLinearizable] != tt.illegal {
				t.Errorf("%+v, %d found", sum, c.tally.counts()[NonLinearizable])
			}
		})
	}
}
