package chaos

import (
	"context"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

const (
	heartbeat = 20 * time.Millisecond
	starving  = 250 * time.Millisecond // a heartbeat so late is a sign of it
)

// watchMachine writes down when the machine starves the run, until ctx ends.
func (r *run) watchMachine(ctx context.Context) {
	last := time.Now()
	for wait(ctx, heartbeat) == nil {
		if late := time.Since(last) - heartbeat; late > starving {
			r.rec.nemesis(string(history.Starved), history.Fault{Phase: history.Start, Detail: "late by " + late.Round(time.Millisecond).String()})
			r.rec.nemesis(string(history.Starved), history.Fault{Phase: history.Stop, Count: 1})
		}
		last = time.Now()
	}
}
