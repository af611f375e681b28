package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/bench"
)

func newBenchStorm(a *app) *cobra.Command {
	var fault string
	var bystanders int
	cmd := &cobra.Command{
		Use:   "storm",
		Short: "How soon thousands of clients are back when their node fails, and what others notice",
		Long: `Connect subscribers, each over a connection of its own, to one node, which then
fails: all of them come to the other two at once. A client has resumed when it has
the first message that was published after the node had ended. Bystanders are subscribers
and a publisher on the other nodes: their latencies, from when a message was due,
before the fault and until the last client has resumed. All that was published must
have been received, once and in order.

The clients share the machine with the servers, and a handshake costs a client as
much as a server: see client_cpu_s beside server_cpu_s. They are a process of their own,
with nice 5: it keeps neither the servers nor the bystanders waiting, as clients on other
machines would not.

Faults: kill (kill -9), drain (the node is told to stop).`,
		Example: `  roomlog bench storm --clients 2000
  roomlog bench storm --clients 2000 --standby
  roomlog bench storm --clients 500 --rate 500 --fault drain`,
	}
	b := newBenchmark(a, cmd, "storm", time.Second, 16)
	s := &b.settings
	cmd.Flags().MarkHidden("duration")
	cmd.Flags().Lookup("rooms").DefValue = "20"
	s.Rooms = 20
	b.payload(bench.MinPayload)
	b.rate(100, 1, "messages a second, over all rooms of the clients")
	b.count(&s.Clients, "clients", 2000, 1, 100_000, "how many subscribers lose their node; each follows one room")
	b.count(&bystanders, "bystanders", 20, 2, 10_000, "how many subscribers follow rooms on the other nodes")
	b.flags.StringVar(&fault, "fault", string(bench.FaultKill), "what happens to the node: kill or drain")
	b.flags.BoolVar(&s.Standby, "standby", false, standbyUsage)
	b.check(func() error {
		switch {
		case fault != string(bench.FaultKill) && fault != string(bench.FaultDrain):
			return usagef("--fault %q: use kill or drain", fault)
		case s.Clients < s.Rooms:
			return usagef("--clients %d: give at least one for each of the %d rooms", s.Clients, s.Rooms)
		case b.running():
			return usagef("bench storm makes a node fail: it starts a cluster of its own, leave --profile and --server out")
		case b.flags.Changed("duration"):
			return usagef("bench storm lasts until all clients have resumed")
		}
		conns := 2 * s.Clients // the old ones end while the new ones begin
		if s.Standby {
			conns += s.Clients
		}
		return b.files(conns + bystanders)
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return b.run(cmd.Context(), func(ctx context.Context, t *bench.Target, progress bench.Progress) (figures, error) {
			binary, err := os.Executable()
			if err != nil {
				return figures{}, err
			}
			r, err := bench.RunStorm(ctx, binary, t, *s, bystanders, bench.Fault(fault), progress)
			if err != nil {
				return figures{}, err
			}
			return figures{r, nil, func(w io.Writer) { printStorm(w, r) }}, nil
		})
	}
	return cmd
}

// newBenchStormCrowd is what bench storm starts.
func newBenchStormCrowd() *cobra.Command {
	return &cobra.Command{
		Use: "storm-crowd", Short: "The clients of bench storm", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.RunStormCrowd(cmd.Context(), os.Stdin, os.Stdout)
		},
	}
}

func printStorm(w io.Writer, r *bench.StormReport) {
	fmt.Fprintf(w, "%s of the node of %d subscribers\n", r.Fault, r.Clients)
	fmt.Fprintf(w, "%-24s p50 %.0f, p99 %.0f, max %.0f ms; %d never did\n", "resumed", r.Resumed50, r.Resumed99, r.ResumedMax, r.Unresumed)
	fmt.Fprintf(w, "%-24s p50 %.0f, p99 %.0f, max %.0f ms; the node had ended after %.0f ms\n", "longest silence", r.Silence50, r.Silence99, r.SilenceMax, r.Ended)
	fmt.Fprintf(w, "%-24s p50 %.1f, p99 %.1f ms before; p50 %.1f, p99 %.1f ms until then\n", "bystanders' messages",
		r.P50Before, r.P99Before, r.P50During, r.P99During)
	fmt.Fprintf(w, "%-24s %d admitted, %d refused\n", "handshakes", r.Admitted, r.Refused)
	fmt.Fprintf(w, "%-24s servers %.1f s, clients %.1f s, in %.1f s on %d CPUs\n", "CPU time", *r.ServerCPU, *r.ClientCPU, r.Duration, r.CPUs)
	fmt.Fprintf(w, "lost %d, duplicates %d, reordered %d\n", r.Lost, r.Duplicates, r.Reordered)
}
