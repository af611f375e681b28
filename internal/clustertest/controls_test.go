//go:build controls

package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/raftlog/segment"
	"github.com/roomlog/roomlog/transport"
	"github.com/roomlog/roomlog/transport/wire"
)

// eachWay plays a story without a bug, which must do no harm, and with it, which
// must.
func eachWay(t *testing.T, control string, harm func(t *testing.T) bool) {
	for _, name := range []string{"none", control} {
		t.Run(name, func(t *testing.T) {
			seed := func(name string) {
				segment.Seed(name)
				raftlog.Seed(name)
				partition.Seed(name)
				transport.Seed(name)
			}
			seed(name)
			t.Cleanup(func() { seed("") }) // once the cluster has ended
			if got, want := harm(t), name == control; got != want {
				t.Errorf("harm is done: %v, want %v", got, want)
			}
		})
	}
}

// isolated is a cluster whose leader of the room "r", with one message in it, was
// cut off from the others, and who has been sent more since. Another leads by now,
// and has given seq 2 away.
type isolated struct {
	*Cluster
	leader string
	reader *RawStream // at the old leader, who has had seq 1
	answer string     // of the old leader, to "second"
}

func isolate(t *testing.T, more int) *isolated {
	c := &isolated{Cluster: Start(t, 3, 1, nil)}
	c.leader = c.Leader("r")
	raw := c.DialRaw(c.leader)
	if got := raw.Publish(wire.SessionID{1}, true, 1, "r", "first"); got != "seq 1" {
		t.Fatal(got)
	}
	c.reader = raw.Open(&wire.Subscribe{Room: "r", Next: 1})
	c.reader.Expect(wire.TypeSubscribed)
	if got := c.reader.delivered(); got != "1 first" {
		t.Fatal(got)
	}
	c.Cut(c.leader)
	for i := range more {
		_, err := raw.publish.Write(wire.AppendPublish(nil, uint64(2+i), 0, "", "r", []byte("second")))
		c.must(err)
	}
	c.answer = answerLine(raw.publish.Next())
	var others []string
	for _, name := range c.Names() {
		if name != c.leader {
			others = append(others, name)
		}
	}
	r, err := c.Client("other", others...).Publish(context.Background(), "r", []byte("other"))
	c.must(err)
	if r.Seq != 2 {
		t.Fatalf("the other message has seq %d", r.Seq)
	}
	c.Heal(c.leader)
	return c
}

// delivered returns the next message delivered.
func (s *RawStream) delivered() string {
	s.tb.Helper()
	var d wire.Deliver
	if err := wire.ParseDeliver(s.Expect(wire.TypeDeliver), &d); err != nil {
		s.tb.Fatal(err)
	}
	got := ""
	if err := d.Records(func(r wire.Record) bool {
		got = fmt.Sprintf("%d %s", r.Seq, r.Payload)
		return false
	}); err != nil {
		s.tb.Fatal(err)
	}
	return got
}

func TestControlAckBeforeCommit(t *testing.T) {
	eachWay(t, "ack-before-commit", func(t *testing.T) bool {
		c := isolate(t, 1)
		if c.answer != "seq 2" && !strings.HasPrefix(c.answer, "refused") {
			t.Fatal(c.answer)
		}
		return c.answer == "seq 2" // which is another's
	})
}

func TestControlServeBeyondCommit(t *testing.T) {
	eachWay(t, "serve-beyond-commit", func(t *testing.T) bool {
		c := isolate(t, 1)
		got := c.reader.delivered()
		if got != "2 second" && got != "2 other" {
			t.Fatal(got)
		}
		return got == "2 second"
	})
}

func TestControlLeaderCounter(t *testing.T) {
	eachWay(t, "leader-counter", func(t *testing.T) bool {
		c := isolate(t, 3) // seqs 2 to 4 are used up
		c.WaitReady()
		c.Until(c.leader+" leads again", func() bool {
			_ = c.Node(c.Leader("r")).Transfer(t.Context(), 0, c.leader)
			return c.Leader("r") == c.leader
		})
		r, err := c.Client("p").Publish(t.Context(), "r", []byte("third"))
		c.must(err)
		for _, name := range c.Names() { // all have the same hole
			s := c.DialRaw(name).Open(&wire.Subscribe{Room: "r", Next: 3})
			s.Expect(wire.TypeSubscribed)
			if got := s.delivered(); got != fmt.Sprintf("%d third", r.Seq) {
				t.Errorf("%s delivers %q, the ack was %d", name, got, r.Seq)
			}
		}
		return r.Seq > 3
	})
}

func TestControlOwnHead(t *testing.T) {
	eachWay(t, "own-head", func(t *testing.T) bool {
		c := Start(t, 3, 1, nil)
		leader := c.Leader("r")
		lags := c.Names()[0]
		if lags == leader {
			lags = c.Names()[1]
		}
		raw, p := c.DialRaw(lags), c.Client("p", leader)
		c.Cut(lags)
		var acked uint64
		for range 3 {
			r, err := p.Publish(t.Context(), "r", []byte("m"))
			c.must(err)
			acked = r.Seq
		}
		typ, _, err := raw.Open(&wire.Subscribe{Room: "r", Next: acked + 1}).Next()
		if err != nil || typ != wire.TypeError && typ != wire.TypeRedirect {
			t.Fatal(typ, err)
		}
		now, _, err := raw.Open(&wire.Query{Room: "r", Time: time.Now().UnixNano()}).Next()
		if err != nil || (now == wire.TypeInfo) != (typ == wire.TypeError) {
			t.Errorf("the room's head is answered with %v, %v", now, err)
		}
		return typ == wire.TypeError
	})
}

// All nodes are killed, and each begins again with a snapshot.
func TestControlForgetSessions(t *testing.T) {
	eachWay(t, "forget-sessions", func(t *testing.T) bool {
		c := Start(t, 3, 1, func(cfg *node.Config) {
			cfg.SegmentBytes, cfg.Retention = 64<<10, node.Retention{Messages: 800}
		})
		if got := c.DialRaw(c.Leader("r")).Publish(wire.SessionID{1}, true, 1, "r", "old"); got != "seq 1" {
			t.Fatal(got)
		}
		pub := &Publisher{Name: "p", Client: c.Client("p"), History: &c.History}
		c.Until("all have a snapshot", func() bool {
			for range 50 {
				c.must(pub.Send("r", 100))
			}
			c.must(pub.Wait())
			return status(c, "n1").Snapshot > 0 && status(c, "n2").Snapshot > 0 && status(c, "n3").Snapshot > 0
		})
		for _, name := range c.Names() {
			c.Kill(name)
		}
		for _, name := range c.Names() {
			c.Run(name)
		}
		c.WaitReady()
		got := c.DialRaw(c.Leader("r")).Publish(wire.SessionID{1}, false, 1, "r", "old")
		if got != "seq 1 duplicate" && !strings.HasPrefix(got, "seq ") {
			t.Fatal(got)
		}
		return got != "seq 1 duplicate"
	})
}

// A node was away until the others had dropped what it lacks; then another goes.
func TestControlNoBoundaryRecord(t *testing.T) {
	eachWay(t, "no-boundary-record", func(t *testing.T) bool {
		c := Start(t, 3, 1, func(cfg *node.Config) {
			cfg.SegmentBytes, cfg.Retention = 64<<10, node.Retention{Messages: 160}
		})
		f := &floorTest{Cluster: c, t: t, pub: &Publisher{Name: "p", Client: c.Client("p", "n1", "n2"), History: &c.History}}
		away := status(c, "n3").Last
		c.Stop("n3")
		f.pass(away+100, "n1", "n2") // more than one request to n3 holds
		c.Run("n3")
		c.Until("n3 is back", func() bool { return status(c, "n3").Leader != "" && status(c, "n3").Snapshot > 0 })
		gone := "n1"
		if c.Leader("room") == gone {
			gone = "n2"
		}
		c.Kill(gone)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Client("q").Publish(ctx, "room", []byte("stuck?"))
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, client.ErrOutcomeUnknown) {
			t.Fatal(err)
		}
		return err != nil
	})
}

// A follower is killed, again and again, soon after its log has begun to use a file
// again, and the others go on. Entries are of one size, or nearly so.
func TestControlStaleRecords(t *testing.T) {
	eachWay(t, "stale-records", func(t *testing.T) bool {
		c := Start(t, 3, 1, func(cfg *node.Config) {
			cfg.SegmentBytes, cfg.Retention = 64<<10, node.Retention{Messages: 400}
		})
		leader, victim := c.Leader("r"), "n1"
		if leader == victim {
			victim = "n2"
		}
		raw := c.DialRaw(leader)
		counter := uint64(0)
		publish := func(n int) {
			for range n {
				counter++
				if got := raw.Publish(wire.SessionID{1}, counter == 1, counter, "r", strings.Repeat("x", int(100+counter%7*100))); !strings.HasPrefix(got, "seq") {
					t.Fatal(got)
				}
			}
		}
		publish(1200)
		for range 8 {
			publish(37)
			c.Kill(victim)
			c.must(os.Remove(filepath.Join(c.dir, victim, "raft/p0000/log/CLEAN"))) // as kill -9 leaves it
			publish(20)
			c.Run(victim)
			publish(1)
			c.Until(victim+" has applied all", func() bool { return status(c, victim).Applied >= status(c, leader).Applied })
			if st := status(c, victim); st.Applied == status(c, leader).Applied && st.Hash != status(c, leader).Hash {
				return true
			}
		}
		return false
	})
}
