package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/client"
)

// fakePending is a publish whose answer a test gives.
type fakePending struct {
	done    chan struct{}
	receipt client.Receipt
	err     error
}

func newFakePending() *fakePending { return &fakePending{done: make(chan struct{})} }

func (p *fakePending) answer(r client.Receipt, err error) {
	p.receipt, p.err = r, err
	close(p.done)
}

func (p *fakePending) Done() <-chan struct{} { return p.done }

func (p *fakePending) Wait(ctx context.Context) (client.Receipt, error) {
	select {
	case <-p.done:
		return p.receipt, p.err
	case <-ctx.Done():
		return client.Receipt{}, ctx.Err()
	}
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC)

// fakeCluster numbers messages per room. It answers at once, or when answers is
// called if it holds them back.
type fakeCluster struct {
	mu      sync.Mutex
	hold    bool
	heads   map[string]uint64
	got     []message
	held    []func()
	fail    map[int]error // by line: the publish fails
	refuse  map[int]error // by line: it cannot even be sent
	again   map[int]bool  // by line: the ack is a duplicate's
	heldNow int
	most    int // held back at the same time
}

func (f *fakeCluster) send(ctx context.Context, m message) (pending, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refuse[m.line]; err != nil {
		return nil, err
	}
	if f.heads == nil {
		f.heads = make(map[string]uint64)
	}
	f.got = append(f.got, m)
	p := newFakePending()
	var answer func()
	if err := f.fail[m.line]; err != nil {
		answer = func() { p.answer(client.Receipt{}, err) }
	} else {
		f.heads[m.room]++
		r := client.Receipt{Room: m.room, Seq: f.heads[m.room], Time: noon, Duplicate: f.again[m.line]}
		answer = func() { p.answer(r, nil) }
	}
	if !f.hold {
		answer()
		return p, nil
	}
	f.heldNow++
	f.most = max(f.most, f.heldNow)
	f.held = append(f.held, answer)
	return p, nil
}

// answers gives the answers held back, the newest first.
func (f *fakeCluster) answers() {
	f.mu.Lock()
	held := f.held
	f.held, f.heldNow = nil, 0
	f.mu.Unlock()
	for i := range held {
		held[len(held)-1-i]()
	}
}

func (f *fakeCluster) payloads() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, m := range f.got {
		all = append(all, string(m.payload))
	}
	return strings.Join(all, "|")
}

// newTestApp is an app as a command sees it, and what it prints.
func newTestApp(output string) (a *app, stdout, stderr *bytes.Buffer) {
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	return &app{output: output, timeout: 30 * time.Second, stdout: stdout, stderr: stderr}, stdout, stderr
}

func TestPublishLines(t *testing.T) {
	a, stdout, _ := newTestApp("json")
	cluster := &fakeCluster{again: map[int]bool{2: true}}
	err := a.publishLines(t.Context(), "lobby", strings.NewReader("hello\n\nGrüße\r\nlast"), 2, cluster.send)
	if err != nil {
		t.Fatal(err)
	}
	if got := cluster.payloads(); got != "hello||Grüße\r|last" {
		t.Errorf("published %q", got)
	}
	want := `{"room":"lobby","seq":1,"time":"2026-11-23T12:00:00.000000005Z","duplicate":false}
{"room":"lobby","seq":2,"time":"2026-11-23T12:00:00.000000005Z","duplicate":true}
{"room":"lobby","seq":3,"time":"2026-11-23T12:00:00.000000005Z","duplicate":false}
{"room":"lobby","seq":4,"time":"2026-11-23T12:00:00.000000005Z","duplicate":false}
`
	if stdout.String() != want {
		t.Errorf("printed\n%s, want\n%s", stdout, want)
	}
}

func TestPublishText(t *testing.T) {
	a, stdout, _ := newTestApp("text")
	cluster := &fakeCluster{again: map[int]bool{2: true}}
	if err := a.publishLines(t.Context(), "lobby", strings.NewReader("a\nb\n"), 1, cluster.send); err != nil {
		t.Fatal(err)
	}
	want := "lobby  1  2026-11-23T12:00:00.000000005Z\nlobby  2  2026-11-23T12:00:00.000000005Z  duplicate\n"
	if stdout.String() != want {
		t.Errorf("printed %q, want %q", stdout, want)
	}
}

// TestAcksAreInInputOrder answers backwards, as partitions do that are not
// equally fast, and bounds what is in flight.
func TestAcksAreInInputOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stdout, _ := newTestApp("text")
		cluster := &fakeCluster{hold: true}
		done := make(chan error, 1)
		go func() {
			in := strings.NewReader(strings.Repeat("x\n", 10))
			done <- a.publishLines(t.Context(), "r", in, 4, cluster.send)
		}()
		for range 3 {
			synctest.Wait()
			cluster.answers()
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if cluster.most != 4 {
			t.Errorf("%d publishes were in flight, want 4", cluster.most)
		}
		for i, line := range strings.Split(strings.TrimSpace(stdout.String()), "\n") {
			if !strings.HasPrefix(line, fmt.Sprintf("r  %d  ", i+1)) {
				t.Errorf("line %d is %q", i+1, line)
			}
		}
	})
}

// TestAnAckIsPrintedAtOnce publishes one line while the input stays open.
func TestAnAckIsPrintedAtOnce(t *testing.T) {
	a, _, _ := newTestApp("text")
	in, typed := io.Pipe()
	printed, out := io.Pipe()
	a.stdout = out
	done := make(chan error, 1)
	go func() { done <- a.publishLines(t.Context(), "r", in, 16, (&fakeCluster{}).send) }()
	if _, err := io.WriteString(typed, "hello\n"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 4)
	if _, err := io.ReadFull(printed, line); err != nil || string(line) != "r  1" {
		t.Fatalf("printed %q, %v", line, err)
	}
	go io.Copy(io.Discard, printed)
	typed.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestALineTooLong(t *testing.T) {
	a, stdout, _ := newTestApp("text")
	fits := strings.Repeat("x", 1<<20)
	cluster := &fakeCluster{}
	err := a.publishLines(t.Context(), "r", strings.NewReader("a\n"+fits+"\n"+fits+"y\nb\n"), 8, cluster.send)
	if err == nil || !strings.Contains(err.Error(), "line 3 is longer than 1048576 bytes") {
		t.Errorf("error %v", err)
	}
	if got := len(cluster.got); got != 2 {
		t.Errorf("%d lines were sent, want 2", got)
	}
	if n := strings.Count(stdout.String(), "\n"); n != 2 {
		t.Errorf("%d acks were printed, want 2: %s", n, stdout)
	}
}

// TestARefusalEndsTheInput: what was sent already is acked and printed, what
// comes later is not sent.
func TestARefusalEndsTheInput(t *testing.T) {
	broken := errors.New("denied")
	for name, cluster := range map[string]*fakeCluster{
		"by the server": {hold: true, fail: map[int]error{2: broken}},
		"by the SDK":    {hold: true, refuse: map[int]error{4: broken}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, stdout, _ := newTestApp("text")
				done := make(chan error, 1)
				go func() {
					in := strings.NewReader(strings.Repeat("x\n", 100))
					done <- a.publishLines(t.Context(), "r", in, 3, cluster.send)
				}()
				synctest.Wait()
				cluster.answers()
				synctest.Wait()
				cluster.answers()
				err := <-done
				if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "line ") {
					t.Errorf("error %v", err)
				}
				if len(cluster.got) > 6 {
					t.Errorf("%d lines were sent after all", len(cluster.got))
				}
				acks := 0
				for _, m := range cluster.got {
					if cluster.fail[m.line] == nil {
						acks++
					}
				}
				if n := strings.Count(stdout.String(), "\n"); n != acks {
					t.Errorf("%d acks were printed, want %d", n, acks)
				}
			})
		})
	}
}

func TestNoAnswerForTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stdout, _ := newTestApp("text")
		cluster := &fakeCluster{hold: true}
		in, typed := io.Pipe()
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- a.publishLines(t.Context(), "r", in, 3, cluster.send) }()
		// Waiting for input is no lack of progress.
		<-time.After(time.Hour) // by synctest's clock
		if _, err := io.WriteString(typed, "a\nb\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cluster.answers()
		if _, err := io.WriteString(typed, "c\nd\n"); err != nil {
			t.Fatal(err)
		}
		err := <-done
		if !errors.Is(err, errNoAnswer) || !strings.Contains(err.Error(), "line 3: no answer from the cluster for 30s") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(began); took != time.Hour+30*time.Second {
			t.Errorf("ended after %v", took)
		}
		if n := strings.Count(stdout.String(), "\n"); n != 2 {
			t.Errorf("%d acks were printed, want 2", n)
		}
		typed.Close() // ends the goroutine that was left in Read
	})
}

func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stdout, _ := newTestApp("text")
		cluster := &fakeCluster{hold: true}
		in, typed := io.Pipe()
		ctx, interrupt := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.publishLines(ctx, "r", in, 8, cluster.send) }()
		if _, err := io.WriteString(typed, "a\nb\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		interrupt()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("ended with publishes in flight: %v", err)
		default:
		}
		cluster.answers()
		err := <-done
		if !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "after 2 lines; all that was sent is acked") {
			t.Errorf("error %v", err)
		}
		if n := strings.Count(stdout.String(), "\n"); n != 2 {
			t.Errorf("%d acks were printed, want 2", n)
		}
		typed.Close()
	})
}

func TestBrokenStreams(t *testing.T) {
	broken := errors.New("broken")
	t.Run("input", func(t *testing.T) {
		a, stdout, _ := newTestApp("text")
		in := io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken))
		err := a.publishLines(t.Context(), "r", in, 8, (&fakeCluster{}).send)
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("error %v", err)
		}
		if n := strings.Count(stdout.String(), "\n"); n != 1 {
			t.Errorf("%d acks were printed, want 1", n)
		}
	})
	t.Run("output", func(t *testing.T) {
		a, _, _ := newTestApp("text")
		a.stdout = failingWriter{broken}
		endless := readerFunc(func(p []byte) (int, error) { return copy(p, "x\n"), nil })
		if err := a.publishLines(t.Context(), "r", endless, 8, (&fakeCluster{}).send); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	})
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestPublishUsage(t *testing.T) {
	for _, tt := range []struct {
		name, stderr string
		args         []string
	}{
		{"no room", "ROOM is missing", []string{"publish"}},
		{"an empty room", "room name is empty", []string{"publish", ""}},
		{"a room too long", "room name has 256 bytes", []string{"publish", strings.Repeat("x", 256)}},
		{"a control character", "control character", []string{"publish", "a\x07b"}},
		{"no window", "--inflight 0: give a number from 1 to 8192", []string{"publish", "r", "--inflight", "0"}},
		{"a window too large", "--inflight 8193", []string{"publish", "r", "--inflight", "8193"}},
		{"a name too long", "--name: publisher name has 65 bytes", []string{"publish", "r", "--name", strings.Repeat("x", 65)}},
		{"no such file", "no such file", []string{"publish", "r", "--file", "/nonexistent"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, append(tt.args, "--server", "127.0.0.1:1")...)
			if got.code != 2 || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("exit %d, stderr %q, want 2 and %q", got.code, got.stderr, tt.stderr)
			}
		})
	}
}
