package raftlog

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFence(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.publish("before")
	c.agree("before")
	n := c.leader()
	held := n.group.Propose([]byte("while it is fenced"))
	if err := n.group.Fence("its hash at 4096\nis not the others'"); err != nil {
		t.Fatal(err)
	}
	if _, err := held.Wait(soon(t)); err != nil && !errors.Is(err, ErrUnknown) {
		t.Errorf("a proposal under way was answered %v", err)
	}
	if _, err := n.group.Propose([]byte("lost")).Wait(soon(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("a proposal was answered %v, want ErrClosed", err)
	}
	if err := n.group.Barrier(soon(t)); err == nil {
		t.Error("it answers as a leader")
	}
	if got := readAll(t, n.group, 1, 1<<20); len(got) == 0 || got[0] != "before" {
		t.Errorf("it reads %q", got)
	}
	st := n.group.Status()
	if leader, _ := n.group.Leader(); leader != "" || n.group.Leading() || !n.group.LastContact().IsZero() || !strings.Contains(st.Fenced, "4096") {
		t.Errorf("leader %q, last contact %v, %+v", leader, n.group.LastContact(), st)
	}
	if err := n.group.Fence("again"); err != nil || strings.Contains(n.group.Status().Fenced, "again") {
		t.Errorf("fenced again: %v, %+v", err, n.group.Status())
	}
	n.group.restart()
	if n.group.instance() != nil {
		t.Error("raft was started again")
	}
	group := n.group
	n.group = nil
	c.await("another leader", func() bool {
		return slices.ContainsFunc(c.alive(), func(o *node) bool { return o.group.Leading() })
	})
	c.publish("after")
	n.group = group
	c.kill(n.name)

	marker := filepath.Join(n.dir, "FENCED")
	for _, content := range []string{"", "x", strings.Repeat("y", 1<<20)} {
		stable, err := OpenStable(n.dir + "-stable.db")
		if err != nil {
			t.Fatal(err)
		}
		g, err := Open(c.config(n, stable))
		stable.Close()
		if err == nil {
			g.Close()
			t.Fatal("it was opened")
		}
		fence, ok := errors.AsType[*FencedError](err)
		if !ok || !strings.Contains(err.Error(), marker) || content == "" && !strings.Contains(fence.Reason, "not the others'") {
			t.Errorf("Open fails with %v", err)
		}
		if err := os.WriteFile(marker, []byte(content+"."), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	c.open(n.name)
	c.agree("after")
}

func TestFenceOfAClosedGroup(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	g := c.leader().group
	c.kill("n1")
	if err := g.Fence("late"); !errors.Is(err, ErrClosed) {
		t.Errorf("it was fenced: %v", err)
	}
	c.open("n1")
}
