package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
)

// TestMain keeps the caller's own ROOMLOG_* variables out of the tests.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "ROOMLOG_") {
			os.Unsetenv(name)
		}
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of processes that tests start
	os.Exit(m.Run())
}

// result is what a command line did.
type result struct {
	code           int
	stdout, stderr string
}

// run executes a command line against nodes, which tests serve themselves.
func run(t *testing.T, nodes []client.Node, args ...string) result {
	t.Helper()
	a := &app{learn: func(context.Context, profile, time.Duration) ([]client.Node, error) {
		if nodes == nil {
			return nil, errors.New("no server answers")
		}
		return nodes, nil
	}}
	root := newRootOf(a)
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetIn(strings.NewReader(""))
	root.SetArgs(args)
	code := execute(t.Context(), root)
	return result{code, stdout.String(), stderr.String()}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   string
		code   int
		stderr string // the last lines hold this
	}{
		{"version", "version", 0, ""},
		{"version flag", "--version", 0, ""},
		{"help", "--help", 0, ""},
		{"help of a command", "help room show", 0, ""},
		{"no command", "", 2, "a command is missing"},
		{"an unknown command", "sarve", 2, `roomlog: unknown command "sarve" for "roomlog"; did you mean serve?`},
		{"no subcommand", "room", 2, "roomlog: room: a command is missing"},
		{"an unknown subcommand", "room lst", 2, `unknown command "lst" for "roomlog room"; did you mean list?`},
		{"an unknown flag", "node list --bogus", 2, "roomlog: unknown flag: --bogus"},
		{"a flag without its value", "node list --profile", 2, "flag needs an argument: --profile"},
		{"a bad flag value", "room list --limit x", 2, `roomlog: --limit: "x" is not a whole number`},
		{"a bad duration", "node list --timeout 3", 2, `roomlog: --timeout: "3" is not a duration such as`},
		{"a bad truth", "dev --restart=perhaps", 2, `roomlog: --restart: "perhaps" is neither true nor false`},
		{"a live view that is too fast", "top --interval 99ms", 2, "roomlog: --interval 99ms: give 100ms to 1h"},
		{"a live view without end that ends at once", "top --count 0", 2, "roomlog: --count 0: give a number above 0"},
		{"a live view with two ends", "top --once --count 2", 2, "roomlog: --count and --once both say when to end"},
		{"a live view in no order", "top --sort age", 2, `roomlog: --sort "age": use partition, drift or rate`},
		{"an order for JSON", "top --sort drift", 2, "roomlog: --sort is for the live view on a terminal"},
		{"arguments where there are none", "room list extra", 2, `roomlog room list takes no arguments, but was given "extra": use roomlog room list [flags]`},
		{"too many arguments", "subscribe a b", 2, `roomlog subscribe takes one ROOM, but was also given "b"`},
		{"too few arguments", "room show", 2, "roomlog: ROOM is missing: use roomlog room show ROOM [flags]"},
		{"a bad output format", "version -o xml", 2, `--output "xml": use text or json`},
		{"a bad timeout", "version --timeout 0s", 2, "--timeout 0s: give a duration above 0"},
		{"no profile", "node list", 2, "no server known: name a profile with --profile"},
		{"two mistakes", "config --partitions 0 --heartbeat x -o json", 2, "\nroomlog: heartbeat: "},
		{"a failure", "node list --server 127.0.0.1:1", 1, "roomlog: no server answers"},
		{"a bad room name", "room show \x01", 2, "control character"},
		{"a bad order", "room list --top age", 2, `--top "age": use drift, rate or subscribers`},
		{"a bad limit", "room list --limit 0", 2, "--limit 0: use 1 to 100000"},
		{"a bad partition", "partition show -- -1", 2, `partition "-1": use a number from 0 on`},
		{"a bad partition like a flag", "partition show -12", 2, `partition "-12": use a number from 0 on`},
		{"an unknown short flag", "partition list -x", 2, "unknown shorthand flag"},
		{"no such port", "node list --server 127.0.0.1:99999", 2, `--server: server "127.0.0.1:99999": port "99999": use a number from 1 to 65535`},
		{"no host", "node list --server :7400", 2, `server ":7400": the host is missing`},
		{"a transfer to nobody", "partition transfer 1", 2, "--to is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, strings.Fields(tt.args)...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("roomlog %s: exit %d, stderr %q, want %d and %q", tt.args, got.code, got.stderr, tt.code, tt.stderr)
			}
			if got.code == 0 && got.stdout == "" {
				t.Errorf("roomlog %s prints nothing", tt.args)
			}
			if got.code != 0 && got.stdout != "" && tt.name != "two mistakes" { // config prints all the same
				t.Errorf("roomlog %s prints to standard output: %q", tt.args, got.stdout)
			}
		})
	}
}

func TestVersionAsJSON(t *testing.T) {
	got := run(t, nil, "version", "-o", "json")
	if want := "{\"version\":\"" + buildVersion() + "\"}\n"; got.stdout != want {
		t.Errorf("version = %q, want %q", got.stdout, want)
	}
}

// Flags that reach a cluster stand in the help of commands that do so, only.
func TestHelp(t *testing.T) {
	if got := run(t, nil, "node", "list", "--help").stdout; !strings.Contains(got, "--profile") {
		t.Errorf("help of node list without --profile:\n%s", got)
	}
	got := run(t, nil, "serve", "--help").stdout
	if strings.Contains(got, "--profile") || !strings.Contains(got, "--output") || !strings.Contains(got, "--queue-bytes SIZE") || !strings.Contains(got, "--token TOKEN") {
		t.Errorf("help of serve:\n%s", got)
	}
}
