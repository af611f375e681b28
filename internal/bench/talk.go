package bench

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/roomlog/roomlog/client"
)

// talk publishes to the audience of a load until it is stopped. What is sent outlives that:
// it is checked like the rest.
type talk struct {
	stop    func()
	abandon func()        // stop, and give up what has not been sent
	ended   chan struct{} // closed
}

// startTalk publishes so many messages a second. What fails is told to failed.
func startTalk(ctx context.Context, l *load, rate float64, failed func(error)) *talk {
	sending, abandon := context.WithCancel(ctx)
	talking, stop := context.WithCancel(sending)
	t := &talk{stop: stop, abandon: abandon, ended: make(chan struct{})}
	began := l.audience.clock.now()
	go func() {
		defer close(t.ended)
		err := schedule{rate}.run(talking, clock{l.audience.clock.began.Add(began)}, math.MaxInt32, func(i int, due time.Duration) error {
			if talking.Err() != nil {
				return talking.Err()
			}
			return l.speaker.say(sending, l.audience.rooms[i%len(l.audience.rooms)], began+due, 0)
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			failed(err)
		}
	}()
	return t
}

// end stops the talk. A publisher that cannot get rid of its messages is given patience: a
// partition may have no leader.
func (t *talk) end() error {
	t.stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-t.ended:
		return nil
	case <-late.C:
		return errStuck
	}
}

// close abandons the talk.
func (t *talk) close() {
	if t != nil {
		t.abandon()
		<-t.ended
	}
}

// finish ends the talk of a load, waits for the last message and tells what has gone wrong.
func (l *load) finish(ctx context.Context, t *talk) (Faults, error) {
	if err := t.end(); err != nil {
		return Faults{}, err
	}
	last := l.newRound(window{}, len(l.audience.subs))
	l.audience.round.Store(last)
	if err := l.speaker.end(ctx, l.audience, last); err != nil && err != errSilence {
		return Faults{}, err // after errSilence the missing messages tell
	}
	return l.audience.faults(), nil
}

// assemble is a load with an audience of n, each with a client of its own, who have had a
// message.
func assemble(ctx context.Context, t *Target, rooms []*room, n, payload int, dial func(context.Context, int) (*client.Client, error),
	hear func(*subscriber, header, time.Duration), progress Progress) (l *load, err error) {
	a := newAudience(rooms)
	a.hear = hear
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.clients, err = dialEach(ctx, n, dial, func(done float64) { progress("connecting", done) }); err != nil {
		return nil, err
	}
	if l, err = startLoad(ctx, t, a, payload, progress); err != nil {
		return nil, err
	}
	first, err := l.greet(ctx, n)
	if err == nil {
		err = a.follow(ctx, first, n, 0, func(i int) int { return i })
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}
