package bench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/netcluster"
	"github.com/roomlog/roomlog/transport/wire"
)

// Target is the cluster that is measured.
type Target struct {
	kind    string
	nodes   []client.Node // by name
	tls     *tls.Config
	token   string
	leaders []string // by partition, when the target was made
	ops     operators

	// Of a fresh cluster.
	cluster *devcluster.Cluster
	net     *netcluster.Cluster // the same, if it has a network of its own
	disks   map[string]disk     // of the nodes, if they have their own
	dir     string
	procs   string
}

// startLimit is how long a fresh cluster may take until it is ready.
const startLimit = time.Minute

// StartTarget starts a cluster of so many nodes on this machine in a new directory
// below dir ("" is the system's place for such), which Close removes. Its
// partitions' leaders are spread evenly.
func StartTarget(ctx context.Context, binary, dir string, nodes, partitions int) (*Target, error) {
	return startTarget(ctx, dir, nodes, partitions, func(t *Target, opts devcluster.Options) error {
		layout, err := devcluster.Prepare(opts)
		if err != nil {
			return err
		}
		t.cluster = devcluster.New(devcluster.Config{Layout: layout, Binary: binary})
		return nil
	})
}

// StartTargetOnNet is StartTarget with a network between the nodes and this
// process on which faults can be made. Linux and root are needed.
func StartTargetOnNet(ctx context.Context, binary, dir string, nodes, partitions int) (*Target, error) {
	return startTarget(ctx, dir, nodes, partitions, func(t *Target, opts devcluster.Options) (err error) {
		if t.net, err = netcluster.New(opts, devcluster.Config{Binary: binary}); err != nil {
			return err
		}
		t.cluster = t.net.Cluster
		t.ops.http = &http.Client{Transport: &http.Transport{DialContext: t.net.Dial}}
		return nil
	})
}

func startTarget(ctx context.Context, dir string, nodes, partitions int, layOut func(*Target, devcluster.Options) error) (*Target, error) {
	dir, err := os.MkdirTemp(dir, "roomlog-bench-")
	if err != nil {
		return nil, err
	}
	t := &Target{kind: freshServers, dir: dir}
	err = layOut(t, devcluster.Options{Dir: t.dir, Nodes: nodes, BasePort: devcluster.FreePorts, Partitions: partitions})
	if err == nil {
		err = t.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// start starts what has been laid out.
func (t *Target) start(ctx context.Context) error {
	layout := t.cluster.Layout()
	ca, err := os.ReadFile(layout.CA)
	if err != nil {
		return err
	}
	pool, err := certs.Pool(ca)
	if err != nil {
		return err
	}
	t.tls, t.token = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, layout.Token
	for _, n := range layout.Nodes {
		t.nodes = append(t.nodes, client.Node{Name: n.Name, Listen: n.Listen, HTTP: n.HTTP, Alive: true})
	}
	t.ops.token, t.ops.nodes = t.token, t.nodes
	t.procs, _ = devcluster.Procs(len(t.nodes))
	if err := t.cluster.StartAll(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := t.cluster.WaitReady(ctx); err != nil {
		return err
	}
	t.leaders, err = t.ops.spread(ctx)
	return err
}

// JoinTarget takes a cluster that runs. Its leaders stay where they are, and what
// its servers use is not known.
func JoinTarget(ctx context.Context, servers []string, conf *tls.Config, token string) (*Target, error) {
	c, err := client.Dial(ctx, servers, client.WithTLS(conf), client.WithToken(token))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	t := &Target{kind: runningServers, tls: conf, token: token}
	if t.nodes, err = c.Nodes(ctx); err != nil {
		return nil, err
	}
	t.nodes = slices.DeleteFunc(t.nodes, func(n client.Node) bool { return !n.Alive || n.Listen == "" })
	t.ops = operators{token: token, nodes: t.nodes}
	t.leaders, err = t.ops.settled(ctx)
	return t, err
}

// Close stops a fresh cluster and removes its directory.
func (t *Target) Close() error {
	if t.dir == "" {
		return nil
	}
	var err error
	switch {
	case t.net != nil:
		err = t.net.Close()
	case t.cluster != nil:
		err = t.cluster.Close()
	}
	for _, d := range t.disks {
		err = errors.Join(err, d.Close())
	}
	return errors.Join(err, os.RemoveAll(t.dir))
}

// Partitions is how many the cluster has.
func (t *Target) Partitions() int { return len(t.leaders) }

// Local tells whether the servers' CPU time and memory are known.
func (t *Target) Local() bool { return t.cluster != nil }

// place is where a node stands among the nodes.
func (t *Target) place(node string) int {
	return slices.IndexFunc(t.nodes, func(n client.Node) bool { return n.Name == node })
}

// led counts the partitions that each node leads.
func (t *Target) led() map[string]int {
	count := make(map[string]int)
	for _, n := range t.nodes {
		count[n.Name] = 0
	}
	for _, leader := range t.leaders {
		count[leader]++
	}
	return count
}

// sumOf adds something up over the processes of all servers.
func sumOf[N time.Duration | int64](t *Target, of func(pid int) (N, error)) (total N, err error) {
	for _, n := range t.nodes {
		pid, ok := t.cluster.PID(n.Name)
		if !ok {
			return 0, fmt.Errorf("%s has ended while it was measured", n.Name)
		}
		one, err := of(pid)
		if err != nil {
			return 0, err
		}
		total += one
	}
	return total, nil
}

// dialOnly connects to the cluster by one node.
func (t *Target) dialOnly(ctx context.Context, node string, opts ...client.Option) (*client.Client, error) {
	return t.dialServers(ctx, []string{t.nodes[t.place(node)].Listen}, opts...)
}

// dial connects to the cluster, to the node named first if it can be reached.
func (t *Target) dial(ctx context.Context, first string, opts ...client.Option) (*client.Client, error) {
	var servers []string
	for _, n := range t.nodes {
		if n.Name == first {
			servers = slices.Insert(servers, 0, n.Listen)
		} else {
			servers = append(servers, n.Listen)
		}
	}
	return t.dialServers(ctx, servers, opts...)
}

func (t *Target) dialServers(ctx context.Context, servers []string, opts ...client.Option) (*client.Client, error) {
	opts = append(opts, client.WithTLS(t.tls), client.WithToken(t.token), client.WithName("bench"))
	return client.Dial(ctx, servers, opts...)
}

// room is one that a benchmark uses.
type room struct {
	name      string
	index     int
	partition int
	leader    string
	published uint64 // messages so far; the publisher's
}

// rooms makes n rooms that nobody has used. They are spread evenly over the
// partitions, and so over the leaders: chance would make each run another load.
func (t *Target) rooms(n int) []*room {
	return t.roomsIn(n, func(int) bool { return true })
}

// roomsIn is rooms, in the partitions that are wanted: one of them at least.
func (t *Target) roomsIn(n int, wanted func(partition int) bool) []*room {
	var partitions []int
	for p := range t.Partitions() {
		if wanted(p) {
			partitions = append(partitions, p)
		}
	}
	var run [6]byte
	rand.Read(run[:]) // never fails
	rooms := make([]*room, n)
	try := 0
	for i := range rooms {
		r := &room{index: i, partition: partitions[i%len(partitions)]}
		for r.name == "" || wire.PartitionOf(r.name, t.Partitions()) != r.partition {
			r.name = fmt.Sprintf("bench/%s/%d", hex.EncodeToString(run[:]), try)
			try++
		}
		r.leader = t.leaders[r.partition]
		rooms[i] = r
	}
	return rooms
}
