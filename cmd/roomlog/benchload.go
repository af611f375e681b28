package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/bench"
	"github.com/roomlog/roomlog/transport/wire"
)

func newBenchPublish(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "How many messages are acked a second, at what price",
		Long: `Publish with a number of messages always on their way, or at a rate. Each client has
rooms of its own as long as there are enough, and takes them in turn. The latency is
from the call to the ack; with --rate, from when the message was due.`,
		Example: `  roomlog bench publish
  roomlog bench publish --rooms 64 --clients 64 --inflight 512
  roomlog bench publish --rooms 64 --payload 1024 --rate 20000`,
	}
	b := newBenchmark(a, cmd, "publish", 10*time.Second, 8)
	b.payload(0)
	b.count(&b.settings.Clients, "clients", 1, 1, 10_000, "how many clients publish, each over connections of its own")
	b.count(&b.settings.InFlight, "inflight", 4096, 1, 10_000*wire.MaxWindow, "messages without an ack, of all clients together")
	b.rate(0, 0, "messages a second, of all clients together (default: as fast as acks come)")
	b.plotFlag()
	b.check(func() error {
		switch n := b.settings.Clients; {
		case b.settings.InFlight < n:
			return usagef("--inflight %d: give at least one for each of the %d clients", b.settings.InFlight, n)
		case b.settings.InFlight > n*wire.MaxWindow:
			return usagef("--inflight %d: %d is the most for %s (%d each); give more with --clients", b.settings.InFlight,
				n*wire.MaxWindow, plural(n, "client"), wire.MaxWindow)
		}
		const nodes = 3 // a client is connected to each leader of its rooms
		return b.files(nodes * b.settings.Clients)
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return b.run(cmd.Context(), func(ctx context.Context, t *bench.Target, progress bench.Progress) (figures, error) {
			r, err := bench.RunPublish(ctx, t, b.settings, b.duration, progress)
			if err != nil {
				return figures{}, err
			}
			return figures{r, r.Course, func(w io.Writer) {
				fmt.Fprintf(w, "%.0f acked a second; CPU for each: servers %s, client %s\n", r.Acked, micros(r.ServerCPU), micros(r.ClientCPU))
				printLatency(w, "publish to ack", r.Latency)
				printFaults(w, r.Faults)
			}}, nil
		})
	}
	return cmd
}

func newBenchLatency(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "latency",
		Short: "How long a message takes",
		Long: `Measure how long a message takes. With --mode e2e messages are published at a rate, on
the node that leads their room, and the time is from when one was due until a
subscriber on another node has it. With --mode sync one message is on its way
at a time, and the time is from publish to ack.`,
		Example: `  roomlog bench latency --rate 10000
  roomlog bench latency --mode sync`,
	}
	b := newBenchmark(a, cmd, "latency", 10*time.Second, 8)
	b.payload(bench.MinPayload)
	b.flags.StringVar(&b.settings.Mode, "mode", bench.EndToEnd, "e2e or sync")
	b.rate(1000, 0, "messages a second, over all rooms (in mode sync, default: the next one when the last is acked)")
	b.plotFlag()
	b.check(func() error {
		switch {
		case b.settings.Mode == bench.Sync && !b.flags.Changed("rate"):
			b.settings.Rate = 0
		case b.settings.Mode != bench.Sync && b.settings.Mode != bench.EndToEnd:
			return usagef("--mode %q: use e2e or sync", b.settings.Mode)
		case b.settings.Mode == bench.EndToEnd && b.settings.Rate == 0:
			return usagef("--rate 0: mode e2e needs a number above 0")
		}
		return nil
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return b.run(cmd.Context(), func(ctx context.Context, t *bench.Target, progress bench.Progress) (figures, error) {
			r, err := bench.RunLatency(ctx, t, b.settings, b.duration, progress)
			if err != nil {
				return figures{}, err
			}
			return figures{r, r.Course, func(w io.Writer) {
				what := "due to received"
				if r.Mode == bench.Sync {
					what = "publish to ack"
				}
				printLatency(w, what, r.Latency)
				fmt.Fprintf(w, "%.0f a second; CPU for each: servers %s, client %s\n", r.Achieved, micros(r.ServerCPU), micros(r.ClientCPU))
				printFaults(w, r.Faults)
			}}, nil
		})
	}
	return cmd
}

func printLatency(w io.Writer, what string, l bench.Latency) {
	fmt.Fprintf(w, "%s: p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, at most %.2f ms\n", what, l.P50, l.P99, l.P999, l.Max)
}

func printFaults(w io.Writer, f bench.Faults) {
	fmt.Fprintf(w, "missing %d, duplicates %d, reordered %d\n", f.Missing, f.Duplicates, f.Reordered)
}

func micros(v *float64) string {
	if v == nil {
		return "not known"
	}
	return fmt.Sprintf("%.2f µs", *v)
}
