package devcluster

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNodesDieWithTheirParent kills a process that runs a cluster: a connection
// to a node must end, because the node does.
func TestNodesDieWithTheirParent(t *testing.T) {
	dir := t.TempDir()
	l := prepare(t, Options{Dir: dir, Nodes: 1, BasePort: FreePorts})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self, "keep", dir)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "started\n" {
		t.Fatalf("the parent said %q, %v", line, err)
	}
	waiter := &Cluster{http: newHTTP(Config{}), cfg: Config{Layout: l}, procs: map[string]*process{"n1": {ended: make(chan struct{})}}}
	if err := waiter.WaitReady(testContext(t)); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", l.Nodes[0].HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); os.IsTimeout(err) {
		t.Fatal("the node outlived its parent")
	}
	text, err := os.ReadFile(l.Nodes[0].Log)
	if err != nil || !strings.Contains(string(text), "stopped as told") {
		t.Errorf("the node did not stop by itself: %q, %v", text, err)
	}
}

// TestNodesOutliveTheThreadThatAskedForThem ends the thread that called Start:
// had it started the process itself, the node would be stopped now.
func TestNodesOutliveTheThreadThatAskedForThem(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exits := make(chan Exit, 10)
	c := New(Config{
		Layout: prepare(t, Options{Dir: t.TempDir(), Nodes: 1, BasePort: FreePorts}),
		Binary: self,
		OnExit: func(e Exit) { exits <- e },
	})
	defer c.Close()
	tid := onThreadThatEnds(func() {
		if err := c.Start("n1"); err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx := testContext(t); ; {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); os.IsNotExist(err) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the thread does not end")
		}
	}
	ready(t, c)
	select {
	case e := <-exits:
		t.Fatalf("the node ended with the thread: %+v", e)
	default:
	}
}

// onThreadThatEnds runs f on a thread that ends after it.
func onThreadThatEnds(f func()) (tid int) {
	done := make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if syscall.Gettid() == os.Getpid() {
			// The main thread does not end: hold it, so that another is taken.
			done <- onThreadThatEnds(f)
			runtime.UnlockOSThread()
			return
		}
		f()
		done <- syscall.Gettid()
	}()
	return <-done
}
