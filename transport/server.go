package transport

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	Leave    time.Duration // how long clients have to go by themselves when the node stops
	Token    string        // what a client must show; "" lets everybody in

	// Partitions are the replicas on this node by partition number, nil where
	// it has none.
	Partitions []*partition.Partition

	Metrics *Metrics
	Logger  *slog.Logger
}

// Limits of a server, told to clients in Welcome.
const (
	maxSubscriptions = 1024 // per connection
	otherStreams     = 16   // control, publish, queries
	helloTimeout     = 5 * time.Second
	idleTimeout      = 45 * time.Second // a client pings every 15 s
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

	mu         sync.Mutex
	clusterMap wire.Map
	mapChanged chan struct{} // closed and renewed when clusterMap changes
	draining   chan struct{} // closed by Drain
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
	s := &Server{
		cfg:        cfg,
		socket:     cfg.Socket,
		transport:  &quic.Transport{Conn: cfg.Socket, StatelessResetKey: &key},
		mapChanged: make(chan struct{}),
		draining:   make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	s.listener, err = s.transport.Listen(&tls.Config{
		Certificates:           []tls.Certificate{cfg.Cert},
		NextProtos:             []string{wire.ALPN},
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
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
	c.streams.Wait()
}

// SetMap tells all clients where the partitions are.
func (s *Server) SetMap(m wire.Map) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clusterMap = m
	close(s.mapChanged)
	s.mapChanged = make(chan struct{})
}

// currentMap returns the map and a channel that is closed when it changes.
func (s *Server) currentMap() (wire.Map, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clusterMap, s.mapChanged
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

// Drain takes no more clients and asks those who are here to leave.
func (s *Server) Drain() {
	s.listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.draining:
	default:
		close(s.draining)
	}
}

// Close ends all connections with CodeGoingAway and returns when the last
// goroutine has ended.
func (s *Server) Close() error {
	s.Drain()
	s.cancel()
	s.tasks.Wait()
	return s.shut()
}

// Kill closes the socket without telling anybody, as a crash would.
func (s *Server) Kill() error {
	s.socket.Close()
	s.cancel()
	err := s.shut()
	s.tasks.Wait()
	return err
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
