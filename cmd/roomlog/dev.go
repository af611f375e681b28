package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/devcluster"
)

func newDev(a *app) *cobra.Command {
	opts := devcluster.Options{}
	var restart bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a local cluster",
		Long: `Run a cluster of real processes on this machine until Ctrl-C, for trying things
out. The directory keeps certificates, settings and data; called again, dev goes
on with them.

A node that dies stays dead, unless --restart: "roomlog serve --config
DIR/n1/config.yaml" brings it back, and it then lives on when dev ends. What a
node prints is in DIR/n1/log.`,
		Example: `  roomlog dev
  roomlog dev --data /tmp/cluster --nodes 1 --base-port 0`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Dir, "data", "roomlog-dev", "directory of the cluster")
	flags.IntVar(&opts.Nodes, "nodes", devcluster.DefaultNodes, "how many nodes")
	flags.IntVar(&opts.BasePort, "base-port", devcluster.DefaultBasePort,
		"first of the ports for clients; peers use those from 10 above it, operators from 20; 0: any free ports")
	flags.IntVar(&opts.Partitions, "partitions", devcluster.DefaultPartitions, "how many partitions")
	flags.BoolVar(&restart, "restart", false, "start nodes again that have died")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		layout, err := prepareDev(opts, flags.Changed)
		if err != nil {
			return err
		}
		binary, err := os.Executable()
		if err != nil {
			return err
		}
		exits := make(chan devcluster.Exit, 2*devcluster.MaxNodes)
		stopping := make(chan struct{})
		cluster := devcluster.New(devcluster.Config{Layout: layout, Binary: binary, OnExit: func(e devcluster.Exit) {
			select {
			case exits <- e:
			case <-stopping:
			}
		}})
		d := dev{app: a, cluster: cluster, layout: layout, exits: exits, restart: restart}
		err = d.run(cmd.Context())
		close(stopping)
		d.stop()
		return err
	}
	return cmd
}

// prepareDev lays the cluster out. A flag that was not given leaves it to the
// directory.
func prepareDev(opts devcluster.Options, given func(flag string) bool) (*devcluster.Layout, error) {
	for _, f := range []struct {
		name        string
		value       *int
		least, most int
	}{
		{"nodes", &opts.Nodes, 1, devcluster.MaxNodes},
		{"partitions", &opts.Partitions, 1, maxPartitions},
		{"base-port", &opts.BasePort, 0, maxBasePort},
	} {
		switch {
		case !given(f.name):
			*f.value = 0
		case *f.value < f.least || *f.value > f.most:
			return nil, usagef("--%s %d: give a number from %d to %d", f.name, *f.value, f.least, f.most)
		}
	}
	if given("base-port") && opts.BasePort == 0 {
		opts.BasePort = devcluster.FreePorts
	}
	if err := checkNewPorts(opts); err != nil {
		return nil, fmt.Errorf("cannot start a cluster in %s: %w", opts.Dir, err)
	}
	layout, err := devcluster.Prepare(opts)
	if err != nil {
		return nil, err
	}
	if err := layout.CheckPorts(); err != nil {
		return nil, fmt.Errorf("cannot start the cluster of %s: %w", layout.Dir, err)
	}
	return layout, nil
}

// maxBasePort leaves room for the ports of as many nodes as there can be.
const maxBasePort = 65535 - 20 - devcluster.MaxNodes

// checkNewPorts looks at the ports of a cluster that is still to be laid out, so
// that a directory is not filled in vain.
func checkNewPorts(opts devcluster.Options) error {
	if opts.BasePort == devcluster.FreePorts {
		return nil
	}
	if _, err := os.Stat(filepath.Join(opts.Dir, "profile.yaml")); err == nil {
		return nil // it has ports of its own
	}
	base := cmp.Or(opts.BasePort, devcluster.DefaultBasePort)
	var planned devcluster.Layout
	for i := range cmp.Or(opts.Nodes, devcluster.DefaultNodes) {
		at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port+i) }
		planned.Nodes = append(planned.Nodes, devcluster.Node{Name: fmt.Sprintf("n%d", i+1),
			Listen: at(base), Peer: at(base + 10), HTTP: at(base + 20)})
	}
	return planned.CheckPorts()
}

// processes is a devcluster.Cluster, or a test's.
type processes interface {
	Start(node string) error
	StartAll() error
	WaitReady(ctx context.Context, nodes ...string) error
	PID(node string) (int, bool)
	Close() error
}

// dev runs a cluster.
type dev struct {
	app     *app
	cluster processes
	layout  *devcluster.Layout
	exits   <-chan devcluster.Exit
	restart bool
}

// devUpLimit is how long all nodes may take until they serve. A node with much
// data reads it first.
const devUpLimit = 2 * time.Minute

func (d *dev) run(ctx context.Context) error {
	if err := d.cluster.StartAll(); err != nil {
		return err
	}
	upCtx, cancel := context.WithTimeout(ctx, devUpLimit)
	defer cancel()
	if err := d.cluster.WaitReady(upCtx); err != nil {
		return ended(ctx, err)
	}
	if err := d.printNodes(); err != nil {
		return err
	}
	d.keep(ctx)
	return nil
}

// stop asks all nodes to stop; one that does not is killed.
func (d *dev) stop() {
	if err := d.cluster.Close(); err != nil {
		d.notice("%v", err)
	}
}

func (d *dev) notice(format string, args ...any) {
	fmt.Fprintf(d.app.stderr, "roomlog: "+format+"\n", args...)
}

// devNodeLine is what dev prints in JSON.
type devNodeLine struct {
	Node   string `json:"node"`
	PID    int    `json:"pid"`
	Listen string `json:"listen"`
	Peer   string `json:"peer"`
	HTTP   string `json:"http"`
}

func (d *dev) printNodes() error {
	var lines []devNodeLine
	for _, n := range d.layout.Nodes {
		pid, _ := d.cluster.PID(n.Name)
		lines = append(lines, devNodeLine{Node: n.Name, PID: pid, Listen: n.Listen, Peer: n.Peer, HTTP: n.HTTP})
	}
	err := emitTable(d.app, lines, []string{"NODE", "PID", "LISTEN", "PEER", "HTTP"}, func(l devNodeLine) []any {
		return []any{l.Node, l.PID, l.Listen, l.Peer, l.HTTP}
	})
	if err != nil || d.app.output == "json" {
		return err
	}
	return d.app.emit(nil, d.printHints)
}

func (d *dev) printHints(w io.Writer) {
	profile, err := filepath.Abs(d.layout.Profile)
	if err != nil {
		profile = d.layout.Profile
	}
	procs, fromEnv := devcluster.Procs(len(d.layout.Nodes))
	why := "the nodes share this machine"
	if fromEnv {
		why = "from the environment"
	}
	self := os.Args[0]
	fmt.Fprintf(w, `
%s, data in %s, GOMAXPROCS=%s for each node (%s).
What a node prints is in %s.
The profile for clients is %s

In another terminal:
  export ROOMLOG_PROFILE=%s
  %s subscribe lobby
  echo hello | %s publish lobby
  %s partition list

Ctrl-C stops these processes; a node brought back by hand with serve lives on.
`, plural(d.layout.Partitions, "partition"), d.layout.Dir, procs, why, filepath.Join(d.layout.Dir, "NODE", "log"), profile, profile, self, self, self)
}

const (
	restartFirst = 500 * time.Millisecond // and twice as much after each failure
	restartMost  = 15 * time.Second
	restartCalm  = 30 * time.Second // who ran for so long starts from the beginning
)

// keep tells of nodes that die, and starts them again if asked to, until ctx
// ends. It goes on when none is left: they may be started by hand.
func (d *dev) keep(ctx context.Context) {
	due := make(chan string)
	started := make(map[string]time.Time)
	delay := make(map[string]time.Duration)
	began := time.Now()
	retry := func(node string) {
		if time.Since(orTime(started[node], began)) > restartCalm {
			delay[node] = 0
		}
		delay[node] = min(max(restartFirst, 2*delay[node]), restartMost)
		d.notice("%s is started again in %v", node, delay[node])
		time.AfterFunc(delay[node], func() {
			select {
			case due <- node:
			case <-ctx.Done():
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-d.exits:
			n, _ := d.layout.Node(e.Node)
			d.notice("%s (process %d) has ended: %s; it printed to %s", e.Node, e.PID, e.How, n.Log)
			if d.restart {
				retry(e.Node)
				break
			}
			d.notice("to bring it back: %s serve --config %s", os.Args[0], n.Config)
		case node := <-due:
			started[node] = time.Now()
			if err := d.cluster.Start(node); err != nil {
				d.notice("%v", err)
				retry(node)
				break
			}
			pid, _ := d.cluster.PID(node)
			d.notice("%s runs again as process %d", node, pid)
		}
	}
}

func orTime(t, def time.Time) time.Time {
	if t.IsZero() {
		return def
	}
	return t
}
