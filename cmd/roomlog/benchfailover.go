package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/bench"
)

const standbyUsage = "clients keep a connection to a second node in reserve"

// roomRate is how many messages a second each room of a rolling restart needs at least.
const roomRate = 10

func newBenchFailover(a *app) *cobra.Command {
	var fault string
	var kills int
	cmd := &cobra.Command{
		Use:   "failover",
		Short: "How long a room pauses when its leader fails",
		Long: `Publish at a rate to one room and make the node that leads it fail, again and again.
A gap is the longest pause around each failure: between two acks, and between two
messages of a subscriber on another node and of one on the node that fails. All
that was acked must have been received, once and in order.

Faults: kill (kill -9), pause (the process is stopped for a while), transfer
(leadership is handed over), drain (the node is told to stop), blackhole (no packet
reaches the node or leaves it, for a while), stall (its disk takes no fsync any more,
until it ends by itself). For the last two the cluster gets a network or disks of
its own, the disks in memory: that needs Linux and root.

Rolling: all nodes are restarted, one after the other, and each time the next when
that one is ready. A rolling restart has a room in each partition, with readers on all
nodes, and --rate is that of all rooms together; the gaps are what a message of any
room took longest in each round, from when it was due to its ack and until readers had it.`,
		Example: `  roomlog bench failover --kills 20
  roomlog bench failover --fault drain --rate 1000`,
	}
	b := newBenchmark(a, cmd, "failover", time.Second, 16)
	s := &b.settings
	cmd.Flags().MarkHidden("duration")
	cmd.Flags().MarkHidden("rooms")
	b.payload(bench.MinPayload)
	b.rate(200, 50, "messages a second")
	b.count(&kills, "kills", 10, 1, 10_000, "how often")
	b.flags.StringVar(&fault, "fault", string(bench.FaultKill), "what happens to the leader: kill, pause, transfer, drain, rolling, blackhole or stall")
	b.count(&b.nodes, "nodes", 3, 3, 5, "how many nodes the cluster gets: 3 or 5")
	b.flags.BoolVar(&s.Standby, "standby", false, standbyUsage)
	b.check(func() error {
		b.network, b.disks = fault == string(bench.FaultBlackhole), fault == string(bench.FaultStall)
		return nil
	})
	b.check(func() error {
		switch {
		case !slices.Contains(bench.AllFaults(), bench.Fault(fault)):
			return usagef("--fault %q: use one of %v", fault, bench.AllFaults())
		case b.running():
			return usagef("bench failover makes nodes fail: it starts a cluster of its own, leave --profile and --server out")
		case b.nodes == 4:
			return usagef("--nodes 4: use 3 or 5, four bear no more failures than three")
		case fault == string(bench.FaultRolling) && !b.flags.Changed("rate"):
			s.Rate = max(s.Rate, roomRate*float64(s.Partitions))
		case fault == string(bench.FaultRolling) && s.Rate < roomRate*float64(s.Partitions):
			return usagef("--rate %v: give %d messages a second for each of the %d partitions at least, or a pause may fall between two of a room", s.Rate, roomRate, s.Partitions)
		}
		switch {
		case b.flags.Changed("duration"), b.flags.Changed("rooms"):
			return usagef("bench failover has one room and lasts as long as its --kills")
		}
		return nil
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return b.run(cmd.Context(), func(ctx context.Context, t *bench.Target, progress bench.Progress) (figures, error) {
			r, err := bench.RunFailover(ctx, t, *s, bench.Fault(fault), kills, progress)
			if err != nil {
				return figures{}, err
			}
			if r.WithoutFault > 0 {
				a.warn("there were elections before the first fault: the machine is too busy for these figures to tell anything about roomlog")
			}
			return figures{r, nil, func(w io.Writer) { printFailover(w, r) }}, nil
		})
	}
	return cmd
}

func printFailover(w io.Writer, r *bench.FailoverReport) {
	what, acks, elsewhere := string(r.Fault)+" of the leader", "publishes pause", "deliveries elsewhere"
	if r.Fault == bench.FaultRolling {
		what, acks, elsewhere = fmt.Sprintf("rolling restart of %d nodes, the worst of %d rooms", len(r.Leaders), r.Rooms), "until an ack", "until a reader has it"
	}
	fmt.Fprintf(w, "%s, %d times at %v messages a second\n", what, r.Kills, r.Rate)
	printGaps(w, acks, r.Publish)
	printGaps(w, elsewhere, r.Delivery)
	if r.Fault != bench.FaultRolling {
		printGaps(w, "deliveries on that node", r.SameNode)
	}
	fmt.Fprintf(w, "lost %d, duplicates %d, reordered %d; %d elections before the first fault\n", r.Lost, r.Duplicates, r.Reordered, r.WithoutFault)
	if r.Unplanned != nil {
		fmt.Fprintf(w, "%d elections during the restarts that were not for a leader that stopped\n", *r.Unplanned)
	}
}

func printGaps(w io.Writer, what string, g bench.Gaps) {
	fmt.Fprintf(w, "%-24s min %.1f, p50 %.1f, p99 %.1f, max %.1f ms\n", what, g.Min, g.P50, g.P99, g.Max)
}
