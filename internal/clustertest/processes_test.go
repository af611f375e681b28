package clustertest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
)

func TestMain(m *testing.M) {
	flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))) // they wait most of the time
	code := m.Run()
	CleanUp()
	os.Exit(code)
}

// load is publishers at work in a few rooms, and a follower of each room on
// each node who must have everything in order.
type load struct {
	p          *Processes
	rooms      []string
	publishers []*Publisher
	cancel     context.CancelFunc
	followers  sync.WaitGroup

	mu   sync.Mutex
	seen map[string]uint64 // by follower, the last seq it had
	bad  []string
}

func startLoad(p *Processes) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{p: p, rooms: []string{"lobby", "match/1", "match/2", "café"}, cancel: cancel, seen: map[string]uint64{}}
	for _, n := range p.Layout().Nodes {
		c := p.Client("", n.Name)
		for _, room := range l.rooms {
			l.followers.Go(func() { l.follow(ctx, c, n.Name+" "+room, room) })
		}
	}
	for i := range 3 {
		pub := p.Publisher(fmt.Sprintf("p%d", i+1))
		pub.Stream(time.Millisecond, l.rooms...)
		l.publishers = append(l.publishers, pub)
	}
	l.flows()
	return l
}

func (l *load) follow(ctx context.Context, c *client.Client, name, room string) {
	for m, err := range c.Subscribe(ctx, room) {
		l.mu.Lock()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			l.bad = append(l.bad, fmt.Sprintf("%s: %v", name, err))
		case m.Gap != nil || m.Seq != l.seen[name]+1:
			l.bad = append(l.bad, fmt.Sprintf("%s: seq %d after %d, gap %v", name, m.Seq, l.seen[name], m.Gap))
		}
		l.seen[name] = m.Seq
		l.mu.Unlock()
	}
}

// flows waits until every publisher has got another 50 acks.
func (l *load) flows() {
	l.p.tb.Helper()
	for _, pub := range l.publishers {
		l.p.Flows(pub, 50)
	}
}

// end stops the publishers, waits until every follower has had everything, and
// checks rooms and replicas.
func (l *load) end() {
	l.p.tb.Helper()
	for _, pub := range l.publishers {
		pub.Halt()
	}
	for _, pub := range l.publishers {
		l.p.must(pub.Wait())
	}
	c := l.p.Client("")
	for _, room := range l.rooms {
		info, err := c.Room(context.Background(), room)
		l.p.must(err)
		l.p.until("everything is delivered", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, n := range l.p.Layout().Nodes {
				if l.seen[n.Name+" "+room] < info.Last {
					return len(l.bad) > 0
				}
			}
			return true
		})
	}
	l.cancel()
	l.followers.Wait()
	for _, bad := range l.bad {
		l.p.tb.Error(bad)
	}
	l.p.CheckRooms(l.rooms...)
	l.p.CheckReplicas()
}

// TestProcessesLeaderKilled kills the leader of a room, brings it back, and
// does so again with the next one. It takes some seconds.
func TestProcessesLeaderKilled(t *testing.T) {
	p := StartProcesses(t, 4)
	l := startLoad(p)
	for range 3 {
		leader := p.Leader("lobby")
		p.crash(leader)
		l.flows()
		p.must(p.Start(leader))
		p.Ready()
	}
	l.end()
}

// TestProcessesAllKilled kills all three at once, in the middle of the load:
// what was acked is there afterwards, once, with the number that was acked.
func TestProcessesAllKilled(t *testing.T) {
	p := StartProcesses(t, 4)
	l := startLoad(p)
	for range 2 {
		p.crash("n1", "n2", "n3")
		p.must(p.StartAll())
		p.Ready()
		l.flows()
	}
	l.end()
}

// TestProcessesPaused stops a leader in its tracks for longer than an election
// takes, and longer than a disk may hang, and lets it go on: it must not ack
// anything then that is not so, nor blame its disk. It takes 6 s of real time.
func TestProcessesPaused(t *testing.T) {
	t.Parallel()
	p := StartProcesses(t, 4)
	l := startLoad(p)
	leader := p.Leader("lobby")
	p.must(p.Pause(leader))
	l.flows()
	<-time.After(6 * time.Second)
	p.must(p.Resume(leader))
	p.Ready()
	l.flows()
	l.end()
}

// TestProcessesRollingRestart stops one node after the other cleanly, each
// within 3 s, and at the end all at once.
func TestProcessesRollingRestart(t *testing.T) {
	p := StartProcesses(t, 4)
	l := startLoad(p)
	for _, n := range p.Layout().Nodes {
		p.stopWithin(n.Name)
		p.must(p.Start(n.Name))
		p.Ready()
		l.flows()
	}
	l.end()
	p.stopWithin("n1", "n2", "n3")
}

// crash kills the nodes and returns when their processes are gone.
func (p *Processes) crash(nodes ...string) {
	p.tb.Helper()
	for _, n := range nodes {
		p.must(p.Kill(n))
	}
	for _, n := range nodes {
		<-p.Ended(n)
	}
}

// stopWithin sends SIGTERM to the nodes and fails the test unless all have
// ended after 3 s.
func (p *Processes) stopWithin(nodes ...string) {
	p.tb.Helper()
	for _, n := range nodes {
		p.must(p.Terminate(n))
	}
	deadline := time.After(3 * time.Second)
	for _, n := range nodes {
		select {
		case <-p.Ended(n):
		case <-deadline:
			p.tb.Fatalf("%s did not stop within 3 s", n)
		}
	}
}
