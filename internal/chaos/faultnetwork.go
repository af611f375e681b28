package chaos

import (
	"context"
	"time"

	"github.com/roomlog/roomlog/internal/faultnet"
	"github.com/roomlog/roomlog/internal/netcluster"
)

var networkFaults = []Nemesis{
	{"partition", "links are cut: of one node, between two halves, in a ring, or in one direction only; clients may be cut off with a node", onNetwork, false, strikePartition},
	{"packet", "packets are delayed, lost, damaged, overtaken or doubled, between nodes and towards clients", onNetwork, false, strikePacket},
	{"udp-blackhole", "what clients send to a node or get from it vanishes, while it sees the others well", onNetwork, false, strikeUDPBlackhole},
}

// inject makes faults of packets for the episode's time, or up to three times as long if
// they hit none: a fault beside them may keep a node from sending any.
func (e *episode) inject(ctx context.Context, faults ...faultnet.Fault) (took int, err error) {
	injected := make([]*faultnet.Injected, len(faults))
	for i, f := range faults {
		f.Seed = e.rng.Uint64()
		injected[i] = e.net.Inject(f)
	}
	hits := func() (sum int) {
		for _, f := range injected {
			sum += f.Count()
		}
		return sum
	}
	err = wait(ctx, e.hold)
	for more := 2 * e.hold; err == nil && more > 0 && hits() == 0; more -= heartbeat {
		err = wait(ctx, heartbeat)
	}
	for _, f := range injected {
		f.Off()
	}
	return hits(), err
}

func strikePartition(ctx context.Context, e *episode) (int, error) {
	switch e.rng.IntN(4) {
	case 0: // one node, which may lead; half of the time its clients are cut off, too
		node := []string{e.aLeader(ctx)}
		from := e.others(node...)
		if e.rng.IntN(2) == 0 {
			from = append(from, netcluster.Clients)
		}
		e.began(node...)
		return e.inject(ctx, between(node, from)...)
	case 1: // a majority and a minority
		minority := e.draw((len(e.names) - 1) / 2)
		e.began(minority...)
		return e.inject(ctx, between(minority, e.others(minority...))...)
	case 2: // in a ring each sees some, and no two see the same
		return e.ring(ctx)
	}
	to := []string{e.aLeader(ctx)} // it hears nobody, or nobody hears it
	from := e.others(to...)
	e.began(to...)
	if e.rng.IntN(2) == 0 {
		from, to = to, from
	}
	return e.inject(ctx, faultnet.Fault{From: from, To: to, Drop: 1})
}

// ring cuts links until each node sees just its two neighbours; of three nodes,
// which all are neighbours, it cuts one link.
func (e *episode) ring(ctx context.Context) (int, error) {
	order := e.rng.Perm(len(e.names))
	var faults []faultnet.Fault
	cut := func(a, b int) {
		faults = append(faults, between([]string{e.names[order[a]]}, []string{e.names[order[b]]})...)
	}
	n := len(order)
	for a := range n {
		for b := a + 2; b < n; b++ {
			if a != 0 || b != n-1 || n == 3 {
				cut(a, b)
			}
		}
	}
	e.began(e.names...)
	return e.inject(ctx, faults...)
}

// between drops all packets between two groups, in both directions.
func between(a, b []string) []faultnet.Fault {
	return []faultnet.Fault{{From: a, To: b, Drop: 1}, {From: b, To: a, Drop: 1}}
}

func strikePacket(ctx context.Context, e *episode) (int, error) {
	var f faultnet.Fault
	switch e.rng.IntN(5) {
	case 0:
		f = faultnet.Fault{Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond, Ordered: true}
	case 1:
		f = faultnet.Fault{Drop: 0.05 + e.rng.Float64()*0.15}
	case 2:
		f = faultnet.Fault{Jitter: 10 * time.Millisecond} // packets overtake each other
	case 3:
		f = faultnet.Fault{Duplicate: 0.3, Jitter: 2 * time.Millisecond}
	case 4:
		f = faultnet.Fault{Corrupt: 0.02}
	}
	if e.rng.IntN(2) == 0 { // of one node only
		f.From = []string{e.one()}
	}
	e.began(f.From...)
	return e.inject(ctx, f)
}

func strikeUDPBlackhole(ctx context.Context, e *episode) (int, error) {
	node := []string{e.aLeader(ctx)}
	from, to := node, []string{netcluster.Clients}
	if e.rng.IntN(2) == 0 {
		from, to = to, from
	}
	e.began(node...)
	return e.inject(ctx, faultnet.Fault{From: from, To: to, Match: faultnet.UDP, Drop: 1})
}
