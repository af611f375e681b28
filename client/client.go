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

	"github.com/roomlog/roomlog/transport/wire"
)

// dialBudget bounds Dial, tryBudget one attempt to reach one server.
const (
	dialBudget = 10 * time.Second
	tryBudget  = 2 * time.Second
)

// Client is a connection to a cluster. It keeps one QUIC connection per node
// that it needs.
type Client struct {
	cfg    config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // every goroutine of the client

	router *router
	out    *outstanding
	lanes  []atomic.Pointer[lane] // by partition

	mu     sync.Mutex // for making lanes, and closed
	closed bool
	ended  chan struct{} // closed when Close is through
}

// Option changes what Dial does.
type Option func(*config)

type config struct {
	tls   *tls.Config
	token string
	name  string
	log   *slog.Logger

	standby bool
}

// WithTLS says whom to trust and who we are. The configuration is cloned; the
// SDK sets ALPN and, unless given, the server name.
func WithTLS(cfg *tls.Config) Option { return func(c *config) { c.tls = cfg } }

// WithToken shows a token to the servers.
func WithToken(token string) Option { return func(c *config) { c.token = token } }

// WithName sets the publisher name that is stored with each message, at most
// 64 bytes. A token's subject wins.
func WithName(name string) Option { return func(c *config) { c.name = name } }

// WithLogger logs connections made and lost. Without it nothing is logged. The
// handler may use the client, but not close it.
func WithLogger(log *slog.Logger) Option { return func(c *config) { c.log = log } }

// Dial connects to the first of the servers that answers. It tries them in the
// order given, again and again for at most 10 s or until ctx ends, but not
// longer than it makes sense: a server that refuses our token or whose
// certificate we refuse is not asked twice. The error tells what failed for
// each server.
func Dial(ctx context.Context, servers []string, opts ...Option) (*Client, error) {
	cfg := config{}
	for _, opt := range opts {
		opt(&cfg)
	}
	if err := cfg.check(servers); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c := &Client{cfg: cfg, ended: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if cfg.log.Handler() != slog.DiscardHandler {
		logs := newLogs(cfg.log.Handler())
		c.cfg.log = slog.New(logs)
		c.tasks.Go(func() { logs.run(c.ctx) })
	}
	c.out = newOutstanding()
	c.router = newRouter(c, servers)
	if err := c.router.first(ctx, servers); err != nil {
		c.cancel()
		c.router.close()
		c.tasks.Wait()
		return nil, fmt.Errorf("client: %w", err)
	}
	c.lanes = make([]atomic.Pointer[lane], c.router.partitions())
	if cfg.standby {
		c.tasks.Go(c.router.keepStandby)
	}
	return c, nil
}

// check validates and completes the configuration.
func (c *config) check(servers []string) error {
	if len(servers) == 0 {
		return errors.New("no servers given")
	}
	for _, s := range servers {
		if _, port, err := net.SplitHostPort(s); err != nil {
			return fmt.Errorf("server %q is not host:port: %w", s, err)
		} else if port == "" {
			return fmt.Errorf("server %q is not host:port: the port is missing", s)
		}
	}
	if err := wire.CheckName(c.name); err != nil {
		return err
	}
	if len(c.token) > wire.MaxToken {
		return fmt.Errorf("token has %d bytes, at most %d are allowed", len(c.token), wire.MaxToken)
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.tls == nil {
		c.tls = &tls.Config{}
	}
	c.tls = c.tls.Clone()
	c.tls.NextProtos = []string{wire.ALPN}
	c.tls.MinVersion = tls.VersionTLS13
	return nil
}

// Close ends the client: publishes without an answer end with ErrClosed, and
// ErrOutcomeUnknown if they were sent; subscriptions end with ErrClosed. It
// waits for nothing but its own goroutines: Flush first to have the answers.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		<-c.ended
		return nil
	}
	c.closed = true
	c.mu.Unlock()

	c.out.close()
	for i := range c.lanes {
		if l := c.lanes[i].Load(); l != nil {
			l.close()
		}
	}
	c.cancel()
	c.router.close()
	c.tasks.Wait()
	close(c.ended)
	return nil
}

// lane returns the lane of a partition, made at its first use.
func (c *Client) lane(partition int) (*lane, error) {
	if l := c.lanes[partition].Load(); l != nil {
		return l, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if l := c.lanes[partition].Load(); l != nil {
		return l, nil
	}
	l := newLane(c, partition)
	c.lanes[partition].Store(l)
	c.tasks.Go(l.run)
	c.router.publishing()
	return l, nil
}

// Node is a member of the cluster as the servers tell it. Listen is where
// clients reach it, HTTP where operators do; both are "" while it has not been
// heard of.
type Node struct {
	Name   string
	Listen string
	HTTP   string
	Alive  bool
}

// Nodes returns the members of the cluster. If no connection is left it makes
// one first.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	for tries := 1; ; tries++ {
		nodes, err := c.router.nodesNow(ctx)
		if err == nil {
			return nodes, nil
		}
		if err := c.pause(ctx, backoff(tries)); err != nil {
			return nil, err
		}
	}
}

// pause waits for d. It ends early with ctx's error or ErrClosed.
func (c *Client) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return ErrClosed
	case <-t.C:
		return nil
	}
}
