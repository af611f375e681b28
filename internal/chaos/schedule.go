package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// A fault lasts between shortHold and longHold, before it the load has some calm,
// and behind it the cluster is expected to need about a recovery's time.
const (
	shortHold = time.Second
	longHold  = 4 * time.Second
	shortCalm = 500 * time.Millisecond
	longCalm  = 2 * time.Second
	recovers  = 1500 * time.Millisecond
)

// strike is one episode of a plan: after some calm nemeses strike, at the same time.
type strike struct {
	calm, hold time.Duration
	nemeses    []Nemesis
	seed       uint64
}

// plan draws what happens in a run of about a duration. It depends on its arguments
// alone.
func plan(seed uint64, duration time.Duration, nemeses []Nemesis, mix bool) (strikes []strike) {
	d := &drawer{nemeses: nemeses, mix: mix, rng: rand.New(rand.NewPCG(seed, 1))}
	for left := duration; left > 0; {
		s := strike{calm: d.between(shortCalm, longCalm), hold: d.between(shortHold, longHold), nemeses: d.draw(), seed: d.rng.Uint64()}
		strikes = append(strikes, s)
		left -= s.calm + s.hold + recovers
	}
	return strikes
}

// named are the names of the nemeses of a plan.
func named(strikes []strike) (names []string) {
	for _, s := range strikes {
		for _, n := range s.nemeses {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// drawer draws nemeses in rounds: each comes once before one comes again.
type drawer struct {
	nemeses []Nemesis
	mix     bool // now and then two at once
	rng     *rand.Rand
	left    []Nemesis // of this round
}

// draw is what strikes next: one nemesis, or two of different kinds.
func (d *drawer) draw() []Nemesis {
	first := d.take(0)
	if !d.mix || d.rng.IntN(3) > 0 {
		return []Nemesis{first}
	}
	i := slices.IndexFunc(d.left, func(n Nemesis) bool {
		return n.kind != first.kind && !(onNodes(n.kind) && onNodes(first.kind))
	})
	if i < 0 {
		return []Nemesis{first}
	}
	return []Nemesis{first, d.take(i)}
}

// onNodes tells whether nemeses of a kind stop, end or start processes, or need ones
// that run.
func onNodes(k kind) bool { return k == onProcesses || k == onDisks || k == onClocks }

// take takes the ith that is left of this round.
func (d *drawer) take(i int) Nemesis {
	if len(d.left) == 0 {
		d.left = slices.Clone(d.nemeses)
		d.rng.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	n := d.left[i]
	d.left = slices.Delete(d.left, i, i+1)
	return n
}

func (d *drawer) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.rng.Int64N(int64(most-least)))
}

// follow has everything happen as planned. After each strike the cluster must serve
// again, all of it.
func (r *run) follow(ctx context.Context) error {
	for i, s := range r.strikes {
		r.done = float64(i) / float64(len(r.strikes))
		if err := wait(ctx, s.calm); err != nil {
			return err
		}
		if err := r.strike(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) strike(ctx context.Context, s strike) error {
	r.ends.Store(slices.ContainsFunc(s.nemeses, func(n Nemesis) bool { return n.ends }))
	defer r.ends.Store(false)
	var running sync.WaitGroup
	errs := make([]error, len(s.nemeses))
	for i, n := range s.nemeses {
		e := &episode{cluster: r.cluster, load: r.load, rng: rand.New(rand.NewPCG(s.seed, uint64(i))), hold: s.hold}
		running.Go(func() { errs[i] = r.strikeOne(ctx, n, e, len(s.nemeses) > 1) })
	}
	running.Wait()
	err := firstOf(errs...)
	if err == nil {
		err = r.cluster.ready(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil || errors.Is(err, errStuck):
		r.rec.ready(named([]strike{s}), err)
	}
	return err
}

// errStuck: nodes do not serve again though the fault is over. The verdict tells.
var errStuck = errors.New("the cluster is stuck")

// stuck makes an error of waiting for nodes one of theirs.
func stuck(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errStuck, err)
}

// strikeOne has one nemesis strike. That a majority is there to commit is only
// certain if less than half of the nodes are concerned, and nothing else is wrong.
func (r *run) strikeOne(ctx context.Context, n Nemesis, e *episode, beside bool) error {
	var hit [][]string
	e.began = func(targets ...string) {
		hit = append(hit, targets)
		lost := beside || 2*len(targets) > len(r.cluster.names)
		r.rec.nemesis(n.Name, history.Fault{Phase: history.Start, Nodes: targets, QuorumLost: lost})
		r.opts.Progress(fmt.Sprintf("%s %v", n.Name, targets), r.done)
	}
	took, err := n.strike(ctx, e)
	if len(hit) == 0 { // it has found nobody to hit
		e.began()
	}
	for i, targets := range hit {
		stop := history.Fault{Phase: history.Stop, Nodes: targets}
		if i == 0 {
			stop.Count = int64(took)
		}
		r.rec.nemesis(n.Name, stop)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}
