package chaos

import (
	"context"
	"errors"
	"time"

	"github.com/roomlog/roomlog/internal/faultclock"
)

var clockFaults = []Nemesis{
	{"clock-skew", "a node's clock is wrong by some seconds, or jumps to and fro", onClocks, false, strikeClockSkew},
}

func strikeClockSkew(ctx context.Context, e *episode) (int, error) {
	node := e.aLeader(ctx)
	pid, ok := e.procs.PID(node)
	if !ok {
		return 0, nil
	}
	clock, err := faultclock.Attach(pid)
	if errors.Is(err, faultclock.ErrEnded) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer clock.Close()
	e.began(node)
	skew := time.Duration(e.rng.Int64N(int64(20*time.Second))) - 10*time.Second
	strobe := e.rng.IntN(2) == 0
	for until := time.Now().Add(e.hold); time.Now().Before(until); {
		if err := clock.Set(skew); errors.Is(err, faultclock.ErrEnded) {
			return 0, nil
		} else if err != nil {
			return 0, err
		}
		step := time.Until(until)
		if strobe {
			skew, step = -skew, 50*time.Millisecond
		}
		if err := wait(ctx, step); err != nil {
			return 0, err
		}
	}
	took, err := clock.Count()
	return int(took), firstOf(err, clock.Set(0))
}
