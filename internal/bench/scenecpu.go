package bench

import (
	"context"
	"time"
)

// usedCPU follows how much CPU time the servers' processes and this one use,
// whichever of them end and are started again.
type usedCPU struct {
	target *Target
	last   map[int]time.Duration // by process
	own    time.Duration
}

// since returns what was used since the last call, or false where that is not
// known. What a process used between that call and its end is left out.
func (u *usedCPU) since() (used time.Duration, known bool) {
	own, err := ownCPU()
	if err != nil {
		return 0, false
	}
	used, u.own = own-u.own, own
	now := make(map[int]time.Duration)
	for _, n := range u.target.nodes {
		if pid, ok := u.target.cluster.PID(n.Name); ok {
			if cpu, err := processCPU(pid); err == nil { // it may just have ended
				now[pid] = cpu
				used += cpu - u.last[pid]
			}
		}
	}
	u.last = now
	return used, true
}

// watch notes for each second of the scene how many processors were used, and what
// the nodes say at its end.
func (g *stage) watch(ctx context.Context) error {
	w, u := g.times.counted, usedCPU{target: g.target}
	for at := w.from; at <= w.to; at += time.Second {
		if err := g.clock.sleepUntil(ctx, at, nil); err != nil {
			return err
		}
		used, known := u.since()
		if at == w.from {
			continue
		}
		s := sight{nodes: g.askNodes(ctx)}
		if cores := cut(used.Seconds(), 2); known {
			s.cores = &cores
		}
		g.sights = append(g.sights, s)
	}
	return nil
}

// sight is what was seen of a second.
type sight struct {
	cores *float64 // nil: not known
	nodes *Nodes
}
