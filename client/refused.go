package client

import (
	"fmt"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// onRefused: the server's last word to an Attach. What it had taken is answered,
// and it takes nothing more until the next Attach.
func (l *lane) onRefused(s *pubStream, b *binding, r *wire.Refused) {
	l.mu.Lock()
	defer l.unlock()
	delete(b.owed, r.Attach)
	if l.closed || !l.newest(s, r.Attach) {
		return // what was sent with an earlier one counts as maybe already
	}
	l.answerBy = time.Time{}
	l.tries++
	p, certain := l.takeBack(r)
	switch r.Code {
	case wire.CodeOverloaded, wire.CodeTooManySessions:
		l.overload = &OverloadedError{RetryAfter: millis(r.RetryAfter)}
		l.pause(max(millis(r.RetryAfter), minBackoff))
	case wire.CodeSessionExpired:
		l.expireSession(r)
	case wire.CodeOutOfOrder:
		l.outOfOrder(r)
	case wire.CodeTooLarge, wire.CodeBadRoom, wire.CodeDenied, wire.CodeConflict:
		l.refuseOne(p, certain, r)
	case wire.CodeNotLeader:
		l.c.router.notLeader(l.partition, s.conn.node)
		l.leave(0)
	default:
		l.leave(millis(r.RetryAfter))
	}
	l.dropEnded()
}

// takeBack takes everything off the way. What r refuses loses its counter, unless
// this attempt, if r says maybe, or an earlier one may have brought it into the
// log. It returns the publish at r.Counter, nil if it is not one that was sent
// and waits, and whether it is certain that the log does not have it.
func (l *lane) takeBack(r *wire.Refused) (p *Pending, certain bool) {
	at := l.position(r.Counter)
	applied := 0 // those below came into the log by an earlier attempt
	if r.Code == wire.CodeOutOfOrder {
		applied = l.position(r.Want)
	}
	if at < l.next && r.Counter == l.base+uint64(at) {
		p = l.q.at(at)
	}
	for i := range l.next {
		if i < at || i < applied || r.Maybe {
			l.q.at(i).maybe = true
		}
	}
	l.next = 0
	for l.numbered > at {
		if last := l.q.at(l.numbered - 1); last.maybe || last.acked {
			break
		}
		l.numbered--
	}
	return p, l.numbered <= at
}

// position is where the counter stands among those on the way.
func (l *lane) position(counter uint64) int {
	if counter <= l.base {
		return 0
	}
	return int(min(counter-l.base, uint64(l.next)))
}

// dropEnded drops what has no counter, or has lost it, and whose caller has an
// outcome: it was refused, or the wait for it ended.
func (l *lane) dropEnded() {
	l.q.keep(l.numbered, func(p *Pending) bool {
		if p.finished {
			l.forget(p)
		}
		return !p.finished
	})
}

// expireSession: the server does not know the session any more.
func (l *lane) expireSession(r *wire.Refused) {
	if r.Counter == 0 && !l.opened && l.numbered == 0 { // a session that never was
		l.attachAgain()
		return
	}
	l.endSession(ErrSessionExpired)
}

// outOfOrder sends again, from the lowest counter without an answer. Should the
// server want a lower one, those up to ours may have been answered while the
// refusal was on its way; only if it insists has it lost them.
func (l *lane) outOfOrder(r *wire.Refused) {
	if r.Want >= l.base {
		l.attachAgain()
		return
	}
	if l.stuck++; l.stuck <= stubborn {
		l.pause(backoff(l.stuck))
		return
	}
	l.stuck = 0
	l.endSession(fmt.Errorf("%w: the server has lost what it acked (it wants counter %d, we are at %d)",
		ErrSessionExpired, r.Want, l.base))
}

// refuseOne ends the publish p and lets the others move up, if it was really
// sent and no attempt may have brought it, or one behind it, into the log.
func (l *lane) refuseOne(p *Pending, certain bool, r *wire.Refused) {
	why := &codeError{code: r.Code, reason: r.Reason}
	if p == nil {
		if r.Counter == 0 && r.Code == wire.CodeDenied {
			l.denied(why)
		}
		l.attachAgain()
		return
	}
	if !certain {
		if l.stuck++; l.stuck <= stubborn {
			l.pause(backoff(l.stuck))
			return
		}
		l.stuck = 0
		l.endSession(fmt.Errorf("%w and given up: %w", ErrSessionExpired, why))
		return
	}
	l.finish(p, fmt.Errorf("publish to room %q: %w", p.room, why))
	l.tries = 0
	if r.Code == wire.CodeConflict { // the counter is taken: this session can go no further
		l.endSession(fmt.Errorf("%w: %w", ErrSessionExpired, why))
		return
	}
	l.attachDue = true
	l.kick()
}
