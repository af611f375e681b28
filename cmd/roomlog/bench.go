package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roomlog/roomlog/internal/bench"
	"github.com/roomlog/roomlog/transport/wire"
)

func newBench(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a cluster under load",
		Long: `Measure a cluster under load. Each benchmark starts three nodes of its own on this
machine, with fsync and TLS as always, in a directory that it removes. With
--profile or --server it loads the cluster named there instead (ROOMLOG_PROFILE alone
does not do that); the CPU time and memory of its servers are not known then, and
null.

The last line of the output is one JSON object with the settings and the figures,
with -o json it is the only one. Times of messages count from when they were due,
also if they could not be sent then.`,
	}
	cmd.AddCommand(newBenchPublish(a), newBenchLatency(a), newBenchFanout(a), newBenchIdle(a), newBenchFailover(a), newBenchScene(a), newBenchStorm(a), newBenchStormCrowd())
	return cmd
}

// benchmark is a benchmark's command line.
type benchmark struct {
	app      *app
	flags    *pflag.FlagSet
	settings bench.Settings
	duration time.Duration
	dir      string
	plot     string         // file
	nodes    int            // of a cluster that is started here
	checks   []func() error // of the flags' values
	network  bool           // the cluster gets a network of its own
	disks    bool           // or disks
}

// newBenchmark adds the flags that all benchmarks have.
func newBenchmark(a *app, cmd *cobra.Command, name string, duration time.Duration, partitions int) *benchmark {
	b := &benchmark{app: a, flags: cmd.Flags(), settings: bench.Settings{Bench: name}, nodes: 3}
	cmd.Args = noArgs
	b.flags.DurationVar(&b.duration, "duration", duration, "how long to measure, after a warm-up of a second")
	b.flags.StringVar(&b.dir, "dir", "", "where the cluster's temporary directory is made (default $TMPDIR)")
	b.count(&b.settings.Rooms, "rooms", 1, 1, 100_000, "how many rooms, spread evenly over the partitions")
	b.count(&b.settings.Partitions, "partitions", partitions, 1, maxPartitions, "how many partitions the cluster gets")
	b.check(func() error {
		switch {
		case b.duration < 100*time.Millisecond || b.duration > time.Hour:
			return usagef("--duration %v: give 100ms to 1h", b.duration)
		case b.running() && (b.flags.Changed("partitions") || b.flags.Changed("dir")):
			return usagef("--partitions and --dir are for a cluster that is started here: leave them out with --profile and --server")
		}
		return nil
	})
	return b
}

func (b *benchmark) check(f func() error) { b.checks = append(b.checks, f) }

// count adds a flag that is a whole number.
func (b *benchmark) count(value *int, name string, def, least, most int, usage string) {
	b.flags.IntVar(value, name, def, usage)
	b.check(func() error {
		if *value < least || *value > most {
			return usagef("--%s %d: give a number from %d to %d", name, *value, least, most)
		}
		return nil
	})
}

// rate adds --rate; least is 0 where it may be left out.
func (b *benchmark) rate(def, least float64, usage string) {
	const most = 10e6
	b.flags.Float64Var(&b.settings.Rate, "rate", def, usage)
	b.check(func() error {
		if r := b.settings.Rate; !(r >= least && r <= most) {
			return usagef("--rate %v: give a number from %v to %v", r, least, most)
		}
		return nil
	})
}

func (b *benchmark) payload(least int) {
	b.count(&b.settings.Payload, "payload", 128, least, wire.MaxPayload, "bytes of a message")
}

// plotFlag adds --plot.
func (b *benchmark) plotFlag() {
	b.flags.StringVar(&b.plot, "plot", "", "draw latencies over time into this PNG file")
	b.check(func() error {
		if b.settings.Plot = b.plot != ""; !b.settings.Plot {
			return nil
		}
		if !strings.HasSuffix(b.plot, ".png") {
			return usagef("--plot %q: give a name that ends in .png", b.plot)
		}
		if _, err := os.Stat(filepath.Dir(b.plot)); err != nil { // now, not when all has been measured
			return usagef("--plot: %w", err)
		}
		return nil
	})
}

// files checks that so many connections can be made.
func (b *benchmark) files(conns int) error {
	const others = 100
	if most := bench.MaxFiles(); most > 0 && conns+others > most {
		return usagef("%d connections: this process may have %d files and sockets open; ask for fewer, or raise the limit (ulimit -n)",
			conns, most)
	}
	return nil
}

// running tells whether a cluster that runs is to be measured. It must be named
// on the command line: a variable that was set for other commands shall not turn
// a load against a cluster in use.
func (b *benchmark) running() bool { return b.app.given("profile") || b.app.given("server") }

// target starts the cluster, or finds it.
func (b *benchmark) target(ctx context.Context) (*bench.Target, error) {
	if !b.running() {
		if dir := cmp.Or(b.dir, os.TempDir()); bench.InMemory(dir) {
			b.app.warn(dir + " lies in memory, where an fsync costs nothing: name a directory on a disk with --dir")
		}
		binary, err := os.Executable()
		if err != nil {
			return nil, err
		}
		start := bench.StartTarget
		if b.network {
			start = bench.StartTargetOnNet
		} else if b.disks {
			start = bench.StartTargetOnDisks
		}
		return start(ctx, binary, b.dir, b.nodes, b.settings.Partitions)
	}
	p, err := b.app.loadProfile()
	if err != nil {
		return nil, err
	}
	conf, err := p.tls()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.app.timeout)
	defer cancel()
	t, err := bench.JoinTarget(ctx, p.Servers, conf, p.Token)
	if err != nil {
		return nil, cannotConnect(p.Servers, err)
	}
	return t, nil
}

// figures are what a benchmark has found.
type figures struct {
	report any               // one line of JSON
	course *bench.Course     // for --plot
	text   func(w io.Writer) // for people
}

// run checks the flags, calls measure with a cluster, and prints what it finds.
func (b *benchmark) run(ctx context.Context, measure func(context.Context, *bench.Target, bench.Progress) (figures, error)) error {
	for _, check := range b.checks {
		if err := check(); err != nil {
			return err
		}
	}
	progress := newBenchProgress(b.app.stderr)
	found, err := b.measure(ctx, measure, progress.show)
	progress.clear()
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case err != nil:
		return err
	}
	if b.plot != "" {
		if err := found.course.Draw("roomlog bench "+b.settings.Bench, b.plot); err != nil {
			return err
		}
	}
	if b.app.output == "text" {
		if err := b.app.emit(nil, found.text); err != nil {
			return err
		}
	}
	return b.app.emitJSON(found.report)
}

func (b *benchmark) measure(ctx context.Context, measure func(context.Context, *bench.Target, bench.Progress) (figures, error),
	progress bench.Progress) (found figures, err error) {
	go paceGC(ctx) // it shares the machine with the servers
	progress("starting the cluster", 0)
	t, err := b.target(ctx)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	return measure(ctx, t, progress)
}

// benchProgress shows on a terminal how far a benchmark has come.
type benchProgress struct{ bar *progressbar.ProgressBar }

func newBenchProgress(w io.Writer) benchProgress {
	return benchProgress{progressBar(w, 1000)}
}

func (p benchProgress) show(what string, done float64) {
	if p.bar == nil {
		return
	}
	p.bar.Describe(what)
	_ = p.bar.Set64(min(int64(done*1000), 999)) // a bar that cannot be drawn must not stop the benchmark
}

func (p benchProgress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
