package transport

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

// Config is what a Server is made of.
type Config struct {
	Node     string
	Socket   net.PacketConn // from Bind; the Server closes it
	Cert     tls.Certificate
	ResetKey [32]byte      // fixed per node, so that a restarted node can reset old connections
	Leave    time.Duration // how long clients have at least to go by themselves, if there are few
	Token    string        // what a client must show; "" lets everybody in

	// Spacing is the most that the flushes of a connection are apart while there is
	// little processor time; 0: none.
	Spacing time.Duration
	// KeyExchange are the key exchanges that clients may use; nil: those of crypto/tls.
	KeyExchange []tls.CurveID

	// Partitions are the replicas on this node by partition number, nil where
	// it has none.
	Partitions []*partition.Partition

	// Handshakes are let begin so many a second, at most; 0: as many as leave
	// other work on time.
	Handshakes int

	Metrics *Metrics
	Logger  *slog.Logger
}

// Limits of a server, told to clients in Welcome.
const (
	maxSubscriptions = 1024 // per connection
	otherStreams     = 16   // control, publish, queries
	helloTimeout     = 5 * time.Second
	leavePerClient   = 10 * time.Millisecond // two handshakes elsewhere, and no processor busy with them alone
	maxLeave         = time.Second           // however many clients have to go
	idleTimeout      = 45 * time.Second      // a client pings every 15 s
)

// Server accepts clients. Its methods are safe for concurrent use.
type Server struct {
	cfg       Config
	socket    net.PacketConn
	transport *quic.Transport
	listener  *quic.Listener

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	fanout     fanout
	admission  *admission
	draining   chan struct{} // closed by Drain
	mapChanged chan struct{} // one token: clients are to be told

	mu         sync.Mutex
	clusterMap wire.Map
	mapFrame   []byte // clusterMap
	mapVersion int
	conns      map[*conn]struct{} // that have said hello
	away       bool               // clients are asked to leave
	leaveIn    time.Duration      // within which they are to
}

// Bind takes the address, host:port, for a Server.
func Bind(listen string) (net.PacketConn, error) {
	addr, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return nil, fmt.Errorf("listen %q: %w", listen, err)
	}
	socket, err := net.ListenUDP("udp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen %s: the UDP port is in use by another process; stop it or set another address with --listen", listen)
	} else if err != nil {
		return nil, fmt.Errorf("listen %s: %w", listen, err)
	}
	return socket, nil
}

// Serve starts to serve clients.
func Serve(cfg Config) (*Server, error) {
	key := quic.StatelessResetKey(cfg.ResetKey)
	admission := newAdmission(handshakeBounds.of(runtime.GOMAXPROCS(0), cfg.Handshakes), cfg.Metrics)
	s := &Server{
		cfg:       cfg,
		socket:    cfg.Socket,
		transport: &quic.Transport{Conn: cfg.Socket, StatelessResetKey: &key, ConnContext: admission.begin, VerifySourceAddress: admission.verify},
		admission: admission,
		draining:  make(chan struct{}),

		mapChanged: make(chan struct{}, 1),
		conns:      map[*conn]struct{}{},
		fanout: fanout{
			pace:    &pace{ceiling: cfg.Spacing, metrics: cfg.Metrics},
			feeds:   feeds{rooms: map[string]*feed{}},
			metrics: cfg.Metrics,
		},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	s.listener, err = s.transport.Listen(&tls.Config{
		Certificates:           []tls.Certificate{cfg.Cert},
		NextProtos:             []string{wire.ALPN},
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		CurvePreferences:       cfg.KeyExchange,
	}, &quic.Config{
		HandshakeIdleTimeout:       helloTimeout,
		MaxIdleTimeout:             idleTimeout,
		MaxIncomingStreams:         maxSubscriptions + otherStreams,
		MaxIncomingUniStreams:      -1,
		InitialStreamReceiveWindow: 128 << 10,
		MaxStreamReceiveWindow:     2 << 20,
		MaxConnectionReceiveWindow: 4 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", cfg.Socket.LocalAddr(), err)
	}
	s.tasks.Go(s.accept)
	s.tasks.Go(func() { s.fanout.pace.run(s.ctx) })
	s.tasks.Go(func() { s.admission.run(s.ctx) })
	s.tasks.Go(s.dropFeeds)
	s.tasks.Go(s.tellMaps)
	return s, nil
}

// Addr is the bound address.
func (s *Server) Addr() net.Addr { return s.socket.LocalAddr() }

// accept only starts goroutines: QUIC refuses clients when 32 wait here.
func (s *Server) accept() {
	for {
		qc, err := s.listener.Accept(s.ctx)
		if err != nil {
			return
		}
		s.tasks.Go(func() { s.serve(qc) })
	}
}

func (s *Server) serve(qc *quic.Conn) {
	c := newConn(s, qc)
	s.cfg.Metrics.connections.Inc()
	defer s.cfg.Metrics.connections.Dec()
	err := c.serve()
	var refusal *refusedError
	switch {
	case errors.As(err, &refusal):
		s.cfg.Metrics.closed.WithLabelValues(refusal.code.String()).Inc()
		s.cfg.Logger.Info("connection refused", "client", qc.RemoteAddr(), "reason", refusal.reason)
		qc.CloseWithError(quic.ApplicationErrorCode(refusal.code), refusal.reason)
	case s.ctx.Err() != nil:
		qc.CloseWithError(quic.ApplicationErrorCode(wire.CodeGoingAway), "the node stops")
	default:
		qc.CloseWithError(quic.ApplicationErrorCode(wire.CodeNone), "")
	}
	c.close()
}

// feedLife is how long frames are kept that nobody asks for, to twice that.
const feedLife = time.Second

func (s *Server) dropFeeds() {
	every := time.NewTicker(feedLife)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			s.fanout.feeds.drop()
		case <-s.ctx.Done():
			return
		}
	}
}

// join tells c from now on what concerns all clients.
func (s *Server) join(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	s.tellMap(c) // it may have changed since hello
	if s.away {
		s.sendAway(c)
	}
	if s.stops() {
		s.sendOff(c)
	}
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// sendAway asks c to leave, at some moment within leaveIn: not all clients at once, for
// others have to take them.
func (s *Server) sendAway(c *conn) {
	c.control.put(&wire.GoAway{Delay: uint64(s.leaveIn.Milliseconds())})
}

// sendOff ends what is left of c's subscriptions when c has had time to leave.
func (s *Server) sendOff(c *conn) {
	time.AfterFunc(s.leaveIn+rand.N(s.leaveIn/2+1), c.delivery.drain)
}

// stops tells whether Drain has been called.
func (s *Server) stops() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

func (s *Server) checkToken(token string) bool {
	return s.cfg.Token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(s.cfg.Token)) == 1
}

// replica returns this node's replica of room's partition, nil if it has none.
func (s *Server) replica(room string) *partition.Partition {
	return s.cfg.Partitions[wire.PartitionOf(room, len(s.cfg.Partitions))]
}

// leaderOf names the leader of a partition as this node knows it.
func leaderOf(p *partition.Partition) string {
	node, _ := p.Group().Leader()
	return node
}

// SetAway asks those clients to leave who are here, and all that come until it is
// called with false. They are served until they go: not all have another node to go to.
// It returns within what time they are to go; in the first half they get ready.
func (s *Server) SetAway(away bool) (leaveIn time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == away {
		return s.leaveIn
	}
	s.away = away
	s.leaveIn = max(s.cfg.Leave, min(time.Duration(len(s.conns))*leavePerClient, maxLeave))
	for c := range s.conns {
		if away {
			s.sendAway(c)
		}
	}
	return s.leaveIn
}

// Drain takes no more clients and asks those who are here to leave, within the time
// that it returns. In half as long again the last one is sent off.
func (s *Server) Drain() (leaveIn time.Duration) {
	s.listener.Close()
	leaveIn = s.SetAway(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stops() {
		return leaveIn
	}
	close(s.draining)
	for c := range s.conns {
		s.sendOff(c)
	}
	return leaveIn
}

// Close ends all connections with CodeGoingAway and returns when the last
// goroutine has ended.
func (s *Server) Close() error {
	s.Drain()
	s.cancel()
	s.wait()
	return s.shut()
}

// Kill closes the socket without telling anybody, as a crash would.
func (s *Server) Kill() error {
	s.socket.Close()
	s.cancel()
	err := s.shut()
	s.wait()
	return err
}

// wait returns when the last goroutine has ended.
func (s *Server) wait() {
	s.tasks.Wait()
	s.fanout.catchUp.tasks.Wait()
	s.fanout.workers.close()
}

func (s *Server) shut() error {
	err := s.transport.Close()
	return errors.Join(err, ignoreClosed(s.socket.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
