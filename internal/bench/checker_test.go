package bench

import "testing"

func TestChecker(t *testing.T) {
	for _, tt := range []struct {
		name      string
		seen      []uint64
		published uint64
		want      Faults
	}{
		{"nothing published", nil, 0, Faults{}},
		{"all in order", []uint64{0, 1, 2}, 3, Faults{}},
		{"the last two have not come", []uint64{0}, 3, Faults{Missing: 2}},
		{"nothing has come", nil, 3, Faults{Missing: 3}},
		{"the first is missing", []uint64{1, 2}, 3, Faults{Missing: 1}},
		{"a gap of two", []uint64{0, 3}, 4, Faults{Missing: 2}},
		{"one twice", []uint64{0, 1, 1, 2}, 3, Faults{Duplicates: 1}},
		{"the last one three times", []uint64{0, 0, 0}, 1, Faults{Duplicates: 2}},
		{"two swapped", []uint64{1, 0, 2}, 3, Faults{Reordered: 1}},
		{"one far behind", []uint64{1, 2, 3, 0}, 4, Faults{Reordered: 1}},
		{"one behind, and again", []uint64{1, 0, 0}, 2, Faults{Reordered: 1, Duplicates: 1}},
		{"one of each", []uint64{2, 1, 3, 3}, 5, Faults{Missing: 2, Duplicates: 1, Reordered: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c checker
			for _, n := range tt.seen {
				c.see(n)
			}
			if got := c.end(tt.published); got != tt.want {
				t.Errorf("saw %v of %d: %+v, want %+v", tt.seen, tt.published, got, tt.want)
			}
		})
	}
}
