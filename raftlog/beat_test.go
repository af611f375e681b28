package raftlog

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// answers notes who was answered what.
type answers []string

func (as *answers) to(name string) func(BeatAnswer, bool) {
	return func(a BeatAnswer, known bool) { *as = append(*as, fmt.Sprintf("%s %v %d", name, known, a.Term)) }
}

// Each heartbeat is answered once: with what raft said, or with nothing if raft
// will not have it.
func TestInboxBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newInboxFixture(t)
		defer f.close()
		var got answers
		raftSays := func(term, says uint64) {
			t.Helper()
			synctest.Wait()
			rpc := <-f.out
			req := rpc.Command.(*raft.AppendEntriesRequest)
			if !isHeartbeat(req) || req.Term != term || string(req.ID) != string(req.Addr) || len(req.Addr) == 0 {
				t.Errorf("raft was given %+v, want a heartbeat of term %d", req, term)
			}
			rpc.Respond(&raft.AppendEntriesResponse{Term: says, Success: true}, nil)
			synctest.Wait()
		}
		expect := func(want ...string) {
			t.Helper()
			if synctest.Wait(); !slices.Equal(got, want) {
				t.Errorf("answered %q, want %q", got, want)
			}
			got = nil
		}

		f.beaten(beat{"n1", 3, got.to("a")})
		raftSays(3, 4)
		expect("a true 4")

		// Raft is busy: the first is on its way to it, of the others the newest of each leader waits.
		f.beaten(beat{"n1", 3, got.to("a")})
		synctest.Wait()
		f.beaten(beat{"n1", 4, got.to("b")})
		f.beaten(beat{"n2", 5, got.to("c")})
		f.beaten(beat{"n1", 6, got.to("d")})
		expect("b false 0")
		raftSays(3, 3)
		raftSays(6, 6)
		raftSays(5, 6)
		expect("a true 3", "d true 6", "c true 6")

		// A push waits for them, and nothing is lost by that.
		f.set(func() { f.terms[5] = 3 })
		f.beaten(beat{"n1", 3, got.to("a")})
		synctest.Wait()
		f.pushed(push{"n1", 5, 3})
		raftSays(3, 3)
		expect("a true 3")
		if req := f.fed(); req == nil || req.PrevLogEntry != 5 {
			t.Errorf("then raft was given %+v", req)
		}

		// Too many leaders at once.
		f.beaten(beat{"n0", 1, got.to("first")})
		synctest.Wait()
		for i := range maxBeats + 1 {
			f.beaten(beat{fmt.Sprintf("n%d", i), 1, got.to(fmt.Sprintf("n%d", i))})
		}
		expect("n0 false 0")
		f.close()
		if synctest.Wait(); len(got) != maxBeats+1 {
			t.Errorf("at the end %q were answered", got)
		}
		got = nil
		f.beaten(beat{"n1", 3, got.to("late")})
		expect("late false 0")
	})
}

// Who waits for a majority's answers does not wait for the heartbeats' time.
func TestConfirmHurries(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 3)
	var hurried, hurries atomic.Int32
	c.change = func(cfg *Config) {
		cfg.HurryBeats = func() { hurries.Add(1) }
		cfg.Beat = func(ctx context.Context, to string, term Term, hurry bool) (BeatAnswer, error) {
			if hurry {
				hurried.Add(1)
			}
			return c.beat(ctx, cfg.Node, to, term)
		}
	}
	t.Cleanup(c.end)
	for _, name := range c.names {
		c.open(name)
	}
	leader := c.leader()
	for try := 0; hurried.Load() == 0; try++ { // one that has just left may answer
		if err := leader.group.Confirm(soon(t)); err != nil || try > 100 {
			t.Fatalf("confirm: %v, try %d", err, try)
		}
	}
	if hurries.Load() == 0 {
		t.Error("those that wait were not hurried")
	}
	if leader.group.verifying.Load() != 0 {
		t.Error("it hurries for ever")
	}
}
