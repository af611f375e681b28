package raftlog

import (
	"cmp"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// patience is how long a test waits for what must happen; the machine may be busy.
const patience = 20 * time.Second

// testHeartbeat is short, so that elections are, but a busy machine must not lose
// leaders by it.
const testHeartbeat = 300 * time.Millisecond

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// events wakes who waits for a condition whenever something has happened.
type events struct {
	mu      sync.Mutex
	changed chan struct{}
}

func newEvents() *events { return &events{changed: make(chan struct{})} }

func (e *events) happened() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *events) next() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// until returns whether cond came true within limit. It looks whenever something
// has happened, and on a ticker for what announces itself to nobody.
func (e *events) until(limit time.Duration, cond func() bool) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		changed := e.next()
		if cond() {
			return true
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-deadline.C:
			return cond()
		}
	}
}

// network joins the nodes of a cluster with pipes. A direction from one node to
// another can be cut: its connections end, and no other can be made.
type network struct {
	events *events

	mu      sync.Mutex
	up      map[string]bool    // nodes whose process runs
	cut     map[[2]string]bool // directions
	layers  map[string]*pipeLayer
	conns   map[net.Conn][2]string // both ends, by direction
	waiting map[string]int         // calls in WaitUp, by who waits
}

func newNetwork(e *events) *network {
	return &network{events: e, up: map[string]bool{}, cut: map[[2]string]bool{}, layers: map[string]*pipeLayer{},
		conns: map[net.Conn][2]string{}, waiting: map[string]int{}}
}

func (n *network) set(f func()) {
	n.mu.Lock()
	f()
	for conn, way := range n.conns {
		if !n.open(way[0], way[1]) {
			conn.Close()
			delete(n.conns, conn)
		}
	}
	n.mu.Unlock()
	n.events.happened()
}

// reset ends all connections; new ones can be made at once.
func (n *network) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for conn := range n.conns {
		conn.Close()
	}
	clear(n.conns)
}

// open needs mu.
func (n *network) open(from, to string) bool {
	return n.up[to] && n.up[from] && !n.cut[[2]string{from, to}]
}

func (n *network) waitingAt(node string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting[node]
}

// links is the network as one node sees it.
type links struct {
	*network
	self string
}

func (l links) Up(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open(l.self, node)
}

func (l links) WaitUp(ctx context.Context, node string) error {
	count := func(d int) {
		l.mu.Lock()
		l.waiting[l.self] += d
		l.mu.Unlock()
		l.events.happened()
	}
	count(1)
	defer count(-1)
	for {
		changed := l.events.next()
		if l.Up(node) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pipeLayer is one life of a node's StreamLayer.
type pipeLayer struct {
	network *network
	self    string
	come    chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (n *network) layer(node string) *pipeLayer {
	l := &pipeLayer{network: n, self: node, come: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	n.layers[node] = l
	n.mu.Unlock()
	return l
}

func (l *pipeLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.come:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeLayer) Close() error {
	l.once.Do(func() {
		close(l.done)
		n := l.network
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.layers[l.self] != l {
			return
		}
		delete(n.layers, l.self)
		for conn, way := range n.conns {
			if way[0] == l.self || way[1] == l.self {
				conn.Close()
				delete(n.conns, conn)
			}
		}
	})
	return nil
}

func (l *pipeLayer) Addr() net.Addr { return pipeAddr(l.self) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

var errCut = errors.New("no way there")

func (l *pipeLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	n, to := l.network, string(address)
	here, there := net.Pipe()
	n.mu.Lock()
	target := n.layers[to]
	if target == nil || !n.open(l.self, to) || n.layers[l.self] != l {
		n.mu.Unlock()
		return nil, errCut
	}
	n.conns[here], n.conns[there] = [2]string{l.self, to}, [2]string{l.self, to}
	n.mu.Unlock()
	select {
	case target.come <- there:
		return here, nil
	case <-target.done:
	case <-l.done:
	}
	here.Close()
	return nil, errCut
}

// machine is a StateMachine that remembers, and that a test can stop in Apply.
// One lives as long as its node's process.
type machine struct {
	events *events
	gate   gate
	check  func(Entry) error // of each entry, if set before it is given any

	mu       sync.Mutex
	entries  []Entry
	restored []Index // where from
	refuses  error   // what Restore answers
	wrong    error
}

func (m *machine) Apply(entries []Entry) []any {
	m.gate.pass()
	m.mu.Lock()
	results := make([]any, len(entries))
	for i, e := range entries {
		if n := len(m.entries); n > 0 && m.entries[n-1].Index >= e.Index && m.wrong == nil {
			m.wrong = fmt.Errorf("entry %d was given after entry %d", e.Index, m.entries[n-1].Index)
		}
		if m.check != nil && m.wrong == nil {
			m.wrong = m.check(e)
		}
		m.entries = append(m.entries, e)
		results[i] = fmt.Sprintf("%s is %d", e.Data, e.Index)
	}
	m.mu.Unlock()
	m.events.happened()
	return results
}

func (m *machine) Restore(index Index, r io.Reader) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.events.happened()
	if m.refuses != nil {
		return m.refuses
	}
	m.restored = append(m.restored, index)
	m.entries = nil
	return gob.NewDecoder(r).Decode(&m.entries)
}

// write writes the state after the entry at index.
func (m *machine) write(index Index) func(io.Writer) error {
	return func(w io.Writer) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		n, _ := slices.BinarySearchFunc(m.entries, index+1, func(e Entry, i Index) int { return cmp.Compare(e.Index, i) })
		return gob.NewEncoder(w).Encode(m.entries[:n])
	}
}

// restores returns the snapshots that the machine was restored from.
func (m *machine) restores() []Index {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.restored)
}

// seen returns what the machine was given, in order.
func (m *machine) seen() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, e := range m.entries {
		all = append(all, string(e.Data))
	}
	return all
}

func (m *machine) has(data string) bool { return slices.Contains(m.seen(), data) }

// gate holds back who passes while it is shut.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil while open
	held   int
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

func (g *gate) pass() {
	g.mu.Lock()
	opened := g.opened
	g.held++
	g.mu.Unlock()
	if opened != nil {
		<-opened
	}
	g.mu.Lock()
	g.held--
	g.mu.Unlock()
}

func (g *gate) holds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened != nil && g.held > 0
}

// node is a place where a replica lives. Its group, stable store and machine
// are those of its present process.
type node struct {
	name    string
	dir     string
	group   *Group // nil while it is dead
	stable  *StableStore
	machine *machine
	roles   gate // passed by LeaderChanged when this node is the leader

	live  atomic.Pointer[Group] // group, for others than the test's goroutine
	calls atomic.Int32          // of LeaderChanged, under way
	cuts  atomic.Int32          // DeleteRange by raft, in all processes
}

// countingLog counts what raft cuts.
type countingLog struct {
	raft.LogStore
	node    *node
	witness *witness // of all logs of the cluster
}

func (l countingLog) StoreLogs(logs []*raft.Log) error {
	err := l.LogStore.StoreLogs(logs)
	if err == nil {
		l.witness.stored(l.node.name, logs)
	}
	return err
}

func (l countingLog) DeleteRange(min, max uint64) error {
	l.node.cuts.Add(1)
	err := l.LogStore.DeleteRange(min, max)
	if err == nil {
		l.witness.cut(l.node.name, min)
	}
	return err
}

// witness knows what is durable on which node.
type witness struct {
	mu   sync.Mutex
	logs map[string]map[uint64]uint64 // by node: the terms by index
}

func (w *witness) stored(node string, logs []*raft.Log) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.logs[node] == nil {
		w.logs[node] = map[uint64]uint64{}
	}
	for _, l := range logs {
		w.logs[node][l.Index] = l.Term
	}
}

func (w *witness) cut(node string, from uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.logs[node], func(index, _ uint64) bool { return index >= from })
}

// copies returns how many nodes have an entry.
func (w *witness) copies(e Entry) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, log := range w.logs {
		if log[uint64(e.Index)] == uint64(e.Term) {
			n++
		}
	}
	return n
}

func (n *node) leaderChanged(c *cluster, leader string) {
	if n.calls.Add(1) > 1 {
		c.t.Errorf("%s: LeaderChanged is called while it is being called", n.name)
	}
	defer n.calls.Add(-1)
	c.events.happened()
	if leader == n.name {
		n.roles.pass()
	}
}

// cluster is a group of replicas in this process.
type cluster struct {
	t         tester
	events    *events
	net       *network
	names     []string
	nodes     map[string]*node
	heartbeat time.Duration
	ringBytes int64
	change    func(*Config)     // of every Config; may be nil
	check     func(Entry) error // of what each machine is given; may be nil
	// carry, if set, decides when and whether a push is delivered, by calling
	// deliver once, more often, or never. It must not block.
	carry func(from, to string, deliver func())

	witness witness

	mu    sync.Mutex
	fatal []error // what Fatal was told
}

// beat carries a heartbeat from one node to another and its answer back.
func (c *cluster) beat(ctx context.Context, from, to string, term Term) (BeatAnswer, error) {
	var g *Group
	if n := c.nodes[to]; n != nil && (links{c.net, from}).Up(to) {
		g = n.live.Load()
	}
	if g == nil {
		return BeatAnswer{}, errCut
	}
	type answer struct {
		BeatAnswer
		known bool
	}
	answers := make(chan answer, 1)
	g.Beaten(from, term, func(a BeatAnswer, known bool) { answers <- answer{a, known} })
	select {
	case a := <-answers:
		if !a.known || !(links{c.net, from}).Up(to) {
			return BeatAnswer{}, errCut
		}
		return a.BeatAnswer, nil
	case <-ctx.Done():
		return BeatAnswer{}, ctx.Err()
	}
}

// push carries a push from one node to another, unless there is no way.
func (c *cluster) push(from, to string, index Index, term Term) bool {
	target := c.nodes[to]
	if target == nil {
		return false // a test's own peer
	}
	deliver := func() {
		if g := target.live.Load(); g != nil && (links{c.net, from}).Up(to) {
			g.Pushed(from, index, term)
		}
	}
	if c.carry != nil {
		c.carry(from, to, deliver)
	} else {
		deliver()
	}
	return (links{c.net, from}).Up(to)
}

// newCluster starts a cluster of nodes n1, n2, … that ends with t.
func newCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	c := makeCluster(t, t.TempDir(), nodes)
	t.Cleanup(c.end)
	for _, name := range c.names {
		c.open(name)
	}
	return c
}

func makeCluster(t tester, dir string, nodes int) *cluster {
	e := newEvents()
	c := &cluster{t: t, events: e, net: newNetwork(e), nodes: map[string]*node{}, heartbeat: testHeartbeat}
	c.witness.logs = map[string]map[uint64]uint64{}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		c.names = append(c.names, name)
		c.nodes[name] = &node{name: name, dir: filepath.Join(dir, name)}
	}
	return c
}

// end kills all that live, and finds fault with machines and disks.
func (c *cluster) end() {
	for _, name := range c.names {
		n := c.nodes[name]
		n.roles.open()
		if n.machine != nil {
			n.machine.gate.open()
		}
	}
	for _, name := range c.names {
		c.kill(name)
	}
	for _, err := range c.fatals() {
		c.t.Errorf("Fatal was told: %v", err)
	}
}

// forgive forgets what Fatal was told.
func (c *cluster) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fatal = nil
}

func (c *cluster) fatals() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.fatal)
}

// open starts a process on a node.
func (c *cluster) open(name string) *node {
	c.t.Helper()
	n := c.nodes[name]
	if n.group != nil {
		c.t.Fatalf("%s is open", name)
	}
	n.machine = &machine{events: c.events, check: c.check}
	c.net.set(func() { c.net.up[name] = true })
	stable, err := OpenStable(n.dir + "-stable.db") // beside the folder that Open makes
	if err != nil {
		c.t.Fatalf("%v", err)
	}
	n.stable = stable
	if n.group, err = Open(c.config(n, stable)); err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	n.live.Store(n.group)
	return n
}

func (c *cluster) config(n *node, stable *StableStore) Config {
	name := n.name
	cfg := Config{
		ID: 7, Node: name, Voters: c.names, Dir: n.dir, Machine: n.machine, Stable: stable,
		Streams: func() StreamLayer { return c.net.layer(name) },
		Links:   links{c.net, name},
		Beat: func(ctx context.Context, to string, term Term, _ bool) (BeatAnswer, error) {
			return c.beat(ctx, name, to, term)
		},
		Push:          func(to string, index Index, term Term) bool { return c.push(name, to, index, term) },
		Heartbeat:     c.heartbeat,
		RingBytes:     c.ringBytes,
		LeaderChanged: func(leader string, _ Term) { n.leaderChanged(c, leader) },
		Fatal: func(err error) {
			c.mu.Lock()
			c.fatal = append(c.fatal, fmt.Errorf("%s: %w", name, err))
			c.mu.Unlock()
			c.events.happened()
		},
		Logger:  slog.New(slog.DiscardHandler),
		wrapLog: func(log raft.LogStore) raft.LogStore { return countingLog{log, n, &c.witness} },
	}
	if c.change != nil {
		c.change(&cfg)
	}
	return cfg
}

// saveAll saves a snapshot at the newest index that all live nodes have
// applied, which it returns. Nothing must be on its way.
func (c *cluster) saveAll() Index {
	c.t.Helper()
	index := c.alive()[0].group.Applied()
	c.await("the same index everywhere", func() bool {
		index = c.alive()[0].group.Applied()
		return !slices.ContainsFunc(c.alive(), func(n *node) bool { return n.group.Applied() != index })
	})
	for _, n := range c.alive() {
		c.save(n, index)
	}
	return index
}

func (c *cluster) save(n *node, index Index) {
	c.t.Helper()
	if err := n.group.SaveSnapshot(index, n.machine.write(index)); err != nil {
		c.t.Fatalf("%s: %v", n.name, err)
	}
}

// trimAll makes a snapshot the floor on all live nodes.
func (c *cluster) trimAll(floor Index) {
	c.t.Helper()
	for _, n := range c.alive() {
		if err := n.group.Trim(floor); err != nil {
			c.t.Fatalf("%s: %v", n.name, err)
		}
	}
}

// kill ends a node's process: its connections first, so that nobody is told.
func (c *cluster) kill(name string) {
	n := c.nodes[name]
	group := n.group
	if n.group = nil; group == nil {
		return
	}
	c.net.set(func() { c.net.up[name] = false })
	n.live.Store(nil)
	if err := within(c.t, patience, "Close", group.Close); err != nil {
		c.t.Errorf("close %s: %v", name, err)
	}
	if err := n.stable.Close(); err != nil {
		c.t.Errorf("close the stable store of %s: %v", name, err)
	}
	n.machine.mu.Lock()
	if n.machine.wrong != nil {
		c.t.Errorf("%s: %v", name, n.machine.wrong)
	}
	n.machine.mu.Unlock()
}

func (c *cluster) alive() []*node {
	var all []*node
	for _, name := range c.names {
		if n := c.nodes[name]; n.group != nil {
			all = append(all, n)
		}
	}
	return all
}

// isolate cuts a node from all others, in both directions.
func (c *cluster) isolate(name string) {
	c.net.set(func() {
		for _, other := range c.names {
			c.net.cut[[2]string{name, other}], c.net.cut[[2]string{other, name}] = true, true
		}
	})
}

// separate cuts two nodes from each other.
func (c *cluster) separate(a, b string) {
	c.net.set(func() { c.net.cut[[2]string{a, b}], c.net.cut[[2]string{b, a}] = true, true })
}

func (c *cluster) heal() { c.net.set(func() { clear(c.net.cut) }) }

// await fails the test if cond does not come true.
func (c *cluster) await(what string, cond func() bool) {
	c.t.Helper()
	if !c.events.until(patience, cond) {
		c.t.Fatalf("waited %v in vain for %s", patience, what)
	}
}

// leader waits for a leader that knows it, and whom all live nodes that it
// reaches know too.
func (c *cluster) leader() *node {
	c.t.Helper()
	var found *node
	c.await("a leader", func() bool {
		for _, n := range c.alive() {
			if l := n.group.leadingNow(); n.group.Leading() && l != nil && isClosed(l.confirmed) && c.followed(n) {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func (c *cluster) followed(leader *node) bool {
	followers := 0
	for _, n := range c.alive() {
		if known, _ := n.group.Leader(); known == leader.name {
			followers++
		} else if (links{c.net, leader.name}).Up(n.name) {
			return false
		}
	}
	return followers > len(c.names)/2
}

// others returns the live nodes that are not n.
func (c *cluster) others(n *node) []*node {
	return slices.DeleteFunc(c.alive(), func(o *node) bool { return o == n })
}

// handTo makes a node the leader.
func (c *cluster) handTo(name string) *node {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for c.leader().name != name {
		if err := c.leader().group.Transfer(ctx, name); err != nil && ctx.Err() != nil {
			c.t.Fatalf("%v", err)
		}
	}
	return c.nodes[name]
}

// publish proposes data to whoever leads until it is accepted, and returns what
// the machine answered there.
func (c *cluster) publish(data string) any {
	c.t.Helper()
	result, err := c.publishWithin(patience, data)
	if err != nil {
		c.t.Fatalf("publish %s: %v", data, err)
	}
	return result
}

// publishWithin does so too, but for a time. Data is proposed anew only if it is
// not in the log.
func (c *cluster) publishWithin(limit time.Duration, data string) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		for _, n := range c.alive() {
			if !n.group.Leading() {
				continue
			}
			result, err := n.group.Propose([]byte(data)).Wait(ctx)
			if err == nil || errors.Is(err, ErrUnknown) {
				return result, err
			}
		}
		c.events.until(5*time.Millisecond, func() bool { return false })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// agree waits until all live nodes' machines have been given the same number of
// entries, the last one among them, and compares what they were given.
func (c *cluster) agree(last string) []string {
	c.t.Helper()
	for _, n := range c.alive() {
		c.await(fmt.Sprintf("%s at %s", last, n.name), func() bool { return n.machine.has(last) })
	}
	want := c.alive()[0].machine.seen()
	for _, n := range c.alive()[1:] {
		if got := n.machine.seen(); !slices.Equal(got, want) {
			c.t.Errorf("%s was given %q, %s %q", n.name, got, c.alive()[0].name, want)
		}
	}
	return want
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// within calls f and fails the test if it has not returned in time.
func within[T any](t tester, limit time.Duration, what string, f func() T) T {
	t.Helper()
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case v := <-done:
		return v
	case <-time.After(limit):
		t.Fatalf("%s took more than %v", what, limit)
	}
	panic("unreachable")
}

// soon is a context with all the patience there is.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}
