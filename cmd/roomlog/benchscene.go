package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/bench"
)

func newBenchScene(a *app) *cobra.Command {
	var scale float64
	cmd := &cobra.Command{
		Use:   "scene NAME",
		Short: "Whether the trouble of a live scene stays where it is",
		Long: `Play a live scene: a crowd that comes all at once to some rooms, the hit ones, and the
fault that comes with it. A third of the time all is calm, a third is the trouble, a
third is for the recovery. When messages are due replays a live stream's chat, scaled
up; latencies count from then until a subscriber has the message.

` + describeScenes() + `
Bystanders are rooms of other partitions with other leaders; their publishers and
subscribers have connections of their own. The verdict is "contained" if bystanders'
p99 during the trouble is at most twice what it was before, nothing is lost, doubled
or reordered for anybody, and the hit rooms' p99 in the end is at most three times
what it was. It is part of what was measured: the exit code is 0 either way.`,
		Example: `  roomlog bench scene sports-final
  roomlog bench scene product-launch -o json | jq -r .verdict`,
	}
	b := newBenchmark(a, cmd, "scene", 30*time.Second, 16)
	s := &b.settings
	var scene bench.Scene
	cmd.ValidArgs = sceneNames()
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		names := strings.Join(sceneNames(), ", ")
		if err := oneArg("NAME")(cmd, args); err != nil {
			return fmt.Errorf("%w: name one of %s", err, names)
		}
		var known bool
		if scene, known = bench.SceneNamed(args[0]); !known {
			return fmt.Errorf("there is no scene %q: name one of %s", args[0], names)
		}
		b.network = scene.Network
		return nil
	}
	cmd.Flags().MarkHidden("rooms")
	b.payload(bench.MinPayload)
	b.rate(100, 10, "messages a second before the trouble, over all rooms: a tenth of them in the hit ones")
	b.flags.Float64Var(&scale, "scale", 1, "how many come, times what two processors carry")
	b.plotFlag()
	b.check(func() error {
		switch {
		case b.running():
			return usagef("bench scene makes nodes fail: it starts a cluster of its own, leave --profile and --server out")
		case b.flags.Changed("rooms"):
			return usagef("a scene has its own number of rooms: leave --rooms out")
		case b.duration < bench.LeastScene:
			return usagef("--duration %v: a scene takes %v at least", b.duration, bench.LeastScene)
		case s.Partitions < 3:
			return usagef("--partitions %d: a scene needs 3 at least, so that bystanders have other leaders", s.Partitions)
		case !(scale >= 0.01 && scale <= 100):
			return usagef("--scale %v: give a number from 0.01 to 100", scale)
		}
		return b.files(scene.Conns(scale))
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return b.run(cmd.Context(), func(ctx context.Context, t *bench.Target, progress bench.Progress) (figures, error) {
			r, err := bench.RunScene(ctx, t, *s, scene, scale, b.duration, progress)
			if err != nil {
				return figures{}, err
			}
			if r.BystanderBefore > tooBusy {
				a.warn(fmt.Sprintf("the bystanders' p99 was %.0f ms before anything happened: the machine is too busy for the verdict to tell much", r.BystanderBefore))
			}
			return figures{r, r.Course, func(w io.Writer) { printScene(w, scene, r) }}, nil
		})
	}
	return cmd
}

// tooBusy is a p99 in ms that a machine with time for a scene stays far below in calm.
const tooBusy = 100

func sceneNames() (names []string) {
	for _, s := range bench.Scenes() {
		names = append(names, s.Name)
	}
	return names
}

func describeScenes() string {
	var b strings.Builder
	for _, s := range bench.Scenes() {
		fmt.Fprintf(&b, "  %-16s %s\n", s.Name, s.About)
	}
	return b.String()
}

func printScene(w io.Writer, scene bench.Scene, r *bench.SceneReport) {
	fmt.Fprintf(w, "%s: %s\n\n", scene.Name, scene.About)
	fmt.Fprintf(w, "%35s%-27s%-27s\n", "", "hit rooms, ms", "bystanders, ms")
	fmt.Fprintf(w, "%4s %10s %10s %5s  %8s %8s %8s %8s %8s %8s\n", "s", "published", "delivered", "CPUs", "p50", "p99", "max", "p50", "p99", "max")
	events := r.Events
	for _, s := range r.Seconds {
		for len(events) > 0 && events[0].At < float64(s.At+1) {
			fmt.Fprintf(w, "     -- %.1f s: %s\n", events[0].At, events[0].What)
			events = events[1:]
		}
		fmt.Fprintf(w, "%4d %10d %10d %5s  %s %s  %s\n", s.At, s.Published, s.Delivered, cores(s.Cores), lateness(s.Hit), lateness(s.Bystander), decibels(s.Bystander.P99))
	}
	for _, e := range events {
		fmt.Fprintf(w, "     -- %.1f s: %s\n", e.At, e.What)
	}
	fmt.Fprintln(w)
	if c := r.Connects; c != nil {
		fmt.Fprintf(w, "%d clients connected: p50 %.0f ms, p99 %.0f ms, at most %.0f ms; %d dials failed; %d not let in\n", c.Clients, c.P50, c.P99, c.Max, c.Retries, c.Failed)
	}
	fmt.Fprintf(w, "lost %d, duplicates %d, reordered %d; the load generator was late by %.1f ms (p99)\n", r.Lost, r.Duplicates, r.Reordered, r.SendLate)
	fmt.Fprintf(w, "%s: %s\n", r.Verdict, r.Why)
}

func cores(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", *v)
}

func lateness(l bench.Lateness) string {
	if l.Max == 0 {
		return fmt.Sprintf("%8s %8s %8s", "-", "-", "-") // nothing was due
	}
	return fmt.Sprintf("%8.1f %8.1f %8.1f", l.P50, l.P99, l.Max)
}

// decibels draws a latency: a mark for each doubling from a millisecond on.
func decibels(ms float64) string {
	if ms < 1 {
		return ""
	}
	return strings.Repeat("#", 1+int(math.Log2(ms)))
}
