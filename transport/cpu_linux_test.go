package transport

import "testing"

func TestParseStat(t *testing.T) {
	for _, tt := range []struct {
		text      string
		busy, all uint64
	}{
		{"cpu  414 1 163 560 15 2 25 49 7 8\ncpu0 1 2 3\n", 414 + 1 + 163 + 2 + 25 + 49, 414 + 1 + 163 + 560 + 15 + 2 + 25 + 49},
		{"cpu  4 1 3 6 5\n", 8, 19},
		{"cpu  414 1 163 560 15 2 25 49 7 8", 0, 0}, // cut short
		{"cpu  4 x 3 6 5\n", 0, 0},
		{"cpu0 4 1 3 6 5\n", 0, 0},
		{"", 0, 0},
	} {
		if busy, all := parseStat([]byte(tt.text)); busy != tt.busy || all != tt.all {
			t.Errorf("parseStat(%q) = %d, %d, want %d, %d", tt.text, busy, all, tt.busy, tt.all)
		}
	}
	if c := readCPU(); c.all == 0 || c.busy > c.all {
		t.Errorf("this machine's times are %+v", c)
	}
}
