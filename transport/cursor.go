package transport

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

// cursor is a subscription: a place in a room, and nothing queued for it. What is
// half sent is read again. One goroutine at a time serves it: its connection's, or
// a worker of the catch-up lane.
type cursor struct {
	delivery *delivery
	stream   sendStream
	source   source
	watch    watch
	feed     *feed
	room     string
	client   net.Addr
	ended    func() // called once, when it is gone

	next partition.Seq // to be sent next
	seen atomic.Uint64 // the same, for others to look at
	sent int           // bytes already sent of the frame that next begins

	unproven int           // bytes that QUIC may hold unsent, as far as is known
	retry    time.Duration // not 0: the stream took nothing; how long it was left alone then
	probe    int           // how much to try it with
	pause    time.Duration // until it is served again, after an outcome stalls
	timer    *time.Timer
	took     int // how much the stream took in the catch-up lane at last

	state cursorState // guarded by delivery.mu, as are the following
	again bool        // woken while it was being served
	lags  bool        // was in the catch-up lane at last
	place int         // in delivery.cursors
}

type cursorState uint8

const (
	waiting cursorState = iota // for a message or a moment
	ready                      // in delivery.ready
	served                     // by the connection
	behind                     // in the catch-up lane
	gone
)

// sendStream is what a cursor needs of a quic.Stream.
type sendStream interface {
	Write([]byte) (int, error)
	TryWriteAll([]byte) error
	SetWriteDeadline(time.Time) error
	CancelWrite(quic.StreamErrorCode)
	Close() error
}

// watch is what a cursor needs of a partition.Watch.
type watch interface {
	Wait(next partition.Seq) bool
	Head() partition.Seq
	Delivered(now time.Time, blocks []partition.Block)
	Leave()
}

// Next, Name and Wake are for the partition.
func (c *cursor) Next() partition.Seq { return partition.Seq(c.seen.Load()) }
func (c *cursor) Name() string        { return c.client.String() }
func (c *cursor) Wake()               { c.delivery.wake(c) }

const (
	writeBytes = 32 << 10 // is written at once, about
	headBytes  = 64 << 10 // of what is at the head

	onePacket   = 1200     // is tried without waiting
	maxUnproven = 16 << 10 // of that may lie unsent in a stream

	maxUnprovenAll = 1 << 20 // in all streams of a connection; then each write waits

	minRetry = 2 * time.Millisecond
	maxRetry = 256 * time.Millisecond

	// patience is how long a write may take when the connection has nothing else to
	// deliver, impatience when it has, and lanePatience in the catch-up lane. The
	// machine may be busy: a stream that takes nothing for so long need not be stuck.
	patience     = 100 * time.Millisecond
	impatience   = 10 * time.Millisecond
	minPatience  = 500 * time.Microsecond // when others have used it up in the same flush
	lanePatience = 5 * time.Millisecond
)

// errStalled: the stream takes nothing now. It is tried again after c.pause.
var errStalled = errors.New("the stream takes nothing")

// write hands bytes to the stream, as many as it takes within the patience.
//
// A small write is copied by QUIC, which does not wait, but may hold it unsent; so
// after some of these comes one that waits until what was before is in packets.
// A stream that has taken nothing is asked with little, and not waited for.
func (c *cursor) write(b []byte, patience time.Duration) (n int, err error) {
	if wait := c.delivery.unacked.take(len(b)); wait > 0 {
		c.pause = max(wait, minRetry)
		return 0, errStalled
	}
	defer func() { c.delivery.unacked.giveBack(len(b) - n) }()
	if c.retry > 0 && c.unproven < maxUnproven {
		if n, err = c.try(b[:min(len(b), c.probe)]); n == len(b) || err != nil {
			return n, err
		}
	} else if len(b) <= onePacket && c.unproven+len(b) <= maxUnproven && c.delivery.unproven.Load() <= maxUnprovenAll {
		return c.try(b)
	}
	c.stream.SetWriteDeadline(time.Now().Add(patience))
	m, err := c.stream.Write(b[n:])
	if m > 0 || err == nil {
		c.hold(-c.unproven) // what was before is in packets now
	}
	switch n += m; {
	case err == nil:
		c.retry = 0
	case errors.Is(err, os.ErrDeadlineExceeded) && n > 0:
		c.retry, err = 0, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = c.stalled()
	}
	return n, err
}

// try writes all of b at once or nothing.
func (c *cursor) try(b []byte) (n int, err error) {
	switch err := c.stream.TryWriteAll(b); {
	case errors.Is(err, quic.ErrWouldBlock):
		return 0, c.stalled()
	case err != nil:
		return 0, err
	}
	c.hold(len(b))
	c.retry = 0
	return len(b), nil
}

// hold takes note that QUIC may hold n bytes more.
func (c *cursor) hold(n int) {
	c.unproven += n
	c.delivery.unproven.Add(int64(n))
}

func (c *cursor) stalled() error {
	if c.retry == 0 {
		c.probe = 2 * onePacket
	}
	c.retry = min(max(2*c.retry, minRetry), maxRetry)
	c.probe = max(c.probe/2, 1)
	c.pause = c.retry
	return errStalled
}

// moved takes note that n more bytes are sent, of frames that end where ends say
// beyond base. It tells how many of the frames are complete.
func (c *cursor) moved(n int, f frames) (done int) {
	c.sent += n
	for done < len(f.ends) && c.sent >= f.ends[done]-f.base {
		done++
	}
	if done > 0 {
		c.sent -= f.ends[done-1] - f.base
		c.setNext(f.blocks[done-1].Last + 1)
		c.watch.Delivered(time.Now(), f.blocks[:done])
	}
	return done
}

func (c *cursor) setNext(next partition.Seq) {
	c.next = next
	c.seen.Store(uint64(next))
}

// outcome is what is to be done with a cursor that was served.
type outcome uint8

const (
	waits    outcome = iota // it will be woken
	hasMore                 // at once: there is more, or may be
	hasNewer                // what has come meanwhile: with the next flush
	stalls                  // after c.pause
	isBehind                // in the catch-up lane
	ended                   // it is over
)

// serve sends what is at the room's head, a good part of it at a time.
func (c *cursor) serve(patience time.Duration) outcome {
	last := c.watch.Head() // what comes after it waits for the next flush
	f := c.feed.from(c.next, last, headBytes)
	if len(f.ends) == 0 {
		return c.idle()
	}
	n, err := c.write(f.bytes[c.sent:], patience)
	if n > 0 {
		c.moved(n, f)
	}
	switch {
	case err == errStalled:
		return stalls
	case err != nil:
		return ended
	case c.next <= last:
		return hasMore
	case c.watch.Wait(c.next):
		return c.rest()
	}
	return hasNewer
}

// idle is for a cursor for which there is nothing at the head.
func (c *cursor) idle() outcome {
	if c.watch.Wait(c.next) {
		return c.rest()
	}
	switch last := c.watch.Head(); {
	case len(c.feed.from(c.next, last, 1).ends) > 0: // it has just come
		return hasMore
	case c.next <= last:
		return isBehind
	}
	c.finish(&wire.Redirect{Reason: "this replica has lost its leader"})
	return ended
}

// rest is for a cursor that has all there is.
func (c *cursor) rest() outcome {
	if c.delivery.leaving.Load() && c.sent == 0 {
		c.finish(&wire.Redirect{Reason: "the node stops"})
		return ended
	}
	return waits
}

// finish writes the last frame. It does not wait.
func (c *cursor) finish(f wire.Frame) {
	last := wire.Append(nil, f)
	if c.stream.TryWriteAll(last) == nil {
		c.stream.Close()
		return
	}
	c.delivery.tasks.Go(func() { // c is being served, so tasks is not at its end
		c.stream.SetWriteDeadline(time.Now().Add(drainTimeout))
		c.stream.Write(last)
		c.stream.Close()
	})
}

// left gives back what a cursor has of others.
func (c *cursor) left() {
	c.watch.Leave()
	c.delivery.feeds.leave(c.feed)
	c.ended()
}
