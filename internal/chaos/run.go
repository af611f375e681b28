package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/check"
	"github.com/roomlog/roomlog/internal/chaos/history"
	"github.com/roomlog/roomlog/internal/devcluster"
)

// Options say what a run shall be. Binary, History and Duration are needed.
type Options struct {
	Binary   string        // the roomlog binary
	History  string        // file that is written; gzipped if it ends in .gz
	Dir      string        // where the nodes' directories are made; "" is the system's place for such
	Seed     uint64        // of everything that is drawn
	Duration time.Duration // of the faults, about; start and end take some 10 s more
	Nodes    int           // 3 unless given
	Nemeses  []string      // names; none, or Mix: all, now and then two at once

	Partitions int     // 4 unless given
	Rooms      int     // 8 unless given
	Rate       float64 // messages a second, 200 unless given

	Forget bool // at a power cut all that was not synced is gone, and not just some

	Settings map[string]string // of the nodes, over those of a run
	Env      []string          // of the nodes: KEY=value
	Version  string            // of the binary, for the history
	Logs     string            // directory that gets what the nodes have printed; "": nowhere

	// Progress, if not nil, is told what happens, and how much is done, 0 to 1.
	Progress func(what string, done float64)
}

// Bounds of a run.
const (
	MinDuration = 2 * time.Second
	MaxDuration = 24 * time.Hour
	MaxNodes    = 7

	minRate, maxRate = 1, 100_000
	maxPartitions    = 256
	maxMessages      = 20_000_000 // the checker keeps all of them in memory
)

// Check completes the options, and tells what is wrong with them.
func (o *Options) Check() error {
	o.Nodes = orDefault(o.Nodes, 3)
	o.Partitions = orDefault(o.Partitions, 4)
	o.Rooms = orDefault(o.Rooms, 8)
	o.Rate = orDefault(o.Rate, 200)
	if o.Progress == nil {
		o.Progress = func(string, float64) {}
	}
	switch {
	case o.Duration < MinDuration || o.Duration > MaxDuration:
		return fmt.Errorf("duration %v: give %v to %v", o.Duration, MinDuration, MaxDuration)
	case o.Nodes < 3 || o.Nodes > MaxNodes || o.Nodes%2 == 0:
		return fmt.Errorf("%d nodes: give 3, 5 or 7", o.Nodes)
	case !(o.Rate >= minRate && o.Rate <= maxRate):
		return fmt.Errorf("rate %v: give %d to %d", o.Rate, minRate, maxRate)
	case o.Rate*o.Duration.Seconds() > maxMessages:
		return fmt.Errorf("rate %v for %v are too many messages: the most are %d", o.Rate, o.Duration, maxMessages)
	case o.Partitions < 1 || o.Partitions > maxPartitions:
		return fmt.Errorf("%d partitions: give 1 to %d", o.Partitions, maxPartitions)
	}
	_, err := find(o.Nemeses)
	return err
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// settings make files roll, checkpoints come and old messages go within a run.
var settings = map[string]string{"segment-bytes": "1MiB", "retention-bytes": "8MiB", "log-level": "info"}

// In the end of a longer run there is quiet, in which nobody has a reason to elect.
const (
	quietAfter = 30 * time.Second
	quiet      = check.ElectionGrace + 5*time.Second
)

const (
	publishers = 4
	seekers    = 2
	filler     = 1 << 10 // bytes
)

// run is one run.
type run struct {
	opts    Options
	cluster *cluster
	rec     *recorder
	load    *load
	strikes []strike
	done    float64     // share of them
	ends    atomic.Bool // nodes may end by themselves, and rightly
}

// Run makes a cluster, has it suffer, and writes down what its users were told, for
// the verdict of package check. That a cluster does not serve again is in the
// history, too. An error means that there is none: the machine lacks something.
func Run(ctx context.Context, opts Options) error {
	if err := opts.Check(); err != nil {
		return err
	}
	nemeses, err := find(opts.Nemeses)
	if err != nil {
		return err
	}
	w, err := history.Create(opts.History)
	if err != nil {
		return err
	}
	r := &run{opts: opts, rec: newRecorder(w), strikes: plan(opts.Seed, opts.Duration, nemeses, mixed(opts.Nemeses))}
	r.header(w)
	return errors.Join(r.live(ctx), w.Close())
}

// mixed tells whether nemeses may strike at the same time.
func mixed(names []string) bool { return len(names) == 0 || slices.Contains(names, Mix) }

// header writes what the run is, and the least that it must hold to prove anything.
func (r *run) header(w *history.Writer) {
	o := r.opts
	names := make([]string, o.Nodes)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i+1)
	}
	least := int64(math.Ceil(o.Rate * o.Duration.Seconds() / 4))
	nodes := int64(o.Nodes)
	w.Write(history.Op{Process: history.Nemesis, Type: history.Info, F: history.FRun, Value: &history.Run{
		Name: "chaos", Seed: o.Seed, Version: o.Version, Machine: machine(), Began: w.Began().Format(time.RFC3339Nano),
		Nodes: names, Partitions: o.Partitions, Nemeses: named(r.strikes), Duration: o.Duration.Seconds(),
		Floors: history.Floors{Ops: map[history.F]int64{
			history.FPublish: least, history.FPoll: least, history.FHead: int64(o.Duration.Seconds()),
			history.FReady: int64(len(r.strikes)), history.FFinal: nodes * int64(o.Rooms),
			history.FReplica: nodes * int64(o.Partitions), history.FVerify: nodes - 1, // the last: without them it broke off
		}},
	}})
}

// machine describes what this runs on.
func machine() string {
	return fmt.Sprintf("%d processors (%s, %s)", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
}

// live is a cluster's life from start to end.
func (r *run) live(ctx context.Context) (err error) {
	all := maps.Clone(settings)
	maps.Copy(all, r.opts.Settings)
	r.opts.Progress("starting the cluster", 0)
	r.cluster, err = startCluster(ctx, r.opts, all, func(e devcluster.Exit) { r.rec.exited(e, r.ends.Load()) })
	defer func() {
		if errors.Is(err, errStuck) { // the verdict tells; and so does how its end comes
			err = nil
		}
		err = errors.Join(err, r.cluster.keepLogs(r.opts.Logs), r.cluster.close())
	}()
	if errors.Is(err, errStuck) {
		r.rec.ready([]string{"start"}, err)
	}
	if err != nil {
		return err
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	watched, unwatch := context.WithCancel(ctx)
	defer unwatch()
	watching.Go(func() { r.observe(watched) })
	watching.Go(func() { r.watchMachine(watched) })

	w := workload{rooms: r.opts.Rooms, publishers: publishers, seekers: seekers, rate: r.opts.Rate, filler: filler}
	r.load, err = startLoad(ctx, r.cluster, r.rec, w, r.opts.Seed)
	defer r.load.close()
	if err != nil {
		return err
	}
	if err := r.load.flows(ctx); err != nil {
		return err
	}
	err = r.follow(ctx)
	if err == nil && r.opts.Duration >= quietAfter {
		r.opts.Progress("nothing", 1)
		err = wait(ctx, quiet)
	}
	if err == nil {
		r.opts.Progress("reading everything", 1)
		err = r.finish(ctx)
	}
	unwatch() // elections come as nodes stop
	watching.Wait()
	if err == nil {
		err = r.compare(ctx)
	}
	return err
}

// keepLogs copies what the nodes have printed to a directory, if there is one.
func (c *cluster) keepLogs(dir string) error {
	if dir == "" || c.procs == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for _, n := range c.procs.Layout().Nodes {
		printed, err := os.ReadFile(n.Log)
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, n.Name+".log"), printed, 0o644))
	}
	return errors.Join(errs...)
}
