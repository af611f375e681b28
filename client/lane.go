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
	// answerBudget is how long a lane waits for the answer to the Attach that
	// opens its session.
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
// A refusal is the server's last word to one Attach. That of an Attach before
// the newest is ignored: the lane had left the stream, so what it had sent is
// marked maybe already. Acks count wherever they come from.
//
// run, in lead.go, decides where the lane goes; the answers come in from the
// streams.
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
	opened  bool // the server has confirmed the session

	stream    *pubStream // nil while on none
	binding   *binding   // to stream
	node      string
	term      uint64 // in which node was said to lead
	attachDue bool   // an Attach must be written before anything else
	kicked    bool   // the stream knows that there is something to write

	hold     time.Time // the server asked not to come before, zero if not
	answerBy time.Time // when waiting for an answer has lasted too long, zero if not waiting
	overload *OverloadedError
	retryAt  time.Time // when to look for the leader again
	tried    leader    // whom we tried last
	tries    int       // attempts without success since the last answer
	stuck    int       // refusals in a row that another attempt seldom mends
	silent   int       // times that answerBy passed since the last answer

	ends  *deadline // of the newest publishes
	slab  []Pending // room for the next ones
	arena []byte    // and for their payloads
	tally tally
	later func() // for unlock: what must not be done under mu
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
	later := l.later
	l.later = nil
	l.mu.Unlock()
	if later != nil {
		later()
	}
}

// push adds a publish at the end.
func (l *lane) push(ctx context.Context, gen *generation, room, name string, payload []byte, async bool) (*Pending, error) {
	l.mu.Lock()
	defer l.unlock()
	p := l.vacant()
	p.lane, p.gen, p.room, p.name, p.payload, p.async = l, gen, room, name, payload, async
	if l.closed {
		l.count(p, nil)
		l.forget(p)
		return nil, ErrClosed
	}
	if async {
		p.payload = l.copy(payload)
	}
	l.q.push(p)
	l.bound(ctx, p)
	if l.stream == nil {
		l.signal()
	} else {
		l.kick()
	}
	return p, nil
}

// Publishes that come while others are on their way share pieces of memory.
const (
	slabSize  = 16
	arenaSize = 8 << 10
)

// vacant returns room for a publish.
func (l *lane) vacant() *Pending {
	if l.q.n == 0 {
		l.slab = nil // one at a time shares nothing
		return new(Pending)
	}
	if len(l.slab) == 0 {
		l.slab = make([]Pending, slabSize)
	}
	p := &l.slab[0]
	l.slab = l.slab[1:]
	return p
}

// copy is a copy of a payload, which its caller does not wait with.
func (l *lane) copy(payload []byte) []byte {
	if l.q.n == 0 || len(payload) > arenaSize/4 {
		l.arena = nil
		return slices.Clone(payload)
	}
	if len(payload) > cap(l.arena)-len(l.arena) {
		l.arena = make([]byte, 0, arenaSize)
	}
	at := len(l.arena)
	l.arena = append(l.arena, payload...)
	return l.arena[at:len(l.arena):len(l.arena)]
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
	if l.stream != nil && !l.kicked && (l.attachDue || l.next < l.window()) {
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
	if !l.hold.IsZero() {
		return dst, false
	}
	if l.attachDue && l.binding.mixes(l.session) {
		l.later = func() { s.conn.kill(wire.CodeNone, "publisher has another session now") }
		return dst, false
	}
	if l.attachDue {
		dst = l.appendAttach(dst)
	}
	if !l.opened {
		return dst, false // until Attached
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

// appendAttach appends an Attach. Publishes may follow at once if the session has
// been opened. If not they wait: were they applied and the answer lost, opening
// it again later could begin a second life of the session and number them twice.
func (l *lane) appendAttach(dst []byte) []byte {
	l.attachDue = false
	l.binding.attach++
	l.binding.session = l.session
	if !l.opened {
		l.answerBy = time.Now().Add(answerBudget)
		l.signal()
	}
	return wire.Append(dst, &wire.Attach{Partition: uint64(l.partition), Session: l.session, Open: !l.opened})
}

// newest tells whether an answer on s to the Attach of that number is one to
// what the lane has said last.
func (l *lane) newest(s *pubStream, attach uint64) bool {
	return l.stream == s && !l.attachDue && l.binding.attach == attach
}

// onAttached: the server has answered an Attach.
func (l *lane) onAttached(s *pubStream, a *wire.Attached) {
	l.mu.Lock()
	defer l.unlock()
	if !l.newest(s, a.Attach) {
		return
	}
	l.opened = true
	l.answerBy = time.Time{}
	l.silent = 0
	l.kick()
}

// onAcks: publishes are durable. Answers of a stream that the lane has left
// count too, for the counters are the session's.
func (l *lane) onAcks(b *binding, a *wire.Acks) {
	l.mu.Lock()
	defer l.unlock()
	if l.closed || !l.opened || b.session != l.session {
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
				if at > 0 {
					p.own() // it stays behind those without an answer
				}
				l.finish(p, nil)
			}
			l.shift()
		}
	}
	l.tries, l.stuck, l.silent = 0, 0, 0
	if l.hold.IsZero() {
		l.overload = nil
	}
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
			p.own()
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
	return l.stream == s && (l.next > 0 || !l.opened && !l.attachDue)
}

// on tells whether the lane is on s.
func (l *lane) on(s *pubStream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream == s
}

// sessionOn tells whether s carries the lane's session.
func (l *lane) sessionOn(s *pubStream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream == s && l.opened && l.binding.session == l.session
}

func (l *lane) overloaded() *OverloadedError {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.overload
}

// endSession begins a new session when the old one is over and nothing is on the
// way: what may be in the log fails, the rest stays in order, without counters.
func (l *lane) endSession(why error) {
	numbered := l.numbered
	i := -1
	l.q.keep(0, func(p *Pending) bool {
		i++
		if i >= numbered || !p.maybe && !p.acked {
			return true
		}
		l.finish(p, unknown(p, why))
		l.forget(p)
		return false
	})
	l.c.cfg.log.Warn("publisher session is over", "partition", l.partition, "error", why)
	l.begin()
	l.attachAgain()
}

// begin makes up a new session. It is opened by the next Attach.
func (l *lane) begin() {
	rand.Read(l.session[:])
	l.base, l.next, l.numbered = 1, 0, 0
	l.opened, l.attachDue = false, l.stream != nil
	l.answerBy = time.Time{}
}
