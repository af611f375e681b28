package raftlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestProposalsAreAppliedInOrderEverywhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	leader := c.handTo("n2")
	var proposals []*Proposal
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprintf("m%d", i))
		proposals = append(proposals, leader.group.Propose([]byte(want[i])))
	}
	var last Index
	for i, p := range proposals {
		result, err := p.Wait(soon(t))
		if err != nil {
			t.Fatalf("proposal %d: %v", i, err)
		}
		var data string
		var index Index
		if _, err := fmt.Sscanf(result.(string), "%s is %d", &data, &index); err != nil || data != want[i] || index <= last {
			t.Fatalf("proposal %s was answered %q after index %d", want[i], result, last)
		}
		if leader.group.Applied() < index {
			t.Fatalf("%s was answered before it was applied", data)
		}
		last = index
	}
	if got := c.agree("m99"); !slices.Equal(got, want) {
		t.Errorf("applied %q", got)
	}
	for _, n := range c.others(leader) {
		if _, err := n.group.Propose([]byte("x")).Wait(soon(t)); !errors.Is(err, ErrNotLeader) || errors.Is(err, ErrUnknown) {
			t.Errorf("a follower answered %v, want ErrNotLeader", err)
		}
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("m%d", i))
		c.publish(want[i])
	}
	for range 2 {
		for _, name := range c.names {
			c.kill(name)
		}
		for _, name := range c.names {
			c.open(name)
		}
		c.leader()
		if got := c.agree("m19"); !slices.Equal(got, want) {
			t.Fatalf("after a restart the machines were given %q", got)
		}
	}
}

func TestOneNodeAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.publish("a")
	c.kill("n1")
	c.open("n1")
	c.publish("b")
	if got := c.agree("b"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("applied %q", got)
	}
}

// A power cut between the two writes of a bootstrap.
func TestHalfBootstrapIsDoneAgain(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 1)
	t.Cleanup(c.end)
	n := c.nodes["n1"]
	stable, err := OpenStable(n.dir + "-stable.db")
	if err != nil {
		t.Fatal(err)
	}
	if err := stable.group(7).SetUint64(keyTerm, 1); err != nil {
		t.Fatal(err)
	}
	if err := stable.Close(); err != nil {
		t.Fatal(err)
	}
	c.open("n1")
	c.publish("a")
}

func TestProposalsOfAnIsolatedLeaderAreUnknown(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("before")
	leader := c.leader()
	c.isolate(leader.name)
	p := leader.group.Propose([]byte("lost"))
	if _, err := p.Wait(soon(t)); !errors.Is(err, ErrUnknown) {
		t.Errorf("the proposal was answered %v, want ErrUnknown", err)
	}
	<-p.done
	if _, err := p.Wait(soon(t)); !errors.Is(err, ErrUnknown) {
		t.Errorf("asked again, it was answered %v", err)
	}
	c.await("the leader to step down", func() bool { return !leader.group.Leading() && leader.group.leadingNow() == nil })
	if _, err := leader.group.Propose([]byte("late")).Wait(soon(t)); !errors.Is(err, ErrNotLeader) {
		t.Errorf("after stepping down it answered %v, want ErrNotLeader", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	n := c.leader()
	n.machine.gate.shut()
	p := n.group.Propose([]byte("a"))
	c.await("the machine to be busy", n.machine.gate.holds)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Wait(ctx); !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("the answer is %v, want ErrUnknown for the end of ctx", err)
	}
	n.machine.gate.open()
	if result, err := p.Wait(soon(t)); err != nil || result == nil {
		t.Errorf("the outcome is %v, %v", result, err)
	}
}

// Raft leaves futures without an answer when it is shut down: the one that the
// machine is busy with, and those behind it.
func TestWaitEndsWithTheGroup(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Group){
		"Close":   func(g *Group) { g.Close() },
		"restart": func(g *Group) { g.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1)
			n := c.leader()
			n.machine.gate.shut()
			first := n.group.Propose([]byte("first"))
			c.await("the machine to be busy", n.machine.gate.holds)
			second := n.group.Propose([]byte("second"))
			ended := make(chan struct{})
			go func() { defer close(ended); end(n.group) }()
			for _, p := range []*Proposal{first, second} {
				err := within(t, patience, "Wait", func() error { _, err := p.Wait(context.Background()); return err })
				if !errors.Is(err, ErrUnknown) {
					t.Errorf("the answer is %v, want ErrUnknown", err)
				}
			}
			if isClosed(ended) {
				t.Error("the machine was not waited for")
			}
			n.machine.gate.open()
			within(t, patience, name, func() struct{} { return <-ended })
			if name == "Close" {
				if _, err := n.group.Propose([]byte("late")).Wait(soon(t)); !errors.Is(err, ErrClosed) {
					t.Errorf("after Close a proposal is answered %v, want ErrClosed", err)
				}
				return
			}
			c.publish("third")
			if got := n.machine.seen(); !slices.Equal(got, []string{"first", "second", "third"}) {
				t.Errorf("applied %q", got)
			}
		})
	}
}

// silence is a raft.Future that is never answered.
type silence chan struct{}

func (s silence) Error() error { <-s; return nil }

func TestAwaitEndsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(c *cluster, n *node, cancel func())
		want error
	}{
		{name: "ctx", end: func(_ *cluster, _ *node, cancel func()) { cancel() }, want: context.Canceled},
		{name: "restart", end: func(_ *cluster, n *node, _ func()) { n.group.restart() }, want: ErrNotLeader},
		{name: "Close", end: func(c *cluster, n *node, _ func()) { c.kill(n.name) }, want: ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1)
			n := c.leader()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			never := make(silence)
			defer close(never)
			asked, answer := make(chan struct{}), make(chan error, 1)
			ask := func(*raft.Raft) raft.Future { close(asked); return never }
			go func(g *Group) { answer <- g.await(ctx, g.instance(), ask) }(n.group)
			<-asked
			tt.end(c, n, cancel)
			if err := within(t, patience, "await", func() error { return <-answer }); !errors.Is(err, tt.want) {
				t.Errorf("await = %v, want %v", err, tt.want)
			}
		})
	}
}

// A follower's disk hangs, and with it every request to that follower. A
// request's own limit is 2 s.
func TestCloseDoesNotWaitForAHangingPeer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	leader := c.handTo("n1")
	disk := &c.nodes["n2"].group.store.mu
	disk.Lock()
	c.publish("a")
	c.await("n2 to hang", func() bool { return time.Since(c.nodes["n2"].group.LastContact()) > testHeartbeat })
	began := time.Now()
	if err := leader.group.Close(); err != nil { // with its connections as they are
		t.Error(err)
	}
	took := time.Since(began)
	disk.Unlock()
	if took > rpcTimeout*3/4 {
		t.Errorf("Close took %v", took)
	}
}
