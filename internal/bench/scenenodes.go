package bench

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/admin"
)

// Nodes is what the nodes themselves say, in milliseconds: the worst p99 that one
// of them has of a partition of the part, over the last 5 to 10 s, and which stage
// is the cause where that is beyond the drift objective.
type Nodes struct {
	Hit            float64 `json:"hit_p99"`
	HitCause       string  `json:"hit_cause"`
	Bystander      float64 `json:"bystander_p99"`
	BystanderCause string  `json:"bystander_cause"`
}

// nodesLimit is how long a node may take to answer: one in trouble is left out.
const nodesLimit = 500 * time.Millisecond

// askNodes asks those that answer.
func (g *stage) askNodes(ctx context.Context) *Nodes {
	ctx, cancel := context.WithTimeout(ctx, nodesLimit)
	defer cancel()
	all := make([]admin.Drift, len(g.target.nodes))
	var asked sync.WaitGroup
	for i, n := range g.target.nodes {
		if _, runs := g.target.cluster.PID(n.Name); runs {
			asked.Go(func() { all[i] = g.askDrift(ctx, n) })
		}
	}
	asked.Wait()
	var said Nodes
	for _, d := range all {
		said.hear(&g.hit, &g.bystanders, d)
	}
	return &said
}

// askDrift returns nothing of a node that does not answer.
func (g *stage) askDrift(ctx context.Context, n client.Node) (d admin.Drift) {
	if err := g.target.ops.ask(ctx, n, http.MethodGet, "/v1/drift?limit=1", &d); err != nil {
		return admin.Drift{}
	}
	return d
}

// hear takes what a node says.
func (s *Nodes) hear(hit, bystanders *part, d admin.Drift) {
	for _, p := range d.Partitions {
		cause := p.Cause
		if cause == "leader" {
			cause = "" // the leader says which stage it is
		}
		if hit.has(p.Partition) {
			s.Hit, s.HitCause = worse(s.Hit, s.HitCause, p.P99Ms, cause)
		}
		if bystanders.has(p.Partition) {
			s.Bystander, s.BystanderCause = worse(s.Bystander, s.BystanderCause, p.P99Ms, cause)
		}
	}
}

// worse is the higher p99, with its cause or, if it has none, the other's.
func worse(p99 float64, cause string, other float64, otherCause string) (float64, string) {
	if other > p99 {
		p99, other, cause, otherCause = other, p99, otherCause, cause
	}
	if cause == "" {
		cause = otherCause
	}
	return cut(p99, 3), cause
}
