package raftlog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLogger gives raft a logger that writes to l. Raft repeats some errors for
// as long as a peer is away; those are details here, since the link's going
// down has been logged once.
func raftLogger(l *slog.Logger) hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: io.Discard, Level: hclog.Debug})
	logger.RegisterSink(slogSink{l})
	return logger
}

type slogSink struct{ to *slog.Logger }

var repeated = []string{
	"failed to heartbeat", "failed to appendEntries", "failed to pipeline appendEntries", "failed to start pipeline",
	"failed to make requestVote RPC", "failed to make requestPreVote RPC", "failed to decode incoming command",
	"pipelining replication", "aborting pipeline", "appendEntries rejected", "failed to contact", "rejecting",
	"election timeout reached", "starting election", "pre-vote",
}

func (s slogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if !s.to.Enabled(context.Background(), slog.LevelDebug) && level < hclog.Warn {
		return
	}
	to := slog.LevelDebug
	if level >= hclog.Warn {
		to = slog.LevelWarn
	}
	for _, prefix := range repeated {
		if strings.Contains(msg, prefix) {
			to = slog.LevelDebug
		}
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	s.to.Log(context.Background(), to, "raft: "+msg, args...)
}
