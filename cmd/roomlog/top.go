package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/roomlog/roomlog/internal/top"
)

// textWidth is that of "top --once" where no terminal tells another, in cells.
const textWidth = 120

// liveView is the command line of "roomlog top".
type liveView struct {
	app      *app
	interval time.Duration
	count    int
	once     bool
	sort     string
}

func newTop(a *app) *cobra.Command {
	v := &liveView{app: a}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the cluster: rates, leaders, delays by stage, worst rooms, slow subscribers",
		Long: `Watch the cluster: how many messages it takes and delivers, who leads which
partition, how late messages are and in which stage, the worst rooms and the
slowest subscribers, over all nodes. Keys are told at the bottom; q or Ctrl-C quits.

If the output is no terminal, or with -o json, each interval is one JSON object a
line. --once prints one snapshot, as text unless with -o json.`,
		Example: `  roomlog top
  roomlog top --sort drift --interval 5s
  roomlog top -o json --count 10 | jq .worst`,
		Args: noArgs,
	}
	cmd.Flags().DurationVar(&v.interval, "interval", time.Second, "how often each node is asked")
	cmd.Flags().IntVar(&v.count, "count", 0, "end after so many JSON objects (default: never)")
	cmd.Flags().BoolVar(&v.once, "once", false, "print one snapshot and end")
	cmd.Flags().StringVar(&v.sort, "sort", string(top.ByPartition), "`partition|drift|rate`: how the live view is sorted at first")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := v.check(cmd.Flags().Changed("count"), cmd.Flags().Changed("sort")); err != nil {
			return err
		}
		ctx, stop := untilClosed(cmd.Context(), a.stdout)
		defer stop()
		err := v.run(ctx)
		if errors.Is(err, syscall.EPIPE) {
			return nil // whoever read has what he wanted
		}
		return ended(ctx, err)
	}
	return cmd
}

func (v *liveView) check(count, sort bool) error {
	switch top.Order(v.sort) {
	case top.ByPartition, top.ByDrift, top.ByRate:
	default:
		return usagef("--sort %q: use partition, drift or rate", v.sort)
	}
	switch {
	case v.interval < 100*time.Millisecond || v.interval > time.Hour:
		return usagef("--interval %v: give 100ms to 1h", v.interval)
	case count && v.count < 1:
		return usagef("--count %d: give a number above 0", v.count)
	case count && v.once:
		return usagef("--count and --once both say when to end: give one of them")
	case count && v.live():
		return usagef("--count is for JSON: add -o json, or pipe the output")
	case sort && !v.live():
		return usagef("--sort is for the live view on a terminal")
	}
	return nil
}

// live tells whether there is a terminal to draw on.
func (v *liveView) live() bool {
	return !v.once && v.app.output == "text" && terminalOf(v.app.stdout) != nil
}

func (v *liveView) run(ctx context.Context) error {
	c, err := v.app.cluster(ctx)
	if err != nil {
		return err
	}
	poller := c.poller(v.interval, min(nodeTimeout, v.app.timeout))
	switch {
	case v.live():
		return top.Watch(ctx, poller, top.Order(v.sort), v.app.stdin, v.app.stdout)
	case v.once:
		return top.Follow(ctx, poller, 1, func(s top.Snapshot) error {
			return v.app.emit(s, func(w io.Writer) { fmt.Fprint(w, s.Text(v.width())) })
		})
	}
	return top.Follow(ctx, poller, v.count, func(s top.Snapshot) error { return v.app.emitJSON(s) })
}

// poller asks the nodes of the cluster.
func (c *cluster) poller(interval, timeout time.Duration) *top.Poller {
	p := &top.Poller{Interval: interval, Timeout: timeout}
	for _, n := range c.nodes {
		p.Nodes = append(p.Nodes, n.Name)
	}
	p.Ask = func(ctx context.Context, name, path string, out any) error {
		n, _ := c.node(name)
		return c.do(ctx, n, http.MethodGet, path, out)
	}
	return p
}

// width is the terminal's.
func (v *liveView) width() int {
	if f := terminalOf(v.app.stdout); f != nil {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return textWidth
}

// terminalOf returns the terminal that w writes to, or nil.
func terminalOf(w io.Writer) *os.File {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}
