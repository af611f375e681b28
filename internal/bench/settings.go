package bench

import (
	"runtime"
	"time"
)

// Settings say what is measured. They are printed with the figures; what a
// benchmark does not use is left out.
type Settings struct {
	Bench    string         `json:"bench"`
	Fsync    bool           `json:"fsync"` // an ack means fsynced on a majority: always true
	Servers  string         `json:"servers"`
	Leaders  map[string]int `json:"leaders"`                // partitions led, by node, when the load began
	Procs    string         `json:"server_procs,omitempty"` // GOMAXPROCS of each server
	CPUs     int            `json:"cpus"`                   // of the machine that the load comes from
	Duration float64        `json:"duration_s"`
	WarmUp   float64        `json:"warm_up_s"`

	Partitions int     `json:"partitions"`
	Rooms      int     `json:"rooms"`
	Payload    int     `json:"payload,omitempty"`  // bytes of a message
	Clients    int     `json:"clients,omitempty"`  // publishers, each with its own connections
	InFlight   int     `json:"inflight,omitempty"` // messages without an ack, of all clients together
	Rate       float64 `json:"rate,omitempty"`     // messages a second; 0: as fast as acks come
	Mode       string  `json:"mode,omitempty"`
	Subs       int     `json:"subs,omitempty"`
	Conns      int     `json:"conns,omitempty"`    // of all subscribers together
	Stalled    int     `json:"stalled,omitempty"`  // subscribers more that stop reading
	Limit      float64 `json:"limit_ms,omitempty"` // p99 that a search allows

	Standby bool `json:"standby,omitempty"` // clients keep a connection in reserve

	Plot bool `json:"-"` // keep how latencies went over time
}

// Kinds of Settings.Servers.
const (
	freshServers   = "fresh"   // started for this benchmark alone
	runningServers = "running" // found by a profile
)

// describe fills in what the target and the machine say.
func (s *Settings) describe(t *Target, d, warm time.Duration) {
	s.Fsync = true
	s.Servers, s.Procs = t.kind, t.procs
	s.Leaders = t.led()
	s.CPUs = runtime.NumCPU()
	s.Partitions = t.Partitions()
	s.Duration, s.WarmUp = d.Seconds(), warm.Seconds()
}

// Progress is told what is being done and how far it has come, 0 to 1. It is
// called by one goroutine at a time.
type Progress func(what string, done float64)

// warmUp is how long a load that is measured for d runs before: a second, but no
// longer than d.
func warmUp(d time.Duration) time.Duration { return min(time.Second, d) }
