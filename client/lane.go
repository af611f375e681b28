package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

const (
	// answerBudget is how long a lane waits for the answer to an Attach, or for
	// answers that must come before it can go on.
	answerBudget = 5 * time.Second

	// stubborn is how often a lane tries again where another attempt is unlikely
	// to help: nodes that refuse our token, refusals of what may be in the log.
	stubborn = 3
)

// lane carries the publishes to one partition, in the order of the calls. It
// has a session with the partition and numbers its publishes 1, 2, 3, … as
// they are first written to a stream:
//
//	q: | 0 … next-1          | next … numbered-1            | numbered … n-1 |
//	   | on the way          | to be sent again, with the   | never sent, or |
//	   | on stream           | same counters                | surely refused |
//
// The publish at position i < numbered has counter base+i, which it keeps until
// it is answered: when a stream breaks, or the server cannot tell, each one on
// the way is marked maybe and everything is sent again, lowest first. Only a
// refusal that left nothing in the log takes counters back, from publishes
// that no earlier attempt may have brought there.
//
// run decides where the lane goes; the answers come in from the streams.
type lane struct {
	c         *Client
	partition int
	event     chan struct{} // wakes run

	mu       sync.Mutex
	closed   bool
	q        ring
	base     uint64
	next     int
	numbered int

	session wire.SessionID
	opened  bool  // the server has confirmed the session
	over    error // the session is lost; what is maybe will fail with this

	stream *pubStream // nil while not attached
	att    *attachment
	node   string
	term   uint64 // in which node was said to lead
	attach bool   // an Attach must be written before anything else
	kicked bool   // the stream knows that there is something to write

	hold     time.Time // the server asked not to come before, zero if not
	answerBy time.Time // when waiting for an answer has lasted too long, zero if not waiting
	overload *OverloadedError
	retryAt  time.Time // when to look for the leader again
	tried    leader    // whom we tried last
	tries    int       // attempts without success since the last answer
	stuck    int       // terminal refusals of what may be in the log
	silent   int       // times that answerBy passed since the last answer

	ends  *deadline // of the newest publishes
	tally tally
}

// deadline ends the publishes of one ctx in one lane.
type deadline struct {
	done <-chan struct{}
	ctx  context.Context
	stop func() bool
	n    int // unfinished publishes
}

func newLane(c *Client, partition int) *lane {
	l := &lane{c: c, partition: partition, event: make(chan struct{}, 1)}
	l.begin()
	return l
}

// signal wakes run.
func (l *lane) signal() {
	select {
	case l.event <- struct{}{}:
	default:
	}
}

// unlock settles what happened under mu.
func (l *lane) unlock() {
	l.c.out.settle(&l.tally)
	l.mu.Unlock()
}

// push adds a publish at the end.
func (l *lane) push(ctx context.Context, p *Pending) error {
	l.mu.Lock()
	defer l.unlock()
	if l.closed {
		l.count(p, nil)
		l.forget(p)
		return ErrClosed
	}
	l.q.push(p)
	l.bound(ctx, p)
	if l.stream == nil {
		l.signal()
	} else {
		l.kick()
	}
	return nil
}

// bound ties p to the end of ctx. Publishes with one ctx share the watch over it.
func (l *lane) bound(ctx context.Context, p *Pending) {
	done := ctx.Done()
	if done == nil {
		return
	}
	if l.ends == nil || l.ends.done != done || l.ends.n == 0 {
		d := &deadline{done: done, ctx: ctx}
		l.c.tasks.Add(1)
		d.stop = context.AfterFunc(ctx, func() {
			defer l.c.tasks.Done()
			l.expire(d)
		})
		l.ends = d
	}
	p.ends = l.ends
	p.ends.n++
}

// kick tells the stream that there is something to write.
func (l *lane) kick() {
	if l.stream != nil && !l.kicked && (l.attach || l.next < l.window()) {
		l.kicked = true
		l.stream.push(l)
	}
}

// window is how far next may go.
func (l *lane) window() int { return min(l.q.n, int(l.stream.conn.limits.Window)) }

// fill appends what the lane may write to s now, about limit bytes. more: it
// has more.
func (l *lane) fill(dst []byte, s *pubStream, limit int) (out []byte, more bool) {
	l.mu.Lock()
	defer l.unlock()
	if l.stream != s {
		return dst, false // it has moved on
	}
	l.kicked = false
	if !l.hold.IsZero() || l.over != nil {
		return dst, false
	}
	if l.attach {
		dst = l.appendAttach(dst)
	}
	if l.mustWait() {
		return dst, false
	}
	for end, window := len(dst)+limit, l.window(); l.next < window; {
		if len(dst) >= end {
			l.kicked = true // the caller comes back
			return dst, true
		}
		p := l.q.at(l.next)
		dst = wire.AppendPublish(dst, l.base+uint64(l.next), uint64(l.next), p.name, p.room, p.payload)
		l.next++
		l.numbered = max(l.numbered, l.next)
	}
	return dst, false
}

func (l *lane) appendAttach(dst []byte) []byte {
	l.attach = false
	l.att.sent++
	if l.att.session != l.session {
		l.att.session = l.session
		l.att.from = l.att.sent
	}
	if l.mustWait() {
		l.answerBy = time.Now().Add(answerBudget)
		l.signal()
	}
	return wire.Append(dst, &wire.Attach{Partition: uint64(l.partition), Session: l.session, Open: !l.opened})
}

// mustWait tells whether nothing may be written until the server has answered
// Attach. That of a new session: were publishes behind it applied and the
// answer lost, opening it again later could begin a second life of the session
// and number them twice. And any but the first on a stream: answers to what
// went before could not be told from answers to what follows.
func (l *lane) mustWait() bool {
	return l.att.answers < l.att.sent && (!l.opened || l.att.sent > 1)
}

// attached: the server has answered an Attach.
func (l *lane) attached(s *pubStream, att *attachment) {
	l.mu.Lock()
	defer l.unlock()
	att.answers = min(att.answers+1, att.sent)
	if l.stream != s || att.session != l.session || att.answers < att.from {
		return
	}
	l.opened = true
	if !l.mustWait() {
		l.answerBy = time.Time{}
		l.silent = 0
		l.kick()
	}
}

// concerns tells whether what s says is about the lane's present session.
func (l *lane) concerns(att *attachment) bool {
	return att.session == l.session && (att.answers >= att.from || att.from == 1)
}

// acked: publishes are durable. Answers of a stream that the lane has left
// count too, for the counters are the session's.
func (l *lane) acked(att *attachment, a *wire.Acks) {
	l.mu.Lock()
	defer l.unlock()
	if l.closed || !l.concerns(att) {
		return
	}
	for _, run := range a.Runs {
		for i := range run.Count {
			counter := run.Counter + i
			if counter < l.base {
				continue
			}
			at := counter - l.base
			if at >= uint64(l.numbered) {
				l.c.cfg.log.Warn("ack of a publish that was not sent", "partition", l.partition, "counter", counter)
				break
			}
			if p := l.q.at(int(at)); !p.acked {
				p.acked = true
				p.seq, p.time, p.dup = run.Seq+i, a.Time, a.Duplicate
				l.finish(p, nil)
			}
		}
	}
	l.tries, l.stuck, l.silent = 0, 0, 0
	if l.hold.IsZero() {
		l.overload = nil
	}
	l.shift()
	l.endSession()
	l.kick()
}

// shift drops the answered publishes at the front.
func (l *lane) shift() {
	for l.numbered > 0 && l.q.at(0).acked {
		l.forget(l.q.pop())
		l.base++
		l.numbered--
		l.next = max(l.next-1, 0)
	}
}

// finish gives the caller of p the outcome.
func (l *lane) finish(p *Pending, err error) {
	if p.finished {
		return
	}
	p.finished, p.err = true, err
	if p.done != nil {
		close(p.done)
	}
	if d := p.ends; d != nil {
		p.ends = nil
		if d.n--; d.n == 0 && d.stop() {
			l.c.tasks.Done()
		}
	}
	if !p.async {
		err = nil // its caller has it
	}
	l.count(p, err)
}

func (l *lane) count(p *Pending, err error) {
	l.tallyOf(p)
	l.tally.ended++
	if l.tally.err == nil {
		l.tally.err = err
	}
}

// forget gives back the memory that p took.
func (l *lane) forget(p *Pending) {
	l.tally.msgs++
	l.tally.bytes += len(p.payload)
	p.payload = nil
}

func (l *lane) tallyOf(p *Pending) {
	if l.tally.gen != p.gen {
		l.c.out.settle(&l.tally)
		l.tally.gen = p.gen
	}
}

// unknown is the end of a publish that may be in the log.
func unknown(p *Pending, why error) error {
	return fmt.Errorf("publish to room %q: %w: %w", p.room, why, ErrOutcomeUnknown)
}

// expire ends the publishes whose ctx has ended. Those with a counter stay in
// the lane, which finds out for itself what became of the counter.
func (l *lane) expire(d *deadline) {
	l.mu.Lock()
	defer l.unlock()
	err := d.ctx.Err()
	for i := range l.numbered {
		if p := l.q.at(i); p.ends == d {
			if !p.async {
				p.payload = slices.Clone(p.payload) // the caller gets its own back
			}
			l.finish(p, unknown(p, err))
		}
	}
	if l.overload != nil {
		err = errors.Join(err, l.overload)
	}
	l.q.keep(l.numbered, func(p *Pending) bool {
		if p.ends != d {
			return true
		}
		l.finish(p, err)
		l.forget(p)
		return false
	})
}

// close ends everything.
func (l *lane) close() {
	l.mu.Lock()
	defer l.unlock()
	l.closed = true
	for i := range l.q.n {
		p := l.q.at(i)
		if i < l.numbered {
			l.finish(p, unknown(p, ErrClosed))
		} else {
			l.finish(p, ErrClosed)
		}
		l.forget(p)
	}
	l.q = ring{}
	l.next, l.numbered = 0, 0
}

// waitsOn tells whether the lane waits for an answer on s.
func (l *lane) waitsOn(s *pubStream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream == s && (l.next > 0 || l.att.answers < l.att.sent)
}

// sessionOn tells whether s carries the lane's session.
func (l *lane) sessionOn(s *pubStream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream == s && l.opened && l.att.session == l.session
}

func (l *lane) overloaded() *OverloadedError {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.overload
}

// streamLost: s has ended.
func (l *lane) streamLost(s *pubStream) {
	l.mu.Lock()
	defer l.unlock()
	if l.stream != s {
		return
	}
	if l.tries++; l.tries > 1 {
		l.retryAt = time.Now().Add(backoff(l.tries))
	}
	l.release()
	l.signal()
}

// release leaves the stream. What is on the way may be in the log.
func (l *lane) release() {
	for i := range l.next {
		l.q.at(i).maybe = true
	}
	l.next = 0
	l.stream, l.att, l.node = nil, nil, ""
	l.attach, l.kicked = false, false
	l.hold, l.answerBy = time.Time{}, time.Time{}
	l.endSession()
}

// endSession begins a new session once the old one is over and nothing is on
// the way any more: what may be in the log fails, the rest stays in order.
func (l *lane) endSession() {
	if l.over == nil || l.closed {
		return
	}
	if l.next > 0 { // answers to these may still come
		if l.answerBy.IsZero() {
			l.answerBy = time.Now().Add(answerBudget)
			l.signal()
		}
		return
	}
	numbered := l.numbered
	i := -1
	l.q.keep(0, func(p *Pending) bool {
		i++
		switch {
		case i >= numbered || !p.maybe && !p.acked:
			return true
		case p.maybe:
			l.finish(p, unknown(p, l.over))
		}
		l.forget(p)
		return false
	})
	l.c.cfg.log.Warn("publisher session is over", "partition", l.partition, "error", l.over)
	l.begin()
	if l.stream != nil {
		l.attachAgain()
	}
}

// begin makes up a new session. It is opened by the next Attach.
func (l *lane) begin() {
	rand.Read(l.session[:])
	l.base, l.next, l.numbered = 1, 0, 0
	l.opened, l.over = false, nil
	l.answerBy = time.Time{}
}
