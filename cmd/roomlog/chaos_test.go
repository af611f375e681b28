package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// writeHistory writes a history of one message, read and kept, and what change adds.
func writeHistory(t *testing.T, name string, change ...history.Op) string {
	t.Helper()
	return writeOps(t, name, slices.Concat([]history.Op{header()}, oneMessage(), change)...)
}

func header(nemeses ...string) history.Op {
	run := &history.Run{Name: "chaos", Nodes: []string{"n1"}, Nemeses: nemeses}
	return history.Op{Process: history.Nemesis, Type: history.Info, F: history.FRun, Value: run}
}

func oneMessage() []history.Op {
	events := history.Events{{Seq: 1, ID: history.ID(1, 1)}}
	return []history.Op{
		{Process: 1, Type: history.Invoke, F: history.FPublish, Value: &history.Publish{Room: "r", ID: history.ID(1, 1)}},
		{Process: 1, Type: history.OK, F: history.FPublish, Value: &history.Publish{Room: "r", ID: history.ID(1, 1), Seq: 1}},
		{Process: 2, Type: history.Invoke, F: history.FSubscribe, Value: &history.Subscribe{Room: "r", From: "start"}},
		{Process: 2, Type: history.OK, F: history.FPoll, Value: &history.Poll{Room: "r", Msgs: events}},
		{Process: 3, Type: history.Invoke, F: history.FFinal, Value: &history.Final{Room: "r", Node: "n1"}},
		{Process: 3, Type: history.OK, F: history.FFinal, Value: &history.Final{Room: "r", Node: "n1", First: 1, Last: 1, Msgs: events}},
	}
}

func writeOps(t *testing.T, name string, ops ...history.Op) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	w, err := history.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		w.Write(op)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestChaosCheck(t *testing.T) {
	valid := writeHistory(t, "valid.jsonl.gz")
	again := history.Op{Process: 2, Type: history.OK, F: history.FPoll, Value: &history.Poll{Room: "r", Msgs: history.Events{{Seq: 1, ID: history.ID(1, 1)}}}}
	invalid := writeHistory(t, "invalid.jsonl", again)
	idle := history.Op{Process: history.Nemesis, Type: history.Info, F: "kill", Value: &history.Fault{Phase: history.Start}}
	vacuous := writeHistory(t, "vacuous.jsonl", idle)
	malformed := filepath.Join(t.TempDir(), "malformed.jsonl")
	if err := os.WriteFile(malformed, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"valid", []string{valid}, 0, "\nvalid\n", ""},
		{"invalid", []string{invalid}, 1, "nonmonotonic-poll: 1. a subscription went back", "invalid: nonmonotonic-poll\n"},
		{"vacuous", []string{vacuous}, 1, "\nvacuous\n", "vacuous: fault kill: took effect 0 times, floor 1"},
		{"no header", []string{writeOps(t, "headless.jsonl", oneMessage()...)}, 1, "\nvacuous\n", "vacuous: run: the first line does not say what was done"},
		{"malformed", []string{malformed}, 1, "", "line 1: an op needs index"},
		{"no file", nil, 2, "", "FILE is missing"},
		{"no such file", []string{"none"}, 2, "", "none: no such file"},
		{"a bound of nothing", []string{valid, "--stuck-after", "0s"}, 2, "", "must be above 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, append([]string{"chaos", "check"}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.stdout, tt.stdout) || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("%+v", got)
			}
		})
	}
	got := run(t, nil, "chaos", "check", invalid, "-o", "json")
	var line struct {
		Outcome   string
		Ops       int
		Faults    map[string]int
		Anomalies map[string]int
		History   string
	}
	if err := json.Unmarshal([]byte(got.stdout), &line); err != nil || strings.Count(got.stdout, "\n") != 1 {
		t.Fatalf("%v in %s", err, got.stdout)
	}
	if line.Outcome != "invalid" || line.Ops != 4 || line.Anomalies["nonmonotonic-poll"] != 1 || line.History != invalid || line.Faults == nil {
		t.Errorf("%+v", line)
	}
	if zero, ok := line.Anomalies["lost-write"]; !ok || zero != 0 {
		t.Errorf("no zero row for lost-write in %s", got.stdout)
	}
}

func TestChaosFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"run --nemesis gremlins", `there is no nemesis "gremlins": use kill, leader-kill,`},
		{"run --nodes 4", "4 nodes: give 3, 5 or 7"},
		{"run --duration 1s", "duration 1s: give 2s to 24h"},
		{"run --rate 0", "--rate 0: leave it out for the default"},
		{"run --partitions 0", "--partitions 0: leave it out"},
		{"run --nodes 0", "--nodes 0: leave it out"},
		{"run --nemesis=", "--nemesis []: leave it out"},
		{"report --mixes 0 --out /dev/null/x", "--out: mkdir /dev/null"},
		{"run --rate 0.1", "rate 0.1: give 1 to 100000"},
		{"run --partitions 5000", "5000 partitions: give 1 to 256"},
		{"run --history missing/h.jsonl", "--history: stat missing: no such file"},
		{"run now", `was given "now"`},
		{"report --mixes -1", "--mixes -1: give 0 to 1000"},
		{"report --alone 1s", "duration 1s: give 2s to 24h"},
		{"report --from missing", "missing: no such directory"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := run(t, nil, append([]string{"chaos"}, strings.Fields(tt.args)...)...)
			if got.code != 2 || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
				t.Errorf("%+v, want exit code 2 and %q", got, tt.want)
			}
		})
	}
}

func TestChaosList(t *testing.T) {
	got := run(t, nil, "chaos", "list", "-o", "json")
	var line struct{ Name, Meaning string }
	if err := json.Unmarshal([]byte(strings.SplitN(got.stdout, "\n", 2)[0]), &line); err != nil || line.Name != "kill" || line.Meaning == "" {
		t.Errorf("%v in %s", err, got.stdout)
	}
	if got := run(t, nil, "chaos", "list"); got.code != 0 || !strings.Contains(got.stdout, "power-cut") {
		t.Errorf("%+v", got)
	}
}

// A report is made of the histories in a directory, with the notes beside it; one that is
// not valid has its exit code.
func TestChaosReport(t *testing.T) {
	killed := func(name string, effects int64) (dir string) {
		kill := func(phase string, count int64) history.Op {
			return history.Op{Process: history.Nemesis, Type: history.Info, F: "kill", Value: &history.Fault{Phase: phase, Count: count}}
		}
		return filepath.Dir(writeOps(t, name, slices.Concat([]history.Op{header("kill")}, oneMessage(), []history.Op{kill(history.Start, 0), kill(history.Stop, effects)})...))
	}
	from := killed("a.jsonl", 2)
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "NOTES.md"), []byte("## Found\n\nNothing.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := run(t, nil, "chaos", "report", "--from", from, "--out", out)
	text, err := os.ReadFile(filepath.Join(out, "REPORT.md"))
	if got.code != 0 || err != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, want := range []string{"1 valid, 0 invalid, 0 vacuous", "| 1 rooms, 1 nodes | kill | 1 |", "| lost-write | 0 |", "## Found"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	for _, plot := range []string{"pauses.svg", "latency.svg"} {
		if b, err := os.ReadFile(filepath.Join(out, plot)); err != nil || !strings.Contains(string(b), "</svg>") || !strings.Contains(string(text), "("+plot+")") {
			t.Errorf("%s: %v", plot, err)
		}
	}
	idle := killed("b.jsonl.gz", 0)
	if got := run(t, nil, "chaos", "report", "--from", idle, "--out", out); got.code != 1 || !strings.Contains(got.stderr, "b.jsonl.gz is vacuous") {
		t.Errorf("%+v", got)
	}
}

// What an earlier run has found is not overwritten by one that names no file.
func TestFreeHistory(t *testing.T) {
	t.Chdir(t.TempDir())
	if name := freeHistory(7); name != "chaos-7.jsonl.gz" {
		t.Errorf("the first is %s", name)
	}
	for _, taken := range []string{"chaos-7.jsonl.gz", "chaos-7-2-logs"} {
		if err := os.WriteFile(taken, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if name := freeHistory(7); name != "chaos-7-3.jsonl.gz" {
		t.Errorf("then comes %s", name)
	}
}
