package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

// fake is a cluster that speaks the protocol over loopback and does what its
// hooks say. All nodes share one log per partition: it is a fake of what
// clients see, not of replication.
type fake struct {
	token  string
	limits wire.Limits
	tls    *tls.Config
	roots  *x509.CertPool

	// Hooks; set before the first use or under mu.
	onPublish   func(n *fakeNode, session wire.SessionID, p wire.Publish) act
	onSubscribe func(n *fakeNode, s wire.Subscribe) []wire.Frame // nil: serve it; else sent, and the stream ends
	onAttach    func(n *fakeNode, a wire.Attach) *wire.Refused
	onQuery     func(n *fakeNode, q wire.Query) *wire.Error
	answer      wire.Frame    // if set, to every query
	noAttached  bool          // an Attach of an open session gets no answer
	lastWords   bool          // a superseded Attach gets a last word, some publishes late
	window      uint64        // how much of a stream the nodes take unread, 0: quic-go's
	stalled     chan struct{} // streams are not read until it is closed, but for the control stream

	mu      sync.Mutex
	nodes   []*fakeNode
	parts   []*fakePart
	changed chan struct{} // closed and renewed when a room grows
	events  chan string   // what tests wait for; dropped when full
}

// act is what a hook does with a publish.
type act struct {
	refuse *wire.Refused // refused with this; Partition and Counter are filled in
	apply  bool          // with refuse: it gets into the log all the same
	noAck  bool          // applied, but the answer is lost
	kill   bool          // the connection breaks, after applying if that was asked for
	ackAll bool          // this and all lower counters are acked, each with its own run
	drop   bool          // not looked at
	end    bool          // the publish stream ends, and it alone
	late   []wire.Frame  // what an earlier Attach of the stream, if any, is owed; sent first
}

type fakePart struct {
	leader   int
	term     uint64
	sessions map[wire.SessionID]*fakeSession
	rooms    map[string]*fakeRoom
	discard  bool // for benchmarks: number messages, but keep none
}

type fakeSession struct {
	last    uint64
	answers map[uint64]fakeAnswer
}

type fakeAnswer struct {
	room, payload string
	seq           uint64
	time          int64
}

type fakeRoom struct {
	first uint64 // lowest seq still held
	msgs  []fakeMsg
}

type fakeMsg struct {
	publisher, payload string
	time               int64
}

type fakeNode struct {
	f     *fake
	index int
	name  string
	addr  string
	mute  atomic.Bool // answers nothing at all any more
	away  atomic.Bool // asks everybody who comes to leave
	full  fullness    // refuses handshakes

	mu        sync.Mutex
	transport *quic.Transport
	socket    net.PacketConn
	conns     map[*fakeConn]struct{}
	tasks     sync.WaitGroup
}

// fullness refuses the handshakes that it is told to, and takes note of all.
type fullness struct {
	mu      sync.Mutex
	refuse  int         // so many more
	asked   []time.Time // when handshakes began
	refused map[string]bool
}

func (f *fullness) begin(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := info.RemoteAddr.String()
	if f.refused[from] {
		return nil, errors.New("the second packet of a hello")
	}
	f.asked = append(f.asked, time.Now())
	if f.refuse == 0 {
		return ctx, nil
	}
	f.refuse--
	if f.refused == nil {
		f.refused = make(map[string]bool)
	}
	f.refused[from] = true
	return nil, errors.New("too many")
}

func (f *fullness) set(refuse int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse, f.asked = refuse, nil
}

// pauses are the times between handshakes since set.
func (f *fullness) pauses() (pauses []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := 1; i < len(f.asked); i++ {
		pauses = append(pauses, f.asked[i].Sub(f.asked[i-1]))
	}
	return pauses
}

type fakeConn struct {
	n    *fakeNode
	q    *quic.Conn
	name string

	mu         sync.Mutex // writes of the control stream
	control    *quic.Stream
	publishing atomic.Bool
}

const fakeEpoch = 1_700_000_000_000_000_000

// startFake starts a cluster of nodes with some partitions; partition p is led
// by node p modulo nodes.
func startFake(t testing.TB, nodes, partitions int, set ...func(*fake)) *fake {
	t.Helper()
	f, err := newFake(nodes, partitions, set...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.stop)
	return f
}

func newFake(nodes, partitions int, set ...func(*fake)) (*fake, error) {
	f := &fake{
		limits:  wire.Limits{Payload: wire.MaxPayload, Window: wire.MaxWindow, Subscriptions: 1024},
		changed: make(chan struct{}),
		events:  make(chan string, 1024),
	}
	for _, set := range set {
		set(f)
	}
	cert, roots, err := selfSigned()
	if err != nil {
		return nil, err
	}
	f.roots = roots
	f.tls = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{wire.ALPN}}
	for p := range partitions {
		f.parts = append(f.parts, &fakePart{
			leader:   p % nodes,
			term:     1,
			sessions: make(map[wire.SessionID]*fakeSession),
			rooms:    make(map[string]*fakeRoom),
		})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range nodes {
		n := &fakeNode{f: f, index: i, name: fmt.Sprintf("n%d", i+1), addr: "127.0.0.1:0", conns: make(map[*fakeConn]struct{})}
		f.nodes = append(f.nodes, n)
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

type selfSignedCert struct {
	cert  tls.Certificate
	roots *x509.CertPool
	err   error
}

var oneCert = sync.OnceValue(func() selfSignedCert {
	cert, roots, err := makeCert()
	return selfSignedCert{cert, roots, err}
})

func selfSigned() (tls.Certificate, *x509.CertPool, error) {
	c := oneCert()
	return c.cert, c.roots, c.err
}

func (f *fake) stop() {
	for _, n := range f.nodes {
		n.kill()
	}
}

func (f *fake) addrs() []string {
	var all []string
	for _, n := range f.nodes {
		all = append(all, n.addr)
	}
	return all
}

// event tells a test that something happened.
func (f *fake) event(format string, args ...any) {
	select {
	case f.events <- fmt.Sprintf(format, args...):
	default:
	}
}

// await waits for an event.
func (f *fake) await(t testing.TB, want string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case got := <-f.events:
			if got == want {
				return
			}
		case <-timeout:
			t.Fatalf("%q did not happen", want)
		}
	}
}

// clusterMap must be called with f.mu held.
func (f *fake) clusterMap() wire.Map {
	m := wire.Map{Epoch: 1}
	var all []int
	for i, n := range f.nodes {
		m.Nodes = append(m.Nodes, wire.Node{Name: n.name, Listen: n.addr, HTTP: "http-" + n.name, Alive: true})
		all = append(all, i)
	}
	for _, p := range f.parts {
		m.Partitions = append(m.Partitions, wire.Placement{Term: p.term, Leader: p.leader, Replicas: all})
	}
	return m
}

// lead makes a node, or none (-1), leader of a partition; quietly: no client is told.
func (f *fake) lead(partition, node int, quietly bool) {
	f.mu.Lock()
	p := f.parts[partition]
	p.leader = node
	p.term++
	f.mu.Unlock()
	if !quietly {
		f.tell()
	}
}

// tell sends every client the map.
func (f *fake) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tellLocked()
}

// tellLocked must be called with f.mu held.
func (f *fake) tellLocked() {
	m := f.clusterMap()
	for _, n := range f.nodes {
		n.push(&m)
	}
}

// room returns what a room holds.
func (f *fake) room(name string) []fakeMsg {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.parts[wire.PartitionOf(name, len(f.parts))].rooms[name]; r != nil {
		return append([]fakeMsg(nil), r.msgs...)
	}
	return nil
}

// append puts messages into a room without a publisher.
func (f *fake) append(room string, payloads ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range payloads {
		f.parts[wire.PartitionOf(room, len(f.parts))].add(room, "", p)
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) trim(room string, first uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts[wire.PartitionOf(room, len(f.parts))].rooms[room].first = first
}

// forget expires all sessions.
func (f *fake) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.parts {
		clear(p.sessions)
	}
}

func (p *fakePart) add(room, publisher, payload string) (seq uint64, at int64) {
	r := p.rooms[room]
	if r == nil {
		r = &fakeRoom{first: 1}
		p.rooms[room] = r
	}
	if p.discard {
		r.first++
		return r.first - 1, fakeEpoch
	}
	at = fakeEpoch + int64(len(r.msgs)+1)*1_000_000_000
	r.msgs = append(r.msgs, fakeMsg{publisher, payload, at})
	return uint64(len(r.msgs)), at
}

// apply is the machine: it enforces the rules of counters.
func (p *fakePart) apply(id wire.SessionID, m wire.Publish, name string) (a fakeAnswer, dup bool, refused *wire.Refused) {
	s := p.sessions[id]
	switch {
	case s == nil:
		return a, false, &wire.Refused{Code: wire.CodeSessionExpired}
	case m.Counter > s.last+1:
		return a, false, &wire.Refused{Code: wire.CodeOutOfOrder, Want: s.last + 1}
	case m.Counter <= s.last:
		a, ok := s.answers[m.Counter]
		if !ok || a.room != string(m.Room) || a.payload != string(m.Payload) {
			return a, false, &wire.Refused{Code: wire.CodeConflict, Reason: "another payload"}
		}
		return a, true, nil
	}
	s.last = m.Counter
	if len(m.Name) > 0 {
		name = string(m.Name)
	}
	if p.discard {
		a.seq, a.time = p.add("lobby", "", "")
		return a, false, nil
	}
	a = fakeAnswer{room: string(m.Room), payload: string(m.Payload)}
	a.seq, a.time = p.add(a.room, name, a.payload)
	s.answers[m.Counter] = a
	for c := range s.answers {
		if c < m.Counter-m.Behind {
			delete(s.answers, c)
		}
	}
	return a, false, nil
}

// start must be called with f.mu held.
func (n *fakeNode) start() error {
	socket, err := net.ListenPacket("udp", n.addr)
	if err != nil {
		return err
	}
	tr := &quic.Transport{Conn: socket, ConnContext: n.full.begin}
	ln, err := tr.Listen(n.f.tls, &quic.Config{
		MaxIncomingStreams:         int64(n.f.limits.Subscriptions) + 16,
		MaxIdleTimeout:             45 * time.Second,
		InitialStreamReceiveWindow: n.f.window,
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.transport, n.socket = tr, socket
	n.mu.Unlock()
	n.addr = socket.LocalAddr().String()
	n.tasks.Go(func() {
		for {
			q, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			n.tasks.Go(func() { n.serve(q) })
		}
	})
	return nil
}

// kill ends the node without a goodbye.
func (n *fakeNode) kill() {
	n.mu.Lock()
	tr, socket := n.transport, n.socket
	n.transport = nil
	n.mu.Unlock()
	if tr == nil {
		return
	}
	tr.Close()
	socket.Close()
	n.tasks.Wait()
}

// breakConns ends all connections, with a goodbye.
func (n *fakeNode) breakConns(code wire.Code) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		c.q.CloseWithError(quic.ApplicationErrorCode(code), "broken by the test")
	}
}

// push sends a frame on every control stream.
func (n *fakeNode) push(fr wire.Frame) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		c.send(fr)
	}
}

func (c *fakeConn) send(fr wire.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control.TryWriteAll(wire.Append(nil, fr))
}

func (n *fakeNode) serve(q *quic.Conn) {
	c := &fakeConn{n: n, q: q}
	control, err := q.AcceptStream(context.Background())
	if err != nil {
		return
	}
	r := wire.NewReader(control, wire.MaxSmallFrame)
	_, body, err := r.Next()
	if err != nil {
		return
	}
	n.f.mu.Lock()
	m, token, limits := n.f.clusterMap(), n.f.token, n.f.limits
	n.f.mu.Unlock()
	hello, err := wire.ParseHello(body)
	if err != nil || hello.Token != token {
		n.f.event("denied %s", n.name)
		control.Write(wire.Append(nil, &wire.Error{Code: wire.CodeAuth, Reason: "wrong token"}))
		q.CloseWithError(quic.ApplicationErrorCode(wire.CodeAuth), "wrong token")
		return
	}
	c.control, c.name = control, hello.Name
	n.mu.Lock()
	n.conns[c] = struct{}{}
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.conns, c)
		n.mu.Unlock()
	}()
	c.send(&wire.Welcome{Version: wire.Version, Node: n.name, Limits: limits, Map: m})
	if n.away.Load() {
		c.send(&wire.GoAway{Delay: 20})
	}
	n.f.event("welcome %s", n.name)
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for {
			str, err := q.AcceptStream(context.Background())
			if err != nil {
				return
			}
			all.Go(func() { c.stream(str) })
		}
	})
	for {
		typ, body, err := r.Next()
		if err != nil {
			q.CloseWithError(0, "")
			return
		}
		if typ == wire.TypeWatch {
			w, _ := wire.ParseWatch(body)
			n.f.event("watch %s %v", n.name, w.Leaders)
		}
		if typ == wire.TypePing {
			nonce, _ := wire.ParsePing(typ, body)
			n.f.event("ping %s", n.name)
			if !n.mute.Load() {
				c.send(&wire.Pong{Nonce: nonce})
			}
		}
	}
}

func (c *fakeConn) stream(str *quic.Stream) {
	defer str.Close()
	defer str.CancelRead(0)
	c.n.f.mu.Lock()
	stalled := c.n.f.stalled
	c.n.f.mu.Unlock()
	if stalled != nil {
		c.n.f.event("stream %s", c.n.name)
		<-stalled
	}
	r := wire.NewReader(str, wire.MaxPublishFrame)
	typ, body, err := r.Next()
	if err != nil {
		return
	}
	switch typ {
	case wire.TypeAttach:
		if c.publishing.Swap(true) {
			c.n.f.event("second publish stream")
			str.Write(wire.Append(nil, &wire.Error{Code: wire.CodeTooManyStreams}))
			return
		}
		p := &fakePublishStream{c: c, str: str, lanes: make(map[uint64]*fakeLane)}
		for err == nil {
			err = p.handle(typ, body)
			if err == nil && !r.Buffered() {
				p.flush()
			}
			if err == nil {
				typ, body, err = r.Next()
			}
		}
	case wire.TypeSubscribe:
		s, _ := wire.ParseSubscribe(body)
		c.subscription(str, s)
	case wire.TypeQuery:
		q, _ := wire.ParseQuery(body)
		str.Write(wire.Append(nil, c.query(q)))
	}
}

func (c *fakeConn) query(q wire.Query) wire.Frame {
	f := c.n.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answer != nil {
		return f.answer
	}
	if f.onQuery != nil {
		if e := f.onQuery(c.n, q); e != nil {
			return e
		}
	}
	part := wire.PartitionOf(q.Room, len(f.parts))
	p := f.parts[part]
	if p.leader != c.n.index {
		return &wire.Error{Code: wire.CodeNotLeader}
	}
	info := &wire.Info{Partition: uint64(part), First: 1, At: 1}
	if r := p.rooms[q.Room]; r != nil {
		info.First, info.Last = r.first, uint64(len(r.msgs))
		for info.At <= info.Last && r.msgs[info.At-1].time < q.Time {
			info.At++
		}
	}
	return info
}

type fakePublishStream struct {
	c     *fakeConn
	str   *quic.Stream
	lanes map[uint64]*fakeLane
	out   []byte
	acks  *wire.Acks
}

// fakeLane is what the newest Attach for a partition has led to.
type fakeLane struct {
	attach  uint64
	session wire.SessionID
	refused bool
	last    uint64 // counter
	owed    *wire.Refused
}

func (p *fakePublishStream) handle(typ wire.Type, body []byte) error {
	f := p.c.n.f
	f.mu.Lock()
	defer f.mu.Unlock()
	switch typ {
	case wire.TypeAttach:
		a, err := wire.ParseAttach(body)
		if err != nil {
			return err
		}
		p.attach(a)
	case wire.TypePublish:
		m, err := wire.ParsePublish(body)
		if err != nil {
			return err
		}
		return p.publish(m)
	case wire.TypeDetach:
		d, _ := wire.ParseDetach(body)
		f.event("detach %d", d.Partition)
	}
	return nil
}

func (p *fakePublishStream) attach(a wire.Attach) {
	f, n := p.c.n.f, p.c.n
	part := f.parts[a.Partition]
	l := &fakeLane{attach: 1, session: a.Session}
	if old := p.lanes[a.Partition]; old != nil {
		l.attach = old.attach + 1
		if f.lastWords && !old.refused {
			l.owed = &wire.Refused{Partition: a.Partition, Attach: old.attach, Counter: old.last + 1, Code: wire.CodeNotLeader}
		}
	}
	p.lanes[a.Partition] = l
	refused := &wire.Refused{Partition: a.Partition, Attach: l.attach}
	if f.onAttach != nil {
		if r := f.onAttach(n, a); r != nil {
			refused.Code, refused.RetryAfter = r.Code, r.RetryAfter
		}
	}
	if refused.Code == 0 && part.leader != n.index {
		refused.Code = wire.CodeNotLeader
	}
	if refused.Code != 0 {
		l.refused = true
		p.send(refused)
		return
	}
	if a.Open && part.sessions[a.Session] == nil {
		part.sessions[a.Session] = &fakeSession{answers: make(map[uint64]fakeAnswer)}
	}
	if a.Open || !f.noAttached {
		p.send(&wire.Attached{Partition: a.Partition, Attach: l.attach})
	}
}

func (p *fakePublishStream) publish(m wire.Publish) error {
	f, n := p.c.n.f, p.c.n
	part := uint64(wire.PartitionOf(m.Room, len(f.parts)))
	l := p.lanes[part]
	if l == nil || l.refused || n.mute.Load() {
		return nil
	}
	var do act
	if f.onPublish != nil {
		do = f.onPublish(n, l.session, m)
	}
	if l.attach > 1 {
		for _, fr := range do.late {
			p.send(fr)
		}
	}
	if do.drop {
		return nil
	}
	if do.end {
		return fmt.Errorf("ended")
	}
	refused := do.refuse
	if refused == nil && f.parts[part].leader != n.index {
		refused = &wire.Refused{Code: wire.CodeNotLeader}
	}
	var a fakeAnswer
	var dup bool
	if (refused == nil && !do.kill) || do.apply {
		var ruled *wire.Refused
		if a, dup, ruled = f.parts[part].apply(l.session, m, p.c.name); refused == nil {
			refused = ruled
		}
	}
	l.last = m.Counter
	if l.owed != nil && m.Counter%3 == 0 {
		p.send(l.owed)
		l.owed = nil
	}
	switch {
	case do.kill:
		p.c.q.CloseWithError(quic.ApplicationErrorCode(wire.CodeInternal), "killed by the test")
		return fmt.Errorf("killed")
	case refused != nil:
		r := *refused
		r.Partition, r.Attach, r.Counter = part, l.attach, m.Counter
		l.refused = true
		p.send(&r)
	case do.ackAll:
		for c := uint64(1); c <= m.Counter; c++ {
			if c%maxFakeRuns == 1 {
				p.flushAcks()
				p.acks = &wire.Acks{Partition: part, Time: a.time}
			}
			seq := f.parts[part].sessions[l.session].answers[c].seq
			p.acks.Runs = append(p.acks.Runs, wire.AckRun{Counter: c, Count: 1, Seq: seq})
		}
	case !do.noAck:
		p.ack(part, m.Counter, a, dup)
		close(f.changed)
		f.changed = make(chan struct{})
	}
	return nil
}

// maxFakeRuns of at most 5 bytes fit into the largest frame that clients accept.
const maxFakeRuns = 1600

func (p *fakePublishStream) ack(part, counter uint64, a fakeAnswer, dup bool) {
	if p.acks == nil || p.acks.Partition != part || p.acks.Duplicate != dup || p.acks.Time != a.time {
		p.flushAcks()
		p.acks = &wire.Acks{Partition: part, Time: a.time, Duplicate: dup}
	}
	if n := len(p.acks.Runs); n > 0 {
		if r := &p.acks.Runs[n-1]; counter == r.Counter+r.Count && a.seq == r.Seq+r.Count && r.Count < wire.MaxWindow {
			r.Count++
			return
		}
	}
	p.acks.Runs = append(p.acks.Runs, wire.AckRun{Counter: counter, Count: 1, Seq: a.seq})
}

func (p *fakePublishStream) flushAcks() {
	if p.acks != nil {
		p.out = wire.Append(p.out, p.acks)
		p.acks = nil
	}
}

func (p *fakePublishStream) send(fr wire.Frame) {
	p.flushAcks()
	p.out = wire.Append(p.out, fr)
}

func (p *fakePublishStream) flush() {
	p.flushAcks()
	if len(p.out) > 0 {
		p.str.Write(p.out)
		p.out = p.out[:0]
	}
}

// subscription serves a room from the shared log.
func (c *fakeConn) subscription(str *quic.Stream, s wire.Subscribe) {
	f, n := c.n.f, c.n
	f.event("subscribe %s %s %d", n.name, s.Room, s.Next)
	f.mu.Lock()
	hook := f.onSubscribe
	f.mu.Unlock()
	if hook != nil {
		if frames := hook(n, s); frames != nil {
			for _, fr := range frames {
				str.Write(wire.Append(nil, fr))
			}
			return
		}
	}
	next := s.Next
	for begun := false; ; {
		f.mu.Lock()
		changed := f.changed
		var first, last uint64 = 1, 0
		var block []fakeMsg
		if r := f.parts[wire.PartitionOf(s.Room, len(f.parts))].rooms[s.Room]; r != nil {
			first, last = r.first, uint64(len(r.msgs))
			if from := max(next, first); from <= last {
				block = append(block, r.msgs[from-1:]...)
			}
		}
		f.mu.Unlock()
		var out []byte
		if !begun {
			begun = true
			if next > last+1 {
				str.Write(wire.Append(nil, &wire.Error{Code: wire.CodeBeyondHead, Head: last}))
				return
			}
			if next == 0 {
				next = first
			}
			out = wire.Append(out, &wire.Subscribed{Next: next})
		}
		if next < first {
			out = wire.Append(out, &wire.Gap{From: next, To: first - 1, Reason: wire.ReasonTrimmed})
			next = first
		}
		for _, m := range block {
			out = wire.Append(out, deliver(next, m))
			next++
		}
		if len(out) > 0 && !n.mute.Load() {
			if _, err := str.Write(out); err != nil {
				f.event("left %s", s.Room)
				return
			}
		}
		select {
		case <-changed:
		case <-str.Context().Done():
			f.event("left %s", s.Room)
			return
		}
	}
}

// deliver is a frame with some messages of one publisher and time.
func deliver(first uint64, msgs ...fakeMsg) *wire.Deliver {
	block := binary.AppendUvarint(nil, uint64(len(msgs)))
	block = binary.AppendUvarint(block, 1)
	block = binary.AppendUvarint(block, uint64(len(msgs[0].publisher)))
	block = append(block, msgs[0].publisher...)
	for _, m := range msgs {
		block = binary.AppendUvarint(block, 0)
		block = binary.AppendUvarint(block, uint64(len(m.payload)))
		block = append(block, m.payload...)
	}
	return &wire.Deliver{First: first, Time: msgs[0].time, Block: block}
}

func makeCert() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "roomlog test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots, nil
}

// options is what a client needs to be let in. Tests that have set hooks get
// here before a node looks at them.
func (f *fake) options() []Option {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []Option{WithTLS(&tls.Config{RootCAs: f.roots}), WithToken(f.token)}
}

// dial connects to the fake and closes the client at the end, when none of its
// goroutines may be left.
func (f *fake) dial(t testing.TB, opts ...Option) *Client {
	t.Helper()
	opts = append(f.options(), opts...)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, f.addrs(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// quiteLong is what nothing in a test should take.
const quiteLong = 30 * time.Second

// within is a context that ends long after a test should have.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), quiteLong)
	t.Cleanup(cancel)
	return ctx
}

// transports counts the sockets that quic-go listens on, those of fakes included.
func transports() int {
	n := 0
	for _, g := range stacks() {
		if strings.Contains(g, "quic-go.(*Transport).listen(") {
			n++
		}
	}
	return n
}

func stacks() []string {
	buf := make([]byte, 4<<20)
	return strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
}

// ours returns the stacks of goroutines that run the SDK's code or quic-go's
// on a client's behalf.
func ours() []string {
	var left []string
	for _, s := range stacks() {
		for _, typ := range []string{"client.(*conn)", "client.(*lane)", "client.(*router)", "client.(*pubStream)", "client.(*Client)", "client.(*config)", "client.(*logs)"} {
			if strings.Contains(s, typ) {
				left = append(left, s)
				break
			}
		}
	}
	return left
}
