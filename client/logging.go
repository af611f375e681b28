package client

import (
	"context"
	"log/slog"
)

// maxLogged is how many records may wait for a slow handler; more are dropped.
const maxLogged = 256

// logs takes records to the user's handler on a goroutine of its own. The SDK
// logs where it holds locks and where it reads answers, and a handler may well
// publish what it is given. The SDK derives no loggers, so With is as it was.
type logs struct {
	slog.Handler
	records chan slog.Record
}

func newLogs(to slog.Handler) *logs {
	return &logs{Handler: to, records: make(chan slog.Record, maxLogged)}
}

func (l *logs) Handle(_ context.Context, r slog.Record) error {
	select {
	case l.records <- r.Clone():
	default:
	}
	return nil
}

// run hands the records on until ctx ends and none is left.
func (l *logs) run(ctx context.Context) {
	for {
		select {
		case r := <-l.records:
			l.Handler.Handle(ctx, r)
			continue
		case <-ctx.Done():
		}
		select {
		case r := <-l.records:
			l.Handler.Handle(ctx, r)
		default:
			return
		}
	}
}
