package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// settled is how long a connection must have lived for its node's back-off to
// begin anew.
const settled = time.Second

// router knows the cluster, as the newest maps tell it, and has the
// connections. A dead node is dialled again only after a back-off.
type router struct {
	c *Client

	mu       sync.Mutex
	epoch    uint64
	nodes    map[string]*node // by name
	members  []string         // in the order of the map
	leaders  []leader         // by partition
	replicas [][]string       // by partition
	seeds    []*node          // the addresses that Dial was given
	home     *conn            // Dial's connection; new subscriptions prefer it
	conns    map[*conn]struct{}
	changed  chan struct{} // closed and renewed when any of this changes
	closed   bool
	turn     int // rotates over the nodes to try

	publishes bool // there are lanes
}

// leader is who leads a partition in a term; node is "" while unknown.
type leader struct {
	node string
	term uint64
	from string // who told
}

// node is a member, or an address given to Dial.
type node struct {
	name, listen, http string
	alive              bool
	worked             string // the address at which it was reached last
	conns              []*conn
	dial               *dialling
	fails              int
	refused            int // handshakes in a row, for there were too many
	retryAt            time.Time
	aways              int       // requests to leave in a row, of new connections
	awayUntil          time.Time // it is not to be dialled for it asked us to leave
	goneAt             time.Time // when another node said last that it is gone
}

// dialling is an attempt under way; those who want its outcome wait for done.
type dialling struct {
	done chan struct{}
	conn *conn
	err  error
}

func newRouter(c *Client, servers []string) *router {
	r := &router{
		c:       c,
		nodes:   make(map[string]*node),
		conns:   make(map[*conn]struct{}),
		changed: make(chan struct{}),
	}
	for _, s := range servers {
		r.seeds = append(r.seeds, &node{listen: s})
	}
	return r
}

// changes returns a channel that is closed at the next change.
func (r *router) changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// notify must be called with mu held.
func (r *router) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// dialError tells what failed for each server.
type dialError struct {
	servers []string
	errs    []error
	end     error // ctx's error, if that ended it
}

func (e *dialError) Error() string {
	var b strings.Builder
	b.WriteString("no server can be reached")
	for i, s := range e.servers {
		fmt.Fprintf(&b, "; %s: %v", s, e.errs[i])
	}
	if e.end != nil {
		fmt.Fprintf(&b, "; %v", e.end)
	}
	return b.String()
}

func (e *dialError) Unwrap() []error {
	if e.end == nil {
		return e.errs
	}
	return append(slices.Clone(e.errs), e.end)
}

// first makes the first connection.
func (r *router) first(ctx context.Context, servers []string) error {
	within, cancel := context.WithTimeout(ctx, dialBudget)
	defer cancel()
	failed := &dialError{}
	at := make(map[string]int) // server to its place in failed
	for round := 1; ; round++ {
		open, crowded := 0, false
		for _, s := range servers {
			i, seen := at[s]
			if seen && hopeless(failed.errs[i]) {
				continue
			}
			c, m, err := r.c.cfg.dialInTurn(within, s)
			crowded = crowded || tooMany(err)
			if err == nil {
				r.c.cfg.log.Info("connected", "node", c.node, "address", s)
				r.learn(&m, c.node)
				r.add(c)
				return nil
			}
			if !seen {
				i = len(failed.servers)
				at[s] = i
				failed.servers = append(failed.servers, s)
				failed.errs = append(failed.errs, err)
			} else if within.Err() == nil || failed.errs[i] == nil {
				failed.errs[i] = err // not the time's end: that would hide the reason
			}
			if !hopeless(err) {
				open++
			}
			if within.Err() != nil {
				break
			}
		}
		if open == 0 {
			return failed
		}
		if within.Err() == nil {
			wait := backoff(round)
			if crowded {
				wait = refusedFor(round)
			}
			r.c.pause(within, wait)
		}
		if within.Err() != nil {
			failed.end = ctx.Err()
			return failed
		}
	}
}

func (r *router) partitions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.leaders)
}

// learn takes over what a map says that is newer than what is known. Nodes
// differ in what they know: for each partition the highest term wins. Within a
// term an unknown leader is filled in, and who named one may correct itself: it
// may have heard of the term before it heard of its leader.
func (r *router) learn(m *wire.Map, from string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaders == nil {
		r.leaders = make([]leader, len(m.Partitions))
		r.replicas = make([][]string, len(m.Partitions))
	}
	if len(m.Partitions) != len(r.leaders) {
		r.c.cfg.log.Warn("map of another cluster", "from", from, "partitions", len(m.Partitions), "ours", len(r.leaders))
		return
	}
	if m.Epoch >= r.epoch {
		r.epoch = m.Epoch
		r.learnNodes(m)
	}
	for i, p := range m.Partitions {
		told := leader{term: p.Term, from: from}
		if p.Leader >= 0 {
			told.node = m.Nodes[p.Leader].Name
		}
		known := &r.leaders[i]
		if told.term > known.term ||
			told.term == known.term && (known.node == "" || known.from == from) {
			*known = told
		}
	}
	r.notify()
}

func (r *router) learnNodes(m *wire.Map) {
	r.members = r.members[:0:0]
	for _, told := range m.Nodes {
		n := r.node(told.Name)
		r.members = append(r.members, told.Name)
		if n.alive && !told.Alive {
			n.doubt()
		}
		if !n.alive && told.Alive {
			n.welcome()
		}
		n.alive = told.Alive
		if told.Listen != "" && told.Listen != n.listen {
			n.listen, n.fails, n.retryAt = told.Listen, 0, time.Time{}
		}
		if told.HTTP != "" {
			n.http = told.HTTP
		}
	}
	for i, p := range m.Partitions {
		names := make([]string, 0, len(p.Replicas))
		for _, ref := range p.Replicas {
			names = append(names, m.Nodes[ref].Name)
		}
		r.replicas[i] = names
	}
}

// node returns the node of that name, made if need be. mu must be held.
func (r *router) node(name string) *node {
	n := r.nodes[name]
	if n == nil {
		n = &node{name: name}
		r.nodes[name] = n
	}
	return n
}

// leader returns who leads the partition as far as known.
func (r *router) leader(partition int) leader {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaders[partition]
}

// notLeader takes note that a node has denied leading the partition.
func (r *router) notLeader(partition int, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := &r.leaders[partition]; known.node == name {
		known.node, known.from = "", ""
		r.notify()
	}
}

// add takes a new connection over and starts to serve it.
func (r *router) add(c *conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	c.router = r
	n := r.node(c.node)
	n.worked, n.refused, n.goneAt = c.addr, 0, time.Time{}
	n.conns = append(n.conns, c)
	r.conns[c] = struct{}{}
	if r.home == nil {
		r.home = c
	}
	r.c.tasks.Go(c.run)
	r.watchOver(c)
	r.notify()
	return true
}

// lost forgets a connection that has ended.
func (r *router) lost(c *conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.c.cfg.log.Info("connection lost", "node", c.node, "address", c.addr, "error", err)
	}
	n := r.node(c.node)
	n.conns = slices.DeleteFunc(n.conns, func(have *conn) bool { return have == c })
	delete(r.conns, c)
	if r.home == c {
		r.home = nil
		for other := range r.conns {
			r.home = other
		}
	}
	if time.Since(c.born) >= settled {
		n.fails = 0
	}
	if !c.retired {
		n.failed()
		n.welcome() // if it asked us to leave, it was to stop
	}
	r.notify()
}

func (n *node) failed() {
	n.fails++
	n.retryAt = time.Now().Add(backoff(n.fails))
}

// address is where to dial, "" if unknown. After a failure the address that
// worked before takes turns with the one that the map tells.
func (n *node) address() string {
	if n.listen == "" || n.worked != "" && n.fails%2 == 1 {
		return n.worked
	}
	return n.listen
}

// live returns a connection that is not draining if there is one. mu must be held.
func (n *node) live() *conn {
	for _, c := range n.conns {
		if !c.leaving.Load() {
			return c
		}
	}
	if len(n.conns) > 0 {
		return n.conns[0]
	}
	return nil
}

// ready tells whether n can be dialled now. mu must be held.
func (n *node) ready() bool { return n.reachable() && !time.Now().Before(n.awayUntil) }

// reachable is ready for those who need this node and no other. mu must be held.
func (n *node) reachable() bool {
	return n.dial == nil && n.address() != "" && !time.Now().Before(n.retryAt)
}

// dial starts to connect to n unless that is under way. mu must be held.
func (r *router) dial(n *node) *dialling {
	if n.dial != nil {
		return n.dial
	}
	d := &dialling{done: make(chan struct{})}
	n.dial = d
	addr := n.address()
	r.c.tasks.Go(func() {
		c, m, err := r.c.cfg.dialInTurn(r.c.ctx, addr)
		if err == nil {
			r.learn(&m, c.node)
			if !r.add(c) {
				c.kill(wire.CodeNone, "client closed")
				c.release()
				c, err = nil, ErrClosed
			}
		}
		r.mu.Lock()
		n.dial = nil
		if err != nil {
			if tooMany(err) {
				r.keepAway(n, addr)
			} else {
				n.failed()
			}
			r.c.cfg.log.Debug("cannot connect", "node", n.name, "address", addr, "error", err)
		} else if n.name == "" {
			n.retryAt = time.Now().Add(settled) // a seed: its node has a name now
		}
		d.conn, d.err = c, err
		r.mu.Unlock()
		close(d.done)
	})
	return d
}

// connect returns a connection to the named node, dialled if there is none. It
// does not wait for a node in its back-off, nor longer than the node leads the
// partition, if one is given.
func (r *router) connect(ctx context.Context, name string, given func() bool) (*conn, error) {
	r.mu.Lock()
	n := r.nodes[name]
	switch {
	case r.closed:
		r.mu.Unlock()
		return nil, ErrClosed
	case n == nil:
		r.mu.Unlock()
		return nil, errNoAddress
	}
	if c := n.live(); c != nil {
		r.mu.Unlock()
		return c, nil
	}
	if n.dial == nil && !n.reachable() {
		err := errBackoff
		if n.address() == "" {
			err = errNoAddress
		}
		r.mu.Unlock()
		return nil, err
	}
	d := r.dial(n)
	r.mu.Unlock()
	return r.await(ctx, d, given)
}

// await waits for an attempt, as long as still, if given, says that it matters.
func (r *router) await(ctx context.Context, d *dialling, still func() bool) (*conn, error) {
	for {
		changed := r.changes()
		if still != nil && !still() {
			return nil, errMoved
		}
		select {
		case <-d.done:
			return d.conn, d.err
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.c.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// toLeader returns a connection to the partition's leader. While none is known
// it waits for maps at first, then tries the replicas in turn: one of them
// leads, or knows who does. tries counts the attempts since the last success.
func (r *router) toLeader(ctx context.Context, partition, tries int) (*conn, leader, error) {
	r.mu.Lock()
	lead := r.leaders[partition]
	name := lead.node
	if name == "" && tries >= 2 {
		if names := r.living(r.replicas[partition]); len(names) > 0 {
			name = names[tries%len(names)]
		}
	}
	r.mu.Unlock()
	err := errNoLeader
	if name != "" {
		var c *conn
		c, err = r.connect(ctx, name, func() bool {
			now := r.leader(partition)
			return now.node == lead.node && now.term == lead.term
		})
		if err == nil {
			return c, lead, nil
		}
	}
	r.explore(tries)
	return nil, lead, err
}

// explore makes another connection when the ones there are do not get us
// further: its node may know more of the cluster.
func (r *router) explore(tries int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.conns) > 0 && tries < 3 {
		return
	}
	all := make([]*node, 0, len(r.members)+len(r.seeds))
	for _, name := range r.members {
		all = append(all, r.nodes[name])
	}
	if len(r.conns) == 0 {
		all = append(all, r.seeds...)
	}
	for range all {
		n := all[r.turn%len(all)]
		r.turn++
		if len(n.conns) == 0 && (n.ready() || len(r.conns) == 0 && n.reachable()) {
			r.dial(n)
			return
		}
	}
}

// doubt: a connection that owes an answer is silent, and a ping has had none either.
// Well before it counts as dead another node can tell whether somebody else leads
// by now, so there has to be a connection to one.
func (r *router) doubt(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	var others []*node
	for _, name := range r.members {
		n := r.nodes[name]
		switch {
		case n.name == c.node:
		case len(n.conns) > 0, n.dial != nil:
			return // it tells us, or will
		case n.ready():
			others = append(others, n)
		}
	}
	if len(others) > 0 {
		r.turn++
		r.dial(others[r.turn%len(others)])
	}
}

// nodesNow returns the members. If there is no connection it tries for one.
func (r *router) nodesNow(ctx context.Context) ([]Node, error) {
	r.mu.Lock()
	connected, closed := len(r.conns) > 0, r.closed
	nodes := make([]Node, 0, len(r.members))
	for _, name := range r.members {
		n := r.nodes[name]
		nodes = append(nodes, Node{Name: n.name, Listen: n.listen, HTTP: n.http, Alive: n.lives()})
	}
	r.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case connected:
		return nodes, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	r.explore(0)
	return nil, errNoNode
}

// close says goodbye on every connection; their goroutines end soon after.
func (r *router) close() {
	r.mu.Lock()
	r.closed = true
	conns := slices.Collect(maps.Keys(r.conns))
	r.notify()
	r.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(c.farewell)
	}
	all.Wait()
}
