// Package node builds a node from a Config and owns its start and stop order:
//
//	start  data directory, ports, peer links, partitions, clients, operators
//	stop   leadership, clients, operators, partitions, peer links, data directory
package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/raftlog/vfs"
	"github.com/roomlog/roomlog/transport"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/peer"
)

// Config is what a node is made of.
type Config struct {
	Name      string            // of this node, a key of Members
	DataDir   string            // everything the node keeps lies here
	Listen    string            // host:port, UDP: clients
	Advertise string            // host:port that clients are told; default: the bound Listen address
	Peer      string            // host:port, TCP: the other nodes
	HTTP      string            // host:port, TCP: operators
	Members   map[string]string // name to peer address of every node, this one too

	// Nonvoters names members that hold replicas, serve readers and have no vote: they
	// neither lead nor count for a majority. Fixed like Members.
	Nonvoters []string

	Partitions int    // fixed when the cluster is created
	Token      string // what clients must show; "" lets everybody in

	CA   []byte          // PEM; both sides of a peer link are checked against it
	Cert tls.Certificate // shown to clients and to peers; names this node

	SessionTTL time.Duration // idle publisher sessions are forgotten after this
	QueueBytes int64         // per partition: publishes waiting to be proposed
	TailBytes  int64         // per partition: newest messages in memory
	Heartbeat  time.Duration // Raft's heartbeat and election timeout
	Objective  time.Duration // p99 of what messages may take, the drift objective; default 100 ms

	// HeartbeatsOnly leaves it to missed heartbeats to notice a dead node: partitions
	// whose leader's process is gone do not elect at once.
	HeartbeatsOnly bool

	// FlushSpacing is the most that flushes of a client's connection are apart when
	// processors are busy with them; default DefaultSpacing; below 0: none.
	FlushSpacing time.Duration
	KeyExchange  []tls.CurveID // that clients may use; nil: those of crypto/tls
	Handshakes   int           // of clients that may begin in a second; 0: as many as leave other work on time

	SegmentBytes int64     // size of a file of a partition's log; default 64 MiB
	Reserve      int64     // free bytes of the disk below which publishes are refused; 0: none
	Retention    Retention // the same on all nodes: that of a partition's leader counts
	// Rebuild names partitions whose replica here is discarded, damaged or not, and
	// built anew from the other nodes, all of which must be up for that.
	Rebuild []int

	// MarkHash, if not nil, replaces the hashes of this node's marks: for tests of
	// what becomes of a replica that differs.
	MarkHash func(partition int, index, hash uint64) uint64

	// FS, if not nil, is where partitions keep their files, and Slow is called in
	// stages of their messages (partition.Config): for tests of a slow disk, and of
	// what is slow otherwise.
	FS   vfs.FS
	Slow func(partition int, stage partition.Stage)

	Version string // of the software, for operators
	Logger  *slog.Logger
}

// Voters are the members that have a vote, by name.
func (c *Config) Voters() []string { return votersOf(c.Members, c.Nonvoters) }

func votersOf(members map[string]string, nonvoters []string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(members)), func(name string) bool { return slices.Contains(nonvoters, name) })
}

// Node is a running node. Its methods are safe for concurrent use.
type Node struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	listen  string // told to clients
	peer    string // bound addresses
	httpAt  string

	data       *dataDir
	space      *space
	marks      *marks
	network    *peer.Network
	stable     *raftlog.StableStore
	partitions []*partition.Partition
	opened     atomic.Bool            // all of them
	metrics    []prometheus.Collector // of the partitions
	clients    *transport.Server
	http       *http.Server

	ctx    context.Context // ends when the node stops
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	staying  context.Context // ends before ctx: the node gives away what it has, and then stops
	stay     func()          // ends it
	mu       sync.Mutex      // held while what follows changes, and is told
	draining atomic.Bool     // it is to lead nothing and have no clients
	keeping  atomic.Bool     // keepDrained's hand-over is under way
	handing  sync.Mutex      // held by handOver

	deaths *deaths // of other nodes

	failed       chan error
	leaderEvents chan struct{} // one token: a leader has changed
	stopOnce     sync.Once
	stopErr      error
}

// info is what a node tells the others over the peer link.
type info struct {
	Listen string `json:"listen"`
	HTTP   string `json:"http"`
}

// Open starts a node. It returns once all ports are bound and all partitions
// are open; leaders may not be known yet.
func Open(cfg Config) (*Node, error) {
	n := &Node{
		cfg:          cfg,
		log:          cfg.Logger,
		started:      time.Now(),
		deaths:       newDeaths(),
		failed:       make(chan error, 1),
		leaderEvents: make(chan struct{}, 1),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.staying, n.stay = context.WithCancel(n.ctx)
	if err := n.open(); err != nil {
		n.cancel()
		n.tasks.Wait()
		n.closeAll()
		return nil, err
	}
	return n, nil
}

func (n *Node) open() (err error) {
	cfg := n.cfg
	n.data, err = openDataDir(cfg.DataDir, identity{
		Node: cfg.Name, Partitions: cfg.Partitions, Members: cfg.Members, Nonvoters: slices.Sorted(slices.Values(cfg.Nonvoters)),
	})
	if err != nil {
		return err
	}
	key, err := n.data.resetKey()
	if err != nil {
		return err
	}
	n.space = newSpace(n.data.path, cfg.Reserve, freeBytes, n.log)
	n.marks = newMarks(cfg.Name, cfg.Voters()...)
	socket, err := transport.Bind(cfg.Listen)
	if err != nil {
		return err
	}
	operators, err := bindHTTP(cfg.HTTP)
	if err != nil {
		socket.Close()
		return err
	}
	n.listen, n.httpAt = socket.LocalAddr().String(), operators.Addr().String()
	if cfg.Advertise != "" {
		n.listen = cfg.Advertise
	}
	if err := errors.Join(n.openNetwork(), n.openPartitions()); err != nil {
		socket.Close()
		operators.Close()
		return err
	}
	clientMetrics := transport.NewMetrics()
	n.clients, err = transport.Serve(transport.Config{
		Node: cfg.Name, Socket: socket, Cert: cfg.Cert, ResetKey: key, Token: cfg.Token, Leave: leave,
		Spacing: cfg.spacing(), KeyExchange: cfg.KeyExchange, Handshakes: cfg.Handshakes,
		Partitions: n.partitions, Metrics: clientMetrics, Logger: n.log,
	})
	if err != nil {
		socket.Close()
		operators.Close()
		return err
	}
	n.serveHTTP(operators, clientMetrics.Collectors())
	n.tasks.Go(n.watchCluster)
	n.tasks.Go(n.watchDeaths)
	n.tasks.Go(n.watchNetwork)
	n.tasks.Go(n.watchClock)
	n.tasks.Go(n.watchMarks)
	n.tasks.Go(n.watchSpace)
	return nil
}

func bindHTTP(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("http %s: the TCP port is in use by another process; stop it or set another address with --http", addr)
	} else if err != nil {
		return nil, fmt.Errorf("http %s: %w", addr, err)
	}
	return l, nil
}

func (n *Node) openNetwork() error {
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(n.cfg.CA) {
		return errors.New("ca: holds no PEM certificate")
	}
	told, err := json.Marshal(info{Listen: n.listen, HTTP: n.httpAt})
	if err != nil {
		return err
	}
	n.network, err = peer.Listen(peer.Config{
		Node: n.cfg.Name, Addr: n.cfg.Peer, Members: n.cfg.Members, Cluster: n.fingerprint(),
		Cert: n.cfg.Cert, CA: ca, Info: told, Logger: n.log,
		Answer: n.groupState, OnHeir: n.heir, OnPush: n.pushed, OnBeat: n.beaten, OnDead: n.died, BeatEvery: raftlog.BeatEvery(n.cfg.Heartbeat),
		SilentAfter: n.silentAfter(),
		OnMark:      func(node string, m peer.Mark) { n.marks.add(node, int(m.Group), m.Index, m.Hash) },
	})
	if err != nil {
		return err
	}
	n.peer = n.network.Addr()
	for id := range n.cfg.Partitions { // the others' streams may come before the partitions are open
		n.network.Streams(uint32(id))
	}
	return nil
}

// fingerprint is what all nodes of a cluster must agree on. Addresses are not
// in it: nodes may reach each other in different ways.
func (n *Node) fingerprint() string {
	all := fmt.Sprintf("%d/%s", n.cfg.Partitions, strings.Join(n.cfg.Voters(), ","))
	if len(n.cfg.Nonvoters) > 0 {
		all += "/" + strings.Join(slices.Sorted(slices.Values(n.cfg.Nonvoters)), ",")
	}
	if len(all) > 48 {
		sum := sha256.Sum256([]byte(all))
		all = all[:31] + "#" + hex.EncodeToString(sum[:8])
	}
	return all
}

func (n *Node) serveHTTP(l net.Listener, clients []prometheus.Collector) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(clients...)
	registry.MustRegister(n.metrics...)
	registry.MustRegister(n.network.Collectors()...)
	registry.MustRegister(n.space.collectors()...)
	registry.MustRegister(n.deaths.collectors()...)
	registry.MustRegister(n.marks.mismatches, partitionMetrics{n}, driftMetrics{n})
	n.http = admin.NewServer(admin.New(admin.Config{
		Source: n, Token: n.cfg.Token, Registry: registry, Logger: n.log,
	}), n.log)
	n.tasks.Go(func() {
		if err := n.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.fail(fmt.Errorf("http: %w", err))
		}
	})
}

// fail tells of an error after which the process must end. It never blocks.
func (n *Node) fail(err error) {
	n.log.Error("the node cannot go on", "err", err)
	select {
	case n.failed <- err:
	default:
	}
}

// watchNetwork fails the node if it is not the only one of its name.
func (n *Node) watchNetwork() {
	select {
	case err := <-n.network.Failed():
		n.fail(err)
	case <-n.ctx.Done():
	}
}

// spacing is Config's FlushSpacing.
func (cfg Config) spacing() time.Duration {
	if cfg.FlushSpacing != 0 {
		return max(0, cfg.FlushSpacing)
	}
	return DefaultSpacing(cmp.Or(cfg.Objective, partition.DefaultObjective))
}

// DefaultSpacing is the FlushSpacing of a node with this Objective: a good part of
// it, but no more than few notice. 60 ms halve what it costs to deliver to many.
func DefaultSpacing(objective time.Duration) time.Duration {
	return min(60*time.Millisecond, objective*6/10)
}

// Failed yields the error that makes going on impossible; the process must end.
func (n *Node) Failed() <-chan error { return n.failed }

// Addrs returns the bound addresses; listen is the one that clients are told.
func (n *Node) Addrs() (listen, peer, http string) { return n.listen, n.peer, n.httpAt }

// Close hands leadership over, sends clients away and stops, within 3 s.
func (n *Node) Close() error {
	n.stopOnce.Do(func() {
		n.leave()
		n.cancel()
		n.stopErr = errors.Join(n.clients.Close(), n.http.Close())
		n.tasks.Wait()
		n.stopErr = errors.Join(n.stopErr, n.closeAll())
	})
	return n.stopErr
}

// pause waits, unless the node fails.
func (n *Node) pause(until <-chan time.Time) {
	select {
	case <-until:
	case <-n.failed:
	}
}

// Kill stops without a goodbye, as a crash would: clients and peers notice by
// themselves. For tests.
func (n *Node) Kill() {
	n.stopOnce.Do(func() {
		n.cancel()
		n.clients.Kill()
		n.network.Close()
		n.http.Close()
		n.tasks.Wait()
		n.stopErr = n.closeAll()
	})
}

// closeAll closes what is open, from the partitions down.
func (n *Node) closeAll() error {
	errs := []error{n.closePartitions()}
	if n.network != nil {
		errs = append(errs, n.network.Close())
	}
	if n.stable != nil {
		errs = append(errs, n.stable.Close())
	}
	if n.data != nil {
		errs = append(errs, n.data.close())
	}
	return errors.Join(errs...)
}
