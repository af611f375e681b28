package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/internal/trace"
)

// newReplayOf is a replay of lines of JSON.
func newReplayOf(t *testing.T, a *app, cluster *fakeCluster, lines ...string) replay {
	t.Helper()
	tr, err := trace.NewReader("x.jsonl", strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return replay{app: a, file: "x.jsonl", trace: tr, send: cluster.send}
}

func runReplay(ctx context.Context, r replay) error { return r.run(ctx, func(int) {}, func() {}) }

func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stdout, _ := newTestApp("json")
		cluster := &fakeCluster{again: map[int]bool{3: true}}
		r := newReplayOf(t, a, cluster,
			`{"t_ms": 1000, "room": "a", "author": "ann", "text": "hello"}`,
			`{"t_ms": 1000, "room": "b", "author": "bob", "text": "x"}`,
			`{"t_ms": 3000, "room": "a", "author": "bob", "bytes": 3}`)
		r.prefix, r.speed = "p/", 2
		if err := runReplay(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range cluster.got {
			got = append(got, fmt.Sprintf("%s %s %s", m.room, m.author, m.payload))
		}
		if all := strings.Join(got, ", "); all != "p/a ann hello, p/b bob x, p/a bob as " {
			t.Errorf("published %s", all)
		}
		want := `{"messages":3,"acked":3,"rooms":2,"seconds":1,"retries":1}` + "\n"
		if stdout.String() != want {
			t.Errorf("printed %s, want %s", stdout, want)
		}
	})
}

func TestReplayKeepsGaps(t *testing.T) {
	lines := []string{
		`{"t_ms": 500, "room": "a", "text": ""}`,
		`{"t_ms": 10500, "room": "a", "text": ""}`,
		`{"t_ms": 9000, "room": "a", "text": "late"}`,
		`{"t_ms": 20500, "room": "a", "text": ""}`,
	}
	for _, tt := range []struct {
		speed float64
		took  time.Duration
	}{{1, 20 * time.Second}, {0.5, 40 * time.Second}, {10, 2 * time.Second}, {0, 0}} {
		synctest.Test(t, func(t *testing.T) {
			a, _, _ := newTestApp("json")
			r := newReplayOf(t, a, &fakeCluster{}, lines...)
			r.speed = tt.speed
			began := time.Now()
			if err := runReplay(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took != tt.took {
				t.Errorf("speed %g: took %v, want %v", tt.speed, took, tt.took)
			}
		})
	}
}

// TestReplayTellsHowFarItCame: the summary comes after an error, too.
func TestReplayTellsHowFarItCame(t *testing.T) {
	const ok = `{"t_ms": 0, "room": "a", "text": ""}`
	denied := errors.New("denied")
	for _, tt := range []struct {
		name    string
		cluster *fakeCluster
		prefix  string
		lines   []string
		want    string
		summary string
	}{
		{"a bad line", &fakeCluster{}, "", []string{ok, ok, "hello"}, `x.jsonl: line 3: want a JSON object such as {"t_ms": 0, "room": "lobby", "text": "hello"}: invalid character 'h'`, `{"messages":2,"acked":2,"rooms":1,`},
		{"a field of another type", &fakeCluster{}, "", []string{ok, `{"t_ms": "now"}`}, `line 2: want a JSON object such as {"t_ms": 0, "room": "lobby", "text": "hello"}: t_ms is of type string`, `{"messages":1,"acked":1,`},
		{"JSON, but no object", &fakeCluster{}, "", []string{ok, `[]`}, `"text": "hello"}: the line is of type array`, `{"messages":1,"acked":1,`},
		{"a field missing", &fakeCluster{}, "", []string{ok, `{}`}, "x.jsonl: line 2: t_ms is missing", `{"messages":1,"acked":1,`},
		{"a room that is none", &fakeCluster{}, "", []string{ok, `{"t_ms": 0, "room": "\u0007", "text": ""}`},
			"line 2: room name", `{"messages":1,"acked":1,"rooms":1,`},
		{"a prefix too long", &fakeCluster{}, strings.Repeat("x", 255), []string{ok}, "x.jsonl: line 1: room name has 256 bytes", `{"messages":0,`},
		{"an author too long", &fakeCluster{}, "", []string{`{"t_ms": 0, "room": "a", "author": "` + strings.Repeat("x", 65) + `", "text": ""}`},
			"x.jsonl: line 1: author: ", `{"messages":0,`},
		{"a refusal", &fakeCluster{fail: map[int]error{2: denied}}, "", []string{ok, ok}, "line 2: denied", `{"messages":2,"acked":1,"rooms":1,`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, stdout, _ := newTestApp("json")
			r := newReplayOf(t, a, tt.cluster, tt.lines...)
			r.prefix = tt.prefix
			if err := runReplay(t.Context(), r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if !strings.HasPrefix(stdout.String(), tt.summary) {
				t.Errorf("printed %s, want %s", stdout, tt.summary)
			}
		})
	}
}

func TestReplayInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stdout, _ := newTestApp("text")
		r := newReplayOf(t, a, &fakeCluster{}, `{"t_ms": 0, "room": "a", "text": ""}`, `{"t_ms": 60000, "room": "a", "text": ""}`)
		r.speed = 1
		ctx, interrupt := context.WithTimeout(t.Context(), 10*time.Second)
		defer interrupt()
		if err := runReplay(ctx, r); !errors.Is(err, errInterrupted) {
			t.Errorf("error %v", err)
		}
		if want := "1 message to 1 room in 10.0 s: 1 acked, 0 of them by a retry (0 a second)\n"; stdout.String() != want {
			t.Errorf("printed %q, want %q", stdout, want)
		}
	})
}

func TestReplayUsage(t *testing.T) {
	bad := write(t, "trace.txt", "")
	empty := write(t, "trace.csv", "")
	for _, tt := range []struct {
		name, stderr string
		code         int
		args         []string
	}{
		{"no file", "FILE is missing", 2, []string{"replay"}},
		{"no such file", "no such file", 2, []string{"replay", filepath.Join(t.TempDir(), "x.csv")}},
		{"no trace's name", "must end in .jsonl or .csv", 2, []string{"replay", bad}},
		{"an empty table", empty + ": line 1: the header is missing", 1, []string{"replay", empty}},
		{"speed 0", `--speed "0": use a number above 0, or max`, 2, []string{"replay", empty, "--speed", "0"}},
		{"speed below 0", `--speed "-1"`, 2, []string{"replay", empty, "--speed=-1"}},
		{"no speed", `--speed "fast"`, 2, []string{"replay", empty, "--speed", "fast"}},
		{"endless speed", `--speed "inf"`, 2, []string{"replay", empty, "--speed", "inf"}},
		{"no number", `--speed "nan"`, 2, []string{"replay", empty, "--speed", "nan"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, append(tt.args, "--server", "127.0.0.1:1")...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("exit %d, stderr %q, want %d and %q", got.code, got.stderr, tt.code, tt.stderr)
			}
		})
	}
}
