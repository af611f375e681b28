package peer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrClosed: the Network has been closed.
var ErrClosed = errors.New("peer: network closed")

// ErrLinkDown: nothing was sent, because the link to that node is down. WaitUp
// returns when it is up again.
var ErrLinkDown = errors.New("peer: link is down")

// DuplicateError tells that another process with this node's name is in the
// cluster. This one never reached Raft there, and must end.
type DuplicateError struct {
	Node   string // the name in question
	At     string // the node that refused this process
	Reason string // its words; they tell where the other process is
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("node id %q is in use twice: %s says %s; stop the other process, or give this one another id (key \"node\")",
		e.Node, e.At, e.Reason)
}

// Config is what a Network is made of.
type Config struct {
	Node    string            // this node, a key of Members
	Addr    string            // host:port to listen on
	Members map[string]string // node to peer address, this node too
	Cluster string            // fingerprint of what must be equal everywhere; at most 255 bytes

	Cert tls.Certificate // names Node among its DNS names, for client and server use
	CA   *x509.CertPool  // has signed every node's certificate

	Info []byte // what the others are told about this node, at most 4 KiB

	// OnMark is told the marks of other nodes, for groups that are open here: the
	// newest of each, some may be skipped. One call at a time.
	OnMark func(node string, m Mark)
	// Answer tells other nodes how this one sees a group; false: it cannot say. It
	// may be called concurrently.
	//
	// Neither is called by a goroutine that keeps a link alive, but Close waits
	// for both: they must return and not call Close.
	Answer func(group uint32) (State, bool)
	// OnHeir makes this node ready to lead a group soon, and returns then or when ctx
	// ends. It may be called concurrently.
	OnHeir func(ctx context.Context, group uint32)
	// OnPush is told the pushes of other nodes, of any group: the newest of each,
	// some may be skipped. The goroutine that reads the link calls it, so it must
	// not block.
	OnPush func(node string, p Push)
	// OnBeat is told the beats of other nodes, of any group, like OnPush. It must call
	// answer once, now or later; with known false for a group that cannot answer.
	OnBeat func(node string, b Beat, answer func(a BeatAnswer, known bool))
	// OnDead is told of a node whose link has ended and whose port refuses: no process
	// of that node is left; and of one that has been silent for SilentAfter. Once for
	// each link and each silence, by a goroutine of its own.
	OnDead func(node string)
	// SilentAfter is how long nothing may come from a node until it counts as dead; 0:
	// for ever. It must be longer than a few pings.
	SilentAfter time.Duration
	// BeatEvery is how long beats wait for each other, at most; 0: not at all.
	BeatEvery time.Duration

	Logger *slog.Logger // nil: slog.Default
}

// timing is every duration the package goes by; tests shorten some.
type timing struct {
	connect   time.Duration // a TCP connect
	handshake time.Duration // TLS, hello and answer together
	ping      time.Duration // between two pings of a link
	silence   time.Duration // a link without a pong for so long is down
	probe     time.Duration // what an old link has to prove that it is alive
	retryMin  time.Duration // between two dials of a link, jittered
	retryMax  time.Duration
	refused   time.Duration // at most, after a refusal that needs somebody to act
}

var defaultTiming = timing{
	connect:   time.Second,
	handshake: 5 * time.Second,
	ping:      250 * time.Millisecond,
	silence:   1500 * time.Millisecond,
	probe:     time.Second,
	retryMin:  20 * time.Millisecond,
	retryMax:  200 * time.Millisecond,
	refused:   time.Second,
}

// maxHalfOpen bounds the accepted connections whose handshake is under way, in
// all and, half as many, from one address; beyond it a new one is closed at
// once. maxDialing bounds, per other node, the
// streams whose handshake this node has under way there; others wait.
const (
	maxHalfOpen = 64
	maxDialing  = 8
)

// Network is a node's side of all its links and streams.
type Network struct {
	cfg       Config
	timing    timing
	log       *slog.Logger
	metrics   *metrics
	instance  instance
	listener  net.Listener
	serverTLS *tls.Config
	peers     map[string]*peer // every other member

	began    time.Time
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup      // all goroutines of the Network
	halfOpen halfOpen            // handshakes under way
	failed   chan error          // holds the first fatal finding
	marksIn  *box[markKey, Mark] // of other nodes, on their way to OnMark

	mu      sync.Mutex
	closed  bool
	changed chan struct{}          // closed and replaced when a link or an Info changes
	conns   map[net.Conn]struct{}  // every TCP connection there is, for Close
	streams map[*stream]struct{}   // dialed and accepted, those in their handshake too
	layers  map[uint32]*layer      // open groups
	marks   map[uint32]Mark        // the last one sent of each group
	told    map[string]toldRefusal // by node or host: what was logged last about it
	drained bool                   // this node is to lead nothing and to serve no clients
}

// peer is what a Network knows about another member.
type peer struct {
	name, addr string
	wake       chan struct{} // one token: it has just linked to us, so dial it now
	admitting  sync.Mutex    // held while a link from it is being admitted
	dialing    chan struct{} // a token for each stream to it in its handshake
	heard      atomic.Int64  // when something last came on a link (Network.now); 0: never

	// Guarded by Network.mu.
	out   *session // our link to it; nil while down
	in    *session // its link to us; nil while down
	info  []byte   // as it told last; stays when the link goes down
	clock clock    // of the current or last link
	dead  bool     // its port has refused us since

	silent  bool // nothing has come for too long
	drained bool // as it told on its link
}

// PeerStatus is what is known about another node.
type PeerStatus struct {
	Node     string
	Alive    bool    // the link to it is up
	Dead     bool    // it has ended, and that node's port refuses us: no process of it is left
	Silent   bool    // nothing has come from that node for too long
	Drained  bool    // that node is to lead nothing and to serve no clients
	Info     []byte  // as it told when last linked
	OffsetMs float64 // its clock minus ours, off by half of RTTMs at most
	RTTMs    float64 // of the sample behind OffsetMs; 0: not measured yet
}

// Listen binds the peer port and starts linking to the other members. Call
// Streams for every group right after it: until then the others' streams to
// that group are refused.
func Listen(cfg Config) (*Network, error) { return listen(cfg, defaultTiming) }

func listen(cfg Config, t timing) (*Network, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	// Multipath TCP would change when and how a reset is seen.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	listener, err := lc.Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, listenError(cfg.Addr, err)
	}
	return start(cfg, t, listener), nil
}

func start(cfg Config, t timing, listener net.Listener) *Network {
	n := newNetwork(cfg, t, listener)
	n.run()
	return n
}

func (n *Network) run() {
	n.wg.Go(n.acceptLoop)
	n.wg.Go(n.markLoop)
	if n.cfg.SilentAfter > 0 {
		n.wg.Go(n.watchSilence)
	}
	for _, p := range n.peers {
		n.wg.Go(func() { n.keepLink(p) })
	}
}

func newNetwork(cfg Config, t timing, listener net.Listener) *Network {
	n := &Network{
		cfg: cfg, timing: t, log: cfg.Logger, metrics: newMetrics(), listener: listener, began: time.Now().Add(-1),
		serverTLS: serverTLS(cfg),
		peers:     make(map[string]*peer),
		failed:    make(chan error, 1),
		changed:   make(chan struct{}),
		conns:     make(map[net.Conn]struct{}),
		streams:   make(map[*stream]struct{}),
		layers:    make(map[uint32]*layer),
		marks:     make(map[uint32]Mark),
		marksIn:   newBox[markKey, Mark](),
		told:      make(map[string]toldRefusal),
	}
	if n.log == nil {
		n.log = slog.Default()
	}
	_, _ = rand.Read(n.instance[:]) // never fails: crypto/rand ends the process instead
	n.ctx, n.cancel = context.WithCancel(context.Background())
	for name, addr := range cfg.Members {
		if name != cfg.Node {
			n.peers[name] = &peer{name: name, addr: addr, wake: make(chan struct{}, 1), dialing: make(chan struct{}, maxDialing)}
			n.metrics.linkDowns.WithLabelValues(name)
			n.metrics.deaths.WithLabelValues(name)
			n.metrics.silences.WithLabelValues(name)
		}
	}
	return n
}

func (c Config) check() error {
	if _, ok := c.Members[c.Node]; !ok {
		return fmt.Errorf("peer: node %q is not among the members of the cluster (key \"cluster\")", c.Node)
	}
	owner := make(map[string]string)
	for name, addr := range c.Members {
		if name == "" || len(name) > maxString {
			return fmt.Errorf("peer: member name %q: 1 to %d bytes are allowed", name, maxString)
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("peer: address %q of member %q (key \"cluster\"): want host:port", addr, name)
		}
		if other, taken := owner[addr]; taken {
			return fmt.Errorf("peer: members %q and %q have the same address %s (key \"cluster\")", min(name, other), max(name, other), addr)
		}
		owner[addr] = name
	}
	if len(c.Cluster) > maxString {
		return fmt.Errorf("peer: cluster fingerprint of %d bytes, at most %d are allowed", len(c.Cluster), maxString)
	}
	if len(c.Info) > maxInfo {
		return fmt.Errorf("peer: info of %d bytes, at most %d are allowed", len(c.Info), maxInfo)
	}
	if len(c.Members) == 1 {
		return nil // nobody to show the certificate to
	}
	return checkCertificate(c.Cert, c.CA, c.Node)
}

func listenError(addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("peer: cannot listen on %s (key \"peer\"): another process has this port; stop it or choose another address: %w", addr, err)
	}
	return fmt.Errorf("peer: cannot listen on %s (key \"peer\"): %w", addr, err)
}

// Addr is the address the Network listens on.
func (n *Network) Addr() string { return n.listener.Addr().String() }

// Failed yields the finding that makes going on impossible, at most one: a
// *DuplicateError.
func (n *Network) Failed() <-chan error { return n.failed }

// Up tells whether the link to node is up: it has answered within the last
// 1.5 s. This node is up to itself.
func (n *Network) Up(node string) bool {
	up, _ := n.state(node)
	return up
}

// Changed returns a channel that is closed when next a link goes up or down, or another
// node is drained or no longer so; what its node tells (Info) changes only with it. Take the channel first,
// look at the state, then wait.
func (n *Network) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// WaitUp returns nil once the link to node is up.
func (n *Network) WaitUp(ctx context.Context, node string) error {
	if _, member := n.cfg.Members[node]; !member {
		return fmt.Errorf("peer: node %q is no member of the cluster", node)
	}
	for {
		up, changed := n.state(node)
		if up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.ctx.Done():
			return ErrClosed
		}
	}
}

// state returns whether the link to node is up, and what tells that this may
// no longer be so.
func (n *Network) state(node string) (up bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch p := n.peers[node]; {
	case n.closed:
		up = false
	case p != nil:
		up = p.out != nil
	default:
		up = node == n.cfg.Node
	}
	return up, n.changed
}

// Status tells about every other member, ordered by name.
func (n *Network) Status() []PeerStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]PeerStatus, 0, len(n.peers))
	for _, p := range n.peers {
		best := p.clock.best()
		all = append(all, PeerStatus{
			Node: p.name, Alive: p.out != nil, Dead: p.dead, Silent: p.silent, Drained: p.drained, Info: bytes.Clone(p.info),
			OffsetMs: milliseconds(best.offset), RTTMs: milliseconds(best.rtt),
		})
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Close stops accepting and dialing, closes every connection, those handed out
// too, and returns when the Network's goroutines have ended.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	n.cancel()
	for _, l := range n.layers {
		l.shut()
	}
	clear(n.layers)
	for conn := range n.conns {
		conn.Close()
	}
	n.mu.Unlock()
	n.listener.Close()
	n.wg.Wait()
	return nil
}

// own makes conn one of those that Close closes. It answers false, and closes
// conn, when that is past.
func (n *Network) own(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		conn.Close()
		return false
	}
	n.conns[conn] = struct{}{}
	return true
}

// drop closes conn, without a goodbye, and forgets it.
func (n *Network) drop(conn net.Conn) {
	conn.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, conn)
}

// announce wakes whoever waits for a change. The caller holds mu.
func (n *Network) announce() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// fail reports the first fatal finding.
func (n *Network) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}
