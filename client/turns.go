package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// turns bound how many handshakes a process, which may have thousands of clients, has
// begun and not ended: when a node dies all its connections are made anew, at the
// same moment, and those to other nodes must not wait for that. A handshake with a server
// that does not answer loses its turn after a while, for it computes nothing.
type turns chan struct{}

// dialTurns are those of this process.
var dialTurns = make(turns, 8*runtime.GOMAXPROCS(0))

const turnLasts = 200 * time.Millisecond

// take waits until a handshake may begin. The turn ends with done, if not earlier.
func (t turns) take(ctx context.Context) (done func(), err error) {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release := sync.OnceFunc(func() { <-t })
	late := time.AfterFunc(turnLasts, release)
	return func() {
		late.Stop()
		release()
	}, nil
}

// A server that has too many handshakes to do refuses further ones with
// CONNECTION_REFUSED, which can carry no time: the times to come back are these.
const (
	minRefused = 100 * time.Millisecond
	maxRefused = 2 * time.Second
)

// refusedFor is how long to stay away from a server that has refused so many
// handshakes in a row: 100 ms at first, twice as long each time up to 2 s, and to
// half as much again, for all that were refused with us hear it at the same moment.
func refusedFor(times int) time.Duration {
	d := maxRefused
	if times < 6 {
		d = min(minRefused<<max(times-1, 0), maxRefused)
	}
	return d/2 + rand.N(d+1)
}

// tooMany tells whether a server has refused a handshake because of too many.
func tooMany(err error) bool {
	t, ok := errors.AsType[*quic.TransportError](err)
	return ok && t.Remote && t.ErrorCode == quic.ConnectionRefused
}

// keepAway leaves n alone, which has refused a handshake at addr, under whatever name
// it is known. mu must be held.
func (r *router) keepAway(n *node, addr string) {
	if time.Since(n.retryAt) > 2*maxRefused {
		n.refused = 0 // long ago
	}
	n.refused++
	n.fails++
	until := time.Now().Add(refusedFor(n.refused))
	n.retryAt = until
	for _, same := range r.seeds {
		if same.listen == addr {
			same.refused, same.retryAt = n.refused, until
		}
	}
	for _, same := range r.nodes {
		if same.listen == addr {
			same.refused, same.retryAt = n.refused, until
		}
	}
}
