package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// acceptLoop hands every connection to its own goroutine; it waits for none.
func (n *Network) acceptLoop() {
	const shortest, longest = 5 * time.Millisecond, time.Second
	delay := shortest
	for {
		conn, err := n.listener.Accept()
		if err != nil {
			if n.ctx.Err() != nil {
				return
			}
			if delay == shortest {
				n.log.Error("cannot accept connections on the peer port", "err", err)
			}
			pause(n.ctx, delay, nil) // out of file descriptors, most likely
			delay = min(2*delay, longest)
			continue
		}
		delay = shortest
		if !n.halfOpen.take(conn) {
			n.metrics.refused.WithLabelValues(refusedHalfOpen).Inc()
			conn.Close()
			continue
		}
		if !n.own(conn) {
			return
		}
		n.wg.Go(func() { n.welcome(conn) })
	}
}

// halfOpen counts the accepted connections that have not shaken hands yet, in
// all and by address, so that one stranger cannot keep the members out.
type halfOpen struct {
	mu  sync.Mutex
	all int
	by  map[string]int
}

func (h *halfOpen) take(conn net.Conn) bool {
	from := host(conn)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all >= maxHalfOpen || h.by[from] >= maxHalfOpen/2 {
		return false
	}
	if h.by == nil {
		h.by = map[string]int{}
	}
	h.all++
	h.by[from]++
	return true
}

func (h *halfOpen) give(conn net.Conn) {
	from := host(conn)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all--
	if h.by[from]--; h.by[from] == 0 {
		delete(h.by, from)
	}
}

// refusal is why a connection is not welcome: the words for the other end, and
// what they are about.
type refusal struct {
	status status
	reason string
}

func refuse(s status, format string, args ...any) *refusal {
	return &refusal{status: s, reason: fmt.Sprintf(format, args...)}
}

// welcome takes an accepted connection through its handshake, for which it
// holds a half-open token, and serves it if it is a link. A stream is handed to
// its group.
func (n *Network) welcome(raw net.Conn) {
	s := n.handshake(raw)
	n.halfOpen.give(raw)
	if s != nil {
		n.serve(s)
	}
}

// handshake returns a session if the connection is a link that was admitted.
func (n *Network) handshake(raw net.Conn) *session {
	records := newRecords(raw)
	conn := tls.Server(records, n.serverTLS)
	raw.SetDeadline(time.Now().Add(n.timing.handshake))
	if err := conn.Handshake(); err != nil {
		n.stranger(raw, err)
		return nil
	}
	h, err := readHello(conn)
	if err != nil {
		n.refuseHello(raw, conn, h, refusalOf(err))
		return nil
	}
	p, no := n.check(h, conn.ConnectionState())
	if no != nil {
		n.refuseHello(raw, conn, h, no)
		return nil
	}
	if h.kind == kindStream {
		if no := n.admitStream(raw, records, conn, p, h); no != nil {
			n.refuseHello(raw, conn, h, no)
		}
		return nil
	}
	s, no := n.admitLink(raw, conn, p, h)
	if no != nil {
		n.refuseHello(raw, conn, h, no)
		return nil
	}
	return s
}

func refusalOf(err error) *refusal {
	var other versionError
	switch {
	case errors.As(err, &other):
		return refuse(statusVersion, "you speak version %d of the peer protocol, this node version %d", uint8(other), version)
	case errors.Is(err, errMalformed):
		return refuse(statusMalformed, "%v", err)
	}
	return refuse(statusMalformed, "no hello: %v", cause(err))
}

// check holds the sender's claims against its certificate and our view of the
// cluster.
func (n *Network) check(h hello, tlsState tls.ConnectionState) (*peer, *refusal) {
	if err := tlsState.PeerCertificates[0].VerifyHostname(h.from); err != nil {
		return nil, refuse(statusCertificate, "your certificate does not name node %q: %v", h.from, err)
	}
	if h.to != n.cfg.Node {
		return nil, refuse(statusNotMe, "this is node %q, not %q", n.cfg.Node, h.to)
	}
	p := n.peers[h.from]
	if p == nil {
		return nil, refuse(statusStranger, "node %q is no member of the cluster here", h.from)
	}
	if h.cluster != n.cfg.Cluster {
		return nil, refuse(statusCluster, "your cluster is %q, mine %q: members, nonvoters and partitions must be equal on all nodes", clip(h.cluster), clip(n.cfg.Cluster))
	}
	return p, nil
}

// clip keeps a reason with two fingerprints in it within its bound.
func clip(s string) string {
	const most = 48
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// admitLink makes the connection the link of p to us, unless another process
// holds that link and is alive. With neither a session nor a refusal the other
// end has gone.
func (n *Network) admitLink(raw net.Conn, conn *tls.Conn, p *peer, h hello) (*session, *refusal) {
	if !p.admitting.TryLock() {
		return nil, refuse(statusBusy, "another link of this node is being looked at")
	}
	defer p.admitting.Unlock()
	n.mu.Lock()
	old := p.in
	n.mu.Unlock()
	if old != nil {
		if old.instance != h.instance && n.probe(old) {
			return nil, refuse(statusDuplicate, "another process of that id is alive and linked to it from %s", old.raw.RemoteAddr())
		}
		n.end(old)
	}
	s := n.newSession(p, h.instance, raw, conn)
	n.linkedBy(p, s)
	n.welcomed(h.from, host(raw))
	raw.SetDeadline(time.Now().Add(n.timing.handshake))
	if err := n.answer(conn, statusOK, ""); err != nil {
		n.end(s)
		return nil, nil // gone: nobody to tell
	}
	raw.SetDeadline(time.Time{})
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return s, nil
}

// linkedBy says that p has a link to us: it is not dead.
func (n *Network) linkedBy(p *peer, s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p.in = s
	if p.dead || p.drained { // it says so anew if it is still drained
		p.dead, p.drained = false, false
		n.announce()
	}
}

// probe asks the process behind an admitted link for a sign of life.
func (n *Network) probe(s *session) bool {
	select {
	case <-s.answered: // an answer to an earlier question
	default:
	}
	s.ping()
	timer := time.NewTimer(n.timing.probe)
	defer timer.Stop()
	select {
	case <-s.answered:
		return true
	case <-timer.C:
	case <-s.ctx.Done():
	}
	return false
}

// admitStream hands the connection to its group if it comes from the process
// that holds the link of p.
func (n *Network) admitStream(raw net.Conn, records *records, conn *tls.Conn, p *peer, h hello) *refusal {
	n.mu.Lock()
	via, l := p.in, n.layers[h.group]
	n.mu.Unlock()
	if via == nil || via.instance != h.instance {
		return refuse(statusNoLink, "node %q has no link to %q from this process", h.from, n.cfg.Node)
	}
	if l == nil {
		return refuse(statusUnknownGroup, "group %d is not open on node %q", h.group, n.cfg.Node)
	}
	select {
	case l.slots <- struct{}{}:
	default:
		return refuse(statusBusy, "%d streams of group %d wait to be accepted", cap(l.slots), h.group)
	}
	s := &stream{Conn: conn, records: records, raw: raw, net: n, layer: l, via: via}
	if err := n.register(s); err != nil {
		<-l.slots
		return refuse(statusNoLink, "%v", err)
	}
	if err := n.answer(conn, statusOK, ""); err != nil {
		<-l.slots
		n.cut(s)
		return nil
	}
	raw.SetDeadline(time.Time{})
	l.ready <- s // there is room: it holds a slot
	return nil
}

func (n *Network) answer(conn net.Conn, s status, reason string) error {
	a := answer{status: s, instance: n.instance, node: n.cfg.Node, reason: reason}
	if s == statusOK {
		a.info = n.cfg.Info
	}
	_, err := conn.Write(a.append(nil))
	return err
}

// refuseHello tells the other end why it is not welcome, and the operator once.
func (n *Network) refuseHello(raw net.Conn, conn *tls.Conn, h hello, no *refusal) {
	n.metrics.refused.WithLabelValues(no.status.String()).Inc()
	who := h.from
	if who == "" {
		who = host(raw)
	}
	if no.status != statusBusy && no.status != statusNoLink && n.news(who, no.status.String(), h.instance) {
		n.log.Warn("refused a connection on the peer port", "node", h.from, "from", raw.RemoteAddr(), "status", no.status, "reason", no.reason)
	}
	raw.SetDeadline(time.Now().Add(lingerTime))
	if n.answer(conn, no.status, no.reason) == nil {
		conn.CloseWrite()
	}
	n.linger(raw)
}

// stranger ends a connection that did not get through TLS.
func (n *Network) stranger(raw net.Conn, err error) {
	n.metrics.refused.WithLabelValues(refusedTLS).Inc()
	if n.ctx.Err() == nil && n.news(host(raw), refusedTLS, instance{}) {
		n.log.Warn("refused a connection on the peer port", "from", raw.RemoteAddr(), "status", refusedTLS, "reason", cause(err))
	}
	n.linger(raw)
}

// linger reads on for a moment before it closes: closing with unread bytes
// would reset the connection, and the reason might never arrive.
func (n *Network) linger(raw net.Conn) {
	if half, ok := raw.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		raw.SetDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, raw, 64<<10)
	}
	n.drop(raw)
}

const lingerTime = 500 * time.Millisecond

// toldRefusal is what was logged last about somebody.
type toldRefusal struct {
	status   string
	instance instance
}

// maxTold bounds what is remembered about refusals; while it is full, new
// ones are counted and not logged.
const maxTold = 256

// news tells whether this refusal differs from the last one of who.
func (n *Network) news(who, status string, from instance) bool {
	this := toldRefusal{status: status, instance: from}
	n.mu.Lock()
	defer n.mu.Unlock()
	last, known := n.told[who]
	if known && last == this || !known && len(n.told) >= maxTold {
		return false
	}
	n.told[who] = this
	return true
}

// welcomed forgets the refusals of a node and its host: the next one is news.
func (n *Network) welcomed(node, host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.told, node)
	delete(n.told, host)
}

func host(conn net.Conn) string {
	h, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	return h
}

// cause strips the addresses off a network error: ports differ from one try
// to the next, the trouble does not.
func cause(err error) error {
	var op *net.OpError
	switch {
	case !errors.As(err, &op) || op.Err == nil:
		return err
	case op.Op == "remote error": // a TLS alert
		return fmt.Errorf("refused by the other end: %w", op.Err)
	}
	return op.Err
}

// pause waits for d, or less when wake or ctx say so.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}
