package clustertest

import (
	"testing"
	"time"
)

// TestProcessesDeathIsSeen: a room's leader is killed, and another leads long before
// heartbeats could be missed, which here are seldom. It takes 10 s of real time, most
// of them for the first election.
func TestProcessesDeathIsSeen(t *testing.T) {
	const heartbeat = 4 * time.Second
	t.Setenv("ROOMLOG_HEARTBEAT", heartbeat.String())
	p := StartProcesses(t, 4)
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
