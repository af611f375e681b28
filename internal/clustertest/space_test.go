package clustertest

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/node"
)

// Without the reserve free on any disk the nodes still start, elect and serve
// readers; publishes are refused with a time to come back, and taken once there
// is room. A new node does not begin at all.
func TestNearlyFullDisks(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	var last node.Config
	c := Start(t, 3, 2, func(cfg *node.Config) {
		if cfg.Reserve = 0; full.Load() {
			cfg.Reserve = 1 << 60
		}
		last = *cfg
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.Client("before").Publish(ctx, "room", []byte("first")); err != nil {
		t.Fatal(err)
	}
	restart := func(nearlyFull bool) {
		t.Helper()
		full.Store(nearlyFull)
		for _, name := range c.Names() {
			c.Stop(name)
		}
		for _, name := range c.Names() {
			c.Run(name)
		}
		c.WaitReady()
	}
	restart(true)
	publisher := c.Client("full")
	short, end := context.WithTimeout(ctx, 2*time.Second)
	defer end()
	_, err := publisher.Publish(short, "room", []byte("refused"))
	overloaded, ok := errors.AsType[*client.OverloadedError](err)
	if !ok || overloaded.RetryAfter != time.Second || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("publish: %v, want it refused for a second", err)
	}
	for m, err := range publisher.Subscribe(ctx, "room") {
		if err != nil || m.Seq != 1 || string(m.Payload) != "first" {
			t.Fatalf("read %+v, %v", m, err)
		}
		break
	}
	if got := metric(t, c, "n1", "roomlog_disk_full"); got != "1" {
		t.Errorf("roomlog_disk_full is %s", got)
	}
	fresh := last
	fresh.DataDir = filepath.Join(t.TempDir(), "new")
	fresh.Listen, fresh.Peer, fresh.HTTP = freeAddr(t), freeAddr(t), freeAddr(t)
	if n, err := node.Open(fresh); err == nil || !strings.Contains(err.Error(), "disk is nearly full") {
		t.Errorf("a new node begins without room: %v", err)
		if err == nil {
			n.Close()
		}
	}
	restart(false)
	if r, err := c.Client("after").Publish(ctx, "room", []byte("second")); err != nil || r.Seq != 2 {
		t.Errorf("with room again: %+v, %v", r, err)
	}
}
