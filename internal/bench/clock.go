package bench

import (
	"context"
	"time"
)

// clock counts from the begin of a load. Times in messages are its: publisher
// and subscribers live in one process.
type clock struct{ began time.Time }

func startClock() clock { return clock{time.Now()} }

func (c clock) now() time.Duration { return time.Since(c.began) }

// sleepUntil returns at at, or earlier with ctx's error. tell, if given, is
// called about ten times a second with the share of at that has passed.
func (c clock) sleepUntil(ctx context.Context, at time.Duration, tell func(done float64)) error {
	const glance = 100 * time.Millisecond
	for {
		now := c.now()
		if now >= at {
			return ctx.Err()
		}
		nap := at - now
		if tell != nil {
			tell(float64(now) / float64(at))
			nap = min(nap, glance)
		}
		timer := time.NewTimer(nap)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// window is the part of a load that is counted: from <= t < to.
type window struct{ from, to time.Duration }

// loadWindow is that of a load that begins at began and is measured for d.
func loadWindow(began, d time.Duration) window {
	from := began + warmUp(d)
	return window{from, from + d}
}

func (w window) has(t time.Duration) bool { return w.from <= t && t < w.to }

func (w window) length() time.Duration { return w.to - w.from }

// schedule says when messages are due: rate a second, evenly, whatever became of
// those before.
type schedule struct{ rate float64 }

// due is when message n, from 0, shall be published.
func (s schedule) due(n int) time.Duration {
	return time.Duration(float64(n) / s.rate * float64(time.Second))
}

// count is how many messages are due before end.
func (s schedule) count(end time.Duration) int {
	n := int(end.Seconds() * s.rate)
	for n > 0 && s.due(n-1) >= end {
		n--
	}
	for s.due(n) < end {
		n++
	}
	return n
}

// run calls send for n messages, each as soon as it is due. One that is late
// because the one before took long is sent at once, and its due stays what it
// was.
func (s schedule) run(ctx context.Context, c clock, n int, send func(n int, due time.Duration) error) error {
	return onTime(ctx, c, n, s.due, send)
}

// onTime is schedule.run for whatever due says.
func onTime(ctx context.Context, c clock, n int, due func(n int) time.Duration, send func(n int, due time.Duration) error) error {
	for i := range n {
		due := due(i)
		if c.now() < due {
			if err := c.sleepUntil(ctx, due, nil); err != nil {
				return err
			}
		}
		if err := send(i, due); err != nil {
			return err
		}
	}
	return nil
}
