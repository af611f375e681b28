package bench

import (
	"context"
	"time"
)

// usage is CPU time at a moment.
type usage struct {
	at      time.Duration // since the load's clock began
	servers time.Duration // of all servers together
	own     time.Duration
	known   bool // of the servers
}

func (t *Target) usage(at time.Duration) (usage, error) {
	u := usage{at: at, known: t.cluster != nil}
	var err error
	if u.own, err = ownCPU(); err != nil || !u.known {
		return u, err
	}
	u.servers, err = sumOf(t, processCPU)
	return u, err
}

// spent is CPU time between two moments, in microseconds for each of n things;
// nil where it is not known.
type spent struct{ servers, own *float64 }

// per divides what was used between two moments by the n things that were done
// in a time of length window. The moments may lie some milliseconds off its ends.
func (a usage) per(b usage, window time.Duration, n int64) spent {
	scale := float64(window) / float64(b.at-a.at) / float64(max(n, 1)) / 1e3
	own := float64(b.own-a.own) * scale
	s := spent{own: &own}
	if a.known && b.known {
		servers := float64(b.servers-a.servers) * scale
		s.servers = &servers
	}
	return s
}

// measure waits for the window and reads what is used at its ends.
func (t *Target) measure(ctx context.Context, c clock, w window, tell func(done float64)) (from, to usage, err error) {
	if err := c.sleepUntil(ctx, w.from, tell); err != nil {
		return from, to, err
	}
	if from, err = t.usage(c.now()); err != nil {
		return from, to, err
	}
	if err := c.sleepUntil(ctx, w.to, tell); err != nil {
		return from, to, err
	}
	to, err = t.usage(c.now())
	return from, to, err
}
