package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// stopTime is how long a process may take to stop before it is killed.
const stopTime = 5 * time.Second

// Config is what a Cluster is made of.
type Config struct {
	Layout *Layout
	Binary string   // the roomlog binary
	Env    []string // KEY=value, over what the processes inherit

	// Start starts a node's process by calling start, on the thread that starts
	// all of them. It may take that thread elsewhere meanwhile, such as to another
	// network namespace. nil: start is called.
	Start func(node string, start func() error) error

	// Dial connects to the nodes' HTTP ports; nil: as usual.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// OnExit is told of every process that ends, whoever ended it. It is called
	// from a goroutine of the Cluster and must not call the Cluster's Close.
	OnExit func(Exit)
}

// Exit tells of a process that has ended.
type Exit struct {
	Node  string
	PID   int
	How   string // "exit status 1", "signal: killed"
	Asked bool   // Terminate, Kill or Close was called for it
}

// Cluster is the processes of a layout. A child gets SIGTERM when this process
// dies (on Linux), so that no node is left behind.
type Cluster struct {
	cfg    Config
	starts chan start // to the launcher
	http   *http.Client

	mu     sync.Mutex
	procs  map[string]*process // the last one of each node
	closed bool
	reaped sync.WaitGroup
}

// process is one run of a node.
type process struct {
	cmd   *exec.Cmd
	asked bool          // guarded by Cluster.mu
	how   string        // set before ended is closed
	ended chan struct{} // closed when it has been reaped
}

type start struct {
	node string
	cmd  *exec.Cmd
	err  chan error
}

// New prepares a cluster; no process runs yet. Close it in the end.
func New(cfg Config) *Cluster {
	if cfg.Start == nil {
		cfg.Start = func(_ string, start func() error) error { return start() }
	}
	c := &Cluster{cfg: cfg, starts: make(chan start), procs: make(map[string]*process), http: newHTTP(cfg)}
	go c.launch()
	return c
}

// launch starts all processes from one thread that lives until Close: a child
// gets its parent-death signal when the thread that started it ends, and Go ends
// threads as it likes.
func (c *Cluster) launch() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for s := range c.starts {
		s.err <- c.cfg.Start(s.node, s.cmd.Start)
	}
}

// Layout is what the cluster was made from.
func (c *Cluster) Layout() *Layout { return c.cfg.Layout }

// Procs is the GOMAXPROCS that the nodes get, and whether the environment had
// set it. Nodes that share a machine share its CPUs.
func Procs(nodes int) (procs string, fromEnv bool) {
	if p := os.Getenv("GOMAXPROCS"); p != "" {
		return p, true
	}
	return fmt.Sprint(max(1, runtime.NumCPU()/nodes)), false
}

// layoutKeys are the settings that come from config.yaml; the environment's own
// must not override them.
var layoutKeys = []string{"NODE", "DATA", "LISTEN", "ADVERTISE", "PEER", "HTTP", "CLUSTER", "PARTITIONS", "TOKEN",
	"CA", "CERT", "KEY"}

func (c *Cluster) env() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		key, ours := strings.CutPrefix(name, "ROOMLOG_")
		return ours && slices.Contains(layoutKeys, key)
	})
	procs, _ := Procs(len(c.cfg.Layout.Nodes))
	return append(append(env, "GOMAXPROCS="+procs), c.cfg.Env...)
}

// Start starts a node's process. It does not wait until it serves.
func (c *Cluster) Start(node string) error { return c.StartWith(node) }

// StartWith is Start with further arguments of serve.
func (c *Cluster) StartWith(node string, args ...string) error {
	n, ok := c.cfg.Layout.Node(node)
	if !ok {
		return fmt.Errorf("there is no node %q", node)
	}
	out, err := os.OpenFile(n.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(c.cfg.Binary, append([]string{"serve", "--config", n.Config}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = c.env()
	cmd.SysProcAttr = childAttr()

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("the cluster is closed")
	}
	if p := c.procs[node]; p != nil && p.running() {
		return fmt.Errorf("%s runs already, as process %d", node, p.cmd.Process.Pid)
	}
	s := start{node: node, cmd: cmd, err: make(chan error, 1)}
	c.starts <- s
	if err := <-s.err; err != nil {
		return fmt.Errorf("start %s: %w", node, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	c.procs[node] = p
	c.reaped.Go(func() { c.reap(node, p) })
	return nil
}

// StartAll starts every node.
func (c *Cluster) StartAll() error {
	for _, n := range c.cfg.Layout.Nodes {
		if err := c.Start(n.Name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) reap(node string, p *process) {
	err := p.cmd.Wait()
	p.how = p.cmd.ProcessState.String()
	if p.cmd.ProcessState == nil {
		p.how = err.Error()
	}
	c.mu.Lock()
	exit := Exit{Node: node, PID: p.cmd.Process.Pid, How: p.how, Asked: p.asked}
	c.mu.Unlock()
	close(p.ended)
	if c.cfg.OnExit != nil {
		c.cfg.OnExit(exit)
	}
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// PID is the process of a node; ok is false if none runs.
func (c *Cluster) PID(node string) (pid int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.procs[node]
	if p == nil || !p.running() {
		return 0, false
	}
	return p.cmd.Process.Pid, true
}

// Ended is closed once the process that the node has now, if any, is gone.
func (c *Cluster) Ended(node string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.procs[node]; p != nil {
		return p.ended
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

// Kill ends a node as a crash would, with SIGKILL.
func (c *Cluster) Kill(node string) error { return c.signal(node, os.Kill, true) }

// Terminate asks a node to stop, with SIGTERM.
func (c *Cluster) Terminate(node string) error { return c.signal(node, sigTerm, true) }

// Pause stops a node's process in its tracks, with SIGSTOP.
func (c *Cluster) Pause(node string) error { return c.signal(node, sigStop, false) }

// Resume lets a paused node go on.
func (c *Cluster) Resume(node string) error { return c.signal(node, sigCont, false) }

func (c *Cluster) signal(node string, sig os.Signal, ends bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.procs[node]
	if p == nil || !p.running() {
		return fmt.Errorf("%s does not run", node)
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", node, err)
	}
	p.asked = p.asked || ends
	return nil
}

// WaitReady returns once the given nodes (all, if none is given) say that they
// are ready, or with an error if one of them ends or ctx does.
func (c *Cluster) WaitReady(ctx context.Context, nodes ...string) error {
	if len(nodes) == 0 {
		for _, n := range c.cfg.Layout.Nodes {
			nodes = append(nodes, n.Name)
		}
	}
	for _, name := range nodes {
		if err := c.waitReady(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

const pollEvery = 20 * time.Millisecond

func (c *Cluster) waitReady(ctx context.Context, name string) error {
	n, ok := c.cfg.Layout.Node(name)
	if !ok {
		return fmt.Errorf("there is no node %q", name)
	}
	ended := c.Ended(name)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := c.askReady(ctx, n.HTTP)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return c.endedEarly(n)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w)", name, err, ctx.Err())
		case <-tick.C:
		}
	}
}

func (c *Cluster) endedEarly(n Node) error {
	c.mu.Lock()
	p := c.procs[n.Name]
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s was not started", n.Name)
	}
	how := "ended"
	if !p.running() {
		how = p.how
	}
	return fmt.Errorf("%s did not come up (%s); the end of %s:\n%s", n.Name, how, n.Log, tailOf(n.Log))
}

// tailOf returns the last lines of a file, as far as they can be read.
func tailOf(path string) string {
	const most = 2 << 10
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	start := max(0, size-most)
	b, err := io.ReadAll(io.NewSectionReader(f, start, size-start))
	if err != nil {
		return err.Error()
	}
	text := string(b)
	if _, rest, cut := strings.Cut(text, "\n"); cut && start > 0 {
		text = rest
	}
	return strings.TrimRight(text, "\n")
}

func newHTTP(cfg Config) *http.Client {
	return &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil, DialContext: cfg.Dial},
	}
}

// askReady asks a node whether it is ready; the error is its reason.
func (c *Cluster) askReady(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	return nil
}

// Close asks all processes at once to stop, kills those that take longer than
// 5 s, and returns when all are gone; the error names the killed ones.
func (c *Cluster) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		c.reaped.Wait()
		return nil
	}
	c.closed = true
	close(c.starts)
	c.mu.Unlock()

	for _, n := range c.cfg.Layout.Nodes {
		if c.Terminate(n.Name) == nil {
			_ = c.Resume(n.Name) // a paused process would not see the signal; one that just ended needs none
		}
	}
	var errs []error
	late := time.NewTimer(stopTime)
	defer late.Stop()
	expired := false
	for _, n := range c.cfg.Layout.Nodes {
		ended := c.Ended(n.Name)
		if !expired {
			select {
			case <-ended:
				continue
			case <-late.C:
				expired = true
			}
		}
		select {
		case <-ended: // in time, though looked at late
		default:
			if c.Kill(n.Name) == nil {
				errs = append(errs, fmt.Errorf("%s did not stop within %v and was killed", n.Name, stopTime))
			}
		}
	}
	c.reaped.Wait()
	return errors.Join(errs...)
}
