package raftlog

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// shuffle is a bad carrier of pushes: it drops some, and delivers others late, out
// of order and twice, perhaps when their leader is long gone.
type shuffle struct {
	mu   sync.Mutex
	kept []func()
	most int
}

func newShuffle(most int) *shuffle { return &shuffle{most: most} }

func (s *shuffle) carry(_, _ string, deliver func()) {
	s.mu.Lock()
	var due []func()
	switch n := rand.IntN(10); {
	case n < 2: // dropped
	case n < 6:
		due = append(due, deliver)
		fallthrough
	default:
		s.kept = append(s.kept, deliver)
	}
	for len(s.kept) > s.most || len(s.kept) > 0 && rand.IntN(3) == 0 {
		i := rand.IntN(len(s.kept))
		due = append(due, s.kept[i])
		s.kept = slices.Delete(s.kept, i, i+1)
	}
	s.mu.Unlock()
	for _, deliver := range due {
		deliver()
	}
}

// withoutNotices makes raft tell followers of commits with entries only.
func withoutNotices(cfg *Config) { cfg.commitTimeout = time.Hour }

func newPushCluster(t *testing.T, carry func(from, to string, deliver func())) *cluster {
	t.Helper()
	c := makeCluster(t, t.TempDir(), 3)
	c.change, c.carry = withoutNotices, carry
	t.Cleanup(c.end)
	for _, name := range c.names {
		c.open(name)
	}
	return c
}

// A lone message reaches a follower by its push alone.
func TestPushTellsOfALoneMessage(t *testing.T) {
	t.Parallel()
	c := newPushCluster(t, nil)
	var late []time.Duration
	for i := range 21 {
		data := fmt.Sprintf("lone %d", i)
		c.publish(data)
		acked := time.Now()
		for _, n := range c.alive() {
			c.await(data+" at "+n.name, func() bool { return n.machine.has(data) })
		}
		late = append(late, time.Since(acked))
	}
	slices.Sort(late)
	t.Logf("both followers have it after %v (median), %v (longest)", late[len(late)/2], late[len(late)-1])
	if median := late[len(late)/2]; median > 20*time.Millisecond {
		t.Errorf("the median message is %v late", median)
	}
}

// What was committed before a leader began, and is known to it alone, its
// followers learn by the push of its first entry.
func TestPushTellsOfEarlierTerms(t *testing.T) {
	t.Parallel()
	drop := func(string, string, func()) {}
	var mu sync.Mutex
	carry := drop
	c := newPushCluster(t, func(from, to string, deliver func()) {
		mu.Lock()
		f := carry
		mu.Unlock()
		f(from, to, deliver)
	})
	c.publish("before")
	old := c.leader()
	mu.Lock()
	carry = func(_, _ string, deliver func()) { deliver() }
	mu.Unlock()
	c.kill(old.name)
	c.leader()
	for _, n := range c.alive() {
		c.await("the entry at "+n.name, func() bool { return n.machine.has("before") })
	}
	// A replica that comes back knows of no commit, until it is told.
	n := c.open(old.name)
	c.await("the entry at "+n.name, func() bool { return n.machine.has("before") })
}

// Pushes of terms that have ended change nothing: no leader, no term, no entry.
func TestStalePushes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var all []func()
	c := newPushCluster(t, func(_, _ string, deliver func()) {
		mu.Lock()
		all = append(all, deliver)
		mu.Unlock()
		deliver()
	})
	c.handTo("n1")
	c.publish("a")
	c.handTo("n2")
	c.publish("b")
	c.agree("b")
	mu.Lock()
	stale := slices.Clone(all)
	mu.Unlock()
	leader := c.handTo("n3")
	c.await("all in its term", func() bool { return c.sameTerm() != 0 })
	term := c.sameTerm()
	if len(stale) == 0 {
		t.Fatal("nothing was pushed")
	}
	for range 20 {
		for _, deliver := range stale {
			deliver()
		}
	}
	c.publish("c")
	c.agree("c")
	if got := c.sameTerm(); got != term || !leader.group.Leading() {
		t.Errorf("term %d became %d; n3 leads: %v", term, got, leader.group.Leading())
	}
}

// sameTerm is the term of all live nodes, 0 if they differ.
func (c *cluster) sameTerm() Term {
	terms := map[Term]bool{}
	for _, n := range c.alive() {
		terms[n.group.Status().Term] = true
	}
	if len(terms) != 1 {
		return 0
	}
	return slices.Collect(maps.Keys(terms))[0]
}

// A follower whose disk hangs shows nothing of what it cannot write, and makes up
// for it.
func TestPushesToAStalledFollower(t *testing.T) {
	t.Parallel()
	c := newPushCluster(t, nil)
	c.handTo("n1")
	c.publish("a")
	c.agree("a")
	n := c.nodes["n2"]
	n.group.store.mu.Lock() // the next write waits here
	c.publish("b")
	c.await("n3 to have it", func() bool { return c.nodes["n3"].machine.has("b") })
	c.await("the write to be stalled", func() bool { return n.group.Status().Stalled })
	c.publish("c")
	if n.machine.has("b") || !n.group.LastContact().IsZero() {
		t.Errorf("the stalled follower has %q, last contact %v", n.machine.seen(), n.group.LastContact())
	}
	n.group.store.mu.Unlock()
	c.agree("c")
}

// inboxFixture is an inbox, and the log that it goes by.
type inboxFixture struct {
	*inbox
	network chan raft.RPC

	mu      sync.Mutex
	terms   map[uint64]uint64 // by index
	known   uint64            // commit index
	stall   bool
	blocked bool
}

func newInboxFixture(t *testing.T) *inboxFixture {
	f := &inboxFixture{network: make(chan raft.RPC), terms: map[uint64]uint64{}}
	locked := func(v *bool) func() bool {
		return func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return *v
		}
	}
	l := local{
		stalled: locked(&f.stall),
		commit: func() uint64 {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.known
		},
		termAt: func(index uint64) (uint64, bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			term, held := f.terms[index]
			return term, held
		},
	}
	f.inbox = newInbox(f.network, &voteBlock{blocked: locked(&f.blocked)}, l)
	t.Cleanup(f.close)
	return f
}

func (f *inboxFixture) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// fed returns what raft is given, once all is quiet.
func (f *inboxFixture) fed() *raft.AppendEntriesRequest {
	synctest.Wait()
	select {
	case rpc := <-f.out:
		rpc.Respond(&raft.AppendEntriesResponse{}, nil) // must not block
		synctest.Wait()
		return rpc.Command.(*raft.AppendEntriesRequest)
	default:
		return nil
	}
}

func TestInbox(t *testing.T) {
	five := push{"n1", 5, 3}
	for _, tt := range []struct {
		name  string
		set   func(*inboxFixture)
		fed   bool
		keeps bool // if it is not fed
	}{
		{name: "the entry is there", set: func(f *inboxFixture) { f.terms[5] = 3 }, fed: true},
		{name: "the entry has not come", set: func(f *inboxFixture) { f.terms[4] = 3 }, keeps: true},
		{name: "another, older entry is there", set: func(f *inboxFixture) { f.terms[5] = 2 }, keeps: true},
		{name: "a later leader's entry is there", set: func(f *inboxFixture) { f.terms[5] = 4 }},
		{name: "raft knows already", set: func(f *inboxFixture) { f.terms[5], f.known = 3, 5 }},
		{name: "raft knows all but it", set: func(f *inboxFixture) { f.terms[5], f.known = 3, 4 }, fed: true},
		{name: "the log is stalled", set: func(f *inboxFixture) { f.terms[5], f.stall = 3, true }, keeps: true},
		{name: "the replica is being rebuilt", set: func(f *inboxFixture) { f.terms[5], f.blocked = 3, true }, keeps: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newInboxFixture(t)
				defer f.close()
				tt.set(f)
				f.pushed(five)
				req := f.fed()
				if (req != nil) != tt.fed {
					t.Fatalf("raft was given %+v", req)
				}
				if req != nil && (req.Term != 3 || req.PrevLogTerm != 3 || req.PrevLogEntry != 5 || req.LeaderCommitIndex != 5 ||
					len(req.Entries) != 0 || string(req.Addr) != "n1" || string(req.ID) != "n1") {
					t.Errorf("raft was given %+v", req)
				}
				if kept := f.kept == five; kept != tt.keeps {
					t.Errorf("it keeps %+v", f.kept)
				}
				if f.fed() != nil {
					t.Error("raft was given it twice")
				}
			})
		})
	}
}

// A push is kept until its entry comes; a newer one takes its place, an older one
// does not. What comes over the network passes meanwhile.
func TestInboxKeepsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInboxFixture(t)
		defer f.close()
		for _, p := range []push{{"n1", 5, 3}, {"n1", 7, 3}, {"n1", 6, 3}, {"n3", 9, 2}} {
			f.pushed(p)
		}
		f.set(func() { f.terms[5], f.terms[6] = 3, 3 })
		f.stored(6)
		if req := f.fed(); req != nil {
			t.Errorf("before the newest one's entry came: %+v", req)
		}
		go func() {
			f.network <- raft.RPC{Command: &raft.AppendEntriesRequest{Term: 99}, RespChan: make(chan raft.RPCResponse, 1)}
		}()
		if req := f.fed(); req == nil || req.Term != 99 {
			t.Errorf("over the network came %+v", req)
		}
		f.set(func() { f.terms[7] = 3 })
		f.stored(7)
		if req := f.fed(); req == nil || req.PrevLogEntry != 7 {
			t.Errorf("when the entry has come: %+v", req)
		}
		f.set(func() { f.terms[8], f.terms[9] = 3, 3 })
		for index := range uint64(2) {
			f.pushed(push{"n1", 8 + index, 3})
			synctest.Wait() // raft, being busy, does not take it
		}
		if req := f.fed(); req == nil || req.PrevLogEntry != 9 {
			t.Errorf("when raft is busy no more: %+v", req)
		}
		if req := f.fed(); req != nil {
			t.Errorf("and then %+v", req)
		}
	})
}

// pusherFixture is a pusher and what it has sent.
type pusherFixture struct {
	*pusher
	sent   []string
	refuse bool
	stall  bool
}

func newPusherFixture() *pusherFixture {
	f := &pusherFixture{}
	f.pusher = &pusher{
		stalled: func() bool { return f.stall },
		send: func(node string, index Index, term Term) bool {
			if !f.refuse {
				f.sent = append(f.sent, fmt.Sprintf("%s %d.%d", node, term, index))
			}
			return !f.refuse
		},
	}
	return f
}

func (f *pusherFixture) append(node string, term, commit uint64) *raft.AppendEntriesRequest {
	req := &raft.AppendEntriesRequest{Term: term, LeaderCommitIndex: commit}
	f.sending(node, req)
	return req
}

func TestPusher(t *testing.T) {
	lost := errors.New("lost")
	for _, tt := range []struct {
		name string
		do   func(*pusherFixture)
		want []string
	}{
		{"nobody has been told", func(f *pusherFixture) {
			f.committed(4, 3, true)
		}, []string{"a 3.4", "b 3.4"}},
		{"raft has told one", func(f *pusherFixture) {
			f.append("a", 3, 4)
			f.committed(4, 3, true)
		}, []string{"b 3.4"}},
		{"entries are on their way, and tell", func(f *pusherFixture) {
			f.committed(4, 3, false)
			f.append("a", 3, 4)
			f.append("b", 3, 4)
			time.Sleep(2 * pushPause)
		}, nil},
		{"entries are on their way, and nothing follows", func(f *pusherFixture) {
			f.committed(4, 3, false)
			f.committed(5, 3, false)
			time.Sleep(pushPause / 2)
			f.append("b", 3, 5)
			f.mu.Lock()
			f.sent = append(f.sent, "- 0 half of the pause") // sorts before any push
			f.mu.Unlock()
			time.Sleep(pushPause)
			f.committed(6, 3, false)
			time.Sleep(2 * pushPause)
		}, []string{"- 0 half of the pause", "a 3.5", "a 3.6", "b 3.6"}},
		{"the last entry follows", func(f *pusherFixture) {
			f.committed(4, 3, false)
			f.committed(5, 3, true)
			time.Sleep(2 * pushPause)
		}, []string{"a 3.5", "b 3.5"}},
		{"twice the same, and an older one", func(f *pusherFixture) {
			f.committed(4, 3, true)
			f.committed(4, 3, true)
			f.committed(3, 3, true)
		}, []string{"a 3.4", "b 3.4"}},
		{"an entry of an earlier term", func(f *pusherFixture) {
			f.committed(4, 2, true)
		}, nil},
		{"a new term of office", func(f *pusherFixture) {
			f.committed(4, 3, true)
			f.sent = nil
			f.append("b", 5, 4)
			f.committed(5, 3, true)
			f.committed(6, 5, true)
		}, []string{"b 5.6"}},
		{"a request fails, and the next one does not", func(f *pusherFixture) {
			f.committed(4, 3, true)
			f.sent = nil
			req := f.append("a", 3, 4)
			f.answered("a", req, lost)
			f.append("a", 3, 0)
			f.answered("a", req, nil)
			f.answered("a", req, nil)
			f.answered("b", req, nil)
		}, []string{"a 3.4"}},
		{"the link was down", func(f *pusherFixture) {
			f.refuse = true
			f.committed(4, 3, true)
			f.refuse = false
			f.answered("b", f.append("b", 3, 0), nil)
		}, []string{"b 3.4"}},
		{"an answer to a request of an earlier term", func(f *pusherFixture) {
			req := f.append("a", 3, 0)
			f.append("a", 4, 0)
			f.answered("a", req, lost)
			f.committed(4, 4, true)
		}, []string{"a 4.4"}},
		{"a request of an earlier term leaves late", func(f *pusherFixture) {
			f.append("a", 4, 0)
			f.append("a", 3, 9)
			f.committed(4, 4, true)
		}, []string{"a 4.4"}},
		{"the log is stalled", func(f *pusherFixture) {
			f.stall = true
			f.committed(4, 3, true)
		}, nil},
		{"closed", func(f *pusherFixture) {
			f.committed(4, 3, false)
			f.close()
			f.committed(5, 3, true)
			f.committed(6, 3, false)
			time.Sleep(2 * pushPause)
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newPusherFixture()
				f.append("a", 3, 0)
				f.append("b", 3, 0)
				tt.do(f)
				synctest.Wait()
				slices.SortStableFunc(f.sent, func(a, b string) int { return cmp.Or(cmp.Compare(a[2:], b[2:]), cmp.Compare(a, b)) })
				if !slices.Equal(f.sent, tt.want) {
					t.Errorf("pushed %q, want %q", f.sent, tt.want)
				}
			})
		})
	}
}
