package bench

import (
	"context"
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
func startLoad(ctx context.Context, t *Target, a *audience, s Settings, progress Progress) (*load, error) {
	c, err := t.dial(ctx, a.rooms[0].leader)
	if err != nil {
		return nil, err
	}
	return &load{target: t, audience: a, client: c, speaker: newSpeaker(c, a.clock, s.Payload), progress: progress}, nil
}

func (l *load) close() { l.client.Close() }

func (l *load) begin(w window, course bool) *round {
	l.marks++
	r := &round{mark: l.marks, window: w, all: make(chan struct{})}
	r.recorder.course = newCourse(w, course)
	l.audience.begin(r)
	return r
}

// ready returns when every subscriber has got a first message.
func (l *load) ready(ctx context.Context) error {
	l.progress("subscribing", 0)
	return l.speaker.end(ctx, l.audience, l.begin(window{}, false))
}

// measured is what a round came to.
type measured struct {
	round    *round
	from, to usage
	due      int64   // messages due in the window
	sendLate float64 // p99, ms
}

// measure publishes at rate for the warm-up and d, and returns when all has
// arrived.
func (l *load) measure(ctx context.Context, rate float64, d time.Duration, course bool) (*measured, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := l.audience.clock.now()
	w := window{began + warmUp, began + warmUp + d}
	m := &measured{round: l.begin(w, course)}
	l.speaker.late = recorder{}
	played := make(chan struct{})
	go func() {
		defer close(played)
		var err error
		if m.due, err = l.speaker.play(ctx, l.audience, m.round, rate, began); err != nil {
			cancel(err)
		}
	}()
	tell := func(float64) { l.progress("publishing", float64(l.audience.clock.now()-began)/float64(w.to-began)) }
	var err error
	if m.from, m.to, err = l.target.measure(ctx, l.audience.clock, w, tell); err != nil {
		cancel(err)
	}
	<-played
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	l.progress("waiting for the last message", 1)
	m.sendLate = latencyOf(l.speaker.late.total()).P99
	if err := l.speaker.end(ctx, l.audience, m.round); err != nil && err != errSilence {
		return nil, err // after errSilence the missing messages tell
	}
	return m, nil
}

func (m *measured) latency() Latency { return latencyOf(m.round.recorder.total()) }

// perSecond is how many messages came in the window, each second.
func (m *measured) perSecond() float64 {
	return cut(float64(m.round.inTime.Load())/m.round.window.length().Seconds(), 1)
}

// cpu divides what was used by n.
func (m *measured) cpu(n int64) spent { return m.from.per(m.to, m.round.window.length(), n) }
