package clustertest

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/netcluster"
)

// onNetwork is a cluster of processes with hosts of their own, whose network can
// be disturbed.
type onNetwork struct {
	*Processes
	net *netcluster.Cluster
}

// startOnNetwork runs three processes, which end when the test does.
func startOnNetwork(t *testing.T, settings map[string]string) *onNetwork {
	t.Helper()
	c, err := netcluster.New(devcluster.Options{Dir: t.TempDir(), Partitions: 4, Settings: settings}, devcluster.Config{Binary: Binary(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	asker := &http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	n := &onNetwork{Processes: &Processes{Cluster: c.Cluster, http: asker, tb: t}, net: c}
	n.must(n.StartAll())
	n.Ready()
	return n
}

// TestProcessesLeaderCutOff: a room's leader and everybody else hear nothing of each
// other. What it led goes on elsewhere, its readers move to other nodes, and when
// the cut is healed it follows.
func TestProcessesLeaderCutOff(t *testing.T) {
	n := startOnNetwork(t, nil)
	l := startLoad(n.Processes)
	pub := n.Publisher("lobbyist")
	pub.Stream(time.Millisecond, "lobby")
	n.Flows(pub, 50)
	leader := n.Leader("lobby")
	pub.Quiet()
	cut := n.net.CutOff(leader)
	n.Flows(pub, 1000)
	n.until("another leads", func() bool { return n.Leader("lobby") != leader })
	l.flows()
	t.Logf("%s was cut off, and no publish acked for %v", leader, pub.Quiet())
	if cut.Count() == 0 {
		t.Error("no packet was dropped")
	}
	cut.Heal()
	n.Ready()
	pub.Halt()
	n.must(pub.Wait())
	l.end()
}

// TestProcessesSilenceIsSeen: the host of a leader is cut off, and the others replace
// it when it has been silent for a heartbeat timeout. Raft's own clocks would take up to twice that,
// and are long here to tell. It takes 15 s of real time, most of them for the first election.
func TestProcessesSilenceIsSeen(t *testing.T) {
	t.Parallel()
	const heartbeat = 4 * time.Second
	n := startOnNetwork(t, map[string]string{"heartbeat": heartbeat.String()})
	l := startLoad(n.Processes)
	cutOff := n.Leader("lobby")
	cut := n.net.CutOff(cutOff)
	agreed := func() bool {
		for _, node := range n.Layout().Nodes {
			text, err := os.ReadFile(node.Log)
			n.must(err)
			if node.Name != cutOff && strings.Contains(string(text), `is gone or silent: its partitions elect" node=`+cutOff) {
				return true
			}
		}
		return false
	}
	n.until("the others find that it is silent", agreed)
	l.flows()
	cut.Heal()
	n.Ready()
	l.end()
}

// TestProcessesDeathIsSeenOnANetwork: the host of a leader that was killed refuses
// its port, and by that another leads long before heartbeats could be missed,
// which here are seldom. It takes 10 s of real time, most of them for the first election.
func TestProcessesDeathIsSeenOnANetwork(t *testing.T) {
	t.Parallel()
	const heartbeat = 4 * time.Second
	n := startOnNetwork(t, map[string]string{"heartbeat": heartbeat.String()})
	l := startLoad(n.Processes)
	killed := n.Leader("lobby")
	began := time.Now()
	n.crash(killed)
	next := n.Leader("lobby")
	if took := time.Since(began); took > heartbeat/2 || next == killed {
		t.Errorf("%s led %v after %s was killed, as if heartbeats had been missed", next, took, killed)
	}
	l.flows()
	n.must(n.Start(killed))
	n.Ready()
	l.end()
}
