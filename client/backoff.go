package client

import (
	"math/rand/v2"
	"time"
)

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 500 * time.Millisecond
)

// backoff is the jittered pause before attempt tries+1, 10 ms at first and
// twice as much each time up to 500 ms.
func backoff(tries int) time.Duration {
	d := maxBackoff
	if tries < 7 {
		d = min(minBackoff<<max(tries-1, 0), maxBackoff)
	}
	return d/2 + rand.N(d/2+1)
}

// spread lengthens what a server asked us to wait by up to a half, so that the
// clients it asked do not come back together.
func spread(d time.Duration) time.Duration { return d + rand.N(d/2+1) }
