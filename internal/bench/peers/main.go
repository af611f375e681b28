// Command peers measures NATS JetStream in the shapes of the standard benchmarks
// (internal/bench/system), so that the figures of one day and one machine can stand
// side by side. It prints the median of each figure as a table in Markdown, and
// keeps every report in a file.
//
// A benchmark starts three servers, as processes of their own, each with
// GOMAXPROCS=1, TLS to its clients and to the others, and "sync_interval: always":
// by its source an ack then means what it means with roomlog, fsynced on a majority.
// Streams are files with three replicas, led by the servers in turn. A publisher is
// connected to the leader of its first stream; subscribers are ordered pull
// consumers.
//
// What holds for the figures is what holds for those of roomlog (package bench):
// latencies count from when a message was due, or sent where no rate is given;
// nothing is counted in the first second, but everything is checked; CPU time
// is what the kernel has accounted to the processes, all threads, user and system.
//
// It is a module of its own, for NATS is not to be among roomlog's dependencies,
// and it runs on Linux only. "make bench-peers" builds and runs it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// row is one benchmark: what is published, how, and who hears it.
type row struct {
	name     string
	streams  int
	subjects int // of all streams together
	payload  int // bytes of a message
	clients  int // publishers, each with its own connection
	inFlight int // messages without an ack, of each publisher; 0: each call waits for its ack
	rate     int // messages a second; 0: as fast as acks come
	subs     int // subscribers of all subjects, each with its own connection
}

var rows = []row{
	{name: "one stream, one connection", streams: 1, subjects: 1, payload: 128, clients: 1, inFlight: 4096},
	{name: "8 streams", streams: 8, subjects: 64, payload: 128, clients: 1, inFlight: 4096},
	{name: "1 KiB, 8 streams", streams: 8, subjects: 64, payload: 1024, clients: 1, inFlight: 4096},
	{name: "64 connections x 8", streams: 8, subjects: 64, payload: 128, clients: 64, inFlight: 8},
	{name: "sync", streams: 1, subjects: 1, payload: 128, clients: 1},
	{name: "e2e, 1k/s", streams: 1, subjects: 1, payload: 128, clients: 1, inFlight: 4096, rate: 1000, subs: 1},
	{name: "e2e, 10k/s", streams: 1, subjects: 1, payload: 128, clients: 1, inFlight: 4096, rate: 10000, subs: 1},
	{name: "1,000 subscribers x 100", streams: 1, subjects: 1, payload: 128, clients: 1, inFlight: 4096, rate: 100, subs: 1000},
}

// settings are the row in words.
func (r row) settings() string {
	s := fmt.Sprintf("streams %d, subjects %d, payload %d, clients %d, in flight %d each",
		r.streams, r.subjects, r.payload, r.clients, max(r.inFlight, 1))
	if r.rate > 0 {
		s += fmt.Sprintf(", rate %d, subs %d", r.rate, r.subs)
	}
	return s
}

// shown are the figures of the table, in this order where a report has them.
var shown = []string{
	"acked_per_s", "achieved_per_s", "deliveries_per_s", "p50_ms", "p99_ms", "p999_ms",
	"server_cpu_us_per_msg", "server_cpu_us_per_delivery", "client_cpu_us_per_msg", "client_cpu_us_per_delivery",
	"send_late_p99_ms", "missing", "duplicates",
}

type report map[string]float64

func main() {
	server := flag.String("server", "bin/nats-server", "the nats-server binary")
	runs := flag.Int("runs", 3, "how often each benchmark runs")
	duration := flag.Duration("duration", 8*time.Second, "how long to measure, after a warm-up of a second")
	only := flag.String("only", "", "run only those whose name or settings hold this")
	keep := flag.String("keep", "", "file that gets every report, a line each")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	runtime.LockOSThread() // servers die with the thread that has started them
	if err := run(ctx, *server, *runs, *duration, chosen(*only), *keep, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func chosen(only string) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool {
		return !strings.Contains(r.name, only) && !strings.Contains(r.settings(), only)
	})
}

// run measures all rows once, then all of them again, so that a machine that slows
// down for a while does so for all.
func run(ctx context.Context, server string, runs int, d time.Duration, rows []row, keep string, out io.Writer) error {
	kept := io.Discard
	if keep != "" {
		f, err := os.Create(keep)
		if err != nil {
			return err
		}
		defer f.Close()
		kept = f
	}
	version, err := exec.Command(server, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", server, err)
	}
	reports := make([][]report, len(rows))
	for n := range runs {
		for i, r := range rows {
			fmt.Fprintf(os.Stderr, "run %d of %d: %s (%s)\n", n+1, runs, r.name, r.settings())
			rep, err := measure(ctx, server, r, d)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			reports[i] = append(reports[i], rep)
			line := map[string]any{"bench": r.name, "settings": r.settings(), "duration_s": d.Seconds(), "figures": rep}
			if err := json.NewEncoder(kept).Encode(line); err != nil {
				return err
			}
		}
	}
	if _, err := fmt.Fprintf(out, "%s, nats.go: v%s; %d servers with GOMAXPROCS=%d each on %d CPUs; R3, file, sync_interval always, TLS; "+
		"%v after %v, medians of %d\n\n",
		bytes.TrimSpace(version), nats.Version, nodes, procs, runtime.NumCPU(), d, warmUp, runs); err != nil {
		return err
	}
	return table(out, rows, reports)
}

// table prints a line for each row: its medians.
func table(w io.Writer, rows []row, reports [][]report) error {
	if _, err := fmt.Fprint(w, "| benchmark | settings | medians |\n| --- | --- | --- |\n"); err != nil {
		return err
	}
	for i, r := range rows {
		var cells []string
		for _, name := range shown {
			if v, ok := median(reports[i], name); ok {
				cells = append(cells, fmt.Sprintf("%s %v", name, v))
			}
		}
		if _, err := fmt.Fprintf(w, "| %s | %s | %s |\n", r.name, r.settings(), strings.Join(cells, ", ")); err != nil {
			return err
		}
	}
	return nil
}

// median is that of one figure; of an even number the lower one in the middle.
// ok is false if no report has it.
func median(reports []report, name string) (v float64, ok bool) {
	var all []float64
	for _, r := range reports {
		if v, ok := r[name]; ok {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	return all[(len(all)-1)/2], true
}
