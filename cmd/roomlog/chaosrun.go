package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/internal/chaos"
	chaoscheck "github.com/roomlog/roomlog/internal/chaos/check"
)

func newChaosRun(a *app) *cobra.Command {
	var o chaos.Options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Make faults in a cluster of real processes, and judge what its users were told",
		Long: `Start nodes on this machine, each on a network and a disk of its own, publish and
read, and make faults one after the other: what they are, when they come, to whom and
for how long is drawn from --seed. At the end, when all is healed, every node's rooms
are read whole and compared with what publishers and readers were told meanwhile.

The verdict is valid (no anomaly), invalid, or vacuous: too little was done, or too
few faults took effect, to tell anything. With -o json it is one JSON object. The
exit code is 0 if it is valid, else 1.

The history of the run is kept in a file, which "roomlog chaos check" judges anew: one
that nothing else is in yet, unless you name it. If the verdict is not valid the nodes'
logs are kept beside it.

Linux, root, /dev/fuse and /dev/net/tun are needed.`,
		Example: `  roomlog chaos run --seed 7 --duration 1m
  roomlog chaos run --nodes 5 --nemesis leader-kill,partition --duration 30s -o json`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&o.Seed, "seed", 0, "what everything is drawn from (default: any)")
	flags.DurationVar(&o.Duration, "duration", time.Minute, "how long faults are made, about")
	flags.IntVar(&o.Nodes, "nodes", 3, "how many nodes: 3, 5 or 7")
	flags.StringSliceVar(&o.Nemeses, "nemesis", nil, "which faults (see chaos list); mix, and the default: all, now and then two at once")
	flags.Float64Var(&o.Rate, "rate", 200, "messages published a second")
	flags.IntVar(&o.Partitions, "partitions", 4, "how many partitions")
	flags.StringVar(&o.History, "history", "", "`FILE` for the history, overwritten (default chaos-SEED.jsonl.gz, or with a number if there is one)")
	flags.StringVar(&o.Logs, "logs", "", "`DIR` that gets what the nodes print (default: beside the history, if the verdict is not valid or there is such a directory)")
	flags.StringVar(&o.Dir, "dir", "", "where the nodes' temporary directory is made (default $TMPDIR)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !flags.Changed("seed") {
			o.Seed = uint64(rand.Uint32())
		}
		if o.History == "" {
			o.History = freeHistory(o.Seed)
		}
		for flag, zero := range map[string]bool{"nodes": o.Nodes == 0, "rate": o.Rate == 0, "partitions": o.Partitions == 0, "nemesis": len(o.Nemeses) == 0} {
			if zero && flags.Changed(flag) {
				return usagef("--%s %v: leave it out for the default", flag, flags.Lookup(flag).Value)
			}
		}
		if err := o.Check(); err != nil {
			return usageError{err}
		}
		if _, err := os.Stat(filepath.Dir(o.History)); err != nil { // now, not when all is done
			return usagef("--history: %w", err)
		}
		return runChaos(cmd.Context(), a, o)
	}
	return cmd
}

// freeHistory names a file that neither holds what an earlier run found nor has its logs
// beside it.
func freeHistory(seed uint64) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("chaos-%d", seed)
		if n > 1 {
			name += fmt.Sprintf("-%d", n)
		}
		file := name + historySuffix
		if !exists(file) && !exists(logsOf(file)) {
			return file
		}
	}
}

const historySuffix = ".jsonl.gz"

// logsOf is the directory for what the nodes of a history's run print.
func logsOf(history string) string {
	return strings.TrimSuffix(strings.TrimSuffix(history, ".gz"), ".jsonl") + "-logs"
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// runChaos makes a run and prints the verdict. Logs that were not asked for are
// kept if it is not valid, or among others.
func runChaos(ctx context.Context, a *app, o chaos.Options) (err error) {
	if o.Binary, err = os.Executable(); err != nil {
		return err
	}
	o.Version = buildVersion()
	keep := o.Logs != ""
	if !keep {
		o.Logs = logsOf(o.History)
		keep = exists(o.Logs)
	}
	progress := newBenchProgress(a.stderr)
	o.Progress = progress.show
	err = chaos.Run(ctx, o)
	progress.clear()
	switch {
	case ctx.Err() != nil:
		a.warn(fmt.Sprintf("seed %d: %s has what there was until then, %s what the nodes have printed, if they had begun", o.Seed, o.History, o.Logs))
		return errInterrupted
	case err != nil:
		return err
	}
	if a.output != "json" {
		fmt.Fprintf(a.stdout, "seed %d; roomlog chaos check %s judges it again\n\n", o.Seed, o.History)
	}
	if err := checkHistory(ctx, a, o.History, chaoscheck.Options{}); err != nil {
		a.warn("what the nodes have printed is in " + o.Logs)
		return err
	}
	if keep {
		return nil
	}
	return os.RemoveAll(o.Logs)
}

func newChaosList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The faults that chaos run makes",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			return emitTable(a, chaos.Nemeses(), []string{"NEMESIS", "WHAT IT DOES"}, func(n chaos.Nemesis) []any {
				return []any{n.Name, n.Meaning}
			})
		},
	}
}
