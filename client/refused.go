package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// refused: the server takes nothing from r.Counter on until the next Attach.
func (l *lane) refused(s *pubStream, att *attachment, r *wire.Refused) {
	l.mu.Lock()
	defer l.unlock()
	if r.Counter == 0 {
		att.answers = min(att.answers+1, att.sent)
	}
	if l.closed || l.stream != s {
		return // what was sent there counts as maybe already
	}
	l.answerBy = time.Time{}
	l.tries++
	if !l.concerns(att) { // about the session before
		l.attachAgain()
		return
	}
	at := l.position(r.Counter)
	sent := l.next
	l.mark(at, r)
	defer l.endSession() // if it is over, and was waiting for this answer
	switch r.Code {
	case wire.CodeOverloaded, wire.CodeTooManySessions:
		l.overload = &OverloadedError{RetryAfter: millis(r.RetryAfter)}
		l.pause(max(millis(r.RetryAfter), minBackoff))
	case wire.CodeSessionExpired:
		l.expireSession(r)
	case wire.CodeOutOfOrder:
		l.outOfOrder(r)
	case wire.CodeTooLarge, wire.CodeBadRoom, wire.CodeDenied, wire.CodeConflict:
		l.refuseOne(at, sent, r)
	case wire.CodeNotLeader:
		l.c.router.notLeader(l.partition, s.conn.node)
		l.leave(0)
	default:
		l.leave(millis(r.RetryAfter))
	}
}

// position is where the counter stands among those on the way.
func (l *lane) position(counter uint64) int {
	if counter <= l.base {
		return 0
	}
	return int(min(counter-l.base, uint64(l.next)))
}

// mark takes the publishes from position at on off the way. A refusal that left
// nothing in the log takes back their counters, but for those that an earlier
// attempt may have brought there.
func (l *lane) mark(at int, r *wire.Refused) {
	applied := 0 // those below came into the log by an earlier attempt
	if r.Code == wire.CodeOutOfOrder && r.Want > l.base {
		applied = int(min(r.Want-l.base, uint64(l.next)))
	}
	for i := at; i < l.next; i++ {
		if r.Maybe || i < applied {
			l.q.at(i).maybe = true
		}
	}
	l.next = at
	keep := at
	for i := l.numbered - 1; i >= at; i-- {
		if p := l.q.at(i); p.maybe || p.acked {
			keep = i + 1
			break
		}
	}
	l.numbered = keep
}

// attachAgain goes on on the same stream, at once unless that has failed before.
func (l *lane) attachAgain() {
	if !l.hold.IsZero() {
		l.attach = true // when that is over
		return
	}
	if l.tries > 1 {
		l.pause(backoff(l.tries - 1))
		return
	}
	l.attach = true
	l.kick()
}

// pause goes on on the same stream after d; run sees to it.
func (l *lane) pause(d time.Duration) {
	l.attach = true
	l.hold = time.Now().Add(spread(d))
	l.signal()
}

// leave goes on elsewhere, or here after d.
func (l *lane) leave(d time.Duration) {
	l.tried = leader{node: l.node, term: l.term}
	if d > 0 {
		d = spread(d)
	} else {
		d = backoff(l.tries)
	}
	l.retryAt = time.Now().Add(d)
	l.release()
	l.signal()
}

// expireSession: the server does not know the session any more. Lower counters
// that are still on the way get their answer first.
func (l *lane) expireSession(r *wire.Refused) {
	if r.Counter == 0 && !l.opened && l.numbered == 0 { // a session that never was
		l.attachAgain()
		return
	}
	l.over = ErrSessionExpired
	l.endSession()
}

// outOfOrder sends again from the counter that the server wants.
func (l *lane) outOfOrder(r *wire.Refused) {
	if r.Want < l.base {
		l.over = fmt.Errorf("%w: the server has lost what it acked (it wants counter %d, we are at %d)",
			ErrSessionExpired, r.Want, l.base)
		l.endSession()
		return
	}
	for at := l.position(r.Want); l.next > at; l.next-- {
		l.q.at(l.next - 1).maybe = true
	}
	l.attachAgain()
}

// refuseOne ends the publish at position at and lets the others move up, if it
// was really sent and no attempt may have brought it into the log.
func (l *lane) refuseOne(at, sent int, r *wire.Refused) {
	why := &codeError{code: r.Code, reason: r.Reason}
	if at >= sent {
		if r.Counter == 0 && r.Code == wire.CodeDenied {
			l.denied(why)
		}
		l.attachAgain()
		return
	}
	if at < l.numbered { // it, or one behind it, kept its counter
		if l.stuck++; l.stuck <= stubborn {
			l.pause(backoff(l.stuck))
			return
		}
		l.stuck = 0
		l.over = fmt.Errorf("%w and given up: %w", ErrSessionExpired, why)
		l.endSession()
		return
	}
	p := l.q.at(at)
	l.q.keep(at, func(have *Pending) bool { return have != p })
	l.finish(p, fmt.Errorf("publish to room %q: %w", p.room, why))
	l.forget(p)
	l.tries = 0
	if r.Code == wire.CodeConflict { // the counter is taken: this session can go no further
		l.over = fmt.Errorf("%w: %w", ErrSessionExpired, why)
		l.endSession()
		return
	}
	l.attach = true
	l.kick()
}

// run leads the lane to the partition's leader whenever it has something to
// send, and keeps its times.
func (l *lane) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := l.c.router.changes()
		lead := l.c.router.leader(l.partition)
		connect, wait := l.look(lead)
		if connect {
			l.connect()
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.event:
		case <-changed:
		case <-timer.C:
		case <-l.c.ctx.Done():
			return
		}
	}
}

// look does what is due. It tells whether to connect now, or else how long
// nothing will be due.
func (l *lane) look(lead leader) (connect bool, wait time.Duration) {
	l.mu.Lock()
	defer l.unlock()
	now := time.Now()
	wait = time.Hour
	if l.stream != nil && lead.node != "" && lead.node != l.node && lead.term > l.term {
		l.release() // another node leads in a later term
	}
	if !l.hold.IsZero() {
		if wait = min(wait, l.hold.Sub(now)); wait <= 0 {
			l.hold, wait = time.Time{}, time.Hour
			l.kick()
		}
	}
	if !l.answerBy.IsZero() {
		if wait = min(wait, l.answerBy.Sub(now)); wait <= 0 {
			wait = time.Hour
			l.noAnswer()
		}
	}
	if l.stream != nil || l.q.n == 0 || l.closed {
		return false, wait
	}
	moved := lead.node != "" && (lead.node != l.tried.node || lead.term != l.tried.term)
	if moved || !now.Before(l.retryAt) {
		return true, 0
	}
	return false, min(wait, l.retryAt.Sub(now))
}

// noAnswer: the server has not answered in time what we cannot do without.
func (l *lane) noAnswer() {
	l.answerBy = time.Time{}
	if l.stream == nil {
		return
	}
	l.tries++
	if l.silent++; l.silent >= stubborn {
		l.silent = 0
		l.c.cfg.log.Warn("server leaves attach without an answer", "node", l.node, "partition", l.partition)
		l.stream.conn.kill(wire.CodeProtocol, "no answer to attach")
	}
	l.leave(0)
}

// connect attaches the lane to a stream to the leader.
func (l *lane) connect() {
	l.mu.Lock()
	tries := l.tries
	l.mu.Unlock()
	c, lead, err := l.c.router.toLeader(l.c.ctx, l.partition, tries)
	var s *pubStream
	if err == nil {
		s, err = c.publishStream(l.c.ctx)
	}
	l.mu.Lock()
	defer l.unlock()
	l.tried = lead
	var att *attachment
	if err == nil {
		att, err = s.attach(l) // under mu: the stream's end finds us attached or not at all
	}
	if err != nil {
		l.cannotConnect(err)
		return
	}
	l.stream, l.att, l.node, l.term = s, att, c.node, lead.term
	l.attach, l.next = true, 0
	l.kick()
}

func (l *lane) cannotConnect(err error) {
	l.tries++
	l.retryAt = time.Now().Add(backoff(l.tries))
	if errors.Is(err, errMoved) {
		l.retryAt = time.Time{}
		return
	}
	if errors.Is(err, ErrDenied) {
		l.denied(err)
	}
}

// denied: the leader does not let us in. Asked often enough, everything fails.
func (l *lane) denied(err error) {
	if l.stuck++; l.stuck < stubborn {
		return
	}
	l.stuck = 0
	for i := range l.q.n {
		p := l.q.at(i)
		if i < l.numbered {
			l.finish(p, unknown(p, err))
		} else {
			l.finish(p, fmt.Errorf("publish to room %q: %w", p.room, err))
		}
	}
	l.q.keep(0, func(p *Pending) bool { l.forget(p); return false })
	l.begin()
}
