package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/internal/clustertest"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/internal/verify"
)

func TestVerifyCommand(t *testing.T) {
	dirs := map[string]string{}
	c := clustertest.Start(t, 3, 2, func(cfg *node.Config) { dirs[cfg.Name] = cfg.DataDir })
	if _, err := c.Client("p").Publish(t.Context(), "lobby", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := run(t, nil, "verify", dirs["n1"]); got.code != 1 || !strings.Contains(got.stderr, "in use by process") {
		t.Errorf("a running node: %+v", got)
	}
	for _, name := range c.Names() {
		c.Stop(name)
	}
	for _, tt := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{}, 2, "DIR is missing"},
		{[]string{"a", "b"}, 2, "takes one DIR"},
		{[]string{filepath.Join(dirs["n1"], "none")}, 2, "no such directory"},
		{[]string{t.TempDir()}, 2, "no node's data directory"},
		{[]string{dirs["n1"], "--against", ""}, 2, "--against: name a directory"},
		{[]string{dirs["n1"], "--against", "none"}, 2, "none: no such directory"},
		{[]string{dirs["n1"], "--against", dirs["n1"]}, 1, "both of node n1"},
	} {
		if got := run(t, nil, append([]string{"verify"}, tt.args...)...); got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) || got.stdout != "" {
			t.Errorf("verify %q: %+v", tt.args, got)
		}
	}

	got := run(t, nil, "verify", dirs["n1"])
	if got.code != 0 || got.stderr != "" || !regexp.MustCompile(`(?s)^NODE +PARTITION.*\nn1 +1 .* clean\nno fault found in \d+ files, \d+ entries, \d+ bytes\n$`).MatchString(got.stdout) {
		t.Errorf("without a fault: %+v", got)
	}
	got = run(t, nil, "verify", dirs["n1"], "--against", dirs["n2"])
	if got.code != 0 || got.stderr != "" || !regexp.MustCompile(`(?s)\nPARTITION +FROM.*\nno difference in \d+ entries and 0 snapshots\nno fault found in `).MatchString(got.stdout) {
		t.Errorf("without a difference: %+v", got)
	}

	segment := filepath.Join(dirs["n1"], "raft/p0001/log", fmt.Sprintf("%020d.seg", 1))
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b[4096+20] ^= 1
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	got = run(t, nil, "verify", dirs["n1"])
	if got.code != 1 || !strings.Contains(got.stdout, " fault\n") || strings.Contains(got.stdout, "no fault") ||
		!strings.Contains(got.stderr, "roomlog: "+segment+" is damaged at byte 4096: ") || !strings.Contains(got.stderr, "\nroomlog:   roomlog serve … --rebuild 1\n") {
		t.Errorf("with a fault: %+v", got)
	}
	got = run(t, nil, "verify", dirs["n1"], "-o", "json")
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	var verdict struct {
		OK    bool
		Fault verify.Fault
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &verdict); err != nil || got.code != 1 || len(lines) != 3 || verdict.OK ||
		verdict.Fault.File != segment || verdict.Fault.Offset != 4096 || *verdict.Fault.Partition != 1 || verdict.Fault.Rebuild != "1" {
		t.Errorf("with a fault in JSON: %+v, %v", got, err)
	}
	got = run(t, nil, "verify", dirs["n2"], "--against", dirs["n1"], "-o", "json")
	if got.code != 1 || !strings.Contains(got.stdout, `{"ok":false,`) || !strings.Contains(got.stderr, segment) {
		t.Errorf("against damaged data: %+v", got)
	}
	if err := os.WriteFile(filepath.Join(dirs["n2"], "reset.key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	got = run(t, nil, "verify", dirs["n2"])
	if got.code != 1 || !strings.Contains(got.stderr, "reset.key") || !strings.Contains(got.stderr, "remove the file") {
		t.Errorf("half a key: %+v", got)
	}
}
