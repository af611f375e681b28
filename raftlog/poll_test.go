package raftlog

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func withNonvoter(t *testing.T) *cluster {
	t.Helper()
	c := makeCluster(t, t.TempDir(), 4)
	c.change = func(cfg *Config) { cfg.Voters, cfg.Nonvoters = []string{"n1", "n2", "n3"}, []string{"n4"} }
	t.Cleanup(c.end)
	for _, name := range c.names {
		c.open(name)
	}
	return c
}

// Who has no vote has none when a leader makes sure that it leads either.
func TestConfirmCountsVoters(t *testing.T) {
	t.Parallel()
	c := withNonvoter(t)
	leader := c.leader()
	c.isolate("n4")
	if err := leader.group.Confirm(soon(t)); err != nil {
		t.Errorf("without n4: %v", err)
	}
	c.heal()
	c.publish("a")
	c.agree("a")
	for _, n := range c.others(leader) {
		if n.name != "n4" {
			c.separate(leader.name, n.name)
		}
	}
	err := within(t, patience, "Confirm", func() error { return leader.group.Confirm(context.Background()) })
	if !errors.Is(err, ErrNotLeader) {
		t.Errorf("with n4 alone: %v, want ErrNotLeader", err)
	}
}

// It is not handed leadership, named or not.
func TestTransferToVoters(t *testing.T) {
	t.Parallel()
	c := withNonvoter(t)
	leader := c.leader()
	if st := leader.group.Status(); !slices.Equal(st.Voters, []string{"n1", "n2", "n3"}) || !slices.Equal(st.Nonvoters, []string{"n4"}) || !st.Voter {
		t.Errorf("status of the leader: %+v", st)
	}
	if err := leader.group.Transfer(soon(t), "n4"); err == nil || errors.Is(err, ErrNotLeader) {
		t.Errorf("to n4: %v", err)
	}
	for _, n := range c.others(leader) {
		if n.name != "n4" {
			c.isolate(n.name)
		}
	}
	if err := leader.group.Transfer(soon(t), ""); err == nil {
		t.Error("to whoever there is: no error")
	}
	if c.nodes["n4"].group.Leading() || c.nodes["n4"].group.Status().Voter {
		t.Error("n4 leads")
	}
}

func TestPolls(t *testing.T) {
	var p polls
	voters := []string{"n1", "n2", "n3", "n4", "n5"}
	q, other, alone := p.begin(3, "n1", voters), p.begin(4, "n1", voters), p.begin(3, "n1", voters[:1])
	if !isClosed(alone.done) {
		t.Error("the only voter waits for others")
	}
	for _, node := range []string{"n1", "n2", "n2", "watcher"} {
		p.answered(node, 3)
	}
	if isClosed(q.done) {
		t.Error("two of five are taken for a majority")
	}
	for _, node := range []string{"n5", "n4", "n3"} {
		p.answered(node, 3)
	}
	if !isClosed(q.done) || isClosed(other.done) {
		t.Errorf("with all answers of term 3 polls are done: %v; of term 4: %v", isClosed(q.done), isClosed(other.done))
	}
	for _, done := range []*poll{q, other, alone} {
		p.end(done)
	}
	if len(p.open) > 0 {
		t.Errorf("%d are open", len(p.open))
	}
}
