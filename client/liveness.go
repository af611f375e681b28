package client

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

const (
	minSilence    = 100 * time.Millisecond // never ping earlier
	maxSilence    = 15 * time.Second       // nor later
	answerSilence = 250 * time.Millisecond // nor than this, when an answer is due
	pingAgain     = 250 * time.Millisecond // a ping without an answer is repeated, then after twice as long
	deadAfter     = 900 * time.Millisecond // and so long after the first the node is dead
	maxPatience   = 4 * time.Second        // or so long, where that is usual
	goneAfter     = 100 * time.Millisecond // instead, when another node says that it is gone
	crowdLasts    = 10 * time.Second       // for so long after a node has gone the others have its clients to serve, too
)

// epoch makes monotonic times fit into an atomic.
var epoch = time.Now()

func nanos() time.Duration { return time.Since(epoch) }

// liveness measures the silence of a connection. Everything that reads from
// the connection reports to it; watch alone acts on it.
//
// Thousands of readers of a room hear the same message, and are silent from the
// same moment: each has its own spread, and a room has to prove that it talks before
// its silence means anything. A server that has much to do answers late; who then
// gave it up would make more work for all. So patience grows with what pings took.
type liveness struct {
	heardAt    atomic.Int64 // when anything came last
	talkedAt   atomic.Int64 // when anything but a pong did
	since      atomic.Int64 // when we last began to wait for something
	mean       atomic.Int64 // of the gaps between what comes, while we wait for something
	trip       atomic.Int64 // what a ping and its answer take, at worst of late
	quiet      atomic.Int32 // series of pings answered since anything else came
	series     atomic.Int32 // of pings so far: those without an answer between them are one
	answered   atomic.Int32 // the last one of these with an answer
	owed       atomic.Int32 // answers that are due: queries, subscriptions that begin
	readers    atomic.Int32 // subscriptions
	publishing atomic.Bool  // publishes may be without an answer
	doubtedAt  atomic.Int64 // when somebody doubted last that the node lives
	goneAt     atomic.Int64 // when another node said last that it is gone
	crowdedAt  atomic.Int64 // when it said last that yet another one is
	due        atomic.Int64 // when watch will look again
	poke       chan struct{}
	spread     float64 // from 0 to 1

	mu    sync.Mutex
	waits []chan struct{} // closed at the next pong
}

func (a *liveness) init() {
	a.poke = make(chan struct{}, 1)
	a.spread = rand.Float64()
	a.mean.Store(int64(maxSilence / 4))
	now := int64(nanos())
	a.heardAt.Store(now)
	a.talkedAt.Store(now)
	a.since.Store(now)
	a.doubtedAt.Store(now)
	a.goneAt.Store(now)
	a.crowdedAt.Store(now - int64(crowdLasts))
}

func (a *liveness) wake() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// expect says that an answer is due from now on, until done is called.
func (a *liveness) expect() (done func()) { return a.wait(&a.owed, a.answerDue()) }

// follow says that messages may come from now on, until done is called.
func (a *liveness) follow() (done func()) { return a.wait(&a.readers, a.busy()) }

// wait begins a wait, unless we are waiting already: who asks again and again must
// not take the silence of a dead node for new each time.
func (a *liveness) wait(n *atomic.Int32, already bool) (done func()) {
	n.Add(1)
	if already {
		a.wake()
	} else {
		a.waiting()
	}
	return func() { n.Add(-1) }
}

// published says that publishes were written.
func (a *liveness) published() {
	if !a.publishing.Load() && !a.publishing.Swap(true) {
		a.waiting()
	}
}

// waiting begins a wait. If nothing at all has come since the one before began, the
// silence is still that one's.
func (a *liveness) waiting() {
	if a.heardAt.Load() >= a.since.Load() {
		a.since.Store(int64(nanos()))
	}
	a.quiet.Store(0)
	a.wake()
}

func (a *liveness) answerDue() bool { return a.owed.Load() > 0 || a.publishing.Load() }
func (a *liveness) busy() bool      { return a.answerDue() || a.readers.Load() > 0 }

// heard says that something other than a pong has come.
func (a *liveness) heard() {
	now := nanos()
	a.heardAt.Store(int64(now))
	prev := a.talkedAt.Swap(int64(now))
	if a.busy() {
		gap := min(int64(now)-max(prev, a.since.Load()), int64(maxSilence))
		mean := a.mean.Load()
		if gap < mean {
			mean += (gap - mean) / 4 // talk is noticed sooner than silence
		} else {
			mean += (gap - mean) / 8
		}
		a.mean.Store(mean)
	}
	if t := a.trip.Load(); t > int64(deadAfter/4) {
		a.trip.Store(t - t/16)
	}
	if a.quiet.Swap(0) > 0 || time.Duration(a.due.Load())-now > 2*a.threshold() {
		a.wake()
	}
}

// pong says that a ping was answered, which took so long.
func (a *liveness) pong(trip time.Duration) {
	a.heardAt.Store(int64(nanos()))
	if s := a.series.Load(); a.answered.Swap(s) != s {
		a.quiet.Add(1)
	}
	old := a.trip.Load()
	a.trip.Store(max(int64(trip), old-old/8))
	a.mu.Lock()
	waits := a.waits
	a.waits = nil
	a.mu.Unlock()
	for _, w := range waits {
		close(w)
	}
	a.wake()
}

// nextPong returns a channel that the next pong closes.
func (a *liveness) nextPong() <-chan struct{} {
	w := make(chan struct{})
	a.mu.Lock()
	a.waits = append(a.waits, w)
	a.mu.Unlock()
	return w
}

// doubt says that the node may be dead: it is asked at once.
func (a *liveness) doubt() {
	a.doubtedAt.Store(int64(nanos()))
	a.wake()
}

// gone says that another node takes this one for dead.
func (a *liveness) gone() {
	a.goneAt.Store(int64(nanos()))
	a.doubt()
}

// crowded says that another node is gone: this one has its clients now, all at once, and
// who gave up a connection that is slow for that would add a handshake to what it has to do.
func (a *liveness) crowded() { a.crowdedAt.Store(int64(nanos())) }

// threshold is how long a silence makes us ask: a few mean gaps, twice as long
// with every ping answered in the same silence.
func (a *liveness) threshold() time.Duration {
	const longest = maxSilence * 4 / 5
	if a.doubtedAt.Load() > a.heardAt.Load() {
		return 0
	}
	d := longest
	if a.busy() {
		d = max(minSilence, 4*time.Duration(a.mean.Load()))
		if a.answerDue() {
			d = min(d, answerSilence)
		}
		d = min(d<<min(a.quiet.Load(), 8), longest)
	}
	return d + time.Duration(a.spread*float64(d/4))
}

// patience is how long after a ping without an answer the node counts as dead. Who
// is seldom told anything is in no hurry.
func (a *liveness) patience() time.Duration {
	if a.goneAt.Load() > a.heardAt.Load() {
		return min(max(goneAfter, 4*time.Duration(a.trip.Load())), maxPatience)
	}
	if nanos()-time.Duration(a.crowdedAt.Load()) < crowdLasts {
		return maxPatience
	}
	return min(max(deadAfter, 4*time.Duration(a.trip.Load()), a.threshold()/4), maxPatience)
}

// quietFrom is when the present silence began.
func (a *liveness) quietFrom() time.Duration {
	from := a.heardAt.Load()
	if a.busy() {
		from = max(from, a.since.Load())
	}
	return time.Duration(from)
}

// pinger decides when to ping and when to give a connection up. It knows no
// clock; first is 0 while no ping is without an answer.
type pinger struct {
	first, last time.Duration // when pings left
	again       time.Duration // from last to the next
}

type verdict int

const (
	verdictWait verdict = iota
	verdictPing
	verdictDead
)

// step says what to do at now, and when to ask again, given when something was
// heard last, when the silence began, how long it may last and how long the answer
// to a ping. overslept: we ourselves were not running, so what has come may lie
// unread.
func (p *pinger) step(now, heard, from, threshold, patience time.Duration, overslept bool) (verdict, time.Duration) {
	if p.first != 0 && heard >= p.first {
		p.first = 0
	}
	switch due := from + threshold; {
	case p.first == 0 && now < due:
		return verdictWait, due - now
	case p.first == 0, overslept:
		p.first, p.last, p.again = now, now, pingAgain
		return verdictPing, min(pingAgain, patience)
	}
	dead := p.first + patience
	switch {
	case now >= dead:
		return verdictDead, 0
	case now >= p.last+p.again:
		p.last, p.again = now, 2*p.again
		return verdictPing, min(p.again, dead-now)
	}
	return verdictWait, min(p.last+p.again, dead) - now
}

// watch pings when the connection is unusually silent and ends it when nothing
// answers. It is the connection's only timer.
func (c *conn) watch() {
	a := &c.alive
	var p pinger
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		overslept := false
		select {
		case <-c.quic.Context().Done():
			return
		case <-a.poke:
		case <-timer.C:
			overslept = nanos()-time.Duration(a.due.Load()) > pingAgain
		}
		if a.publishing.Load() && !c.unanswered() {
			a.publishing.Store(false)
			if c.unanswered() { // published in between
				a.published()
			}
		}
		do, wait := p.step(nanos(), time.Duration(a.heardAt.Load()), a.quietFrom(), a.threshold(), a.patience(), overslept)
		switch do {
		case verdictPing:
			if p.first == p.last {
				a.series.Add(1)
			} else if a.answerDue() && nanos()-p.first > time.Duration(a.trip.Load()) {
				c.router.doubt(c) // later than what answers take, at worst of late
			}
			if err := c.ping(); err != nil {
				return // the stream tells the connection's end
			}
		case verdictDead:
			c.log.Info("node does not answer", "node", c.node, "address", c.addr)
			c.kill(wire.CodeNone, "no answer to pings")
			return
		}
		a.due.Store(int64(nanos() + wait))
		timer.Reset(wait)
	}
}

// ping asks the server for a sign of life. It never blocks: a ping that finds
// no room counts as sent, for nothing has been read of those before.
func (c *conn) ping() error {
	err := c.control.TryWriteAll(wire.Append(nil, &wire.Ping{Nonce: uint64(nanos())}))
	if err == quic.ErrWouldBlock {
		return nil
	}
	return err
}

// unanswered tells whether publishes on this connection wait for their answer.
func (c *conn) unanswered() bool {
	c.mu.Lock()
	pub := c.pub
	c.mu.Unlock()
	return pub != nil && pub.unanswered()
}

// listener reports to the connection whatever is read from a stream.
type listener struct {
	*quic.Stream
	alive *liveness
}

func (l listener) Read(p []byte) (int, error) {
	n, err := l.Stream.Read(p)
	if n > 0 {
		l.alive.heard()
	}
	return n, err
}
