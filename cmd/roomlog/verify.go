package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/internal/verify"
)

func newVerify(a *app) *cobra.Command {
	var against string
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check a stopped node's data, byte by byte",
		Long: `Check the data directory of a node that does not run: terms and votes, every
record of the logs, every index and snapshot. The log is replayed, and snapshots
and room indexes must be what the replay makes. Nothing is changed.

The first fault of each partition is told, with file and byte, and what mends it;
the exit code is 1 then. What a crash leaves, such as the rest of a write that
never ended, is no fault.

With --against the directory of another node of the same cluster, stopped too, is
checked as well and compared with the first: the log as far as both have it, and
the snapshots that both have. Entries beyond the newest snapshots may differ, if
they are of different terms: at most one of the two was committed.`,
		Example: `  roomlog verify /var/lib/roomlog
  roomlog verify dev/n1 --against dev/n2 -o json`,
		Args: oneArg("DIR"),
	}
	cmd.Flags().StringVar(&against, "against", "", "compare with the `DIR` of another node of the cluster")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("against") && against == "" {
			return usagef("--against: name a directory")
		}
		for _, dir := range append(args, against) {
			if info, err := os.Stat(dir); dir != "" && (err != nil || !info.IsDir()) {
				return usagef("%s: no such directory", dir)
			}
		}
		progress, clear := slowBar(a.stderr)
		v := verification{app: a, options: verify.Options{Dir: args[0], Against: against, Progress: progress}}
		return v.run(cmd.Context(), clear)
	}
	return cmd
}

type verification struct {
	app     *app
	options verify.Options
}

// verdictLine is the last line in JSON.
type verdictLine struct {
	OK bool `json:"ok"`
	*verify.Report
	*verify.Comparison
}

func (v *verification) run(ctx context.Context, done func()) error {
	var reports []*verify.Report
	var compared *verify.Comparison
	var err error
	if v.options.Against == "" {
		var r *verify.Report
		r, err = verify.Run(ctx, v.options)
		reports = []*verify.Report{r}
	} else {
		var here, there *verify.Report
		here, there, compared, err = verify.RunAgainst(ctx, v.options)
		reports = []*verify.Report{here, there}
	}
	done()
	switch {
	case errors.Is(err, node.ErrNoData):
		return usageError{err}
	case err != nil:
		return err
	}
	if err := v.print(reports, compared); err != nil {
		return err
	}
	var faults []error
	for _, r := range reports {
		if r.Fault != nil {
			faults = append(faults, withVerdict(r))
		}
	}
	if compared != nil && compared.Difference != nil {
		faults = append(faults, compared.Difference)
	}
	return errors.Join(faults...)
}

// withVerdict adds to a fault what to do now.
func withVerdict(r *verify.Report) error {
	switch d := r.Damaged; {
	case d == nil && r.Fault.Remedy != "":
		return fmt.Errorf("%w\n%s", r.Fault, r.Fault.Remedy)
	case d == nil:
		return r.Fault
	case !d.Rebuilds:
		return fmt.Errorf("%w\na cluster of %s cannot rebuild it: restore the data directory from a copy", d, plural(d.Voters, "voter"))
	default:
		return fmt.Errorf("%w\nto discard this and build it anew from the other nodes, all of which must run, start the node once with\n  roomlog serve … --rebuild %s",
			d, d.Rebuild())
	}
}

func (v *verification) print(reports []*verify.Report, compared *verify.Comparison) error {
	var partitions []verify.Partition
	for _, r := range reports {
		partitions = append(partitions, r.Partitions...)
	}
	header := []string{"NODE", "PARTITION", "FIRST", "LAST", "SNAPSHOT", "ENTRIES", "MESSAGES", "ROOMS", "SIZE", "STATE"}
	err := emitTable(v.app, partitions, header, func(p verify.Partition) []any {
		return []any{p.Node, p.Partition, p.First, p.Last, p.Snapshot, p.Entries, p.Messages, p.Rooms, formatBytes(p.Bytes), stateOf(&p)}
	})
	if err == nil && compared != nil {
		header := []string{"PARTITION", "FROM", "TO", "KNOWN", "SAME", "SNAPSHOTS", "BEYOND"}
		err = emitTable(v.app, compared.Partitions, header, func(c verify.Compared) []any {
			return []any{c.Partition, c.From, c.To, c.Known, c.Same, c.Snapshots, beyond(&c)}
		})
	}
	if err != nil {
		return err
	}
	verdict := verdictLine{OK: compared == nil || compared.Difference == nil, Report: total(reports), Comparison: compared}
	verdict.OK = verdict.OK && verdict.Fault == nil
	return v.app.emit(verdict, func(w io.Writer) {
		if !verdict.OK {
			return // the error tells
		}
		if compared != nil {
			fmt.Fprintf(w, "no difference in %s and %s\n", entries(compared.Entries), plural(compared.Snapshots, "snapshot"))
		}
		fmt.Fprintf(w, "no fault found in %s, %s, %d bytes\n", plural(verdict.Report.Files, "file"), entries(verdict.Report.Entries), verdict.Report.Bytes)
	})
}

func entries(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// total is all reports in one.
func total(reports []*verify.Report) *verify.Report {
	sum := *reports[0]
	for _, r := range reports[1:] {
		sum.Files += r.Files
		sum.Entries += r.Entries
		sum.Bytes += r.Bytes
		if sum.Fault == nil {
			sum.Fault = r.Fault
		}
	}
	return &sum
}

// stateOf says how a replica was left.
func stateOf(p *verify.Partition) string {
	switch {
	case p.Fault != nil:
		return "fault"
	case p.Rebuilding:
		return "being rebuilt"
	case p.Clean:
		return "clean"
	case p.Torn > 0:
		return fmt.Sprintf("crashed, %s of an unfinished write", formatBytes(p.Torn))
	case p.Entries == 0:
		return "empty"
	}
	return "crashed"
}

func beyond(c *verify.Compared) string {
	switch {
	case c.Difference != nil:
		return "difference"
	case c.Beyond > 0:
		return fmt.Sprintf("differs from %d on", c.Beyond)
	}
	return "same"
}

// slowBar shows progress on a terminal once it has taken a second.
func slowBar(w io.Writer) (show func(done, total int64), clear func()) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, func() {}
	}
	began := time.Now()
	var bar *progressbar.ProgressBar
	show = func(done, total int64) {
		if bar == nil && time.Since(began) < time.Second {
			return
		}
		if bar == nil {
			bar = newBar(w, total).ProgressBar
		}
		_ = bar.Set64(done) // a bar that cannot be drawn must not stop anything
	}
	return show, func() {
		if bar != nil {
			_ = bar.Clear()
		}
	}
}
