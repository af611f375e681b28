package chaos

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/faultfs"
	"github.com/roomlog/roomlog/internal/faultnet"
	"github.com/roomlog/roomlog/internal/netcluster"
	"github.com/roomlog/roomlog/transport/admin"
)

// recovery is how long a cluster may take to serve when everything is healed.
const recovery = 30 * time.Second

// cluster is the nodes of a run, each on a host and a disk of its own.
type cluster struct {
	procs      *netcluster.Cluster
	net        *faultnet.Net
	disks      map[string]*faultfs.FS
	names      []string
	partitions int
	binary     string
	dir        string // temporary
	tls        *tls.Config
	http       *http.Client // past all faults of packets

	forget bool // at a power cut

	mu  sync.Mutex
	rng *rand.Rand // for what survives one
}

// startCluster returns when all nodes serve. Close it also after an error.
func startCluster(ctx context.Context, o Options, settings map[string]string, exited func(devcluster.Exit)) (c *cluster, err error) {
	c = &cluster{disks: map[string]*faultfs.FS{}, partitions: o.Partitions, binary: o.Binary, forget: o.Forget, rng: stream(o.Seed, 2)}
	if c.dir, err = os.MkdirTemp(o.Dir, "roomlog-chaos-"); err != nil {
		return c, err
	}
	c.procs, err = netcluster.New(
		devcluster.Options{Dir: c.dir, Nodes: o.Nodes, Partitions: o.Partitions, Data: "data", Settings: settings},
		devcluster.Config{Binary: o.Binary, Env: o.Env, OnExit: exited},
	)
	if err != nil {
		return c, err
	}
	c.net = c.procs.Net
	c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: c.procs.Dial}}
	layout := c.procs.Layout()
	if c.tls, err = clientTLS(layout.CA); err != nil {
		return c, err
	}
	for _, n := range layout.Nodes {
		c.names = append(c.names, n.Name)
		disk, err := faultfs.Mount(n.Data, faultfs.Options{})
		if err != nil {
			return c, err
		}
		c.disks[n.Name] = disk
	}
	if err := c.procs.StartAll(); err != nil {
		return c, err
	}
	return c, c.ready(ctx)
}

func clientTLS(ca string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool, err := certs.Pool(pem)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, err
}

// close ends all processes and takes network, disks and directory away.
func (c *cluster) close() error {
	var errs []error
	for _, d := range c.disks {
		faultfs.Cut(d) // lets go what a disk holds up
	}
	if c.procs != nil {
		c.kill(c.names...)
		errs = append(errs, c.procs.Close())
	}
	for _, d := range c.disks {
		errs = append(errs, d.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// dial connects to the cluster, to a node first.
func (c *cluster) dial(ctx context.Context, name, first string) (*client.Client, error) {
	return c.dialOnly(ctx, name, append([]string{first}, c.names...)...)
}

// dialOnly connects to one of these nodes.
func (c *cluster) dialOnly(ctx context.Context, name string, nodes ...string) (*client.Client, error) {
	layout := c.procs.Layout()
	servers := make([]string, len(nodes))
	for i, node := range nodes {
		n, _ := layout.Node(node)
		servers[i] = n.Listen
	}
	return client.Dial(ctx, servers, client.WithTLS(c.tls), client.WithToken(layout.Token), client.WithName(name))
}

// kill kills processes and returns when they are gone, with how many there were.
func (c *cluster) kill(nodes ...string) (killed int) {
	for _, n := range nodes {
		_ = c.procs.Resume(n) // a stopped process does end, but whoever waits in it would not
		if c.procs.Kill(n) == nil {
			killed++
		}
	}
	for _, n := range nodes {
		<-c.procs.Ended(n)
	}
	return killed
}

// start starts those of the nodes that do not run.
func (c *cluster) start(nodes ...string) error {
	for _, n := range nodes {
		if _, runs := c.procs.PID(n); runs {
			continue
		}
		if err := c.procs.Start(n); err != nil {
			return err
		}
	}
	return nil
}

// restart starts a node and waits until it serves.
func (c *cluster) restart(ctx context.Context, node string) error {
	if err := c.start(node); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	return stuck(c.procs.WaitReady(ctx, node))
}

// startEnded starts the nodes that have ended by themselves. A process that is
// giving up, because of its disk, may take a moment to end.
func (c *cluster) startEnded(ctx context.Context) error {
	if err := wait(ctx, 200*time.Millisecond); err != nil {
		return err
	}
	return c.start(c.names...)
}

// ready waits until all nodes serve. One that ends meanwhile is started again, once:
// what its disk did to it may show late.
func (c *cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	if err := c.start(c.names...); err != nil {
		return err
	}
	if err := c.procs.WaitReady(ctx); err == nil || ctx.Err() != nil {
		return stuck(err)
	}
	if err := c.start(c.names...); err != nil {
		return err
	}
	return stuck(c.procs.WaitReady(ctx))
}

// powerCut cuts the power of nodes at one instant: their processes are gone, and of
// what was not synced a part that is drawn. took is how many had a process.
func (c *cluster) powerCut(nodes ...string) (took int, err error) {
	disks := make([]*faultfs.FS, len(nodes))
	for i, n := range nodes {
		disks[i] = c.disks[n]
	}
	faultfs.Cut(disks...)
	took = c.kill(nodes...)
	for _, d := range disks {
		err = errors.Join(err, d.Restore(c.survivors()))
	}
	return took, err
}

func (c *cluster) survivors() faultfs.Survivors {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forget {
		return faultfs.Survivors{}
	}
	return faultfs.Survivors{
		Seed:   c.rng.Uint64(),
		Chance: []float64{0, 0.5, 0.9}[c.rng.IntN(3)],
		Sector: []int64{512, 4096}[c.rng.IntN(2)],
	}
}

// cutOff drops all packets between two groups until heal.
func (c *cluster) cutOff(a, b []string) (heal func()) {
	var injected []*faultnet.Injected
	for _, f := range between(a, b) {
		injected = append(injected, c.net.Inject(f))
	}
	return func() {
		for _, i := range injected {
			i.Off()
		}
	}
}

// replicas asks a node for its replicas, past all faults of packets.
func (c *cluster) replicas(ctx context.Context, node string) (all []admin.PartitionStatus, err error) {
	return all, c.ask(ctx, node, "/v1/partitions", &all)
}

// askLimit is short: a node that is paused or stalled does not answer.
const askLimit = time.Second

func (c *cluster) ask(ctx context.Context, node, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	n, _ := c.procs.Layout().Node(node)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.procs.Layout().Token)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: GET %s: %s", node, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// leader is the node that says it leads a partition, of several the one with the
// highest term; "" if none does within a moment.
func (c *cluster) leader(ctx context.Context, partition int) (leader string) {
	for began := time.Now(); time.Since(began) < 2*time.Second && ctx.Err() == nil; {
		term := uint64(0)
		for _, n := range c.names {
			all, err := c.replicas(ctx, n)
			if err != nil || partition >= len(all) {
				continue
			}
			if r := all[partition]; r.Leader == n && r.Term > term {
				leader, term = n, r.Term
			}
		}
		if leader != "" {
			return leader
		}
		_ = wait(ctx, 20*time.Millisecond)
	}
	return ""
}

// count counts the lines with a text that a node has printed so far.
func (c *cluster) count(node, text string) int {
	n, _ := c.procs.Layout().Node(node)
	printed, err := os.ReadFile(n.Log)
	if err != nil {
		return 0
	}
	return bytes.Count(printed, []byte(text))
}

var rebuildHint = regexp.MustCompile(`--rebuild ([0-9,]+|all)`)

// damaged asks verify which partitions of a stopped node are damaged: "" if none,
// else what --rebuild wants.
func (c *cluster) damaged(ctx context.Context, node string) (partitions string, err error) {
	said, err := exec.CommandContext(ctx, c.binary, "verify", c.disks[node].Dir()).CombinedOutput()
	hint := rebuildHint.FindSubmatch(said)
	switch {
	case err == nil:
		return "", nil
	case hint == nil:
		return "", stuck(fmt.Errorf("verify %s: %w: %s", node, err, strings.TrimSpace(string(said))))
	}
	return string(hint[1]), nil
}

// rebuild starts a node and has damaged partitions built anew from the others. While
// these are cut off or down it refuses, and is started again.
func (c *cluster) rebuild(ctx context.Context, node, partitions string) error {
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	for {
		if err := c.procs.StartWith(node, "--rebuild", partitions); err != nil {
			return err
		}
		if err := c.procs.WaitReady(ctx, node); err == nil || ctx.Err() != nil {
			return stuck(err)
		}
		_ = wait(ctx, again)
	}
}
