// Package clustertest makes clusters for tests: nodes in one process over
// loopback, whose peer links can be cut, and clusters of real processes. It
// keeps what was acked and checks what readers get.
package clustertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/wire"
)

// Token is what clients of a Cluster show.
const Token = "clustertest"

// patience bounds every wait of a test for something that must happen.
const patience = 30 * time.Second

// Cluster is a cluster of nodes in this process.
type Cluster struct {
	tb    testing.TB
	dir   string
	ca    []byte
	names []string
	edit  func(*node.Config)
	parts int

	mu      sync.Mutex
	members map[string]*member

	History History
}

// member is a node's fixed part, its links to the others, and the running node.
type member struct {
	name               string
	listen, peer, http string
	links              map[string]*link // to every other node
	cert               tls.Certificate
	node               *node.Node // nil while it is down
}

// Start runs a cluster of n nodes named n1, n2, … and stops it when the test
// ends. edit, if not nil, changes each node's Config.
func Start(tb testing.TB, n, partitions int, edit func(*node.Config)) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, dir: tb.TempDir(), edit: edit, parts: partitions, members: map[string]*member{}}
	ca, err := certs.NewCA()
	c.must(err)
	c.ca = ca.CertPEM()
	for i := range n {
		c.names = append(c.names, fmt.Sprintf("n%d", i+1))
	}
	for _, name := range c.names {
		m := &member{name: name, listen: freeAddr(tb), peer: freeAddr(tb), http: freeAddr(tb), links: map[string]*link{}}
		pair, err := ca.Issue(name)
		c.must(err)
		m.cert, err = tls.X509KeyPair(pair.Cert, pair.Key)
		c.must(err)
		c.members[name] = m
	}
	for _, from := range c.names {
		for _, to := range c.names {
			if from != to {
				c.members[from].links[to] = newLink(tb, c.members[to].peer)
			}
		}
	}
	tb.Cleanup(c.stop)
	for _, name := range c.names {
		c.Run(name)
	}
	c.WaitReady()
	return c
}

func (c *Cluster) must(err error) {
	c.tb.Helper()
	if err != nil {
		c.tb.Fatal(err)
	}
}

func (c *Cluster) stop() {
	var wg sync.WaitGroup
	for _, m := range c.members {
		if m.node != nil {
			wg.Go(func() { m.node.Close() })
		}
	}
	wg.Wait()
	for _, m := range c.members {
		for _, l := range m.links {
			l.close()
		}
	}
}

// Names returns the nodes' names.
func (c *Cluster) Names() []string { return c.names }

// Run starts a node that is down, with the data it has.
func (c *Cluster) Run(name string) {
	c.tb.Helper()
	m := c.members[name]
	members := map[string]string{name: m.peer}
	for to, l := range m.links {
		members[to] = l.addr
	}
	cfg := node.Config{
		Name: name, DataDir: filepath.Join(c.dir, name),
		Listen: m.listen, Peer: m.peer, HTTP: m.http, Members: members,
		Partitions: c.parts, Token: Token, CA: c.ca, Cert: m.cert,
		Version: "test", Logger: logger(name),
	}
	if c.edit != nil {
		c.edit(&cfg)
	}
	n, err := node.Open(cfg)
	if err != nil {
		c.tb.Fatalf("open %s: %v", name, err)
	}
	c.mu.Lock()
	m.node = n
	c.mu.Unlock()
}

// logger writes to standard error if ROOMLOG_TEST_LOG is set.
func logger(node string) *slog.Logger {
	if os.Getenv("ROOMLOG_TEST_LOG") == "" {
		return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
}

// Node returns a running node, nil if it is down.
func (c *Cluster) Node(name string) *node.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[name].node
}

func (c *Cluster) take(name string) *node.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.members[name].node
	c.members[name].node = nil
	return n
}

// Kill stops a node without a goodbye.
func (c *Cluster) Kill(name string) { c.take(name).Kill() }

// Stop stops a node cleanly.
func (c *Cluster) Stop(name string) { c.must(c.take(name).Close()) }

// Cut breaks a node's peer links, both ways; clients still reach it.
func (c *Cluster) Cut(name string) { c.eachLink(name, (*link).cut) }

// Heal mends a node's peer links.
func (c *Cluster) Heal(name string) { c.eachLink(name, (*link).heal) }

func (c *Cluster) eachLink(name string, f func(*link)) {
	for from, m := range c.members {
		for to, l := range m.links {
			if from == name || to == name {
				f(l)
			}
		}
	}
}

// WaitReady returns when every running node is ready.
func (c *Cluster) WaitReady() {
	c.tb.Helper()
	c.Until("all nodes ready", func() bool {
		for _, name := range c.names {
			if n := c.Node(name); n != nil && n.Ready() != nil {
				return false
			}
		}
		return true
	})
}

// Until looks at cond often until it holds, and fails the test if it never does.
func (c *Cluster) Until(what string, cond func() bool) {
	c.tb.Helper()
	until(c.tb, what, cond)
}

func until(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	deadline, tick := time.NewTimer(patience), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// Leader returns the node that leads room's partition, as the running nodes
// agree, waiting for one.
func (c *Cluster) Leader(room string) string {
	c.tb.Helper()
	id := wire.PartitionOf(room, c.parts)
	var leader string
	c.Until("a leader for "+room, func() bool {
		leader = ""
		for _, name := range c.names {
			n := c.Node(name)
			if n == nil {
				continue
			}
			if st := n.Partitions()[id]; st.Leader == name && c.Node(name) != nil {
				leader = name
			}
		}
		return leader != ""
	})
	return leader
}

// Addr is where clients reach a node.
func (c *Cluster) Addr(name string) string { return c.members[name].listen }

// HTTP is where operators reach a node, PeerAddr where the other nodes do.
func (c *Cluster) HTTP(name string) string     { return c.members[name].http }
func (c *Cluster) PeerAddr(name string) string { return c.members[name].peer }

// TLS is a client's configuration for this cluster.
func (c *Cluster) TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.ca)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
}

// Client dials the cluster, the named nodes first, and closes with the test.
func (c *Cluster) Client(name string, first ...string) *client.Client {
	c.tb.Helper()
	var servers []string
	for _, n := range first {
		servers = append(servers, c.Addr(n))
	}
	for _, n := range c.names {
		servers = append(servers, c.Addr(n))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := client.Dial(ctx, servers, client.WithTLS(c.TLS()), client.WithToken(Token), client.WithName(name))
	c.must(err)
	c.tb.Cleanup(func() { cl.Close() })
	return cl
}

// freeAddr finds an address for a listener, for TCP or UDP.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	addrs, err := devcluster.FreeAddrs(1)
	if err != nil {
		tb.Fatal(err)
	}
	return addrs[0]
}
