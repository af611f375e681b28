package raftlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// faultsBudget bounds all random histories together; those that rapid still asks
// for afterwards are empty.
const faultsBudget = 8 * time.Second

// Whatever happens to the nodes, the machines are given the same entries in the
// same order, each acknowledged one exactly once, none that was refused, and of
// the others each at most once; and none before a majority has it.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(faultsBudget)
	histories, acked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.SampledFrom(faults), 3, 7).Draw(t, "steps")
		nodes := rapid.SampledFrom([]int{3, 5}).Draw(t, "nodes")
		who := rapid.SliceOfN(rapid.IntRange(0, nodes-1), len(steps), len(steps)).Draw(t, "who")
		settle := rapid.SliceOfN(rapid.Bool(), len(steps), len(steps)).Draw(t, "settle")
		if time.Now().After(end) {
			return
		}
		histories++
		dir, err := os.MkdirTemp("", "raftlog-faults")
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer os.RemoveAll(dir)
		acked += runHistory(t, dir, nodes, steps, who, settle)
	})
	if histories < 3 || acked < 3*histories {
		t.Errorf("only %d histories with %d acknowledged entries in %v", histories, acked, faultsBudget)
	}
	t.Logf("%d histories, %d acknowledged entries", histories, acked)
}

var faults = []string{"isolate", "separate", "heal", "kill", "open", "restart", "transfer"}

// runHistory returns how many entries were acknowledged. Where it is to settle,
// a step comes after an election, if there can be one, and after the answers to
// what was proposed.
func runHistory(t *rapid.T, dir string, nodes int, steps []string, who []int, settle []bool) (acked int) {
	c := makeCluster(t, dir, nodes)
	c.heartbeat = 100 * time.Millisecond
	c.carry = newShuffle(8).carry
	c.check = func(e Entry) error {
		if n := c.witness.copies(e); n <= nodes/2 {
			return fmt.Errorf("entry %d of term %d was shown, and %d of %d nodes have it", e.Index, e.Term, n, nodes)
		}
		return nil
	}
	defer c.end()
	for _, name := range c.names {
		c.open(name)
	}
	c.leader()
	h := &history{answers: map[string]error{}}
	for i, step := range steps {
		name := c.names[who[i]]
		n := c.nodes[name]
		if settle[i] {
			c.events.until(4*c.heartbeat, func() bool { return slices.ContainsFunc(c.alive(), func(n *node) bool { return n.group.Leading() }) })
			h.burst(c, fmt.Sprintf("%d=%s", i, step))
			c.events.until(2*c.heartbeat, h.settled)
		}
		h.burst(c, fmt.Sprintf("%d-%s", i, step)) // some entries are on their way when it happens
		switch step {
		case "isolate":
			c.isolate(name)
		case "separate":
			c.separate(name, c.names[(who[i]+1)%nodes])
		case "heal":
			c.heal()
		case "kill":
			c.kill(name)
		case "open":
			if n.group == nil {
				c.open(name)
			}
		case "restart":
			if n.group != nil {
				n.group.restart()
			}
		case "transfer":
			if n.group != nil {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = n.group.Transfer(ctx, "")
				cancel()
			}
		}
		h.burst(c, fmt.Sprintf("%d+%s", i, step))
	}

	c.heal()
	for _, name := range c.names {
		if c.nodes[name].group == nil {
			c.open(name)
		}
	}
	last := ""
	for try, err := 0, ErrUnknown; err != nil; try++ { // elections go on for a while
		if !errors.Is(err, ErrUnknown) || try > 50 {
			t.Fatalf("the healed cluster accepts nothing: %v", err)
		}
		last = fmt.Sprintf("last %d", try)
		_, err = c.publishWithin(patience, last)
	}
	h.waits.Wait()
	count := map[string]int{}
	for _, data := range c.agree(last) {
		count[data]++
	}
	c.sameLogs()
	for data, err := range h.answers {
		if err == nil {
			acked++
		}
		switch n := count[data]; {
		case err == nil && n != 1:
			t.Errorf("%s was acknowledged and is there %d times", data, n)
		case errors.Is(err, ErrUnknown) && n > 1:
			t.Errorf("%s is there %d times", data, n)
		case err != nil && !errors.Is(err, ErrUnknown) && n > 0:
			t.Errorf("%s was refused (%v) and is there %d times", data, err, n)
		}
	}
	return acked
}

// history is what became of proposals.
type history struct {
	waits sync.WaitGroup

	mu       sync.Mutex
	proposed int
	answers  map[string]error
}

func (h *history) settled() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.answers) == h.proposed
}

// burst proposes a few entries to every live node.
func (h *history) burst(c *cluster, name string) {
	for _, n := range c.alive() {
		for i := range 4 {
			data := fmt.Sprintf("%s-%s-%d", name, n.name, i)
			p := n.group.Propose([]byte(data))
			h.mu.Lock()
			h.proposed++
			h.mu.Unlock()
			h.waits.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				_, err := p.Wait(ctx)
				h.mu.Lock()
				defer h.mu.Unlock()
				h.answers[data] = err
			})
		}
	}
}
