package faultclock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/clustertest"
)

const (
	room     = "lobby"
	patience = 30 * time.Second
)

// TestClusterLeaderSkewed lets the clock of a leader of a real cluster jump 5 s
// ahead, the next one's 5 s back, and both return: each hands leadership over,
// and what is published meanwhile is neither lost nor out of order in time.
func TestClusterLeaderSkewed(t *testing.T) {
	t.Parallel()
	p := clustertest.StartProcesses(t, 4)
	pub := p.Publisher("p")
	pub.Stream(time.Millisecond, room)
	for _, offset := range []time.Duration{5 * time.Second, -5 * time.Second} {
		p.Flows(pub, 200)
		leader := p.Leader(room)
		pid, _ := p.PID(leader)
		c := attach(t, pid)
		must(t, c.Set(offset))
		began := time.Now()
		for p.Leader(room) == leader {
			if time.Since(began) > patience {
				t.Fatalf("%s leads with a clock that is off by %v", leader, offset)
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("%s, off by %v, handed over after %v; it was told a wrong time %d times", leader, offset, time.Since(began), count(t, c))
		p.Flows(pub, 200)
		if count(t, c) == 0 {
			t.Errorf("%s never read its clock", leader)
		}
		must(t, c.Set(0))
	}
	p.Flows(pub, 200)
	pub.Halt()
	must(t, pub.Wait())
	p.CheckReplicas()
	p.CheckRooms(room)
	checkTimes(t, p)
}

// checkTimes reads the room on every node: times do not decrease, and are the
// same everywhere.
func checkTimes(t *testing.T, p *clustertest.Processes) {
	t.Helper()
	var first []client.Message
	for _, node := range p.Layout().Nodes {
		got := readRoom(t, p.Client("", node.Name))
		if first == nil {
			first = got
		}
		for i, m := range got {
			if i > 0 && m.Time.Before(got[i-1].Time) {
				t.Fatalf("on %s: seq %d has time %v, the one before %v", node.Name, m.Seq, m.Time, got[i-1].Time)
			}
			if !m.Time.Equal(first[i].Time) {
				t.Fatalf("on %s: seq %d has time %v, elsewhere %v", node.Name, m.Seq, m.Time, first[i].Time)
			}
		}
	}
}

func readRoom(t *testing.T, c *client.Client) []client.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	info, err := c.Room(ctx, room)
	must(t, err)
	got, err := clustertest.ReadRoom(ctx, c, room, info.Last)
	must(t, errors.Join(err, c.Close()))
	return got
}
