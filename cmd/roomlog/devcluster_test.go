package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
)

// The test binary stands in for roomlog when dev starts it as a node, and bench storm as
// its clients.
func init() {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "bench") {
		main()
	}
}

// lockedBuffer can be read while a command writes to it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// command is a roomlog command under way.
type command struct {
	lines     *bufio.Scanner // of its standard output
	stderr    lockedBuffer
	interrupt context.CancelFunc
	code      chan int
}

func startCommand(t *testing.T, stdin string, args ...string) *command {
	t.Helper()
	ctx, interrupt := context.WithTimeout(t.Context(), 2*time.Minute)
	out, in := io.Pipe()
	c := &command{lines: bufio.NewScanner(out), interrupt: interrupt, code: make(chan int, 1)}
	root := newRoot()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(in)
	root.SetErr(&c.stderr)
	root.SetArgs(args)
	go func() {
		code := execute(ctx, root)
		in.Close()
		c.code <- code
	}()
	t.Cleanup(interrupt)
	return c
}

// line returns the next line of output as JSON.
func (c *command) line(t *testing.T) map[string]any {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("no more output; %v; standard error: %s", c.lines.Err(), c.stderr.String())
	}
	var v map[string]any
	if err := json.Unmarshal(c.lines.Bytes(), &v); err != nil {
		t.Fatalf("%q: %v", c.lines.Text(), err)
	}
	return v
}

// ends checks that the command prints nothing more and ends with code.
func (c *command) ends(t *testing.T, code int) {
	t.Helper()
	for c.lines.Scan() {
		t.Errorf("printed %s", c.lines.Text())
	}
	if got := <-c.code; got != code {
		t.Errorf("exit %d, want %d; standard error: %s", got, code, c.stderr.String())
	}
}

// TestDevCluster is a user's first hour: a cluster, messages, a killed node.
func TestDevCluster(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cluster")
	dev := startCommand(t, "", "dev", "--data", dir, "--base-port", "0", "-o", "json")
	pids := make(map[string]int)
	for i := range 3 {
		node := dev.line(t)
		if want := fmt.Sprintf("n%d", i+1); node["node"] != want || len(node) != 5 {
			t.Errorf("line %d is %v", i+1, node)
		}
		pids[node["node"].(string)] = int(node["pid"].(float64))
	}
	profile := []string{"--profile", filepath.Join(dir, "profile.yaml"), "-o", "json"}
	with := func(args ...string) []string { return append(args, profile...) }

	follower := startCommand(t, "", with("subscribe", "lobby")...)
	publish := startCommand(t, "one\n\nthree", with("publish", "lobby", "--name", "ann")...)
	for seq := 1; seq <= 3; seq++ {
		ack := publish.line(t)
		if ack["room"] != "lobby" || ack["seq"] != float64(seq) || ack["duplicate"] != false || ack["time"] == "" {
			t.Errorf("ack %v", ack)
		}
	}
	publish.ends(t, 0)
	for i, payload := range []string{"one", "", "three"} {
		m := follower.line(t)
		if m["seq"] != float64(i+1) || m["payload"] != payload || m["publisher"] != "ann" {
			t.Errorf("message %v, want %q", m, payload)
		}
	}

	trace := write(t, "trace.csv", "t_ms,room,author,bytes\n0,stream,bob,20\n1,stream,eve,0\n2,other,bob,1\n")
	replay := startCommand(t, "", with("replay", trace, "--speed", "max", "--rooms-prefix", "p/")...)
	sum := replay.line(t)
	if sum["messages"] != 3.0 || sum["acked"] != 3.0 || sum["rooms"] != 2.0 || sum["retries"] != 0.0 || sum["seconds"] == nil {
		t.Errorf("summary %v", sum)
	}
	replay.ends(t, 0)
	stream := startCommand(t, "", with("subscribe", "p/stream", "--after", "1", "--count", "1")...)
	if m := stream.line(t); m["publisher"] != "eve" || m["payload"] != "" || m["seq"] != 2.0 {
		t.Errorf("message %v", m)
	}
	stream.ends(t, 0)
	beyond := startCommand(t, "", with("subscribe", "lobby", "--after", "99")...)
	beyond.ends(t, 1)
	if !strings.Contains(beyond.stderr.String(), "beyond the head 3") {
		t.Errorf("standard error: %s", beyond.stderr.String())
	}

	// A node dies; the others go on, and dev tells of it.
	if err := syscall.Kill(pids["n1"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	publish = startCommand(t, "four\n", with("publish", "lobby")...)
	if ack := publish.line(t); ack["seq"] != 4.0 {
		t.Errorf("ack %v", ack)
	}
	publish.ends(t, 0)
	if m := follower.line(t); m["seq"] != 4.0 || m["payload"] != "four" {
		t.Errorf("message %v", m)
	}
	idle := startCommand(t, "", with("subscribe", "lobby", "--from", "now", "--idle-exit", "100ms")...)
	idle.ends(t, 0)
	follower.interrupt()
	follower.ends(t, 0)

	// As in "subscribe lobby | head -1": no message comes after the reader has gone.
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	head := make(chan int)
	go func() {
		root := newRoot()
		root.SetOut(in)
		root.SetErr(io.Discard)
		root.SetArgs(with("subscribe", "lobby"))
		head <- execute(t.Context(), root)
	}()
	if !bufio.NewScanner(out).Scan() {
		t.Error("no line from the pipe")
	}
	out.Close()
	if code := <-head; code != 0 {
		t.Errorf("with a closed output: exit %d", code)
	}
	in.Close()

	// Servers that refuse us, or that we do not trust, say more than a dead one.
	for advice, flag := range map[string][]string{
		"the token is wrong or missing; check --token":        {"--token", "x"},
		"the server's certificate is not trusted; check --ca": {"--ca", filepath.Join(pair(t), "ca.pem")},
	} {
		refused := startCommand(t, "", with(append([]string{"room", "list", "--timeout", "500ms"}, flag...)...)...)
		refused.ends(t, 1)
		if got := refused.stderr.String(); !strings.HasPrefix(got, "roomlog: cannot connect: "+advice) {
			t.Errorf("%v: %s", flag, got)
		}
	}

	// Without a majority no leader is left, once the last one has noticed: a
	// subscription that needs its word ends, and not as if all were well.
	if err := syscall.Kill(pids["n2"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		now := startCommand(t, "", with("subscribe", "lobby", "--from", "now", "--idle-exit", "10ms", "--timeout", "1s")...)
		if <-now.code == 1 {
			break
		}
	}
	for _, from := range [][]string{{"--from", "now"}, {"--from", "2026-11-23T18:00:00Z"}, {"--after", "4", "--idle-exit", "10ms"}} {
		lost := startCommand(t, "", with(append([]string{"subscribe", "lobby", "--timeout", "500ms"}, from...)...)...)
		lost.ends(t, 1)
		if got := lost.stderr.String(); !strings.Contains(got, errNoLeader.Error()) {
			t.Errorf("%v: %s", from, got)
		}
	}

	dev.interrupt()
	dev.ends(t, 0)
	if told := fmt.Sprintf("n1 (process %d) has ended: signal: killed", pids["n1"]); !strings.Contains(dev.stderr.String(), told) {
		t.Errorf("dev printed %s, want %q", dev.stderr.String(), told)
	}
	for node, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("%s, process %d, still runs", node, pid)
		}
	}
	if layout, err := devcluster.Prepare(devcluster.Options{Dir: dir}); err != nil {
		t.Error(err)
	} else if err := layout.CheckPorts(); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// TestNoServer: each command that needs one says so and ends.
func TestNoServer(t *testing.T) {
	trace := write(t, "trace.csv", "t_ms,room,bytes\n0,r,1\n")
	for _, args := range [][]string{{"publish", "r"}, {"subscribe", "r"}, {"replay", trace}} {
		t.Run(args[0], func(t *testing.T) {
			got := run(t, nil, append(args, "--server", "127.0.0.1:1", "--timeout", "200ms")...)
			if got.code != 1 || !strings.Contains(got.stderr, "cannot connect: no server answers; is the cluster running") ||
				!strings.Contains(got.stderr, "roomlog: 127.0.0.1:1: nothing listens there") {
				t.Errorf("exit %d, stderr %q", got.code, got.stderr)
			}
		})
	}
}
