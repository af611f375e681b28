package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/hashicorp/raft"
)

// maxWaiting bounds, per group, the streams that Accept has not yet taken;
// beyond it a new one is refused.
const maxWaiting = 32

// layer is one group's raft.StreamLayer.
type layer struct {
	net   *Network
	group uint32
	slots chan struct{} // a token for each stream on its way to or in ready
	ready chan *stream  // admitted, not yet accepted
	ctx   context.Context
	shut  context.CancelFunc // ends Accept and Dial
}

// Streams opens a group. Its addresses are node names: Dial takes one, and
// Addr is this node's. Dial fails at once with ErrLinkDown while the node's link
// is down. Close ends Accept and closes the group's streams; the group may then
// be opened again. While it is open, Streams returns the same layer.
func (n *Network) Streams(group uint32) raft.StreamLayer {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.layers[group]; l != nil {
		return l
	}
	l := &layer{net: n, group: group, slots: make(chan struct{}, maxWaiting), ready: make(chan *stream, maxWaiting)}
	l.ctx, l.shut = context.WithCancel(n.ctx)
	if !n.closed {
		n.layers[group] = l
	}
	return l
}

// Accept waits for the next stream to this group.
func (l *layer) Accept() (net.Conn, error) {
	if l.ctx.Err() == nil {
		select {
		case s := <-l.ready:
			<-l.slots
			return s, nil
		case <-l.ctx.Done():
		}
	}
	return nil, fmt.Errorf("peer: group %d: %w", l.group, net.ErrClosed)
}

// Close closes this group and no other.
func (l *layer) Close() error {
	n := l.net
	n.mu.Lock()
	defer n.mu.Unlock()
	l.shut()
	if n.layers[l.group] == l {
		delete(n.layers, l.group)
	}
	n.cutAll(func(s *stream) bool { return s.layer == l })
	return nil
}

// Addr is this node's name.
func (l *layer) Addr() net.Addr { return nodeAddr(l.net.cfg.Node) }

type nodeAddr string

func (nodeAddr) Network() string  { return "roomlog-peer" }
func (a nodeAddr) String() string { return string(a) }

// Dial opens a stream to this group on the node that address names.
func (l *layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	s, err := l.dial(string(address), timeout)
	if err != nil {
		return nil, fmt.Errorf("peer: stream of group %d to node %q: %w", l.group, address, err)
	}
	return s, nil
}

func (l *layer) dial(node string, timeout time.Duration) (*stream, error) {
	n := l.net
	p := n.peers[node]
	if p == nil {
		return nil, errors.New("no other member of the cluster has this name")
	}
	n.mu.Lock()
	via := p.out
	n.mu.Unlock()
	if via == nil {
		return nil, ErrLinkDown
	}
	if timeout <= 0 || timeout > n.timing.handshake {
		timeout = n.timing.handshake
	}
	deadline := time.Now().Add(timeout)
	if err := p.takeTurn(via.ctx, l.ctx, timeout); err != nil {
		return nil, err
	}
	defer p.giveTurn()
	raw, err := n.connect(via.ctx, p, min(time.Until(deadline), n.timing.connect))
	if via.ctx.Err() != nil && err != nil {
		return nil, ErrLinkDown
	}
	if err != nil {
		return nil, err
	}
	if !n.own(raw) {
		return nil, ErrClosed
	}
	records := newRecords(raw)
	s := &stream{Conn: tls.Client(records, clientTLS(n.cfg, p.name)), records: records, raw: raw, net: n, layer: l, via: via}
	if err := n.register(s); err != nil { // from here on the end of the link or the group closes it
		n.drop(raw)
		return nil, err
	}
	a, err := n.greet(raw, s.Conn, p, kindStream, l.group, time.Until(deadline))
	switch {
	case l.ctx.Err() != nil: // also when the Network is closed
		err = net.ErrClosed
	case via.ctx.Err() != nil:
		err = ErrLinkDown
	case err == nil && a.instance != via.instance:
		err = fmt.Errorf("%w: the node has restarted", ErrLinkDown)
	}
	if err != nil {
		n.cut(s)
		return nil, err
	}
	return s, nil
}

// takeTurn bounds the streams to one node that are in their handshake: after an
// election all groups want theirs at once, and the other end counts.
func (p *peer) takeTurn(link, group context.Context, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case p.dialing <- struct{}{}:
		return nil
	case <-link.Done():
		return ErrLinkDown
	case <-group.Done():
		return net.ErrClosed
	case <-timer.C:
		return fmt.Errorf("no turn to dial within %v: %w", limit, os.ErrDeadlineExceeded)
	}
}

func (p *peer) giveTurn() { <-p.dialing }

// stream is one connection of a group, at either end.
type stream struct {
	*tls.Conn
	records *records // beneath it
	raw     net.Conn
	net     *Network
	layer   *layer
	via     *session // the link that vouches for it
}

// Write sends b at once, in however many TLS records. Only one call may be
// under way.
func (s *stream) Write(b []byte) (int, error) {
	s.records.hold()
	n, err := s.Conn.Write(b)
	if flushed := s.records.flush(); err == nil {
		err = flushed
	}
	return n, err
}

// Close says goodbye, so that the other end sees an orderly end.
func (s *stream) Close() error {
	err := s.Conn.Close()
	s.net.cut(s)
	return err
}

// register makes s one of the streams that end with their link, their group
// and the Network, unless one of these has ended already.
func (n *Network) register(s *stream) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch p := s.via.peer; {
	case s.layer.ctx.Err() != nil: // also when the Network is closed
		return net.ErrClosed
	case s.via != p.out && s.via != p.in:
		return ErrLinkDown
	}
	n.streams[s] = struct{}{}
	n.metrics.streams.Inc()
	return nil
}

// cut closes s without a goodbye and forgets it. It may be called again.
func (n *Network) cut(s *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutLocked(s)
}

// cutAll cuts the streams that match. The caller holds mu.
func (n *Network) cutAll(match func(*stream) bool) {
	for s := range n.streams {
		if match(s) {
			n.cutLocked(s)
		}
	}
}

func (n *Network) cutLocked(s *stream) {
	if _, open := n.streams[s]; !open {
		return
	}
	delete(n.streams, s)
	delete(n.conns, s.raw)
	n.metrics.streams.Dec()
	s.raw.Close()
}
