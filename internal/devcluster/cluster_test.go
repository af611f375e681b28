package devcluster

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// runCluster runs a cluster of fake nodes until the test ends.
func runCluster(t *testing.T, env ...string) (*Cluster, <-chan Exit) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exits := make(chan Exit, 100)
	c := New(Config{
		Layout: prepare(t, Options{Dir: t.TempDir(), BasePort: FreePorts}),
		Binary: self,
		Env:    append(env, "GORACE=atexit_sleep_ms=0"), // else each process takes a second to end
		OnExit: func(e Exit) { exits <- e },
	})
	t.Cleanup(func() { c.Close() })
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	return c, exits
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func ready(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.WaitReady(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

func nextExit(t *testing.T, exits <-chan Exit) Exit {
	t.Helper()
	select {
	case e := <-exits:
		return e
	case <-testContext(t).Done():
		t.Fatal("no process ended")
		return Exit{}
	}
}

func TestKillAndStartAgain(t *testing.T) {
	c, exits := runCluster(t)
	ready(t, c)
	pid, ok := c.PID("n2")
	if !ok {
		t.Fatal("n2 does not run")
	}
	if err := c.Start("n2"); err == nil {
		t.Error("n2 was started twice")
	}
	if err := c.Kill("n2"); err != nil {
		t.Fatal(err)
	}
	if e := nextExit(t, exits); e.Node != "n2" || e.PID != pid || e.How != "signal: killed" || !e.Asked {
		t.Errorf("exit %+v", e)
	}
	if _, ok := c.PID("n2"); ok {
		t.Error("n2 still has a process")
	}
	if err := c.Kill("n2"); err == nil {
		t.Error("a dead node was killed again")
	}
	if err := c.Start("n2"); err != nil {
		t.Fatal(err)
	}
	ready(t, c)
	if again, _ := c.PID("n2"); again == pid {
		t.Errorf("n2 came back as process %d, the same", again)
	}
	l, _ := c.Layout().Node("n2")
	text, err := os.ReadFile(l.Log)
	if err != nil || strings.Count(string(text), "this is n2") != 2 {
		t.Errorf("the log of both runs: %q, %v", text, err)
	}
}

func TestTerminate(t *testing.T) {
	c, exits := runCluster(t)
	ready(t, c)
	if err := c.Terminate("n1"); err != nil {
		t.Fatal(err)
	}
	if e := nextExit(t, exits); e.Node != "n1" || e.How != "exit status 0" || !e.Asked {
		t.Errorf("exit %+v", e)
	}
}

func TestAnUnaskedExitIsTold(t *testing.T) {
	_, exits := runCluster(t, "FAKE_n3=exit")
	if e := nextExit(t, exits); e.Node != "n3" || e.How != "exit status 3" || e.Asked {
		t.Errorf("exit %+v", e)
	}
}

func TestPauseAndResume(t *testing.T) {
	c, _ := runCluster(t)
	ready(t, c)
	if err := c.Pause("n1"); err != nil {
		t.Fatal(err)
	}
	n1, _ := c.Layout().Node("n1")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.askReady(ctx, n1.HTTP); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused node answered: %v", err)
	}
	if err := c.Resume("n1"); err != nil {
		t.Fatal(err)
	}
	ready(t, c)
}

// TestHooks: processes are started and asked by way of them.
func TestHooks(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("not this one")
	var started []string
	var dialed atomic.Int64
	c := New(Config{
		Layout: prepare(t, Options{Dir: t.TempDir(), BasePort: FreePorts}), Binary: self,
		Env: []string{"GORACE=atexit_sleep_ms=0"},
		Start: func(node string, start func() error) error {
			started = append(started, node)
			if node == "n3" {
				return refused
			}
			return start()
		},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialed.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	})
	defer c.Close()
	if err := c.StartAll(); !errors.Is(err, refused) {
		t.Errorf("n3 was started: %v", err)
	}
	if err := c.WaitReady(testContext(t), "n1", "n2"); err != nil {
		t.Error(err)
	}
	if !slices.Equal(started, []string{"n1", "n2", "n3"}) || dialed.Load() < 2 {
		t.Errorf("started %v, dialed %d times", started, dialed.Load())
	}
	if _, runs := c.PID("n3"); runs {
		t.Error("n3 runs")
	}
}

func TestWaitReadyTellsWhy(t *testing.T) {
	t.Run("a process that ends", func(t *testing.T) {
		c, _ := runCluster(t, "FAKE_n2=exit")
		err := c.WaitReady(testContext(t))
		for _, want := range []string{"n2", "exit status 3", "no luck today"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		}
	})
	t.Run("a node that is not ready", func(t *testing.T) {
		c, _ := runCluster(t, "FAKE_n2=unready")
		if err := c.WaitReady(testContext(t), "n1", "n3"); err != nil {
			t.Errorf("the others: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err := c.WaitReady(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "n2") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a node that was never started", func(t *testing.T) {
		c := New(Config{Layout: prepare(t, Options{Dir: t.TempDir(), BasePort: FreePorts})})
		defer c.Close()
		if err := c.WaitReady(testContext(t), "n1"); err == nil || !strings.Contains(err.Error(), "not started") {
			t.Errorf("error %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    string
		before func(c *Cluster) error
		want   string
	}{
		{name: "all obey"},
		{name: "one is dead", before: func(c *Cluster) error { return c.Kill("n1") }},
		{name: "one is paused", before: func(c *Cluster) error { return c.Pause("n1") }},
		{name: "one is stubborn", env: "FAKE_n2=stubborn", want: "n2 did not stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, exits := runCluster(t, tt.env)
			ready(t, c)
			if tt.before != nil {
				if err := tt.before(c); err != nil {
					t.Fatal(err)
				}
			}
			err := c.Close()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if len(exits) != 3 {
				t.Errorf("%d of 3 exits were told when Close returned", len(exits))
			}
			for range len(exits) {
				if e := <-exits; !e.Asked {
					t.Errorf("exit %+v", e)
				}
			}
			if err := c.Start("n1"); err == nil {
				t.Error("a closed cluster started a node")
			}
			if err := c.Close(); err != nil {
				t.Errorf("the second Close: %v", err)
			}
		})
	}
}

func TestEnvironmentOfTheNodes(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	t.Setenv("ROOMLOG_LISTEN", "127.0.0.1:1")
	t.Setenv("ROOMLOG_LOG_LEVEL", "debug")
	c, _ := runCluster(t, "EXTRA=1")
	ready(t, c)
	n1, _ := c.Layout().Node("n1")
	resp, err := http.Get("http://" + n1.HTTP + "/env")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	env := "\n" + string(body) + "\n"
	procs, fromEnv := Procs(3)
	if fromEnv {
		t.Error("GOMAXPROCS is said to come from the environment")
	}
	for _, want := range []string{"GOMAXPROCS=" + procs, "ROOMLOG_LOG_LEVEL=debug", "EXTRA=1"} {
		if !strings.Contains(env, "\n"+want+"\n") {
			t.Errorf("the environment lacks %s", want)
		}
	}
	if strings.Contains(env, "ROOMLOG_LISTEN") {
		t.Error("ROOMLOG_LISTEN would override config.yaml")
	}
	t.Setenv("GOMAXPROCS", "7")
	if procs, fromEnv := Procs(3); procs != "7" || !fromEnv {
		t.Errorf("Procs = %s, %v with GOMAXPROCS=7", procs, fromEnv)
	}
}
