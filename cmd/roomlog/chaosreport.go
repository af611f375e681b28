package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/chaos"
	chaoscheck "github.com/roomlog/roomlog/internal/chaos/check"
	"github.com/roomlog/roomlog/internal/chaos/report"
)

func newChaosReport(a *app) *cobra.Command {
	r := chaosReport{app: a}
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Make runs with every fault, and write a report with plots",
		Long: `Make a run with each nemesis alone and some with all of them mixed, and write a
report of what came of it: REPORT.md and its plots. NOTES.md in the same directory
becomes a part of it. The same seed makes the same faults again.

With --from nothing is run: the report is on the histories in that directory. The
exit code is 0 if all verdicts are valid, else 1; the report is written in any case.`,
		Example: `  roomlog chaos report --out docs/chaos
  roomlog chaos report --from out/chaos --out docs/chaos`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&r.out, "out", "docs/chaos", "`DIR` for the report")
	flags.StringVar(&r.campaign.Dir, "histories", "out/chaos", "`DIR` for the histories")
	flags.StringVar(&r.from, "from", "", "`DIR` with histories: report on these")
	flags.Uint64Var(&r.campaign.Seed, "seed", 1, "of the first run; the others' follow")
	flags.DurationVar(&r.campaign.Alone, "alone", 20*time.Second, "how long each nemesis strikes alone")
	flags.DurationVar(&r.campaign.Mixed, "mixed", 2*time.Minute, "how long a mix of all strikes")
	flags.IntVar(&r.campaign.Mixes, "mixes", 4, "how many mixes, the last one with five nodes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if r.campaign.Mixes < 0 || r.campaign.Mixes > 1000 {
			return usagef("--mixes %d: give 0 to 1000", r.campaign.Mixes)
		}
		if info, err := os.Stat(r.from); r.from != "" && (err != nil || !info.IsDir()) {
			return usagef("--from %s: no such directory", r.from)
		}
		for _, o := range r.campaign.Runs() {
			if err := o.Check(); err != nil {
				return usageError{err}
			}
		}
		return r.make(cmd.Context())
	}
	return cmd
}

type chaosReport struct {
	app       *app
	out, from string
	campaign  chaos.Campaign
}

func (r *chaosReport) make(ctx context.Context) error {
	if err := os.MkdirAll(r.out, 0o755); err != nil { // now, not when all is done
		return usagef("--out: %w", err)
	}
	command := ""
	if r.from == "" {
		if err := r.runAll(ctx); err != nil {
			return err
		}
		r.from, command = r.campaign.Dir, r.command()
	}
	results, err := r.results(ctx)
	if err != nil {
		return err
	}
	notes, err := os.ReadFile(filepath.Join(r.out, report.NotesFile))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	d := report.Document{Command: command, Notes: string(notes), Runs: results}
	if err := d.Write(r.out); err != nil {
		return err
	}
	fmt.Fprintln(r.app.stdout, filepath.Join(r.out, report.DocumentFile))
	for _, result := range results {
		if result.Outcome != chaoscheck.Valid {
			return fmt.Errorf("not all are valid: %s is %s", result.History, result.Outcome)
		}
	}
	return nil
}

// command is what makes the same runs again.
func (r *chaosReport) command() string {
	c := r.campaign
	return fmt.Sprintf("roomlog chaos report --seed %d --alone %v --mixed %v --mixes %d --out %s", c.Seed, c.Alone, c.Mixed, c.Mixes, r.out)
}

// runAll makes the runs. What an earlier report left in the way is removed.
func (r *chaosReport) runAll(ctx context.Context) error {
	if err := os.MkdirAll(r.campaign.Dir, 0o755); err != nil {
		return err
	}
	old, err := histories(r.campaign.Dir)
	for _, name := range old {
		err = errors.Join(err, os.Remove(name), os.RemoveAll(logsOf(name)))
	}
	if err != nil {
		return err
	}
	for _, o := range r.campaign.Runs() {
		if err := runChaos(ctx, r.app, o); ctx.Err() != nil {
			return errInterrupted
		} else if err != nil {
			r.app.warn(err.Error()) // the report tells
		}
	}
	return nil
}

// results judges all histories anew.
func (r *chaosReport) results(ctx context.Context) (results []*chaoscheck.Result, err error) {
	names, err := histories(r.from)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		result, err := chaoscheck.File(ctx, name, chaoscheck.Options{})
		switch {
		case err != nil:
			return nil, err
		case result.Run == nil:
			return nil, fmt.Errorf("%s is not of a chaos run: its first line does not say how it was made", name)
		}
		results = append(results, result)
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("there are no histories (*.jsonl or *.jsonl.gz) in %s", r.from)
	}
	return results, nil
}

// histories are the files in a directory that are histories by their names.
func histories(dir string) ([]string, error) {
	plain, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	zipped, err := filepath.Glob(filepath.Join(dir, "*"+historySuffix))
	names := append(plain, zipped...)
	slices.Sort(names)
	return names, err
}
