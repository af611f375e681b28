package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// session is a link from its handshake to its end, at either end of it.
type session struct {
	net      *Network
	peer     *peer
	instance instance // the process at the other end
	raw      net.Conn
	conn     *tls.Conn
	ctx      context.Context // ends with the session
	cancel   context.CancelFunc
	answered chan struct{} // one token: a ping was answered

	marks     *box[markKey, Mark] // to be sent
	pushes    *box[uint32, Push]  // to be sent, by group
	drained   chan struct{}       // one token: whether we are is to be told
	asking    chan struct{}       // a token for each question of ours under way
	asks      chan frame          // to be sent
	questions chan frame          // of the other end, not yet answered

	beats       *gatherer // to be sent
	beatAnswers *gatherer // to be sent

	mu        sync.Mutex
	openBeats int          // of the other end, not yet answered
	nonce     uint64       // of the last ping
	pings     [8]time.Time // when those not yet answered left, by nonce modulo 8; zero: none
	lastAsk   uint64       // nonce of the last question or beat
	answers   map[uint64]chan frame
}

func (n *Network) newSession(p *peer, i instance, raw net.Conn, conn *tls.Conn) *session {
	s := &session{
		net: n, peer: p, instance: i, raw: raw, conn: conn, answered: make(chan struct{}, 1),
		marks: newBox[markKey, Mark](), pushes: newBox[uint32, Push](), drained: make(chan struct{}, 1), asking: make(chan struct{}, maxAsking), asks: make(chan frame, maxAsking),
		questions: make(chan frame, maxQuestions), beats: newGatherer(), beatAnswers: newGatherer(), answers: make(map[uint64]chan frame),
	}
	s.ctx, s.cancel = context.WithCancel(n.ctx)
	return s
}

// refusedError: the other end has answered, and does not want this connection.
type refusedError struct {
	by     string
	status status
	reason string
}

func (e *refusedError) Error() string { return fmt.Sprintf("%s refused: %s", e.by, e.reason) }

// keepLink is the only goroutine that dials p's link: at once when there is
// none, then again after a jittered pause, until the Network is closed.
func (n *Network) keepLink(p *peer) {
	trouble := "" // what was logged last; empty after a success
	lost := 0     // tries since the link ended; 0: there was none
	for n.ctx.Err() == nil {
		s, err := n.dialLink(p)
		if err != nil && lost > 0 {
			if lost = n.lookForDeath(p, err, lost); lost > 0 {
				pause(n.ctx, deathLook, nil)
				continue
			}
		}
		if err != nil {
			if now := cause(err).Error(); now != trouble && n.ctx.Err() == nil {
				trouble = now
				n.log.Warn("cannot link to node", "node", p.name, "addr", p.addr, "err", now)
			}
			pause(n.ctx, n.retryAfter(err), p.wake)
			continue
		}
		trouble, lost = "", 1
		began := time.Now()
		n.log.Info("link up", "node", p.name, "addr", p.addr, "instance", s.instance)
		err = n.runLink(s)
		if n.ctx.Err() == nil {
			n.log.Warn("link down", "node", p.name, "addr", p.addr, "err", cause(err))
		}
		if time.Since(began) < n.timing.retryMax {
			pause(n.ctx, n.retryAfter(err), nil) // accepted and closed at once: do not spin
		}
	}
}

// retryAfter is short for what may pass by itself, longer for what somebody
// has to mend.
func (n *Network) retryAfter(err error) time.Duration {
	var refused *refusedError
	var other versionError
	least, most := n.timing.retryMin, n.timing.retryMax
	if errors.As(err, &refused) && refused.status != statusBusy || errors.As(err, &other) {
		least, most = n.timing.refused/2, n.timing.refused
	}
	return least + rand.N(most-least+1)
}

// dialLink returns a link that the other end has admitted; it counts as up.
func (n *Network) dialLink(p *peer) (*session, error) {
	raw, err := n.connect(n.ctx, p, n.timing.connect)
	if err != nil {
		return nil, err
	}
	if !n.own(raw) {
		return nil, ErrClosed
	}
	conn := tls.Client(raw, clientTLS(n.cfg, p.name))
	a, err := n.greet(raw, conn, p, kindLink, 0, n.timing.handshake)
	if err != nil {
		n.drop(raw)
		var refused *refusedError
		if errors.As(err, &refused) && refused.status == statusDuplicate {
			n.fail(&DuplicateError{Node: n.cfg.Node, At: p.name, Reason: refused.reason})
		}
		return nil, err
	}
	s := n.newSession(p, a.instance, raw, conn)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		s.cancel()
		return nil, ErrClosed // Close has closed raw
	}
	p.out, p.info, p.clock, p.dead = s, a.info, clock{}, false
	for _, m := range n.marks {
		s.marks.put(markKey{group: m.Group}, m)
	}
	if n.drained {
		s.tellDrained()
	}
	n.metrics.linksUp.Inc()
	n.announce()
	return s, nil
}

func (n *Network) connect(ctx context.Context, p *peer, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", p.addr)
}

// greet takes a dialed connection through its handshake, within limit. It
// leaves no deadline on it.
func (n *Network) greet(raw net.Conn, conn *tls.Conn, p *peer, k kind, group uint32, limit time.Duration) (answer, error) {
	raw.SetDeadline(time.Now().Add(limit))
	if err := conn.Handshake(); err != nil {
		return answer{}, fmt.Errorf("TLS with %s: %w", p.name, cause(err))
	}
	h := hello{kind: k, instance: n.instance, group: group, from: n.cfg.Node, to: p.name, cluster: n.cfg.Cluster}
	if _, err := conn.Write(h.append(nil)); err != nil {
		return answer{}, fmt.Errorf("hello to %s: %w", p.name, cause(err))
	}
	a, err := readAnswer(conn)
	if err != nil { // an alert about our certificate arrives here
		return answer{}, fmt.Errorf("answer of %s: %w", p.name, cause(err))
	}
	if a.status != statusOK {
		return answer{}, &refusedError{by: p.name, status: a.status, reason: a.reason}
	}
	if a.node != p.name {
		return answer{}, fmt.Errorf("node %q answered in place of %s", a.node, p.name)
	}
	raw.SetDeadline(time.Time{})
	return a, nil
}

// runLink serves a link of ours until it ends, and says why it did.
func (n *Network) runLink(s *session) error {
	var pinger sync.WaitGroup
	pinger.Go(s.talk)
	err := s.read(framePong)
	n.end(s)
	pinger.Wait()
	return err
}

// serve answers on a link of another node until it ends. Why it ended the other
// end says in its own log, unless it does not know what it did wrong.
func (n *Network) serve(s *session) {
	var answerer sync.WaitGroup
	answerer.Go(s.answerLoop)
	answerer.Go(s.beatLoop)
	err := s.read(framePing)
	if errors.Is(err, errMalformed) && n.news("link of "+s.peer.name, "malformed", s.instance) {
		n.log.Warn("ended the link of a node that breaks the protocol", "node", s.peer.name, "from", s.raw.RemoteAddr(), "err", err)
	}
	n.end(s)
	answerer.Wait()
}

// end closes a session and every stream that came or went by its leave. It may
// be called again.
func (n *Network) end(s *session) {
	s.cancel()
	n.mu.Lock()
	switch s {
	case s.peer.out:
		s.peer.out = nil
		n.metrics.linksUp.Dec()
		if !n.closed {
			n.metrics.linkDowns.WithLabelValues(s.peer.name).Inc()
		}
		n.announce()
	case s.peer.in:
		s.peer.in = nil
	}
	n.cutAll(func(st *stream) bool { return st.via == s })
	n.mu.Unlock()
	n.drop(s.raw)
}

// talk is the goroutine that pings, asks, beats and sends marks and pushes on a
// link of ours, from its start to its end.
func (s *session) talk() {
	ticker := time.NewTicker(s.net.timing.ping)
	defer ticker.Stop()
	s.ping()
	for {
		select {
		case <-ticker.C:
			s.ping()
		case f := <-s.asks:
			s.send(f)
		case <-s.beats.due:
			s.sendBeats()
		case <-s.beats.timer.C:
			s.sendBeats()
		case <-s.drained:
			s.sendDrained()
		case <-s.pushes.more:
			s.sendPushes()
		case <-s.marks.more:
			s.sendMarks()
		case <-s.ctx.Done():
			return
		}
	}
}

// ping sends one. If it cannot, the session's reader will find out.
func (s *session) ping() {
	s.mu.Lock()
	s.nonce++
	nonce := s.nonce
	s.pings[nonce%8] = time.Now()
	s.mu.Unlock()
	s.send(frame{typ: framePing, nonce: nonce})
}

func (s *session) send(f frame) { s.write(f.append(nil)) }

func (s *session) write(b []byte) {
	s.conn.SetWriteDeadline(time.Now().Add(s.net.timing.silence))
	if _, err := s.conn.Write(b); err != nil {
		s.raw.Close() // wakes the reader
	}
}

// read takes frames until the session ends. A session without a frame of type
// alive, pings at the acceptor's end and pongs at the dialer's, for too long ends
// too.
func (s *session) read(alive frameType) error {
	silence := s.net.timing.silence
	s.conn.SetReadDeadline(time.Now().Add(silence))
	for {
		f, err := readFrame(s.conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("silent for %v", silence)
		}
		if err != nil {
			return err
		}
		s.net.heardFrom(s.peer)
		switch now, dialed := time.Now(), alive == framePong; {
		case f.typ == framePing:
			received := now.UnixNano()
			s.send(frame{typ: framePong, nonce: f.nonce, received: received, sent: received + int64(time.Since(now))})
		case f.typ == framePong:
			if !s.pong(f, now) {
				continue // answers nothing we asked
			}
		case (f.typ == frameTold || f.typ == frameBeaten || f.typ == frameVerdict) && dialed:
			s.told(f)
		case f.typ == frameBeat && !dialed:
			s.beatCame(f)
		case f.typ == framePush && !dialed:
			if s.net.cfg.OnPush != nil {
				s.net.cfg.OnPush(s.peer.name, f.push)
			}
		case f.typ == frameDrained && !dialed:
			s.peerDrained(f.known)
		case f.typ == frameMark && !dialed:
			s.marked(f.mark)
		case (f.typ == frameAsk || f.typ == frameSuspect || f.typ == frameHeir) && !dialed:
			s.question(f)
		default:
			return malformed("link frame: type %d does not go this way", f.typ)
		}
		if f.typ == alive {
			s.conn.SetReadDeadline(time.Now().Add(silence))
		}
	}
}

// pong takes an answer to one of our pings.
func (s *session) pong(f frame, now time.Time) bool {
	s.mu.Lock()
	slot := &s.pings[f.nonce%8]
	sent := *slot
	known := !sent.IsZero() && f.nonce <= s.nonce && f.nonce+8 > s.nonce
	if known {
		*slot = time.Time{}
	}
	s.mu.Unlock()
	if !known {
		return false
	}
	select {
	case s.answered <- struct{}{}:
	default:
	}
	if reading, ok := measure(sent, now, f.received, f.sent); ok {
		s.net.mu.Lock()
		if s.peer.out == s {
			s.peer.clock.add(reading)
		}
		s.net.mu.Unlock()
	}
	return true
}
