package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

// A subscription that is not read keeps what has come in its stream's window;
// the connection's window is that of all its streams, so that slow readers
// never keep pongs and acks out.
const (
	streamWindow = 256 << 10
	maxStreams   = 2 << 10
)

var quicConfig = &quic.Config{
	HandshakeIdleTimeout:           tryBudget,
	MaxIdleTimeout:                 45 * time.Second,
	KeepAlivePeriod:                0, // our own pings are large enough for a stateless reset
	InitialStreamReceiveWindow:     streamWindow,
	MaxStreamReceiveWindow:         streamWindow,
	InitialConnectionReceiveWindow: maxStreams * streamWindow,
	MaxConnectionReceiveWindow:     maxStreams * streamWindow,
	MaxIncomingStreams:             -1,
	MaxIncomingUniStreams:          -1,
}

// conn is one QUIC connection to a node: a control stream, at most one publish
// stream for all lanes, and subscriptions. Its goroutines belong to run.
type conn struct {
	router    *router
	log       *slog.Logger
	addr      string
	node      string
	limits    wire.Limits
	quic      *quic.Conn
	transport *quic.Transport
	socket    *net.UDPConn
	control   *quic.Stream
	frames    *wire.Reader // of the control stream; readControl's
	born      time.Time
	alive     liveness
	leaving   atomic.Bool // the server has asked us to leave

	// Guarded by router.mu.
	slots   int  // subscriptions on the connection
	retired bool // we have left it

	opening sync.Mutex // one publish stream at a time; taken before mu

	mu    sync.Mutex
	dead  bool
	pub   *pubStream
	subs  map[*quic.Stream]struct{} // streams that move when the server drains
	tasks sync.WaitGroup
}

// dialInTurn is dial within tryBudget, when it is our turn.
func (cfg *config) dialInTurn(ctx context.Context, addr string) (*conn, wire.Map, error) {
	done, err := dialTurns.take(ctx)
	if err != nil {
		return nil, wire.Map{}, err
	}
	defer done()
	try, cancel := context.WithTimeout(ctx, tryBudget)
	defer cancel()
	c, m, err := cfg.dial(try, addr)
	if err != nil && try.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("no answer within %v", tryBudget)
	}
	return c, m, err
}

// dial connects to addr and says hello. The map is what the server knows of
// the cluster.
func (cfg *config) dial(ctx context.Context, addr string) (*conn, wire.Map, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, wire.Map{}, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, wire.Map{}, err
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, wire.Map{}, err
	}
	tlsConf := cfg.tls
	if tlsConf.ServerName == "" {
		tlsConf = tlsConf.Clone()
		tlsConf.ServerName = host
	}
	err = fmt.Errorf("%s has no address", host)
	for _, ip := range ips {
		var c *conn
		var m wire.Map
		to := &net.UDPAddr{IP: ip.IP, Zone: ip.Zone, Port: port}
		if c, m, err = cfg.dialUDP(ctx, to, tlsConf); err == nil {
			c.addr = addr
			return c, m, nil
		}
		if ctx.Err() != nil || tooMany(err) {
			break // what the next one says would hide that
		}
	}
	return nil, wire.Map{}, err
}

func (cfg *config) dialUDP(ctx context.Context, to *net.UDPAddr, tlsConf *tls.Config) (*conn, wire.Map, error) {
	socket, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return nil, wire.Map{}, err
	}
	c := &conn{
		log:       cfg.log,
		socket:    socket,
		transport: &quic.Transport{Conn: &connected{socket}},
		subs:      make(map[*quic.Stream]struct{}),
	}
	c.alive.init()
	c.quic, err = c.transport.Dial(ctx, to, tlsConf, quicConfig)
	var m wire.Map
	if err == nil {
		stop := context.AfterFunc(ctx, func() { c.kill(wire.CodeNone, "gave up") })
		m, err = c.hello(ctx, cfg)
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			c.kill(wire.CodeNone, "no welcome")
		}
	}
	if err != nil {
		c.release()
		return nil, m, err
	}
	c.born = time.Now()
	c.alive.trip.Store(int64(c.quic.ConnectionStats().SmoothedRTT))
	return c, m, nil
}

// hello opens the control stream and waits for Welcome.
func (c *conn) hello(ctx context.Context, cfg *config) (wire.Map, error) {
	var err error
	if c.control, err = c.quic.OpenStreamSync(ctx); err != nil {
		return wire.Map{}, connError(err)
	}
	hello := wire.Hello{Version: wire.Version, Token: cfg.token, Name: cfg.name}
	if _, err := c.control.Write(wire.Append(nil, &hello)); err != nil {
		return wire.Map{}, connError(err)
	}
	c.frames = wire.NewReader(c.control, wire.MaxDeliverFrame)
	typ, body, err := c.frames.Next()
	switch {
	case err != nil:
		return wire.Map{}, connError(err)
	case typ == wire.TypeError:
		return wire.Map{}, parseError(body)
	case typ != wire.TypeWelcome:
		return wire.Map{}, fmt.Errorf("server greets with %v instead of welcome", typ)
	}
	w, err := wire.ParseWelcome(body)
	switch {
	case err != nil:
		return wire.Map{}, err
	case w.Version != wire.Version:
		return wire.Map{}, &codeError{code: wire.CodeVersion, reason: fmt.Sprintf("server speaks %d, we %d", w.Version, wire.Version)}
	case w.Node == "" || len(w.Map.Partitions) == 0:
		return wire.Map{}, errors.New("server tells no name or no partitions")
	}
	c.node, c.limits = w.Node, w.Limits
	c.limits.Window = min(max(c.limits.Window, 1), wire.MaxWindow)
	c.limits.Subscriptions = max(c.limits.Subscriptions, 1)
	return w.Map, nil
}

// parseError reads an Error frame, or tells why it cannot.
func parseError(body []byte) error {
	f, err := wire.ParseError(body)
	if err != nil {
		return err
	}
	return errorOf(f)
}

// connError puts the code with which the server ended a connection into words.
func connError(err error) error {
	if app, ok := errors.AsType[*quic.ApplicationError](err); ok && app.Remote && app.ErrorCode != 0 {
		return &codeError{code: wire.Code(app.ErrorCode), reason: app.ErrorMessage}
	}
	return err
}

// hopeless tells whether dialling the same server again makes no sense: the
// certificate, the token or the version is wrong.
func hopeless(err error) bool {
	if t, ok := errors.AsType[*quic.TransportError](err); ok && t.ErrorCode.IsCryptoError() {
		return true
	}
	c, ok := errors.AsType[*codeError](err)
	return ok && (c.code == wire.CodeAuth || c.code == wire.CodeDenied || c.code == wire.CodeVersion)
}

// run serves the connection until it has ended, and returns when none of its
// goroutines is left.
func (c *conn) run() {
	c.tasks.Go(c.readControl)
	c.tasks.Go(c.watch)
	<-c.quic.Context().Done()
	err := connError(context.Cause(c.quic.Context()))
	c.router.lost(c, err)
	c.mu.Lock()
	c.dead = true
	pub := c.pub
	c.mu.Unlock()
	if pub != nil {
		pub.fail(err)
	}
	c.tasks.Wait()
	c.release()
}

// kill ends the connection at once.
func (c *conn) kill(code wire.Code, why string) {
	c.quic.CloseWithError(quic.ApplicationErrorCode(code), why)
}

// release frees the socket.
func (c *conn) release() {
	c.transport.Close()
	c.socket.Close()
}

// readControl takes what the server says about itself and the cluster.
func (c *conn) readControl() {
	for {
		typ, body, err := c.frames.Next()
		if err == nil {
			err = c.handleControl(typ, body)
		}
		if err != nil {
			c.kill(wire.CodeProtocol, err.Error()) // nothing happens if it has ended anyway
			return
		}
	}
}

func (c *conn) handleControl(typ wire.Type, body []byte) error {
	if typ == wire.TypePong {
		sent, err := wire.ParsePing(typ, body)
		c.alive.pong(nanos() - time.Duration(sent))
		return err
	}
	c.alive.heard()
	switch typ {
	case wire.TypeMap:
		m, err := wire.ParseMap(body)
		if err == nil {
			c.router.learn(&m, c.node)
		}
		return err
	case wire.TypeGoAway:
		g, err := wire.ParseGoAway(body)
		if err == nil && !c.leaving.Swap(true) {
			c.log.Info("server asks us to leave", "node", c.node, "delay", millis(g.Delay))
			c.router.askedToLeave(c)
			c.tasks.Go(func() { c.leave(millis(g.Delay)) })
		}
		return err
	case wire.TypeGone:
		g, err := wire.ParseGone(body)
		if err == nil {
			c.router.gone(g.Node, c.node)
		}
		return err
	case wire.TypeError:
		return parseError(body)
	}
	return fmt.Errorf("server sent %v on the control stream", typ)
}

// publishStream returns the connection's publish stream, opened at first use.
// There is never a second one: with the stream the connection ends, for the
// server may still have the old one open, and must refuse another.
func (c *conn) publishStream(ctx context.Context) (*pubStream, error) {
	c.opening.Lock()
	defer c.opening.Unlock()
	c.mu.Lock()
	pub := c.pub
	c.mu.Unlock()
	if pub != nil {
		return pub, nil // bind tells if it has ended
	}
	str, err := c.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, connError(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return nil, errStreamGone
	}
	c.pub = newPubStream(c, str)
	c.tasks.Go(c.pub.write)
	c.tasks.Go(c.pub.read)
	return c.pub, nil
}

// track registers a subscription's stream, to be moved when the server drains.
func (c *conn) track(s *quic.Stream) (untrack func()) {
	c.mu.Lock()
	c.subs[s] = struct{}{}
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		delete(c.subs, s)
		c.mu.Unlock()
	}
}

// farewellBudget bounds how long Close waits for a server to have read that
// the sessions are over.
const farewellBudget = 250 * time.Millisecond

// farewell ends the sessions on the connection and then the connection itself.
// The pong to a ping behind the last frame tells that the server has had it.
func (c *conn) farewell() {
	c.mu.Lock()
	pub := c.pub
	c.mu.Unlock()
	if pub != nil {
		if frames := pub.detach(); len(frames) > 0 {
			answered := c.alive.nextPong()
			pub.str.SetWriteDeadline(time.Now().Add(farewellBudget))
			if _, err := pub.str.Write(frames); err == nil && c.ping() == nil {
				t := time.NewTimer(farewellBudget)
				select {
				case <-answered:
				case <-c.quic.Context().Done():
				case <-t.C:
				}
				t.Stop()
			}
		}
	}
	c.kill(wire.CodeNone, "client closed")
}
