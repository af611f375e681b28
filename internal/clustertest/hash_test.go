package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/admin"
)

// A replica that a majority contradicts is fenced: its readers go on elsewhere,
// publishing goes on, operators see it, a restart is refused and says how to
// rebuild the replica, and the rebuilt one agrees with the others.
func TestContradictedReplicaIsFenced(t *testing.T) {
	t.Parallel()
	var differs, rebuild atomic.Bool
	differs.Store(true)
	var last node.Config // n3's
	c := Start(t, 3, 1, func(cfg *node.Config) {
		if cfg.Name != "n3" {
			return
		}
		if cfg.Rebuild = nil; rebuild.Load() {
			cfg.Rebuild = []int{0}
		}
		cfg.MarkHash = func(_ int, index, hash uint64) uint64 {
			if differs.Load() {
				return ^hash
			}
			return hash
		}
		last = *cfg
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience) // thousands of entries, each synced
	defer cancel()
	publisher := c.Client("p", "n1", "n2")
	read := make(chan uint64, 1<<20)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() {
		for m, err := range c.Client("r", "n3").Subscribe(ctx, "room") {
			if err == nil && m.Gap == nil {
				read <- m.Seq
			}
		}
	})

	published := publishEntries(ctx, t, c, publisher, partition.MarkEvery+1)
	c.Until("n3 is fenced", func() bool { return status(c, "n3").Fenced != "" })
	c.Until("n1 and n2 see that n3 differs", func() bool {
		return slices.Equal(status(c, "n1").Diverged, []string{"n3"}) && slices.Equal(status(c, "n2").Diverged, []string{"n3"})
	})
	if err := c.Node("n3").Ready(); err == nil || !strings.Contains(err.Error(), "--rebuild 0") {
		t.Errorf("n3 is ready: %v", err)
	}
	for range 10 {
		r, err := publisher.Publish(ctx, "room", []byte("after"))
		if err != nil {
			t.Fatalf("publishing does not go on: %v", err)
		}
		published = max(published, r.Seq)
	}
	for want := uint64(1); want <= published; want++ {
		select {
		case seq := <-read:
			if seq != want {
				t.Fatalf("the reader of n3 got seq %d, want %d", seq, want)
			}
		case <-ctx.Done():
			t.Fatalf("the reader of n3 stopped before seq %d of %d", want, published)
		}
	}
	for _, name := range []string{"n1", "n2"} {
		if st := status(c, name); st.Fenced != "" {
			t.Errorf("%s is fenced: %s", name, st.Fenced)
		}
		if got := metric(t, c, name, "roomlog_hash_mismatches_total"); got != "1" {
			t.Errorf("%s counts %s mismatches, want 1", name, got)
		}
	}
	if got := metric(t, c, "n3", `roomlog_partition_fenced{partition="0"}`); got != "1" {
		t.Errorf("n3 tells %q of its fence", got)
	}

	c.Stop("n3")
	_, err := node.Open(last)
	damaged, ok := errors.AsType[*node.DamagedError](err)
	if !ok || damaged.Rebuild() != "0" || damaged.Voters != 3 || !damaged.Rebuilds || !strings.Contains(err.Error(), "was fenced") {
		t.Fatalf("a fenced replica opens: %v", err)
	}
	differs.Store(false)
	rebuild.Store(true)
	c.Run("n3")
	c.WaitReady()
	c.Until("n3 agrees with the others", func() bool {
		one, three := status(c, "n1"), status(c, "n3")
		return three.Fenced == "" && !three.Rebuilding && three.Hash == one.Hash && len(one.Diverged) == 0 && len(three.Diverged) == 0
	})
}

// publishEntries publishes to one room until its partition's log is that long.
// It returns the highest seq.
func publishEntries(ctx context.Context, t *testing.T, c *Cluster, publisher *client.Client, entries uint64) uint64 {
	t.Helper()
	var highest atomic.Uint64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for failed.Load() == nil && min(status(c, "n1").Applied, status(c, "n2").Applied, status(c, "n3").Applied) < entries {
				if status(c, "n3").Fenced != "" {
					return
				}
				r, err := publisher.Publish(ctx, "room", []byte("x"))
				if err != nil {
					failed.Store(&err)
					return
				}
				for old := highest.Load(); old < r.Seq && !highest.CompareAndSwap(old, r.Seq); old = highest.Load() {
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	return highest.Load()
}

func status(c *Cluster, name string) admin.PartitionStatus { return c.Node(name).Partitions()[0] }

// metric reads one line of a node's metrics.
func metric(t *testing.T, c *Cluster, name, metric string) string {
	t.Helper()
	resp, err := http.Get("http://" + c.HTTP(name) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, metric+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("no line of %s", metric)
}
