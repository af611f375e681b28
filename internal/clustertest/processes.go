package clustertest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/wire"
)

// Processes is a cluster of three real roomlog processes.
type Processes struct {
	*devcluster.Cluster
	tb      testing.TB
	http    *http.Client // asks the nodes' HTTP ports; nil: the default
	History History
}

var built struct {
	sync.Once
	dir, binary string
	err         error
}

// Binary builds roomlog once per test binary and returns its path. CleanUp
// removes it.
func Binary(tb testing.TB) string {
	built.Do(func() {
		built.dir, built.err = os.MkdirTemp("", "roomlog-test-")
		if built.err != nil {
			return
		}
		built.binary = filepath.Join(built.dir, "roomlog")
		out, err := exec.Command("go", "build", "-o", built.binary, "github.com/roomlog/roomlog/cmd/roomlog").CombinedOutput()
		if err != nil {
			tb.Logf("%s", out)
		}
		built.err = err
	})
	if built.err != nil {
		tb.Fatalf("build roomlog: %v", built.err)
	}
	return built.binary
}

// CleanUp removes what Binary has built; call it when all tests are done.
func CleanUp() {
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
}

// StartProcesses runs three processes with free ports and stops them when the
// test ends.
func StartProcesses(tb testing.TB, partitions int) *Processes {
	tb.Helper()
	return startProcesses(tb, devcluster.Options{Nodes: 3, Partitions: partitions})
}

// startProcesses runs the processes of opts in a new directory, with free ports: other
// tests run beside it, in this process and others.
func startProcesses(tb testing.TB, opts devcluster.Options) *Processes {
	tb.Helper()
	opts.Dir, opts.BasePort = tb.TempDir(), devcluster.FreePorts
	layout, err := devcluster.Prepare(opts)
	if err != nil {
		tb.Fatal(err)
	}
	p := &Processes{Cluster: devcluster.New(devcluster.Config{Layout: layout, Binary: Binary(tb)}), tb: tb}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	p.must(p.StartAll())
	p.Ready()
	return p
}

func (p *Processes) must(err error) {
	p.tb.Helper()
	if err != nil {
		p.tb.Fatal(err)
	}
}

// Ready waits until the nodes, or all, are ready.
func (p *Processes) Ready(nodes ...string) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p.must(p.WaitReady(ctx, nodes...))
}

// Client dials the cluster, the named nodes first, and closes with the test.
func (p *Processes) Client(name string, first ...string) *client.Client {
	p.tb.Helper()
	return p.dial(first, client.WithName(name))
}

// dial dials the cluster, the named nodes first.
func (p *Processes) dial(first []string, opts ...client.Option) *client.Client {
	p.tb.Helper()
	var servers []string
	for _, n := range first {
		node, _ := p.Layout().Node(n)
		servers = append(servers, node.Listen)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	opts = append(opts, client.WithTLS(p.tls()), client.WithToken(p.Layout().Token))
	c, err := client.Dial(ctx, append(servers, p.Layout().Servers()...), opts...)
	p.must(err)
	p.tb.Cleanup(func() { c.Close() })
	return c
}

// tls is a client's configuration for this cluster.
func (p *Processes) tls() *tls.Config {
	p.tb.Helper()
	ca, err := os.ReadFile(p.Layout().CA)
	p.must(err)
	pool, err := certs.Pool(ca)
	p.must(err)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
}

// Publisher returns a new publisher of the cluster's history.
func (p *Processes) Publisher(name string) *Publisher {
	return &Publisher{Name: name, Client: p.Client(name), History: &p.History}
}

// Replicas asks a node for its replicas.
func (p *Processes) Replicas(node string) (all []admin.PartitionStatus, err error) {
	n, _ := p.Layout().Node(node)
	return all, p.get(n, "/v1/partitions", &all)
}

// get asks a node's HTTP port.
func (p *Processes) get(n devcluster.Node, path string, answer any) error {
	return p.ask(http.MethodGet, n, path, answer)
}

// ask waits for an answer only so long: a process that hangs in a system call
// still takes connections when it has ended.
func (p *Processes) ask(method string, n devcluster.Node, path string, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.HTTP+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.Layout().Token)
	asker := p.http
	if asker == nil {
		asker = http.DefaultClient
	}
	resp, err := asker.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s: %s", n.Name, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// Transfer hands leadership of room's partition to a node. A leader that has
// just been elected may refuse, so it is asked until the node leads.
func (p *Processes) Transfer(room, to string) {
	p.tb.Helper()
	id := wire.PartitionOf(room, p.Layout().Partitions)
	p.until(to+" leads "+room, func() bool {
		leader := p.Leader(room)
		if leader == to {
			return true
		}
		n, _ := p.Layout().Node(leader)
		var answer admin.Transferred
		_ = p.ask(http.MethodPost, n, fmt.Sprintf("/v1/partitions/%d/transfer?to=%s", id, to), &answer)
		return false
	})
}

// Leader returns the node that leads room's partition, waiting for one.
func (p *Processes) Leader(room string) (leader string) {
	p.tb.Helper()
	id := wire.PartitionOf(room, p.Layout().Partitions)
	p.until("a leader for "+room, func() bool {
		for _, n := range p.Layout().Nodes {
			if all, err := p.Replicas(n.Name); err == nil && all[id].Leader == n.Name {
				leader = n.Name
				return true
			}
		}
		return false
	})
	return leader
}

// until looks at cond often until it holds, and fails the test if it never does.
func (p *Processes) until(what string, cond func() bool) {
	p.tb.Helper()
	until(p.tb, what, cond)
}

// CheckReplicas waits until all replicas have applied the same and fails the
// test if they differ.
func (p *Processes) CheckReplicas() {
	p.tb.Helper()
	p.until("the replicas agree", func() bool {
		var first []admin.PartitionStatus
		for _, n := range p.Layout().Nodes {
			all, err := p.Replicas(n.Name)
			if err != nil {
				return false
			}
			if first == nil {
				first = all
			}
			for i := range all {
				if all[i].Applied != first[i].Applied {
					return false
				}
				if all[i].Hash != first[i].Hash {
					p.tb.Fatalf("partition %d: the replicas differ after %d entries", i, all[i].Applied)
				}
			}
		}
		return true
	})
}

// CheckRooms reads the rooms whole on every node and compares them with the
// history.
func (p *Processes) CheckRooms(rooms ...string) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, node := range p.Layout().Nodes {
		c := p.Client("", node.Name)
		for _, room := range rooms {
			info, err := c.Room(ctx, room)
			p.must(err)
			got, err := ReadRoom(ctx, c, room, info.Last)
			p.must(err)
			if err := p.History.check(room, got); err != nil {
				p.tb.Fatalf("on %s: %v", node.Name, err)
			}
		}
		c.Close()
	}
}

// Flows waits until another n of pub's messages are acked.
func (p *Processes) Flows(pub *Publisher, n int) {
	p.tb.Helper()
	before, _ := pub.Progress()
	p.until("publishes go on", func() bool {
		acked, failed := pub.Progress()
		p.must(failed)
		return acked >= before+n
	})
}
