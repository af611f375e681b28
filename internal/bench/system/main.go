// Command system runs the standard benchmarks of the whole system several times,
// one round after the other, so that a machine that slows down for a while does
// so for all of them. It prints the median of each figure as a table in
// Markdown, and keeps every report in a file.
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
	"slices"
	"strings"
	"syscall"
)

// row is one standard benchmark.
type row struct {
	name string
	args string // of "roomlog bench"
}

var rows = []row{
	{"one room, one connection", "publish"},
	{"8 partitions", "publish --rooms 64"},
	{"64 connections x 8", "publish --rooms 64 --clients 64 --inflight 512"},
	{"1 KiB, 8 partitions", "publish --rooms 64 --payload 1024"},
	{"sync", "latency --mode sync"},
	{"e2e, 1k/s", "latency --rate 1000"},
	{"e2e, 10k/s", "latency --rate 10000"},
	{"1,000 subscribers x 100", "fanout --subs 1000 --rate 100"},
	{"1,000 subscribers x 400", "fanout --subs 1000 --rate 400"},
	{"1,000 subscribers, the most", "fanout --subs 1000 --rate 100 --search --duration 5s"},
	{"5,000 idle subscribers", "idle --subs 5000 --rooms 64 --partitions 16"},
	{"10 subscribers, 10k/s", "fanout --subs 10 --rate 10000"},
	{"the same, one more is stalled", "fanout --subs 10 --rate 10000 --stalled 1"},
}

// shown are the figures of the table, in this order where a report has them.
var shown = []string{
	"acked_per_s", "achieved_per_s", "rate", "deliveries_per_s", "p50_ms", "p99_ms", "p999_ms", "spread_ms",
	"server_cpu_us_per_msg", "server_cpu_us_per_delivery", "client_cpu_us_per_msg", "client_cpu_us_per_delivery",
	"rss_kib_per_conn", "server_cpu_cores", "server_cpu_ms_per_connect", "missing", "duplicates", "reordered",
}

type report map[string]any

func main() {
	binary := flag.String("binary", "bin/roomlog", "the roomlog binary")
	runs := flag.Int("runs", 3, "how often each benchmark runs")
	only := flag.String("only", "", "run only those whose name or arguments hold this")
	keep := flag.String("keep", "", "file that gets every report, a line each")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	words, err := machine()
	if err != nil {
		fmt.Fprintln(os.Stderr, "system:", err)
		os.Exit(1)
	}
	fmt.Printf("Machine: %s.\n\n", words)
	if err := run(ctx, *binary, *runs, chosen(*only), *keep, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "system:", err)
		os.Exit(1)
	}
}

func chosen(only string) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool {
		return !strings.Contains(r.name, only) && !strings.Contains(r.args, only)
	})
}

func run(ctx context.Context, binary string, runs int, rows []row, keep string, out io.Writer) error {
	var kept io.Writer = io.Discard
	if keep != "" {
		f, err := os.Create(keep)
		if err != nil {
			return err
		}
		defer f.Close()
		kept = f
	}
	reports := make([][]report, len(rows))
	for n := range runs {
		for i, r := range rows {
			fmt.Fprintf(os.Stderr, "run %d of %d: roomlog bench %s\n", n+1, runs, r.args)
			line, err := bench(ctx, binary, r.args)
			if err != nil {
				return fmt.Errorf("bench %s: %w", r.args, err)
			}
			if _, err := kept.Write(line); err != nil {
				return err
			}
			var rep report
			if err := json.Unmarshal(line, &rep); err != nil {
				return fmt.Errorf("bench %s printed %q: %w", r.args, line, err)
			}
			reports[i] = append(reports[i], rep)
		}
	}
	return table(out, rows, reports)
}

// bench runs one benchmark and returns the line that it prints. A signal reaches
// it too: it then stops its cluster by itself.
func bench(ctx context.Context, binary, args string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, binary, append([]string{"bench", "-o", "json"}, strings.Fields(args)...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	err := cmd.Run()
	return out.Bytes(), err
}

// table prints a line for each row: its medians.
func table(w io.Writer, rows []row, reports [][]report) error {
	if _, err := fmt.Fprint(w, "| benchmark | `roomlog bench …` | medians |\n| --- | --- | --- |\n"); err != nil {
		return err
	}
	for i, r := range rows {
		var cells []string
		for _, name := range shown {
			if v, ok := median(reports[i], name); ok {
				cells = append(cells, fmt.Sprintf("%s %v", name, v))
			}
		}
		if _, err := fmt.Fprintf(w, "| %s | `%s` | %s |\n", r.name, r.args, strings.Join(cells, ", ")); err != nil {
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
		if v, ok := r[name].(float64); ok {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	return all[(len(all)-1)/2], true
}
