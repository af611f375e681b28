package clustertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/node"
)

// A node without a vote serves readers like any other, and nothing else hangs on
// it: publishing goes on without it, it makes up for no voter that is missing, and
// it never leads.
func TestNonvoter(t *testing.T) {
	t.Parallel()
	c := Start(t, 4, 1, func(cfg *node.Config) { cfg.Nonvoters = []string{"n4"} })
	for _, name := range c.Names() {
		st := status(c, name)
		if st.Voter != (name != "n4") || !slices.Equal(st.Voters, []string{"n1", "n2", "n3"}) || !slices.Equal(st.Nonvoters, []string{"n4"}) {
			t.Errorf("%s votes: %v; voters are %v, nonvoters %v", name, st.Voter, st.Voters, st.Nonvoters)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	publisher := c.Client("p", "n1", "n2", "n3")
	count := 0
	publish := func(n int) {
		t.Helper()
		for range n {
			count++
			if _, err := publisher.Publish(ctx, "room", fmt.Append(nil, count)); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(what string) {
		t.Helper()
		seen := 0
		for m, err := range c.Client("r", "n4").Subscribe(ctx, "room") {
			if err != nil {
				t.Fatalf("%s: after %d messages: %v", what, seen, err)
			}
			if st, err := c.Node("n4").Room("room"); err != nil || st.Subscribers != 1 {
				t.Fatalf("%s: n4 serves %d readers, %v", what, st.Subscribers, err)
			}
			if seen++; string(m.Payload) != fmt.Sprint(seen) || m.Seq != uint64(seen) {
				t.Fatalf("%s: message %d is %q with seq %d", what, seen, m.Payload, m.Seq)
			}
			if seen == count {
				break
			}
		}
		if seen < count {
			t.Fatalf("%s: %d of %d messages", what, seen, count)
		}
	}
	publish(20)
	read("with all nodes")

	leader := c.Leader("room")
	if err := c.Node(leader).Transfer(ctx, 0, "n4"); err == nil || !strings.Contains(err.Error(), "has no vote") {
		t.Errorf("a hand-over to n4: %v", err)
	}
	c.Kill("n4")
	publish(20)
	c.Run("n4")
	c.WaitReady()
	read("when n4 is back")

	c.Kill(leader)
	publish(5)
	next := c.Leader("room")
	if next == "n4" {
		t.Fatal("n4 leads")
	}
	read("after an election")

	other := slices.DeleteFunc(c.Names(), func(name string) bool { return name == leader || name == next || name == "n4" })[0]
	c.Kill(next)
	c.Until("nobody leads", func() bool { return status(c, other).Leader == "" && status(c, "n4").Leader == "" })
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if _, err := publisher.Publish(short, "room", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with one voter of three: %v", err)
	}
}
