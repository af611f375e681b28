package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

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
		conn := l.stream.conn
		l.later = func() { conn.kill(wire.CodeProtocol, "no answer to attach") }
	}
	l.leave(0)
}

// connect puts the lane on the stream to the leader.
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
	var b *binding
	if err == nil {
		b, err = s.bind(l) // under mu: the stream's end finds us bound or not at all
	}
	if err != nil {
		l.cannotConnect(err)
		return
	}
	l.stream, l.binding, l.node, l.term = s, b, c.node, lead.term
	l.attachDue = true
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

// attachAgain goes on on the same stream, at once unless that has failed before.
func (l *lane) attachAgain() {
	if !l.hold.IsZero() {
		l.attachDue = true // when that is over
		return
	}
	if l.tries > 1 {
		l.pause(backoff(l.tries - 1))
		return
	}
	l.attachDue = true
	l.kick()
}

// pause goes on on the same stream after d; run sees to it.
func (l *lane) pause(d time.Duration) {
	l.attachDue = true
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
	if l.next > 0 {
		if l.binding.owed == nil {
			l.binding.owed = make(map[uint64]struct{})
		}
		l.binding.owed[l.binding.attach] = struct{}{}
	}
	l.next = 0
	l.stream, l.binding, l.node = nil, nil, ""
	l.attachDue, l.kicked = false, false
	l.hold, l.answerBy = time.Time{}, time.Time{}
}
