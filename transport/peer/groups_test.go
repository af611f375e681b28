package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// marksOf makes a node send what it is told on the channel returned.
func marksOf(cfg *Config) chan string {
	got := make(chan string, 1024)
	cfg.OnMark = func(node string, m Mark) { got <- fmt.Sprintf("%s %d %d %x", node, m.Group, m.Index, m.Hash) }
	return got
}

func expect(t *testing.T, got <-chan string, want string) {
	t.Helper()
	select {
	case g := <-got:
		if g != want {
			t.Fatalf("got the mark %q, want %q", g, want)
		}
	case <-time.After(patience):
		t.Fatalf("no mark came, want %q", want)
	}
}

func TestMarksReachEveryNode(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	var at2, at3 chan string
	n1 := c.start("n1")
	n1.SendMark(Mark{Group: 1, Index: 4096, Hash: 1}) // superseded before anybody is linked
	n1.SendMark(Mark{Group: 1, Index: 8192, Hash: 2})
	n2 := withGroups(c, "n2", 3, func(cfg *Config) { at2 = marksOf(cfg) })
	expect(t, at2, "n1 1 8192 2") // said before the link was up
	n1.SendMark(Mark{Group: 1, Index: 12288, Hash: 3})
	expect(t, at2, "n1 1 12288 3")
	n1.SendMark(Mark{Group: 9, Index: 4096, Hash: 1}) // not open at n2
	n1.SendMark(Mark{Group: 2, Index: 4096, Hash: 7})
	expect(t, at2, "n1 2 4096 7")

	n2.SendMark(Mark{Group: 2, Index: 4096, Hash: 8})
	withGroups(c, "n3", 3, func(cfg *Config) { at3 = marksOf(cfg) })
	got := map[string]bool{}
	for range 3 {
		select {
		case m := <-at3:
			got[m] = true
		case <-time.After(patience):
			t.Fatalf("only %v came", got)
		}
	}
	if !got["n1 1 12288 3"] || !got["n1 2 4096 7"] || !got["n2 2 4096 8"] {
		t.Errorf("n3 was told %v", got)
	}
}

// withGroups starts a node that has groups below count open before any link.
func withGroups(c *cluster, name string, count uint32, change func(*Config)) *Network {
	c.t.Helper()
	cfg := c.config(name)
	change(&cfg)
	l := c.listeners[name]
	delete(c.listeners, name)
	n := newNetwork(cfg, c.timing, l)
	for g := range count {
		n.Streams(g)
	}
	n.run()
	c.t.Cleanup(func() { n.Close() })
	return n
}

// Whoever is slow to take marks keeps no link from being alive, and gets the
// newest in the end.
func TestSlowMarksHoldNothingUp(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.timing.ping, c.timing.silence = 10*time.Millisecond, 100*time.Millisecond
	n1 := c.start("n1")
	entered, release := make(chan struct{}, 16), make(chan struct{})
	got := make(chan uint64, 4096)
	n2 := withGroups(c, "n2", 3, func(cfg *Config) {
		cfg.OnMark = func(_ string, m Mark) {
			entered <- struct{}{}
			<-release
			got <- m.Index
		}
	})
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	n1.SendMark(Mark{Group: 1, Index: 1})
	<-entered
	downs := n1.metrics.linkDowns.WithLabelValues("n2")
	for i := range uint64(1000) {
		n1.SendMark(Mark{Group: 1, Index: 2 + i})
	}
	if _, err := n1.Ask(soon(t), "n2", 1); !errors.Is(err, ErrNoAnswer) { // behind the marks on the link
		t.Errorf("ask: %v", err)
	}
	pings := time.NewTimer(3 * c.timing.silence) // what a held up link would not live through
	<-pings.C
	if !n1.Up("n2") || value(t, downs) != 0 {
		t.Error("the link went down")
	}
	close(release)
	go func() {
		for range entered {
		}
	}()
	for last := uint64(0); last != 1001; {
		select {
		case next := <-got:
			if next <= last {
				t.Fatalf("mark %d came after %d", next, last)
			}
			last = next
		case <-time.After(patience):
			t.Fatalf("the newest mark never came, but %d", last)
		}
	}
}

func TestAsk(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1 := c.start("n1")
	want := State{Leader: "n3", Term: 7, Last: 99}
	n2 := c.start("n2", func(cfg *Config) {
		cfg.Answer = func(group uint32) (State, bool) { return want, group == 1 }
	})
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	if got, err := n1.Ask(soon(t), "n2", 1); err != nil || got != want {
		t.Errorf("asked about group 1: %+v, %v", got, err)
	}
	if got, err := n1.Ask(soon(t), "n2", 2); !errors.Is(err, ErrNoAnswer) || got != (State{}) {
		t.Errorf("asked about group 2: %+v, %v", got, err)
	}
	if _, err := n2.Ask(soon(t), "n1", 1); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("asked a node that answers nothing: %v", err)
	}
	if _, err := n1.Ask(soon(t), "n3", 1); !errors.Is(err, ErrLinkDown) {
		t.Errorf("asked a node that is down: %v", err)
	}
	for _, name := range []string{"n1", "n9"} {
		if _, err := n1.Ask(soon(t), name, 1); err == nil || !strings.Contains(err.Error(), "no other member") {
			t.Errorf("asked %s: %v", name, err)
		}
	}
	n1.Close()
	if _, err := n1.Ask(soon(t), "n2", 1); !errors.Is(err, ErrClosed) {
		t.Errorf("asked after Close: %v", err)
	}
}

// An heir answers when it is ready, and others' questions do not wait for that. Beyond
// a bound nobody prepares.
func TestAskHeir(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1")
	preparing, ready := make(chan uint32, 2*maxHeirs), make(chan struct{})
	n2 := c.start("n2", func(cfg *Config) {
		cfg.Answer = func(group uint32) (State, bool) { return State{Term: uint64(group), Draining: true}, true }
		cfg.OnHeir = func(ctx context.Context, group uint32) {
			preparing <- group
			select {
			case <-ready:
			case <-ctx.Done():
			}
		}
	})
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	answers := make(chan State, maxHeirs)
	ask := func(group uint32) State {
		got, err := n1.AskHeir(soon(t), "n2", group)
		if err != nil {
			t.Error(err)
		}
		return got
	}
	for group := range uint32(maxHeirs) {
		go func() { answers <- ask(group) }()
	}
	for range maxHeirs {
		<-preparing
	}
	if got, err := n1.Ask(soon(t), "n2", 99); err != nil || got != (State{Term: 99, Draining: true}) {
		t.Errorf("asked while heirs prepare: %+v, %v", got, err)
	}
	if got := ask(100); got.Term != 100 || len(preparing) > 0 {
		t.Errorf("one heir too many: %+v, prepared %v", got, len(preparing) > 0)
	}
	if len(answers) > 0 {
		t.Error("an heir answered before it was ready")
	}
	close(ready)
	for range maxHeirs {
		if st := <-answers; !st.Draining {
			t.Errorf("an heir answered %+v", st)
		}
	}
}

// A node that is slow to answer keeps its link alive; who asks it gives up when
// it likes, or when the link ends; questions beyond the bounds wait or are
// dropped.
func TestAskASlowNode(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1")
	entered, release := make(chan struct{}, 1024), make(chan struct{})
	n2 := c.start("n2", func(cfg *Config) {
		cfg.Answer = func(group uint32) (State, bool) {
			entered <- struct{}{}
			<-release
			return State{Term: uint64(group)}, true
		}
	})
	t.Cleanup(func() {
		select {
		case <-release:
		default:
			close(release)
		}
	})
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	ctx, cancel := context.WithCancel(soon(t))
	gaveUp := make(chan error, 1)
	go func() {
		_, err := n1.Ask(ctx, "n2", 1)
		gaveUp <- err
	}()
	<-entered
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	n1.mu.Lock()
	s := n1.peers["n2"].out
	n1.mu.Unlock()
	remembered := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.answers)
	}
	if left := remembered(); left != 0 {
		t.Errorf("%d questions are remembered that were given up", left)
	}
	results := make(chan error, 2*maxAsking)
	ctx = soon(t)
	for group := range uint32(2 * maxAsking) {
		go func() {
			st, err := n1.Ask(ctx, "n2", group)
			if err == nil && st.Term != uint64(group) {
				err = fmt.Errorf("asked about group %d, answered %+v", group, st)
			}
			results <- err
		}()
	}
	close(release)
	for range 2 * maxAsking {
		if err := <-results; err != nil {
			t.Errorf("asked at last: %v", err)
		}
	}
	if left := remembered(); left != 0 {
		t.Errorf("%d questions are remembered", left)
	}
}

// More marks than are written in one go all come in the end.
func TestManyMarks(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	const groups = 3*takenAtOnce + 1
	n1 := c.start("n1")
	for g := range uint32(groups) {
		n1.SendMark(Mark{Group: g, Index: 4096, Hash: uint64(g)})
	}
	got := make(chan uint32, groups)
	withGroups(c, "n2", groups, func(cfg *Config) { cfg.OnMark = func(_ string, m Mark) { got <- m.Group } })
	seen := map[uint32]bool{}
	for len(seen) < groups {
		select {
		case g := <-got:
			if seen[g] {
				t.Errorf("the mark of group %d came twice", g)
			}
			seen[g] = true
		case <-time.After(patience):
			t.Fatalf("only %d of %d marks came", len(seen), groups)
		}
	}
}

// Of each group the newest push comes in the end, to the node that it is for, and
// to nobody whose link is down.
func TestPushes(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1 := c.start("n1")
	if n1.SendPush("n2", Push{Group: 1, Index: 1, Term: 1}) || n1.SendPush("n9", Push{}) {
		t.Error("a node without a link was told")
	}
	const groups = 2*takenAtOnce + 1
	got := make(chan Push, 2*groups)
	first, release := make(chan struct{}), make(chan struct{})
	c.start("n2", func(cfg *Config) {
		var once sync.Once
		cfg.OnPush = func(node string, p Push) {
			if node != "n1" {
				t.Errorf("a push of %s", node)
			}
			once.Do(func() { close(first); <-release })
			got <- p
		}
	})
	c.start("n3", func(cfg *Config) { cfg.OnPush = func(string, Push) { t.Error("told to n3") } })
	awaitUp(t, n1, "n2")
	awaitUp(t, n1, "n3")
	for index := range uint64(3) {
		for g := range uint32(groups) {
			if !n1.SendPush("n2", Push{Group: g, Index: index + 1, Term: 7}) {
				t.Fatal("not sent")
			}
		}
	}
	<-first
	close(release)
	newest := map[uint32]uint64{}
	for done := 0; done < groups; {
		select {
		case p := <-got:
			if p.Term != 7 || p.Index <= newest[p.Group] {
				t.Errorf("%+v after index %d", p, newest[p.Group])
			}
			if newest[p.Group] = p.Index; p.Index == 3 {
				done++
			}
		case <-time.After(patience):
			t.Fatalf("of %d groups %d came", groups, done)
		}
	}
}

func TestAskEndsWithTheLink(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1")
	entered, release := make(chan struct{}, 1), make(chan struct{})
	n2 := c.start("n2", func(cfg *Config) {
		cfg.Answer = func(uint32) (State, bool) {
			entered <- struct{}{}
			<-release
			return State{}, true
		}
	})
	awaitUp(t, n1, "n2")
	result := make(chan error, 1)
	go func() {
		_, err := n1.Ask(context.Background(), "n2", 1)
		result <- err
	}()
	<-entered
	closed := make(chan error)
	go func() { closed <- n2.Close() }()
	if err := <-result; !errors.Is(err, ErrLinkDown) {
		t.Errorf("the link ended: %v", err)
	}
	close(release)
	<-closed
}

// linkTo speaks a link of n2 to n1 by hand.
func linkTo(t *testing.T, c *cluster) *caller {
	t.Helper()
	conn := c.call("n1", c.ca.certFor(t, "n2"))
	a := conn.hello(hello{kind: kindLink, instance: instance{1}, from: "n2", to: "n1", cluster: "n1,n2,n3/16"})
	if a.status != statusOK {
		t.Fatalf("refused: %+v", a)
	}
	return conn
}

func TestFramesThatEndALink(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		why  string
	}{
		{"unknown type", []byte{1, 0, 99}, "link frame: type 99"},
		{"an answer from the dialer", goldenTold.append(nil), "type 5 does not go this way"},
		{"a beat's answer from the dialer", goldenGood.append(nil), "type 8 does not go this way"},
		{"a verdict from the dialer", goldenVerdict.append(nil), "type 10 does not go this way"},
		{"beyond the bound", []byte{0xff, 0xff}, "65535 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, "n1", "n2")
			j := newJournal()
			c.start("n1", logTo(j))
			for range 2 { // it comes again, and is told of once
				conn := linkTo(t, c)
				conn.Write(tt.in)
				for {
					f, err := readFrame(conn)
					if err != nil {
						break
					}
					if f.typ == frameTold {
						t.Fatal("answered")
					}
				}
			}
			j.await(t, "breaks the protocol", "node=n2", tt.why)
			if lines := j.with("breaks the protocol"); len(lines) != 1 {
				t.Errorf("told %d times: %v", len(lines), lines)
			}
		})
	}
}

func TestFramesThatAnAcceptorMustNotSend(t *testing.T) {
	for _, bad := range []frame{goldenMark, goldenAsk, goldenPush, goldenBeat, goldenSuspect} {
		c := newCluster(t, "n1", "n2")
		j := newJournal()
		answering(t, c, func(conn *tls.Conn) { conn.Write(bad.append(nil)) })
		c.start("n1", logTo(j))
		j.await(t, "link down", "node=n2", "does not go this way")
	}
}

// Questions by hand: each is answered with its nonce; nobody has to answer
// one that comes when too many wait.
func TestQuestionsAreBounded(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	entered, release := make(chan struct{}, 1024), make(chan struct{})
	c.start("n1", func(cfg *Config) {
		cfg.Answer = func(group uint32) (State, bool) {
			entered <- struct{}{}
			<-release
			return State{Last: uint64(group)}, true
		}
	})
	conn := linkTo(t, c)
	const sent = 3 * maxQuestions
	conn.Write(frame{typ: frameAsk, nonce: 1, group: 1}.append(nil))
	<-entered
	for i := range uint64(sent - 1) {
		conn.Write(frame{typ: frameAsk, nonce: 2 + i, group: uint32(2 + i)}.append(nil))
	}
	conn.Write(goldenPing.append(nil))
	for { // the pong says that all questions have been read
		f, err := readFrame(conn)
		must(t, err)
		if f.typ == framePong && f.nonce == goldenPing.nonce {
			break
		}
	}
	close(release)
	for i := range uint64(1 + maxQuestions) {
		f, err := readFrame(conn)
		must(t, err)
		if f.typ != frameTold || f.nonce != 1+i || f.state.Last != f.nonce {
			t.Fatalf("answer %d is %+v", i, f)
		}
	}
	conn.Write(frame{typ: frameAsk, nonce: 777}.append(nil))
	if f, err := readFrame(conn); err != nil || f.nonce != 777 {
		t.Errorf("after the bound: %+v, %v; want the answer to the newest question", f, err)
	}
}
