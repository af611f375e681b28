package clustertest

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/raftlog/vfs"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/wire"
)

// What is slow is far slower than a busy machine and than the objective of these
// tests. A write with two syncs is still no stall, which would send readers away,
// and a follower's delay costs no leadership.
const (
	slowDelay     = 400 * time.Millisecond
	slowObjective = 250 * time.Millisecond
	slowHeartbeat = 2 * time.Second
)

// slowness slows nodes down, one stage at a time.
type slowness struct {
	log   driftLog
	stage atomic.Int64             // partition.Stage: of slow's messages; Stages: none
	disks atomic.Pointer[[]string] // nodes whose disks are slow
	slow  atomic.Pointer[string]   // a node
}

// start runs a cluster of so many nodes that can be slowed down.
func (s *slowness) start(t *testing.T, nodes int) *Cluster {
	s.stage.Store(int64(partition.Stages))
	s.log.causes = map[string][]string{}
	return Start(t, nodes, 1, s.edit)
}

func (s *slowness) edit(cfg *node.Config) {
	name := cfg.Name
	cfg.Logger, cfg.Objective = s.log.of(name), slowObjective
	if len(cfg.Members) > 1 {
		cfg.Heartbeat = slowHeartbeat
	}
	cfg.FlushSpacing = -1 // the machine may be busy with other tests
	cfg.Slow = func(_ int, stage partition.Stage) {
		if slow := s.slow.Load(); slow != nil && *slow == name && int64(stage) == s.stage.Load() {
			<-time.After(slowDelay)
		}
	}
	cfg.FS = slowFS{vfs.OS, func() {
		if disks := s.disks.Load(); disks != nil && slices.Contains(*disks, name) {
			<-time.After(slowDelay)
		}
	}}
}

// slowFS calls slow before each sync of a file.
type slowFS struct {
	vfs.FS
	slow func()
}

func (f slowFS) Open(name string) (vfs.File, error) {
	file, err := f.FS.Open(name)
	return slowFile{file, f.slow}, err
}

func (f slowFS) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return slowFile{file, f.slow}, err
}

type slowFile struct {
	vfs.File
	slow func()
}

func (f slowFile) Sync() error {
	f.slow()
	return f.File.Sync()
}

// driftLog keeps the causes that nodes name.
type driftLog struct {
	mu     sync.Mutex
	causes map[string][]string // by node
}

// of returns a logger for a node.
func (l *driftLog) of(node string) *slog.Logger {
	return slog.New(&driftLogOf{Handler: logger(node).Handler(), log: l, node: node})
}

type driftLogOf struct {
	slog.Handler
	log  *driftLog
	node string
}

func (h *driftLogOf) Enabled(context.Context, slog.Level) bool { return true }

func (h *driftLogOf) WithAttrs(a []slog.Attr) slog.Handler {
	return &driftLogOf{h.Handler.WithAttrs(a), h.log, h.node}
}

func (h *driftLogOf) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "cause" && r.Level == slog.LevelWarn {
			h.log.mu.Lock()
			defer h.log.mu.Unlock()
			h.log.causes[h.node] = append(h.log.causes[h.node], a.Value.String())
		}
		return true
	})
	if h.Handler.Enabled(ctx, r.Level) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

// forget forgets the causes named so far.
func (l *driftLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.causes)
}

func (l *driftLog) named(node string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.causes[node])
}

// TestSlowStage slows one stage of a room's messages down, and that one is named:
// by the leader's log and by what it serves to operators. Before that all is well.
func TestSlowStage(t *testing.T) {
	for stage := range partition.Stages {
		t.Run(stage.String(), func(t *testing.T) {
			t.Parallel()
			nodes := 1
			if stage == partition.Commit {
				nodes = 3
			}
			slow := &slowness{}
			c := slow.start(t, nodes)
			leader := c.Leader("lobby")
			p := &Publisher{Name: "p", Client: c.Client("p"), History: &c.History, Size: 200}
			c.must(p.Send("lobby", 0))
			c.must(p.Wait())
			c.listen(leader, "lobby", 1)
			p.Stream(5*time.Millisecond, "lobby")
			defer p.Halt()
			drift := func() admin.PartitionDrift { return c.Node(leader).Drift(10).Partitions[0] }
			// A busy machine may have been slow by itself.
			c.Until("the objective was judged and is kept", func() bool { return drift().MessagesPerS > 0 && drift().InObjective })
			slow.log.forget()

			switch stage {
			case partition.Append:
				slow.disks.Store(&[]string{leader})
			case partition.Commit:
				others := slices.DeleteFunc(slices.Clone(c.Names()), func(n string) bool { return n == leader })
				slow.disks.Store(&others)
			case partition.Write:
				c.readSlowly(leader, "lobby")
			default:
				slow.slow.Store(&leader)
				slow.stage.Store(int64(stage))
			}
			c.Until("a cause is named", func() bool { return !drift().InObjective })
			if got := drift().Cause; got != stage.String() || c.Leader("lobby") != leader {
				t.Errorf("the cause is %q, %s leads: %+v", got, c.Leader("lobby"), drift())
			}
			if got := slow.log.named(leader); !slices.Equal(got, []string{stage.String()}) {
				t.Errorf("the log names %v: %+v", got, drift())
			}
			if stage != partition.Write {
				return
			}
			cursors := c.Node(leader).Drift(1).Cursors
			if len(cursors) != 1 || cursors[0].Room != "lobby" || cursors[0].AgeMs < 1000 || cursors[0].Behind < 50 || !strings.HasPrefix(cursors[0].Client, "127.0.0.1:") {
				t.Errorf("the slowest cursor is %+v", cursors)
			}
		})
	}
}

// TestSlowForAFollower: readers of a replica that does not lead get messages late
// for a reason of its own, which it names, or for one of the leader's, which that
// one names.
func TestSlowForAFollower(t *testing.T) {
	for _, tt := range []struct{ name, cause, leaderNames string }{
		{"its disk", "append", ""},
		{"the leader's disk", "leader", "append"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			slow := &slowness{}
			c := slow.start(t, 3)
			leader := c.Leader("lobby")
			follower := c.Names()[0]
			if follower == leader {
				follower = c.Names()[1]
			}
			p := &Publisher{Name: "p", Client: c.Client("p"), History: &c.History, Size: 200}
			c.must(p.Send("lobby", 0))
			c.must(p.Wait())
			c.listen(follower, "lobby", 1)
			p.Stream(5*time.Millisecond, "lobby")
			defer p.Halt()
			drift := func(node string) admin.PartitionDrift { return c.Node(node).Drift(10).Partitions[0] }
			c.Until("the objective was judged and is kept", func() bool {
				return drift(follower).DeliveriesPerS > 0 && drift(follower).InObjective && drift(leader).InObjective
			})
			slow.log.forget()
			slow.disks.Store(&[]string{follower})
			if tt.cause == "leader" {
				slow.disks.Store(&[]string{leader})
			}
			c.Until("the follower names a cause", func() bool { return !drift(follower).InObjective })
			if got := drift(follower); got.Cause != tt.cause || !slices.Equal(slow.log.named(follower), []string{tt.cause}) {
				t.Errorf("the log names %v: %+v", slow.log.named(follower), got)
			}
			if metrics := c.get(follower, "/metrics"); !strings.Contains(metrics, `roomlog_partition_in_objective{partition="0"} 0`) {
				t.Errorf("the metrics do not tell:\n%s", metrics)
			}
			c.Until("the leader names its", func() bool { return drift(leader).Cause == tt.leaderNames })
		})
	}
}

// readSlowly subscribes to room at a node, from now, and takes nothing.
func (c *Cluster) readSlowly(node, room string) {
	c.tb.Helper()
	info, err := c.Client("").Room(c.tb.Context(), room)
	c.must(err)
	r := c.DialStingy(node)
	str := r.Open(&wire.Subscribe{Room: room, Next: info.Last + 1})
	str.Expect(wire.TypeSubscribed)
}
