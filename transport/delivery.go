package transport

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// fanout is what the deliveries of a server share.
type fanout struct {
	pace    *pace
	feeds   feeds
	catchUp catchUp
	workers workers
	metrics *Metrics
}

// delivery serves all subscriptions of a connection in one place:
//
//	Wake -> ready -> flush: each cursor's frames from its room's feed -> Wait
//
// A flush takes what all of them have to get, and the next one comes no sooner
// than the server's spacing allows. A worker does it; a connection without news has
// no goroutine. What is not at the head of its room is left to the catch-up lane.
type delivery struct {
	*fanout
	unacked unacked
	tasks   sync.WaitGroup // flushes, and turns of the catch-up lane
	leaving atomic.Bool    // cursors at the head are to go

	unproven atomic.Int64 // sum of the cursors'

	mu       sync.Mutex
	state    deliveryState
	closed   bool
	last     time.Time   // the last flush
	timer    *time.Timer // of the next one
	cursors  []*cursor
	ready    []*cursor
	toCatch  []*cursor // for the catch-up lane
	catching bool      // in its queue
}

type deliveryState uint8

const (
	idle deliveryState = iota
	scheduled
	flushing
)

func newDelivery(f *fanout, conn connection) *delivery {
	return &delivery{fanout: f, unacked: unacked{conn: conn}}
}

// add takes a new cursor. It returns false if the connection is at its end.
func (d *delivery) add(c *cursor) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	c.place = len(d.cursors)
	d.cursors = append(d.cursors, c)
	d.push(c)
	return true
}

// wake makes c ready. It never blocks.
func (d *delivery) wake(c *cursor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch c.state {
	case waiting:
		if c.lags {
			d.lag(c)
		} else {
			d.push(c)
		}
	case served, behind:
		c.again = true
	}
}

// push makes c ready, and sees that it will be served. It needs d.mu.
func (d *delivery) push(c *cursor) {
	c.state, c.again, c.lags = ready, false, false
	d.ready = append(d.ready, c)
	if d.state == idle && !d.closed {
		d.schedule()
	}
}

// schedule begins a flush, or the wait for it. It needs d.mu.
func (d *delivery) schedule() {
	if wait := d.pace.wait(d.last); wait <= 0 {
		d.begin()
	} else if d.state = scheduled; d.timer == nil {
		d.timer = time.AfterFunc(wait, d.due)
	} else {
		d.timer.Reset(wait)
	}
}

// begin has a flush done. It needs d.mu.
func (d *delivery) begin() {
	d.state = flushing
	d.tasks.Add(1) // until a worker has done it
	d.workers.flush(d)
}

// due is the timer's.
func (d *delivery) due() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == scheduled && !d.closed {
		d.begin()
	}
}

// flush serves the ready cursors until none has more, and again what has become
// ready meanwhile, as long as no pause is due.
func (d *delivery) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var spare []*cursor
	for len(d.ready) > 0 && !d.closed {
		batch := d.ready
		d.ready = spare[:0]
		patient := impatience
		if len(d.cursors) == 1 {
			patient = patience
		}
		for len(batch) > 0 {
			batch = d.round(batch, &patient)
		}
		spare = batch[:0]
		d.last = time.Now()
		d.pace.flushed()
		if len(d.ready) > 0 && d.pace.wait(d.last) > 0 {
			d.schedule()
			return
		}
	}
	if d.state = idle; len(d.ready) == 0 {
		d.ready = nil
	}
}

// round serves each cursor once and returns those that have more. What stalled
// streams take of the patience the others do not have. It needs d.mu, and lets go of
// it while it serves one.
func (d *delivery) round(batch []*cursor, patient *time.Duration) (more []*cursor) {
	more = batch[:0]
	for _, c := range batch {
		if c.state != ready {
			continue // gone
		}
		c.state = served
		d.mu.Unlock()
		began := time.Now()
		result := c.serve(*patient)
		if took := time.Since(began); took >= *patient {
			*patient = max(*patient-took, minPatience)
		}
		d.mu.Lock()
		if d.served(c, result) {
			more = append(more, c)
		}
	}
	clear(batch[len(more):])
	return more
}

// served puts c where it belongs now. It returns true if c is to be served again
// at once. It needs d.mu, and lets go of it when c has ended.
func (d *delivery) served(c *cursor, result outcome) (more bool) {
	if c.state == gone {
		c.hold(-c.unproven)
		return false
	}
	switch result {
	case hasMore:
		c.state = ready
		return true
	case hasNewer:
		d.push(c)
	case waits:
		if c.state = waiting; c.again {
			d.push(c)
		}
	case stalls:
		d.later(c)
	case isBehind:
		d.lag(c)
	case ended:
		d.remove(c)
		c.hold(-c.unproven)
		d.mu.Unlock()
		c.left()
		d.mu.Lock()
	}
	return false
}

// lag leaves c to the catch-up lane. It needs d.mu.
func (d *delivery) lag(c *cursor) {
	c.state, c.lags = behind, true
	d.toCatch = append(d.toCatch, c)
	d.catchUp.add(d)
}

// later makes c ready after a while. It needs d.mu.
func (d *delivery) later(c *cursor) {
	c.state = waiting
	d.metrics.stalls.Inc()
	if c.timer == nil {
		c.timer = time.AfterFunc(c.pause, c.Wake)
	} else {
		c.timer.Reset(c.pause)
	}
}

// leave ends c from outside: its stream is gone.
func (d *delivery) leave(c *cursor) {
	d.mu.Lock()
	here := d.remove(c)
	d.mu.Unlock()
	if here {
		c.left()
	}
}

// remove forgets c, and returns false if that was so already. Its left has to be
// called without d.mu: it waits for the partition, and Apply waits for d.mu. It needs
// d.mu.
func (d *delivery) remove(c *cursor) bool {
	if c.state == gone {
		return false
	}
	if c.state == waiting || c.state == ready { // else whoever serves it does that
		c.hold(-c.unproven)
	}
	c.state = gone
	last := len(d.cursors) - 1
	d.cursors[c.place] = d.cursors[last]
	d.cursors[c.place].place = c.place
	d.cursors[last] = nil
	d.cursors = d.cursors[:last]
	if c.timer != nil {
		c.timer.Stop()
	}
	return true
}

// drain makes all cursors go when they have what there is.
func (d *delivery) drain() {
	d.leaving.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.cursors {
		if c.state == waiting {
			d.push(c)
		} else {
			c.again = true
		}
	}
}

// close ends all that is under way, and returns then. The streams must be at
// their end.
func (d *delivery) close() {
	d.mu.Lock()
	d.closed = true
	leave := slices.Clone(d.cursors)
	for _, c := range leave {
		d.remove(c)
	}
	if d.timer != nil {
		d.timer.Stop()
	}
	d.ready, d.toCatch = nil, nil
	d.mu.Unlock()
	for _, c := range leave {
		c.left()
	}
	d.tasks.Wait()
}

// connection is what a delivery needs of a quic.Conn.
type connection interface {
	ConnectionStats() quic.ConnectionStats
}

// unacked bounds what QUIC keeps of a connection because the client has not
// acknowledged it. A stream's write ends when all is in packets, and of those as
// many are under way as the congestion window has room for, up to 14 MB; that only
// grows while it is full. So a connection is handed no more than maxUnacked in
// a round trip, nor anything more while nothing comes back.
type unacked struct {
	conn connection

	mu       sync.Mutex
	began    time.Time // of the round
	received uint64    // packets by then
	taken    int       // bytes in the round
}

const (
	maxUnacked = 1 << 20
	minRound   = time.Millisecond
)

// take takes n bytes from the round, or returns when to try again.
func (u *unacked) take(n int) (wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.began.IsZero() {
		u.began = time.Now()
	}
	if u.taken+n <= maxUnacked {
		u.taken += n
		return 0
	}
	st := u.conn.ConnectionStats()
	now := time.Now()
	round := max(minRound, st.SmoothedRTT, st.LatestRTT)
	if wait = u.began.Add(round).Sub(now); wait > 0 {
		return wait
	}
	if st.PacketsReceived == u.received {
		return round
	}
	u.began, u.received, u.taken = now, st.PacketsReceived, n
	return 0
}

// giveBack returns what was taken and not sent.
func (u *unacked) giveBack(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taken -= min(n, u.taken)
}
