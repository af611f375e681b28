package raftlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestBarrier(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("a")
	leader := c.leader()
	for _, n := range c.others(leader) {
		if err := n.group.Barrier(soon(t)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Barrier on a follower = %v, want ErrNotLeader", err)
		}
		if err := n.group.Confirm(soon(t)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Confirm on a follower = %v, want ErrNotLeader", err)
		}
	}

	// A first entry is committed and waits for the machine; those who come
	// meanwhile share the next.
	const callers = 60
	before := leader.group.Status().Last
	leader.machine.gate.shut()
	busy := leader.group.Propose([]byte("b"))
	c.await("the machine to be busy", leader.machine.gate.holds)
	var coming, done sync.WaitGroup
	var early atomic.Int32
	coming.Add(callers)
	for range callers {
		done.Go(func() {
			coming.Done()
			if err := leader.group.Barrier(soon(t)); err != nil {
				t.Errorf("Barrier = %v", err)
			}
			if !leader.machine.has("b") {
				early.Add(1)
			}
		})
	}
	coming.Wait()
	c.await("the first caller's entry", func() bool { return leader.group.Status().Last > before+1 })
	leader.machine.gate.open()
	done.Wait()
	if _, err := busy.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	if n := early.Load(); n > 0 {
		t.Errorf("%d barriers returned before the machine was given what was committed before", n)
	}
	// Stragglers that had not called Barrier yet may need some more entries.
	if grown := leader.group.Status().Last - before - 1; grown < 1 || grown > callers/4 {
		t.Errorf("%d callers made %d entries", callers, grown)
	}
	if err := leader.group.Confirm(soon(t)); err != nil {
		t.Errorf("Confirm = %v", err)
	}
}

func TestSharedBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b sharedBarrier
		rounds := make(chan error)
		runs := 0
		run := func() error { runs++; return <-rounds }
		answers := make(chan error, 100)
		call := func(ctx context.Context) {
			go func() { answers <- b.wait(ctx, run) }()
			synctest.Wait()
		}
		call(t.Context()) // its round is under way at once
		leaving, leave := context.WithCancel(t.Context())
		call(leaving)
		for range 50 {
			call(t.Context())
		}
		leave()
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		if runs != 1 {
			t.Fatalf("%d rounds at once", runs)
		}
		rounds <- nil
		if err := <-answers; err != nil {
			t.Errorf("the first caller got %v", err)
		}
		synctest.Wait()
		if len(answers) > 0 {
			t.Fatal("callers got the answer of a round that began before them")
		}
		failure := errors.New("failure")
		rounds <- failure
		for range 50 {
			if err := <-answers; err != failure {
				t.Errorf("a caller got %v, want the answer of its round", err)
			}
		}
		synctest.Wait()
		if runs != 2 {
			t.Errorf("%d rounds, want 2", runs)
		}
		call(t.Context()) // and it starts again
		rounds <- nil
		if err := <-answers; err != nil {
			t.Error(err)
		}
	})
}

// A majority may answer a new leader before its machine has been given what
// earlier leaders committed.
func TestConfirmWaitsForTheFirstCommit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.handTo("n1")
	heir := c.nodes["n2"]
	heir.machine.gate.shut()
	c.publish("acknowledged")
	c.await("the heir's machine to be busy", heir.machine.gate.holds)
	if err := c.nodes["n1"].group.Transfer(soon(t), "n2"); err != nil {
		t.Fatal(err)
	}
	c.await("the heir to lead", func() bool { return heir.group.leadingNow() != nil })
	ctx, cancel := context.WithTimeout(context.Background(), testHeartbeat)
	defer cancel()
	if err := heir.group.Confirm(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Confirm = %v before the machine was given everything", err)
	}
	heir.machine.gate.open()
	if err := heir.group.Confirm(soon(t)); err != nil {
		t.Errorf("Confirm = %v", err)
	}
	if !heir.machine.has("acknowledged") {
		t.Error("Confirm returned before the machine was given everything")
	}
}

// Leadership goes away and comes back while nobody looks: what was confirmed in
// the first term says nothing about the second.
func TestConfirmSeesThatATermHasPassed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.handTo("n2")
	n1 := c.nodes["n1"]
	n1.roles.shut()
	if err := c.nodes["n2"].group.Transfer(soon(t), "n1"); err != nil {
		t.Fatal(err)
	}
	c.await("n1 to follow its role no more", func() bool {
		l := n1.group.leadingNow()
		return l != nil && isClosed(l.confirmed) && n1.roles.holds()
	})
	if err := n1.group.Confirm(soon(t)); err != nil {
		t.Fatal(err)
	}

	n1.machine.gate.shut()
	if err := n1.group.Transfer(soon(t), "n2"); err != nil {
		t.Fatal(err)
	}
	c.await("n2 to lead", func() bool { return c.nodes["n2"].group.Leading() })
	if _, err := c.nodes["n2"].group.Propose([]byte("acknowledged")).Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes["n2"].group.Transfer(soon(t), "n1"); err != nil {
		t.Fatal(err)
	}
	c.await("n1 to lead", n1.group.Leading)
	if n1.machine.has("acknowledged") {
		t.Fatal("the machine was given the entry")
	}
	if err := n1.group.Confirm(soon(t)); !errors.Is(err, ErrNotLeader) {
		t.Errorf("Confirm = %v, but the machine has not been given an acknowledged entry", err)
	}
	n1.roles.open()
	n1.machine.gate.open()
	c.await("n1 to confirm its new term", func() bool { return n1.group.Confirm(soon(t)) == nil })
	if !n1.machine.has("acknowledged") {
		t.Error("Confirm returned before the machine was given everything")
	}
}

// A replica that has just begun has not been without a leader for long.
func TestLastContactAtStart(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 3)
	t.Cleanup(c.end)
	began := time.Now()
	n := c.open("n1") // alone: it will hear of nobody
	if last := n.group.LastContact(); last.Before(began) || last.After(time.Now()) {
		t.Errorf("it last heard of a leader at %v, and began at %v", last, began)
	}
}

// Nobody is there to confirm: the answer comes with ctx or with the lease.
func TestQuestionsOfAnIsolatedLeader(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*Group, context.Context) error{
		"Confirm": (*Group).Confirm,
		"Barrier": (*Group).Barrier,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3)
			leader := c.leader()
			c.isolate(leader.name)
			err := within(t, patience, name, func() error { return ask(leader.group, context.Background()) })
			if !errors.Is(err, ErrNotLeader) {
				t.Errorf("%s = %v, want ErrNotLeader", name, err)
			}
		})
	}
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("a")
	for _, name := range []string{"n3", "n1"} {
		leader := c.leader()
		if leader.name == name {
			continue
		}
		if err := leader.group.Transfer(soon(t), name); err != nil {
			t.Fatalf("to %s: %v", name, err)
		}
		if got := c.leader().name; got != name {
			t.Errorf("handed to %s, but %s leads", name, got)
		}
	}
	leader := c.leader()
	if err := leader.group.Transfer(soon(t), ""); err != nil {
		t.Errorf("to anyone: %v", err)
	}
	if c.leader() == leader {
		t.Errorf("%s leads as before", leader.name)
	}
	if err := leader.group.Transfer(soon(t), "n2"); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower's Transfer = %v, want ErrNotLeader", err)
	}
	if err := c.leader().group.Transfer(soon(t), "n9"); err == nil {
		t.Error("handed over to a stranger")
	}
	c.publish("b")
	c.agree("b")
}

func TestTransferWithANodeAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	for i, away := range c.names {
		c.kill(away)
		leader := c.leader()
		if i == 0 {
			c.publish("a") // the others' replication is ahead of the dead node's, or not
		}
		err := within(t, patience, "Transfer", func() error { return leader.group.Transfer(context.Background(), away) })
		if err == nil || !strings.Contains(err.Error(), away+" is not reachable") {
			t.Errorf("Transfer to a dead node = %v", err)
		}
		if _, err := leader.group.Propose([]byte("on")).Wait(soon(t)); err != nil {
			t.Errorf("after it a proposal got %v", err)
		}
		if err := leader.group.Transfer(soon(t), ""); err != nil {
			t.Errorf("with %s away: %v", away, err)
		}
		if c.leader() == leader {
			t.Errorf("%s leads as before", leader.name)
		}
		c.open(away)
		c.leader()
	}
}

// To raft a node that died since the last write is as good an heir as any.
func TestTransferPassesOverANodeThatDiedInSilence(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	leader := c.handTo("n3")
	c.publish("a")
	c.agree("a")
	c.sameLogs()
	c.kill("n1")
	if err := leader.group.Transfer(soon(t), ""); err != nil {
		t.Errorf("Transfer = %v", err)
	}
	if got := c.leader().name; got != "n2" {
		t.Errorf("%s leads", got)
	}
}

func TestStuckTransferObserve(t *testing.T) {
	const limit = 300
	type step struct {
		at   int // milliseconds
		err  error
		term bool // another term of office begins instead
		want bool
	}
	refused, other := raft.ErrLeadershipTransferInProgress, raft.ErrNotLeader
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{name: "one refusal", steps: []step{{at: 0, err: refused}}},
		{name: "a short row", steps: []step{{at: 0, err: refused}, {at: 150, err: refused}, {at: 300, err: refused}}},
		{name: "a long row", steps: []step{{at: 0, err: refused}, {at: 150, err: refused}, {at: 301, err: refused, want: true}}},
		{name: "wrapped", steps: []step{{at: 0, err: fmt.Errorf("%w", refused)}, {at: 301, err: refused, want: true}}},
		{name: "a success between", steps: []step{{at: 0, err: refused}, {at: 290, err: nil}, {at: 301, err: refused}, {at: 602, err: refused, want: true}}},
		{name: "another error between", steps: []step{{at: 0, err: refused}, {at: 290, err: other}, {at: 301, err: refused}}},
		{name: "told once in a row", steps: []step{{at: 0, err: refused}, {at: 301, err: refused, want: true}, {at: 302, err: refused}, {at: 603, err: refused, want: true}}},
		{name: "a refusal of an earlier term", steps: []step{{at: 0, err: refused}, {term: true}, {at: 9000, err: refused}, {at: 9300, err: refused}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stuckTransfer{limit: limit * time.Millisecond}
			start := time.Unix(1e9, 0)
			for i, step := range tt.steps {
				if step.term {
					s.reset()
					continue
				}
				if got := s.observe(step.err, start.Add(time.Duration(step.at)*time.Millisecond)); got != step.want {
					t.Errorf("step %d: observe = %v, want %v", i, got, step.want)
				}
			}
		})
	}
}

// Two transfers to a peer whose replication is held back leave raft's flag set
// for ever (#696). Transfer refuses to do that; raft is asked directly.
func TestStuckTransferIsOvercome(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	leader := c.handTo("n1")
	c.publish("before")
	c.kill("n3")
	c.publish("n3 lags")
	c.await("n3 to be waited for", func() bool { return c.net.waitingAt("n1") > 0 })
	inst := leader.group.instance()
	for tried := 0; tried < 2; {
		err := inst.raft.LeadershipTransferToServer("n3", "n3").Error()
		if err == nil {
			t.Fatal("leadership was handed to a dead node")
		}
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) { // the one before, just ending
			tried++
		}
	}
	if _, err := leader.group.Propose([]byte("refused")).Wait(soon(t)); !errors.Is(err, ErrTransferring) {
		t.Fatalf("the transfer is not stuck: a proposal got %v", err)
	}
	c.publish("after")
	c.await("raft to be restarted", func() bool { return leader.group.instance() != inst && leader.group.instance() != nil })
	c.open("n3")
	for _, data := range c.agree("after") {
		if data == "refused" {
			t.Error("a proposal that got ErrTransferring was applied")
		}
	}
}

// Raft is restarted under load: the machine must not notice, and every proposal
// gets its answer.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	stop := make(chan struct{})
	answered := make(chan map[string]error, 1)
	go func() {
		all := map[string]error{}
		for i := 0; !isClosed(stop); i++ {
			data := fmt.Sprintf("m%d", i)
			_, all[data] = c.publishWithin(patience, data)
		}
		answered <- all
	}()
	for range 3 {
		leader := c.leader()
		inst := leader.group.instance()
		before := leader.group.Applied()
		c.await("some load", func() bool { return leader.group.Applied() > before+5 || !leader.group.Leading() })
		within(t, patience, "restart", func() struct{} { leader.group.restart(); return struct{}{} })
		if leader.group.instance() == inst {
			t.Fatal("raft was not restarted")
		}
	}
	close(stop)
	all := within(t, patience, "the load", func() map[string]error { return <-answered })
	c.publish("last")
	count := map[string]int{}
	for _, data := range c.agree("last") {
		count[data]++
	}
	for data, err := range all {
		if n := count[data]; err == nil && n != 1 || n > 1 {
			t.Errorf("%s was answered %v and is there %d times", data, err, n)
		}
	}
	if len(all) < 10 {
		t.Errorf("only %d proposals were answered", len(all))
	}
}

// The old raft's last call must be over before the new raft's first one; the
// harness counts them.
func TestLeaderChangedIsCalledFromOneGoroutineAtATime(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.handTo("n2")
	n1 := c.nodes["n1"]
	n1.roles.shut()
	if err := c.nodes["n2"].group.Transfer(soon(t), "n1"); err != nil {
		t.Fatal(err)
	}
	c.await("LeaderChanged to be called", n1.roles.holds)
	restarted := make(chan struct{})
	go func() { defer close(restarted); n1.group.restart() }()
	if c.events.until(3*testHeartbeat, func() bool { return isClosed(restarted) }) {
		t.Error("raft runs again while LeaderChanged is being called")
	}
	n1.roles.open()
	within(t, patience, "restart", func() struct{} { return <-restarted })
	c.publish("a")
	c.agree("a")
}
