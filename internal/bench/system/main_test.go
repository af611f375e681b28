package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []any
		want   float64
		ok     bool
	}{
		{"none", []any{nil, "x"}, 0, false},
		{"one", []any{3.0}, 3, true},
		{"three", []any{9.0, 1.0, 4.0}, 4, true},
		{"two", []any{9.0, 1.0}, 1, true},
		{"one is not known", []any{nil, 7.0, 8.0}, 7, true},
	} {
		var reports []report
		for _, v := range tt.values {
			reports = append(reports, report{"x": v})
		}
		if v, ok := median(reports, "x"); v != tt.want || ok != tt.ok {
			t.Errorf("%s: %v, %v, want %v, %v", tt.name, v, ok, tt.want, tt.ok)
		}
	}
}

// TestRun takes a script in the place of roomlog: it prints as many messages a
// second as it has been called before.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "roomlog")
	text := "#!/bin/sh\necho x >> " + dir + "/calls\necho \"{\\\"acked_per_s\\\": $(wc -l < " + dir + "/calls), \\\"missing\\\": 0}\"\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	keep := filepath.Join(dir, "kept")
	var out strings.Builder
	two := []row{{"first", "publish"}, {"second", "publish --rooms 64"}}
	if err := run(t.Context(), script, 3, two, keep, &out); err != nil {
		t.Fatal(err)
	}
	want := "| benchmark | `roomlog bench …` | medians |\n| --- | --- | --- |\n" +
		"| first | `publish` | acked_per_s 3, missing 0 |\n" +
		"| second | `publish --rooms 64` | acked_per_s 4, missing 0 |\n"
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", out.String(), want)
	}
	if lines, err := os.ReadFile(keep); err != nil || strings.Count(string(lines), "\n") != 6 {
		t.Errorf("kept %q, %v", lines, err)
	}
	if err := run(t.Context(), filepath.Join(dir, "missing"), 1, two, "", &out); err == nil {
		t.Error("a missing binary is no error")
	}
}

func TestChosen(t *testing.T) {
	if got := chosen(""); len(got) != len(rows) {
		t.Errorf("%d of %d rows", len(got), len(rows))
	}
	if got := chosen("idle"); len(got) != 1 {
		t.Errorf("idle is %v", got)
	}
}
