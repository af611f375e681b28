package bench

import (
	"context"
	"errors"
	"time"

	"github.com/roomlog/roomlog/client"
)

// load is a publisher and the audience that hears it.
type load struct {
	target   *Target
	audience *audience
	client   *client.Client
	speaker  *speaker
	progress Progress
	marks    uint32 // given so far
}

// startLoad connects the publisher, to the node that leads the first room.
func startLoad(ctx context.Context, t *Target, a *audience, payload int, progress Progress) (*load, error) {
	c, err := t.dial(ctx, a.rooms[0].leader)
	if err != nil {
		return nil, err
	}
	return &load{target: t, audience: a, client: c, speaker: newSpeaker(c, a.clock, payload), progress: progress}, nil
}

func (l *load) close() { l.client.Close() }

func (l *load) newRound(w window, subscribers int) *round {
	l.marks++
	return newRound(l.marks, w, subscribers)
}

// greet publishes the first round's mark, for so many subscribers that are still
// to come: audience.follow.
func (l *load) greet(ctx context.Context, subscribers int) (*round, error) {
	l.progress("subscribing", 0)
	first := l.newRound(window{}, subscribers)
	first.starting = make(chan struct{}, starters)
	l.audience.round.Store(first)
	return first, l.speaker.publish(ctx, l.audience, first)
}

// order is what measure shall do.
type order struct {
	rate     float64
	duration time.Duration
	course   bool
	spread   bool          // measure the spread of each message
	hopeless time.Duration // end early when a message comes so late; 0: never
}

// measured is what a round came to.
type measured struct {
	round    *round
	from, to usage
	resident int64 // bytes of the servers at the end of the window, if known
	due      int64 // messages due in the window
	sendLate float64
}

// errHopeless: the round was ended early because a message came too late.
var errHopeless = errors.New("bench: messages come too late")

// measure publishes for the warm-up and the time ordered, and returns when all
// has arrived. If the round was ended early it returns errHopeless then.
func (l *load) measure(ctx context.Context, o order) (*measured, error) {
	playing, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	plan, began := schedule{o.rate}, l.audience.clock.now()
	m := &measured{round: l.newRound(loadWindow(began, o.duration), len(l.audience.subs))}
	m.round.recorder.course = newCourse(m.round.window, o.course)
	m.round.hopeless, m.round.stop = o.hopeless, func() { stop(errHopeless) }
	n := plan.count(m.round.window.to - began)
	if o.spread {
		m.round.spreads = newSpreads(l.audience, n)
	}
	l.audience.round.Store(m.round)
	l.speaker.late = recorder{}
	played := make(chan struct{})
	go func() {
		defer close(played)
		from := clock{l.audience.clock.began.Add(began)}
		err := plan.run(playing, from, n, func(i int, due time.Duration) error {
			return l.play(ctx, m, i, began+due) // what is sent outlives an early end: it is checked like the rest
		})
		if err != nil {
			stop(err)
		}
	}()
	if err := l.watch(playing, m, began); err != nil {
		stop(err)
	}
	<-played
	failed := context.Cause(playing)
	if failed != nil && failed != errHopeless {
		return nil, failed
	}
	l.progress("waiting for the last message", 1)
	m.sendLate = latencyOf(l.speaker.late.total()).P99
	if err := l.speaker.end(ctx, l.audience, m.round); err != nil && err != errSilence {
		return nil, err // after errSilence the missing messages tell
	}
	return m, failed
}

// play publishes the i-th message of a round, the rooms in turn.
func (l *load) play(ctx context.Context, m *measured, i int, due time.Duration) error {
	if m.round.window.has(due) {
		m.due++
		l.speaker.late.record(0, due, l.audience.clock.now()-due)
	}
	return l.speaker.say(ctx, l.audience.rooms[i%len(l.audience.rooms)], due, 0)
}

// watch reads what the servers use while the round is counted.
func (l *load) watch(ctx context.Context, m *measured, began time.Duration) error {
	c, w := l.audience.clock, m.round.window
	tell := func(float64) { l.progress("publishing", float64(c.now()-began)/float64(w.to-began)) }
	var err error
	if m.from, m.to, err = l.target.measure(ctx, c, w, tell); err != nil || !l.target.Local() {
		return err
	}
	m.resident, err = sumOf(l.target, residentBytes)
	return err
}

func (m *measured) latency() Latency { return latencyOf(m.round.recorder.total()) }

// perSecond is how many messages came in the window, each second.
func (m *measured) perSecond() float64 {
	return cut(float64(m.round.inTime.Load())/m.round.window.length().Seconds(), 1)
}

// cpu divides what was used by n.
func (m *measured) cpu(n int64) spent { return m.from.per(m.to, m.round.window.length(), n) }
