package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/bench"
)

func newBenchFanout(a *app) *cobra.Command {
	var find bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "fanout",
		Short: "How many deliveries a second, how late and how unevenly",
		Long: `Publish at a rate to rooms with many subscribers, which are spread over the three
nodes. The latency is from when a message was due to each of its subscribers; the
spread of a message is p99 - p50 of its latencies among the subscribers of its room.

With --stalled so many subscribers more read one message and then stop; they are
not counted. With --search the rate is doubled, then narrowed to a tenth, to find the
highest at which p99 is within --limit; the figures are those of that rate.`,
		Example: `  roomlog bench fanout --subs 1000 --rate 100
  roomlog bench fanout --subs 10 --rate 10000 --stalled 1
  roomlog bench fanout --subs 1000 --search`,
	}
	b := newBenchmark(a, cmd, "fanout", 10*time.Second, 8)
	s := &b.settings
	b.payload(bench.MinPayload)
	b.rate(100, 0.1, "messages a second, over all rooms; --search begins with it")
	b.count(&s.Subs, "subs", 1000, 1, 1_000_000, "how many subscribers; each follows one room")
	b.count(&s.Conns, "conns", 0, 0, 1_000_000, "over how many connections (default: each subscriber has its own)")
	b.count(&s.Stalled, "stalled", 0, 0, 100_000, "so many subscribers more that stop reading, each over a connection of its own")
	b.flags.BoolVar(&find, "search", false, "find the highest rate at which p99 is within --limit")
	b.flags.DurationVar(&limit, "limit", 250*time.Millisecond, "p99 that --search allows")
	b.plotFlag()
	b.check(func() error {
		const most = 20e6 // each has a place in memory, for its spread
		if s.Conns == 0 {
			s.Conns = s.Subs
		}
		switch {
		case s.Subs < s.Rooms:
			return usagef("--subs %d: give at least one for each of the %d rooms", s.Subs, s.Rooms)
		case s.Conns > s.Subs:
			return usagef("--conns %d: more than the %s; give fewer, or more --subs", s.Conns, plural(s.Subs, "subscriber"))
		case s.Rate*b.duration.Seconds() > most:
			return usagef("--rate %v: %v of it are too many messages; give a lower rate or a shorter --duration", s.Rate, b.duration)
		case find && s.Plot:
			return usagef("--plot: it shows one rate; leave it out with --search")
		case !find && b.flags.Changed("limit"):
			return usagef("--limit: give it with --search")
		case limit < time.Millisecond || limit > time.Minute:
			return usagef("--limit %v: give 1ms to 1m", limit)
		}
		return b.files(s.Conns + s.Stalled)
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return b.run(cmd.Context(), func(ctx context.Context, t *bench.Target, progress bench.Progress) (figures, error) {
			var r *bench.FanoutReport
			var err error
			if find {
				r, err = bench.RunFanoutSearch(ctx, t, *s, b.duration, limit, progress)
			} else {
				r, err = bench.RunFanout(ctx, t, *s, b.duration, progress)
			}
			if err != nil {
				return figures{}, err
			}
			return figures{r, r.Course, func(w io.Writer) { printFanout(w, r) }}, nil
		})
	}
	return cmd
}

func printFanout(w io.Writer, r *bench.FanoutReport) {
	for _, s := range r.Searched {
		held := "held"
		if !s.Held {
			held = "too much"
		}
		fmt.Fprintf(w, "%v messages a second: %.0f deliveries a second, p99 %.1f ms: %s\n", s.Rate, s.Deliveries, s.P99, held)
	}
	fmt.Fprintf(w, "%.0f deliveries a second; CPU for each: servers %s, clients %s\n", r.Deliveries, micros(r.ServerCPU), micros(r.ClientCPU))
	printLatency(w, "due to received", r.Latency)
	fmt.Fprintf(w, "spread of a message: p50 %.2f ms, p99 %.2f ms\n", r.Spread, r.SpreadP99)
	printFaults(w, r.Faults)
}

func newBenchIdle(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "idle",
		Short: "What subscribers cost while nothing happens",
		Long: `Connect subscribers, each over a connection of its own, spread over the three nodes,
and measure what they cost the servers while nothing is published: memory and
CPU time. A message before and one after show that all of them are there.

Memory is read before and after once it is at rest, with the garbage of the
handshakes collected. Idle clients ping every 12 to 15 s: measure for at least as long.`,
		Example: `  roomlog bench idle --subs 5000 --rooms 64`,
	}
	b := newBenchmark(a, cmd, "idle", 30*time.Second, 16)
	s := &b.settings
	b.count(&s.Subs, "subs", 1000, 1, 1_000_000, "how many subscribers; each follows one room")
	b.check(func() error {
		if s.Subs < s.Rooms {
			return usagef("--subs %d: give at least one for each of the %d rooms", s.Subs, s.Rooms)
		}
		s.Conns = s.Subs
		return b.files(s.Subs)
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return b.run(cmd.Context(), func(ctx context.Context, t *bench.Target, progress bench.Progress) (figures, error) {
			r, err := bench.RunIdle(ctx, t, *s, b.duration, progress)
			if err != nil {
				return figures{}, err
			}
			return figures{r, nil, func(w io.Writer) { printIdle(w, r) }}, nil
		})
	}
	return cmd
}

func printIdle(w io.Writer, r *bench.IdleReport) {
	if r.RSSPerConn != nil && r.ServerCPU != nil {
		fmt.Fprintf(w, "servers: %.1f KiB for each connection (%.1f MB before, %.1f MB after), %.4f cores while idle\n",
			*r.RSSPerConn, *r.RSSBefore, *r.RSSAfter, *r.ServerCPU)
	}
	if r.ConnectCPU != nil {
		fmt.Fprintf(w, "servers: %.2f ms of CPU for each connect\n", *r.ConnectCPU)
	}
	fmt.Fprintf(w, "%.0f connects a second\n", r.Connects)
	printFaults(w, r.Faults)
}
