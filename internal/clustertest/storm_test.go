package clustertest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/node"
)

// TestStorm: clients that come to a node all at once are refused beyond what it
// has a budget for, and all get in. Who is there already goes on.
func TestStorm(t *testing.T) {
	const clients, budget = 150, 60 // a second
	c := Start(t, 3, 1, func(cfg *node.Config) { cfg.Handshakes = budget })
	b := watchBystander(t, c, "n1")
	began := time.Now()
	crowd(t, c, "n1", clients)
	took := time.Since(began)
	b.stop()

	m := metricsOf(t, c, "n1")
	if m["roomlog_handshakes_refused_total"] == 0 {
		t.Errorf("no handshake was refused")
	}
	if n := m["roomlog_handshakes_admitted_total"]; n < clients || n > clients+20 {
		t.Errorf("%v handshakes were admitted, of %d clients and some others", n, clients)
	}
	if least := time.Duration(clients-20) * time.Second / budget; took < least {
		t.Errorf("all were in after %v: at %d a second that takes %v at least", took, budget, least)
	}
	c.Until("no handshake waits", func() bool { return metricsOf(t, c, "n1")["roomlog_handshakes_waiting"] == 0 })
	if b.missing != 0 || b.lostConns.Load() != 0 {
		t.Errorf("the bystander has missed %d messages and lost %d connections", b.missing, b.lostConns.Load())
	}
	if b.seen < 10 {
		t.Errorf("the bystander has had %d messages in %v", b.seen, took)
	}
	t.Logf("%d clients in %v; %v refusals; the bystander's longest pause was %v",
		clients, took, m["roomlog_handshakes_refused_total"], b.longest)
}

// crowd connects so many clients to a node at once.
func crowd(t *testing.T, c *Cluster, node string, n int) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for { // Dial itself gives up after a while
				cl, err := client.Dial(t.Context(), []string{c.Addr(node)}, client.WithTLS(c.TLS()), client.WithToken(Token))
				if err == nil {
					t.Cleanup(func() { cl.Close() })
					return
				}
				if t.Context().Err() != nil || !strings.Contains(err.Error(), "CONNECTION_REFUSED") {
					t.Errorf("client %d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// bystander publishes to a room and follows it, by a node first.
type bystander struct {
	client *client.Client
	cancel context.CancelFunc
	ended  sync.WaitGroup

	lostConns     atomic.Int32
	seen, missing int
	longest       time.Duration // between two messages
}

func watchBystander(t *testing.T, c *Cluster, at string) *bystander {
	b := &bystander{}
	var err error
	b.client, err = client.Dial(t.Context(), []string{c.Addr(at)},
		client.WithTLS(c.TLS()), client.WithToken(Token), client.WithLogger(slog.New(lostConns{logger("bystander").Handler(), b})))
	c.must(err)
	t.Cleanup(func() { b.client.Close() })
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(t.Context())
	first := make(chan struct{})
	b.ended.Go(func() { b.publish(ctx) })
	b.ended.Go(func() { b.follow(ctx, first) })
	<-first
	return b
}

// lostConns counts the connections that a client says it has lost.
type lostConns struct {
	slog.Handler
	b *bystander
}

func (l lostConns) Enabled(context.Context, slog.Level) bool { return true }

func (l lostConns) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "connection lost" {
		l.b.lostConns.Add(1)
	}
	return nil
}

func (b *bystander) publish(ctx context.Context) {
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		if _, err := b.client.PublishAsync(ctx, "aside", []byte("tick")); err != nil {
			return // at the end
		}
	}
}

func (b *bystander) follow(ctx context.Context, first chan<- struct{}) {
	var last uint64
	var at time.Time
	for m, err := range b.client.Subscribe(ctx, "aside") {
		if err != nil {
			return // at the end
		}
		if b.seen++; b.seen == 1 {
			close(first)
		} else {
			b.longest = max(b.longest, time.Since(at))
		}
		b.missing += int(m.Seq - last - 1)
		last, at = m.Seq, time.Now()
	}
}

func (b *bystander) stop() {
	b.cancel()
	b.ended.Wait()
}

// metricsOf are a node's metrics without labels.
func metricsOf(t *testing.T, c *Cluster, node string) map[string]float64 {
	resp, err := http.Get(fmt.Sprintf("http://%s/metrics", c.HTTP(node)))
	c.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	c.must(err)
	m := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			m[name] = v
		}
	}
	return m
}
