package clustertest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/devcluster"
)

// TestProcessesDeathIsSeen: a room's leader is killed, and another leads long before
// heartbeats could be missed, which here are seldom. It takes 10 s of real time, most
// of them for the first election.
func TestProcessesDeathIsSeen(t *testing.T) {
	t.Parallel()
	const heartbeat = 4 * time.Second
	p := startProcesses(t, devcluster.Options{Nodes: 3, Partitions: 4, Settings: map[string]string{"heartbeat": heartbeat.String()}})
	l := startLoad(p)
	killed := p.Leader("lobby")
	began := time.Now()
	p.crash(killed)
	next := p.Leader("lobby")
	if took := time.Since(began); took > heartbeat/2 || next == killed {
		t.Errorf("%s led %v after %s was killed, as if heartbeats had been missed", next, took, killed)
	}
	l.flows()
	p.must(p.Start(killed))
	p.Ready()
	l.end()
}

// TestProcessesStandby: the node of a reader with a connection in reserve is killed.
// The reader goes on elsewhere, and has everything once; the last time in a room where
// only one message more comes.
func TestProcessesStandby(t *testing.T) {
	p := StartProcesses(t, 4)
	pub := p.Publisher("p1")
	pub.Stream(time.Millisecond, "lobby")
	at := "n1"
	c := p.dial([]string{at}, client.WithStandby())
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	if _, err := c.Publish(ctx, "other", nil); err != nil { // who publishes soon has another in reserve
		t.Fatal(err)
	}
	var last, silent atomic.Uint64
	read := func(room string, last *atomic.Uint64) {
		for m, err := range c.Subscribe(ctx, room) {
			switch want := last.Load() + 1; {
			case ctx.Err() != nil:
				return
			case err != nil || m.Gap != nil || m.Seq != want:
				t.Errorf("room %s: %+v where %d was due, %v", room, m, want, err)
				return
			}
			last.Store(m.Seq)
		}
	}
	reading.Go(func() { read("lobby", &last) })
	for _, node := range []string{"n1", "n2"} { // wherever it reads: each of them once
		had := last.Load()
		p.until("messages come", func() bool { return last.Load() > had+50 })
		p.crash(node)
		p.Flows(pub, 50)
		had = last.Load()
		p.until("messages come again", func() bool { return last.Load() > had+50 })
		p.must(p.Start(node))
		p.Ready()
	}
	pub.Halt()
	p.must(pub.Wait())
	info, err := p.Client("").Room(ctx, "lobby")
	p.must(err)
	p.until("everything is delivered", func() bool { return last.Load() >= info.Last || t.Failed() })

	c = p.dial([]string{"n3"}, client.WithStandby()) // nobody publishes any more
	reading.Go(func() { read("match/1", &silent) })
	other := p.Publisher("p2")
	p.must(other.Send("match/1", 8))
	p.until("the message comes", func() bool { return silent.Load() == 1 })
	p.crash("n3")
	began := time.Now()
	p.must(other.Send("match/1", 8))
	p.until("the next message comes", func() bool { return silent.Load() == 2 || t.Failed() })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the next message came %v after the node was killed", took)
	}
	p.must(p.Start("n3"))
	p.Ready()
	p.CheckRooms("lobby", "match/1")
	p.CheckReplicas()
}
