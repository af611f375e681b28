package chaos

import (
	"context"
	"sync"
	"time"
)

const observeEvery = 200 * time.Millisecond

// observe writes down what each node says of who leads, until ctx ends.
func (r *run) observe(ctx context.Context) {
	var nodes sync.WaitGroup
	for _, n := range r.cluster.names {
		nodes.Go(func() { r.observeOne(ctx, n) })
	}
	nodes.Wait()
}

// observeOne writes down each time that the node says it leads, and all else when
// it changes.
func (r *run) observeOne(ctx context.Context, node string) {
	type view struct {
		term   uint64
		leader string
	}
	last := map[int]view{}
	for wait(ctx, observeEvery) == nil {
		all, _ := r.cluster.replicas(ctx, node) // it may be down
		for _, replica := range all {
			now := view{replica.Term, replica.Leader}
			if now.leader == node || last[replica.Partition] != now {
				r.rec.leads(node, replica)
			}
			last[replica.Partition] = now
		}
	}
}
