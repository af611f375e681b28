package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	chaoscheck "github.com/roomlog/roomlog/internal/chaos/check"
	"github.com/roomlog/roomlog/internal/chaos/history"
)

func newChaos(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break a cluster on purpose and judge what it did",
	}
	cmd.AddCommand(newChaosRun(a), newChaosCheck(a), newChaosReport(a), newChaosList(a))
	return cmd
}

func newChaosCheck(a *app) *cobra.Command {
	var o chaoscheck.Options
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Judge a history",
		Long: `Judge the history of a chaos run, a file of one op a line (gzipped if its name
ends in .gz), and print the verdict: valid, invalid (with the anomalies that were
found), or vacuous (nothing was found, but too little was done or broken to prove
anything: the history's first line says what is enough). The exit code is 0
only if it is valid.

docs/chaos/HISTORY.md describes the format, the anomalies and the figures.`,
		Example: `  roomlog chaos check out/history.jsonl.gz
  roomlog chaos check history.jsonl --max-lag 5s -o json`,
		Args: oneArg("FILE"),
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.StuckAfter, "stuck-after", chaoscheck.StuckAfter, "a room without a commit for longer, though publishes are open and a quorum is there, is stuck")
	flags.DurationVar(&o.MaxLag, "max-lag", 0, "a message handed over longer after its ack is late (default: only a figure)")
	flags.DurationVar(&o.ElectionGrace, "election-grace", chaoscheck.ElectionGrace, "how long after a fault's end elections are its doing")
	flags.IntVar(&o.Examples, "examples", chaoscheck.Examples, "how many cases of each anomaly to show")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.StuckAfter <= 0 || o.ElectionGrace <= 0 || o.MaxLag < 0 || o.Examples <= 0 {
			return usagef("--stuck-after, --election-grace, --max-lag and --examples must be above 0")
		}
		if info, err := os.Stat(args[0]); err != nil || info.IsDir() {
			return usagef("%s: no such file", args[0])
		}
		return checkHistory(cmd.Context(), a, args[0], o)
	}
	return cmd
}

// checkHistory prints the verdict over a history; only a valid one is no error.
func checkHistory(ctx context.Context, a *app, path string, o chaoscheck.Options) error {
	r, err := chaoscheck.File(ctx, path, o)
	if err != nil {
		return err
	}
	if err := a.emit(r, func(w io.Writer) { printVerdict(w, r) }); err != nil {
		return err
	}
	switch r.Outcome {
	case chaoscheck.Valid:
		return nil
	case chaoscheck.Invalid:
		var found []string
		for _, f := range r.Findings {
			found = append(found, string(f.Name))
		}
		return fmt.Errorf("%s: invalid: %s", path, strings.Join(found, ", "))
	}
	var missed []error
	for _, m := range r.Missed {
		missed = append(missed, fmt.Errorf("%s: vacuous: %s", path, m))
	}
	return errors.Join(missed...)
}

// printVerdict writes a verdict for people.
func printVerdict(w io.Writer, r *chaoscheck.Result) {
	printCounts(w, r)
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s: %d. %s\n", f.Name, f.Count, f.Meaning)
		for _, e := range f.Examples {
			fmt.Fprintf(w, "  ops %v: %s\n", e.Ops, e.Text)
		}
		fmt.Fprintln(w)
	}
	f := &r.Figures
	fmt.Fprintf(w, "%d ops, %d messages, %d rooms in %.1f s\n", r.Ops, f.Messages, f.Rooms, f.Duration)
	fmt.Fprintf(w, "drift p50 %.1f ms, p99 %.1f ms, max %.1f ms; worst realtime lag %.1f ms; longest wait for a commit %.1f ms\n",
		f.Drift.P50, f.Drift.P99, f.Drift.Max, f.RealtimeLag, f.LongestWait)
	fmt.Fprintf(w, "elections were judged during %.1f s, in which no fault was on or just over\n", f.Judged)
	l := &f.Linear
	fmt.Fprintf(w, "linearizable: %d of %d slices checked, %d illegal, %d undecided\n", l.Checked, l.Slices, l.Illegal, l.Unknown)
	for _, m := range r.Missed {
		fmt.Fprintf(w, "too little: %s\n", m)
	}
	fmt.Fprintln(w, r.Outcome)
}

// printCounts writes the tables: ops, faults, and all anomalies that were looked for.
func printCounts(w io.Writer, r *chaoscheck.Result) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	printRow(tw, []string{"OP", "INVOKE", "OK", "FAIL", "INFO", "MESSAGES"})
	for _, f := range slices.SortedFunc(maps.Keys(r.Counts), cmp.Compare[history.F]) {
		n := r.Counts[f]
		printRow(tw, []any{f, n.Invoke, n.OK, n.Fail, n.Info, n.Messages})
	}
	printRow(tw, []string{""})
	tw.Flush()
	if len(r.Faults) > 0 {
		printRow(tw, []string{"FAULT", "EFFECTS", "UNAVAILABLE MS"})
		for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
			printRow(tw, []any{name, r.Faults[name], fmt.Sprintf("%.1f", r.Unavailable(name))})
		}
		printRow(tw, []string{""})
		tw.Flush()
	}
	printRow(tw, []string{"ANOMALY", "FOUND"})
	for _, name := range chaoscheck.Anomalies() {
		printRow(tw, []any{name, r.Anomalies[name]})
	}
	printRow(tw, []string{""})
	tw.Flush()
}
