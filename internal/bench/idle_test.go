package bench

import "testing"

func TestAtRest(t *testing.T) {
	for _, tt := range []struct {
		name  string
		looks []int64
		want  bool
	}{
		{"too few", []int64{1000, 1000, 1000, 1000, 1000}, false},
		{"the same", []int64{1000, 1000, 1000, 1000, 1000, 1000}, true},
		{"falling", []int64{1007, 1005, 1004, 1003, 1002, 1000}, false},
		{"falling slowly", []int64{1004, 1003, 1002, 1001, 1001, 1000}, true},
		{"growing", []int64{1000, 1010, 1020, 1030, 1040, 1050}, true},
		{"fell before", []int64{9000, 1004, 1003, 1002, 1001, 1000, 1000}, true},
	} {
		if got := atRest(tt.looks); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
