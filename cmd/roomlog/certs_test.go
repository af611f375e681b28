package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/internal/certs"
)

func TestCerts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	got := run(t, nil, "certs", "--out", dir, "--node", "n1=10.0.0.1,n1.example", "--node", "n2", "-o", "json")
	if got.code != 0 {
		t.Fatalf("exit %d: %s", got.code, got.stderr)
	}
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), got.stdout)
	}
	var n1 certLine
	if err := json.Unmarshal([]byte(lines[0]), &n1); err != nil {
		t.Fatal(err)
	}
	if want := "n1 localhost n1.example 127.0.0.1 ::1 10.0.0.1"; n1.Node != "n1" || strings.Join(n1.Hosts, " ") != want {
		t.Errorf("%+v, want hosts %s", n1, want)
	}
	for _, node := range []string{"n1", "n2"} {
		if _, err := certs.Load(filepath.Join(dir, node)); err != nil {
			t.Error(err)
		}
	}

	// A third node joins later.
	before, err := os.ReadFile(n1.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, nil, "certs", "--out", dir, "--node", "n3"); got.code != 0 || !strings.Contains(got.stdout, "n3") {
		t.Fatalf("exit %d: %s%s", got.code, got.stdout, got.stderr)
	}
	third, err := certs.Load(filepath.Join(dir, "n3"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := certs.Load(filepath.Join(dir, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.CA, third.CA) || !bytes.Equal(first.Cert, before) {
		t.Error("the third node's certificate changed the first's, or has another authority")
	}

	if got := run(t, nil, "certs", "--out", dir, "--node", "n1", "--new-ca"); got.code != 0 {
		t.Fatalf("exit %d: %s", got.code, got.stderr)
	}
	renewed, err := certs.Load(filepath.Join(dir, "n1"))
	if err != nil || bytes.Equal(renewed.CA, first.CA) {
		t.Errorf("--new-ca kept the authority: %v", err)
	}
}

func TestCertsUsage(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, args, stderr string }{
		{"no directory", "certs --node n1", "--out is missing"},
		{"no node", "certs --out " + dir, "--node is missing"},
		{"a name that leads out", "certs --out " + dir + " --node ../x", "a node's name is made of"},
		{"a name with a folder", "certs --out " + dir + " --node a/b", "a node's name is made of"},
		{"no name", "certs --out " + dir + " --node =host", "a node's name is made of"},
		{"a node twice", "certs --out " + dir + " --node n1 --node n1=x", "n1 is given twice"},
		{"a host with its port", "certs --out " + dir + " --node n1=host:7400", "is no host name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, strings.Fields(tt.args)...)
			if got.code != 2 || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("exit %d, stderr %q, want 2 and %q", got.code, got.stderr, tt.stderr)
			}
		})
	}
}
