package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
)

// fakeProcesses are nodes that start, or do not.
type fakeProcesses struct {
	mu       sync.Mutex
	starts   map[string][]time.Time
	startErr error // of every start after the first of a node
	readyErr error
	closed   bool
}

func (f *fakeProcesses) Start(node string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.starts == nil {
		f.starts = make(map[string][]time.Time)
	}
	f.starts[node] = append(f.starts[node], time.Now())
	if len(f.starts[node]) > 1 {
		return f.startErr
	}
	return nil
}

func (f *fakeProcesses) StartAll() error {
	for i := range 3 {
		if err := f.Start(fmt.Sprintf("n%d", i+1)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeProcesses) WaitReady(ctx context.Context, nodes ...string) error { return f.readyErr }

func (f *fakeProcesses) PID(node string) (int, bool) { return 100 + int(node[1]-'0'), true }

func (f *fakeProcesses) Close() error {
	f.closed = true
	return nil
}

func fakeLayout() *devcluster.Layout {
	l := &devcluster.Layout{Dir: "d", Profile: filepath.Join("d", "profile.yaml"), Partitions: 16}
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		l.Nodes = append(l.Nodes, devcluster.Node{Name: name, Config: filepath.Join("d", name, "config.yaml"),
			Log: filepath.Join("d", name, "log"), Listen: fmt.Sprintf("127.0.0.1:%d", 7400+i),
			Peer: fmt.Sprintf("127.0.0.1:%d", 7410+i), HTTP: fmt.Sprintf("127.0.0.1:%d", 7420+i)})
	}
	return l
}

// runDev runs the fake nodes for some time and returns what was printed.
func runDev(t *testing.T, output string, nodes *fakeProcesses, restart bool, d time.Duration, exits chan devcluster.Exit) (stdout, stderr *bytes.Buffer, err error) {
	a, stdout, stderr := newTestApp(output)
	dev := dev{app: a, cluster: nodes, layout: fakeLayout(), exits: exits, restart: restart}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	err = dev.run(ctx)
	synctest.Wait()
	return stdout, stderr, err
}

func TestDevPrintsItsNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stdout, stderr, err := runDev(t, "json", &fakeProcesses{}, false, time.Hour, nil)
		want := `{"node":"n1","pid":101,"listen":"127.0.0.1:7400","peer":"127.0.0.1:7410","http":"127.0.0.1:7420"}
{"node":"n2","pid":102,"listen":"127.0.0.1:7401","peer":"127.0.0.1:7411","http":"127.0.0.1:7421"}
{"node":"n3","pid":103,"listen":"127.0.0.1:7402","peer":"127.0.0.1:7412","http":"127.0.0.1:7422"}
`
		if err != nil || stdout.String() != want || stderr.Len() > 0 {
			t.Errorf("%v, printed\n%s%s, want\n%s", err, stdout, stderr, want)
		}
		stdout, _, err = runDev(t, "text", &fakeProcesses{}, false, time.Hour, nil)
		for _, want := range []string{"103  127.0.0.1:7402", "d/profile.yaml", "subscribe lobby", "GOMAXPROCS=",
			"16 partitions", "d/NODE/log", "Ctrl-C stops these processes; a node brought back by hand with serve lives on."} {
			if err != nil || !strings.Contains(stdout.String(), want) {
				t.Errorf("%v, printed %s, want %q in it", err, stdout, want)
			}
		}
	})
}

func TestDevStaysUpWithoutNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, exits := &fakeProcesses{}, make(chan devcluster.Exit, 3)
		for i := range 3 {
			exits <- devcluster.Exit{Node: fmt.Sprintf("n%d", i+1), PID: 101 + i, How: "signal: killed"}
		}
		began := time.Now()
		_, stderr, err := runDev(t, "text", nodes, false, time.Hour, exits)
		if err != nil || time.Since(began) != time.Hour {
			t.Errorf("ended after %v, %v", time.Since(began), err)
		}
		for _, want := range []string{"n2 (process 102) has ended: signal: killed", "serve --config d/n3/config.yaml"} {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("printed %s, want %q in it", stderr, want)
			}
		}
		if len(nodes.starts["n1"]) != 1 {
			t.Error("a node was restarted")
		}
	})
}

func TestDevRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, exits := &fakeProcesses{}, make(chan devcluster.Exit, 3)
		exits <- devcluster.Exit{Node: "n2", PID: 102, How: "exit status 1"}
		_, stderr, err := runDev(t, "text", nodes, true, time.Hour, exits)
		if err != nil {
			t.Fatal(err)
		}
		if s := nodes.starts["n2"]; len(s) != 2 || s[1].Sub(s[0]) != restartFirst {
			t.Errorf("n2 was started at %v", s)
		}
		if !strings.Contains(stderr.String(), "n2 runs again as process 102") {
			t.Errorf("printed %s", stderr)
		}
	})
}

func TestDevBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, exits := &fakeProcesses{startErr: errors.New("no")}, make(chan devcluster.Exit, 3)
		exits <- devcluster.Exit{Node: "n2"}
		if _, _, err := runDev(t, "text", nodes, true, time.Minute, exits); err != nil {
			t.Fatal(err)
		}
		var pauses []time.Duration
		for i, s := range nodes.starts["n2"][1:] {
			pauses = append(pauses, s.Sub(nodes.starts["n2"][i]))
		}
		if want := "[500ms 1s 2s 4s 8s 15s 15s]"; fmt.Sprint(pauses) != want {
			t.Errorf("pauses %v, want %v", pauses, want)
		}
	})
}

func TestDevStartsAnewAfterACalmTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, exits := &fakeProcesses{}, make(chan devcluster.Exit)
		go func() {
			for range 3 {
				<-time.After(10 * time.Minute)
				exits <- devcluster.Exit{Node: "n1"}
			}
		}()
		_, stderr, err := runDev(t, "text", nodes, true, time.Hour, exits)
		if n := strings.Count(stderr.String(), "started again in 500ms"); err != nil || n != 3 {
			t.Errorf("%v, printed %s", err, stderr)
		}
	})
}

func TestDevTellsWhyItDoesNotComeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("n2 did not come up")
		stdout, _, err := runDev(t, "text", &fakeProcesses{readyErr: broken}, false, time.Hour, nil)
		if !errors.Is(err, broken) || stdout.Len() > 0 {
			t.Errorf("error %v, printed %s", err, stdout)
		}
	})
}

func TestDevRefusesBeforeItStarts(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := devcluster.Port(busy.Addr().String())
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stderr string
	}{
		{"no nodes", []string{"--nodes", "0"}, 2, "--nodes 0: give a number from 1 to 10"},
		{"no partitions", []string{"--partitions", "0"}, 2, "--partitions 0: give a number from 1 to 4096"},
		{"a port below 0", []string{"--base-port", "-1"}, 2, "--base-port -1: give a number from 0 to 65505"},
		{"a port too high", []string{"--base-port", "70000"}, 2, "--base-port 70000: give a number from 0 to 65505"},
		{"too many partitions", []string{"--partitions", "5000"}, 2, "--partitions 5000: give"},
		{"too many nodes", []string{"--nodes", "99"}, 2, "--nodes 99: give a number from 1 to 10"},
		{"a port in use", []string{"--base-port", fmt.Sprint(port - 10)}, 1, fmt.Sprintf("tcp port %d (peer of n1) is in use", port)},
		{"arguments", []string{"x"}, 2, "takes no arguments"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			got := run(t, nil, append([]string{"dev", "--data", dir}, tt.args...)...)
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in the directory: %v, %v", left, err)
			}
			if got.code != tt.code || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("exit %d, stderr %q, want %d and %q", got.code, got.stderr, tt.code, tt.stderr)
			}
		})
	}
	t.Run("another cluster's directory", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := devcluster.Prepare(devcluster.Options{Dir: dir, BasePort: devcluster.FreePorts, Nodes: 2}); err != nil {
			t.Fatal(err)
		}
		got := run(t, nil, "dev", "--data", dir, "--nodes", "3")
		if got.code != 1 || !strings.Contains(got.stderr, "it has 2 nodes, not 3") {
			t.Errorf("exit %d, stderr %q", got.code, got.stderr)
		}
	})
}

// TestDevUsesADirectoryAsItIs: a flag's default contradicts nothing.
func TestDevUsesADirectoryAsItIs(t *testing.T) {
	dir := t.TempDir()
	first, err := devcluster.Prepare(devcluster.Options{Dir: dir, BasePort: devcluster.FreePorts, Nodes: 2, Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	opts := devcluster.Options{Dir: dir, Nodes: 3, BasePort: 7400, Partitions: 16}
	again, err := prepareDev(opts, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Nodes) != 2 || again.Partitions != 4 || again.Nodes[0] != first.Nodes[0] {
		t.Errorf("got %+v, want %+v", again, first)
	}
	opts.BasePort = 0
	if _, err := prepareDev(opts, func(flag string) bool { return flag == "base-port" }); err != nil {
		t.Errorf("any free ports: %v", err)
	}
	opts.Dir = t.TempDir()
	fresh, err := prepareDev(opts, func(flag string) bool { return flag == "base-port" })
	if err != nil || fresh.Nodes[0].Listen == "127.0.0.1:7400" {
		t.Errorf("any free ports in a new directory: %+v, %v", fresh, err)
	}
	opts.Dir = dir
	opts.BasePort = 7400
	if _, err := prepareDev(opts, func(flag string) bool { return flag == "base-port" }); err == nil {
		t.Error("other ports were accepted")
	}
}
