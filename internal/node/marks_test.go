package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func TestJudge(t *testing.T) {
	type hashes = map[string]uint64
	for _, tt := range []struct {
		name     string
		own      uint64
		others   hashes
		voters   int
		differ   string
		outvoted bool
	}{
		{"alone", 1, nil, 1, "", false},
		{"all agree", 1, hashes{"n2": 1, "n3": 1}, 3, "", false},
		{"two of three against this one", 1, hashes{"n2": 2, "n3": 2}, 3, "n2 n3", true},
		{"one of three against this one, the third not heard", 1, hashes{"n2": 2}, 3, "n2", false},
		{"this one and another against the third", 1, hashes{"n2": 1, "n3": 2}, 3, "n3", false},
		{"all three differ", 1, hashes{"n2": 2, "n3": 3}, 3, "n2 n3", false},
		{"one of two", 1, hashes{"n2": 2}, 2, "n2", false},
		{"two of four are no majority", 1, hashes{"n2": 2, "n3": 2, "n4": 1}, 4, "n2 n3", false},
		{"three of four", 1, hashes{"n2": 2, "n3": 2, "n4": 2}, 4, "n2 n3 n4", true},
		{"three of five agree", 1, hashes{"n2": 2, "n3": 2, "n4": 2, "n5": 1}, 5, "n2 n3 n4", true},
		{"three of five, two of them agree", 1, hashes{"n2": 2, "n3": 2, "n4": 3, "n5": 1}, 5, "n2 n3 n4", false},
		{"two of five, the others not heard", 1, hashes{"n2": 2, "n3": 2}, 5, "n2 n3", false},
		{"those without a vote do not count", 1, hashes{"n2": 2, "watcher": 2}, 3, "n2 watcher", false},
		{"a hash of zero is one", 0, hashes{"n2": 0, "n3": 5}, 3, "n3", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			differ, outvoted := judge(tt.own, tt.others, func(node string) bool { return node != "watcher" }, tt.voters)
			if strings.Join(differ, " ") != tt.differ || outvoted != tt.outvoted {
				t.Errorf("judge = %v, %v, want %v, %v", differ, outvoted, tt.differ, tt.outvoted)
			}
		})
	}
}

// told writes findings as a story's line.
func told(findings []finding) string {
	var lines []string
	for _, f := range findings {
		line := fmt.Sprintf("p%d@%d %s", f.partition, f.index, strings.Join(f.nodes, "+"))
		if f.fence != "" {
			line += " fence"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

func TestMarksStory(t *testing.T) {
	m := newMarks("n1", "n1", "n2", "n3")
	for i, step := range []struct {
		what        string
		node        string
		index, hash uint64
		found       string
		diverged    string
		mismatches  float64
	}{
		{"the others are ahead", "n2", 4096, 7, "", "", 0},
		{"", "n3", 4096, 7, "", "", 0},
		{"this one agrees", "n1", 4096, 7, "", "", 0},
		{"n3 is off by now", "n3", 8192, 5, "", "", 0},
		{"this one comes to it", "n1", 8192, 8, "p4@8192 n3", "n3", 1},
		{"n2 agrees with this one", "n2", 8192, 8, "", "n3", 1},
		{"said again after a link was down", "n3", 8192, 5, "", "n3", 1},
		{"a late mark of before does not acquit n3", "n3", 2, 2, "", "n3", 1},
		{"n3 was rebuilt", "n3", 8192, 8, "", "", 1},
		{"this one first", "n1", 12288, 9, "", "", 1},
		{"one against this one", "n2", 12288, 10, "p4@12288 n2", "n2", 2},
		{"the other joins in", "n3", 12288, 10, "p4@12288 n3 fence", "n2 n3", 3},
		{"both ahead, and against this one", "n2", 16384, 11, "", "n2 n3", 3},
		{"", "n3", 16384, 11, "", "n2 n3", 3},
		{"", "n1", 16384, 12, "p4@16384 n2+n3 fence", "n2 n3", 5},
	} {
		m.add(step.node, 4, step.index, step.hash)
		if got := told(m.take()); got != step.found {
			t.Errorf("step %d (%s): found %q, want %q", i, step.what, got, step.found)
		}
		if got := strings.Join(m.diverged(4), " "); got != step.diverged {
			t.Errorf("step %d (%s): diverged %q, want %q", i, step.what, got, step.diverged)
		}
		if got := value(t, m.mismatches); got != step.mismatches {
			t.Errorf("step %d (%s): counted %v, want %v", i, step.what, got, step.mismatches)
		}
	}
	if got := m.diverged(3); got != nil {
		t.Errorf("another partition diverged from %v", got)
	}
}

// A replica that lags is compared with what the others said meanwhile, as far
// back as they keep it.
func TestMarksOfALaggard(t *testing.T) {
	const step = 4096
	m := newMarks("n1", "n1", "n2")
	for i := range uint64(keptMarks + 2) {
		m.add("n2", 0, (i+1)*step, 100+i)
	}
	for i := range uint64(keptMarks + 2) {
		m.add("n1", 0, (i+1)*step, 200+i)
	}
	found := m.take()
	if len(found) != keptMarks || found[0].index != 3*step || found[keptMarks-1].index != (keptMarks+2)*step {
		t.Errorf("%d findings: %s", len(found), told(found))
	}
}

func TestFindingsAreBounded(t *testing.T) {
	m := newMarks("n1", "n1", "n2")
	for i := range uint64(2 * maxFindings) {
		m.add("n1", int(i), 4096, 1)
		m.add("n2", int(i), 4096, 2)
	}
	if got := len(m.take()); got != maxFindings {
		t.Errorf("%d findings are kept, want %d", got, maxFindings)
	}
	if got := value(t, m.mismatches); got != 2*maxFindings {
		t.Errorf("%v are counted", got)
	}
	if got := m.diverged(2*maxFindings - 1); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("the last one diverged from %v", got)
	}
}

// value reads a counter or a gauge.
func value(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	ch := make(chan prometheus.Metric, 1)
	c.Collect(ch)
	var d dto.Metric
	if err := (<-ch).Write(&d); err != nil {
		t.Fatal(err)
	}
	if d.Counter != nil {
		return d.Counter.GetValue()
	}
	return d.Gauge.GetValue()
}
