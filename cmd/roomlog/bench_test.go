package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBenchFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"publish --payload -1", "--payload -1: give a number from 0 to 1048576"},
		{"publish --rooms 0", "--rooms 0: give a number from 1 to"},
		{"publish --partitions 4097", "--partitions 4097: give a number from 1 to 4096"},
		{"publish --clients 64 --inflight 63", "--inflight 63: give at least one for each of the 64 clients"},
		{"publish --inflight 8193", "--inflight 8193: 8192 is the most for 1 client (8192 each); give more with --clients"},
		{"publish --rate -1", "--rate -1: give a number from 0 to"},
		{"publish --rate NaN", "--rate NaN: give a number from 0 to"},
		{"publish --duration 50ms", "--duration 50ms: give 100ms to 1h"},
		{"publish --rate x", `--rate: "x" is not a number`},
		{"publish --duration x", `--duration: "x" is not a duration`},
		{"publish --profile p --partitions 3", "--partitions and --dir are for a cluster that is started here"},
		{"publish now", `takes no arguments, but was given "now"`},
		{"latency --payload 23", "--payload 23: give a number from 24 to"},
		{"latency --mode async", `--mode "async": use e2e or sync`},
		{"latency --rate 0", "--rate 0: mode e2e needs a number above 0"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := run(t, nil, append([]string{"bench"}, strings.Fields(tt.args)...)...)
			if got.code != 2 || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("exit %d, stderr %q; want 2 and %q", got.code, got.stderr, tt.want)
			}
			if got.stdout != "" {
				t.Errorf("printed %q", got.stdout)
			}
		})
	}
}

// runBench runs a benchmark and returns its last line. Nothing of its cluster is
// left behind.
func runBench(t *testing.T, args string) map[string]any {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	dir := t.TempDir()
	got := run(t, nil, append([]string{"bench"}, strings.Fields(args+" --partitions 3 --dir "+dir)...)...)
	if got.code != 0 {
		t.Fatalf("exit %d: %s", got.code, got.stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	lines := strings.Split(strings.TrimSuffix(got.stdout, "\n"), "\n")
	var last map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("the last line is %q: %v", lines[len(lines)-1], err)
	}
	if text := len(lines) > 1; text == strings.Contains(args, "-o json") {
		t.Errorf("printed %d lines: %s", len(lines), got.stdout)
	}
	return last
}

// positive are figures that are never 0, clean those that must be.
func checkFigures(t *testing.T, report map[string]any, positive ...string) {
	t.Helper()
	for _, name := range append(positive, "duration_s", "cpus", "rooms") {
		if v, ok := report[name].(float64); !ok || v <= 0 {
			t.Errorf("%s is %v", name, report[name])
		}
	}
	for _, name := range []string{"missing", "duplicates", "reordered"} {
		if v, ok := report[name].(float64); !ok || v != 0 {
			t.Errorf("%s is %v", name, report[name])
		}
	}
	for name, want := range map[string]any{"fsync": true, "servers": "fresh", "partitions": 3.0} {
		if report[name] != want {
			t.Errorf("%s is %v, want %v", name, report[name], want)
		}
	}
	leaders, _ := report["leaders"].(map[string]any)
	for _, node := range []string{"n1", "n2", "n3"} {
		if leaders[node] != 1.0 {
			t.Errorf("leaders are %v, want one on each node", leaders)
			break
		}
	}
}

func TestBenchPublish(t *testing.T) {
	closed := runBench(t, "publish --duration 300ms --rooms 4 --clients 2 --inflight 64")
	checkFigures(t, closed, "acked_per_s", "server_cpu_us_per_msg", "client_cpu_us_per_msg", "p50_ms", "p99_ms", "p999_ms")
}

func TestBenchLatency(t *testing.T) {
	e2e := runBench(t, "latency --duration 300ms --rooms 5 --rate 200 -o json")
	checkFigures(t, e2e, "achieved_per_s", "server_cpu_us_per_msg", "p50_ms", "p99_ms", "p999_ms")
	if got := e2e["achieved_per_s"].(float64); got < 100 || got > 300 {
		t.Errorf("%v a second achieved of 200", got)
	}
	sync := runBench(t, "latency --mode sync --duration 300ms")
	checkFigures(t, sync, "achieved_per_s", "server_cpu_us_per_msg", "p50_ms", "p99_ms", "p999_ms")
}

// TestBenchNoDir: the directory of --dir must be there.
func TestBenchNoDir(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	got := run(t, nil, "bench", "publish", "--dir", missing)
	if got.code != 1 || !strings.Contains(got.stderr, "no such file or directory") {
		t.Errorf("exit %d, stderr %q", got.code, got.stderr)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory was made")
	}
}
