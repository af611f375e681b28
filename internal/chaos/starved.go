package chaos

import (
	"context"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// starved is a fault that nobody made: the machine has no time for the run itself.
// What the nodes do then, such as elect, is not their doing.
const starved = "starved"

const (
	heartbeat = 20 * time.Millisecond
	starving  = 100 * time.Millisecond // a heartbeat so late is a sign of it
)

// watchMachine writes down when the machine starves the run, until ctx ends.
func (r *run) watchMachine(ctx context.Context) {
	last := time.Now()
	for wait(ctx, heartbeat) == nil {
		if late := time.Since(last) - heartbeat; late > starving {
			r.rec.nemesis(starved, history.Fault{Phase: history.Start, Detail: "late by " + late.Round(time.Millisecond).String()})
			r.rec.nemesis(starved, history.Fault{Phase: history.Stop, Count: 1})
		}
		last = time.Now()
	}
}
