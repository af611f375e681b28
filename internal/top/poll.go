package top

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/roomlog/roomlog/transport/admin"
)

// asked is how many rooms and cursors each node is asked for. More than are
// shown: a room's subscribers are on several nodes, and it may be among the worst
// on one of them alone.
const asked = 100

// Ask gets path from a node's HTTP and decodes the answer into out. It is called
// concurrently, for one node by one goroutine at a time.
type Ask func(ctx context.Context, node, path string, out any) error

// Poller asks nodes again and again, each by itself: one that hangs keeps no
// other waiting.
type Poller struct {
	Nodes    []string // names, in the order in which they are shown
	Ask      Ask
	Interval time.Duration // from one question to the next
	Timeout  time.Duration // for all that one node is asked at a time
}

// Answer is what a node has said, or that it has not.
type Answer struct {
	Node string
	At   time.Time // when it came, or was given up
	Err  error

	Status     admin.NodeStatus
	Partitions []admin.PartitionStatus
	Drift      admin.Drift
}

// Run asks until ctx ends, and hands over each answer; deliver is called by a
// goroutine per node. When Run returns they have all ended.
func (p *Poller) Run(ctx context.Context, deliver func(Answer)) {
	var nodes sync.WaitGroup
	for _, node := range p.Nodes {
		nodes.Go(func() { p.follow(ctx, node, deliver) })
	}
	nodes.Wait()
}

func (p *Poller) follow(ctx context.Context, node string, deliver func(Answer)) {
	every := time.NewTicker(p.Interval) // drops ticks while a node takes its time
	defer every.Stop()
	for {
		a := p.poll(ctx, node)
		if ctx.Err() != nil {
			return
		}
		deliver(a)
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// poll asks a node for everything. One that answers only in part has not
// answered: half of what it knows would be shown as all.
func (p *Poller) poll(ctx context.Context, node string) Answer {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	a := Answer{Node: node}
	for _, q := range []struct {
		path string
		out  any
	}{
		{"/v1/node", &a.Status},
		{"/v1/partitions", &a.Partitions},
		{fmt.Sprintf("/v1/drift?limit=%d", asked), &a.Drift},
	} {
		if a.Err = p.Ask(ctx, node, q.path, q.out); a.Err != nil {
			break
		}
	}
	if errors.Is(a.Err, context.DeadlineExceeded) {
		a.Err = fmt.Errorf("no answer within %v", p.Timeout)
	}
	a.At = time.Now()
	return a
}

// feed is a Poller that runs, and its answers.
type feed struct {
	answers chan Answer
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// start runs a Poller until close. Its nodes wait until an answer is taken.
func start(ctx context.Context, p *Poller) *feed {
	ctx, stop := context.WithCancel(ctx)
	f := &feed{answers: make(chan Answer), stop: stop}
	f.done.Go(func() {
		p.Run(ctx, func(a Answer) {
			select {
			case f.answers <- a:
			case <-ctx.Done():
			}
		})
	})
	return f
}

func (f *feed) close() {
	f.stop()
	f.done.Wait()
}

// until takes answers until enough says so, or every node has failed: then the
// error tells what each has said.
func (f *feed) until(ctx context.Context, s *State, enough func() bool) error {
	for !enough() {
		select {
		case a := <-f.answers:
			s.Add(a)
		case <-ctx.Done():
			return ctx.Err()
		}
		if failures := s.failures(); len(failures) == len(s.nodes) {
			return fmt.Errorf("no node answered: %s", strings.Join(failures, "; "))
		}
	}
	return nil
}

// Follow calls emit with what the nodes say: first once every node has answered or
// been given up, then every interval, count times in all (0: until ctx ends). It
// returns emit's error, ctx's, or one that tells what the nodes said if none of
// them has answered at first.
func Follow(ctx context.Context, p *Poller, count int, emit func(Snapshot) error) error {
	f := start(ctx, p)
	defer f.close()
	s := NewState(p.Nodes, time.Now())
	if err := f.until(ctx, s, s.complete); err != nil {
		return err
	}
	every := time.NewTicker(p.Interval)
	defer every.Stop()
	for n := 1; ; n++ {
		if err := emit(s.Snapshot(time.Now())); err != nil || n == count {
			return err
		}
		for due := false; !due; {
			select {
			case a := <-f.answers:
				s.Add(a)
			case <-every.C:
				due = true
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
