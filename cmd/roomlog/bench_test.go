package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/internal/bench"
)

func TestBenchFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"publish --payload -1", "--payload -1: give a number from 0 to 1048576"},
		{"publish --rooms 0", "--rooms 0: give a number from 1 to"},
		{"publish --partitions 4097", "--partitions 4097: give a number from 1 to 4096"},
		{"publish --clients 64 --inflight 63", "--inflight 63: give at least one for each of the 64 clients"},
		{"publish --inflight 8193", "--inflight 8193: 8192 is the most for 1 client (8192 each); give more with --clients"},
		{"publish --rate -1", "--rate -1: give a number from 0 to"},
		{"publish --rate NaN", "--rate NaN: give a number from 0 to"},
		{"publish --duration 50ms", "--duration 50ms: give 100ms to 1h"},
		{"publish --rate x", `--rate: "x" is not a number`},
		{"publish --duration x", `--duration: "x" is not a duration`},
		{"publish --profile p --partitions 3", "--partitions and --dir are for a cluster that is started here"},
		{"publish now", `takes no arguments, but was given "now"`},
		{"publish --plot x.pdf", `--plot "x.pdf": give a name that ends in .png`},
		{"publish --plot missing/x.png", "--plot: stat missing: no such file"},
		{"publish --clients 9000 --inflight 9000", "27000 connections: this process may have "},
		{"fanout --subs 3 --rooms 4", "--subs 3: give at least one for each of the 4 rooms"},
		{"fanout --subs 3 --conns 4", "--conns 4: more than the 3 subscribers"},
		{"fanout --subs 50000", "50000 connections: this process may have "},
		{"fanout --rate 0", "--rate 0: give a number from 0.1 to"},
		{"fanout --rate 1e6 --duration 1m", "are too many messages; give a lower rate or a shorter --duration"},
		{"fanout --search --plot x.png", "--plot: it shows one rate; leave it out with --search"},
		{"fanout --limit 1s", "--limit: give it with --search"},
		{"fanout --limit 0s --search", "--limit 0s: give 1ms to 1m"},
		{"idle --subs 0", "--subs 0: give a number from 1 to"},
		{"idle --subs 3 --rooms 4", "--subs 3: give at least one for each of the 4 rooms"},
		{"failover --fault rolling --rate 100", "--rate 100: give 10 messages a second for each of the 16 partitions"},
		{"failover --fault fire", `--fault "fire": use one of [kill pause transfer drain rolling blackhole stall]`},
		{"failover --kills 0", "--kills 0: give a number from 1 to"},
		{"failover --rate 10", "--rate 10: give a number from 50 to"},
		{"failover --rooms 2", "has one room"},
		{"failover --server a:1", "starts a cluster of its own"},
		{"scene", "NAME is missing: name one of sports-final, product-launch"},
		{"scene moon-landing", `there is no scene "moon-landing": name one of sports-final,`},
		{"scene sports-final viral-moment", `also given "viral-moment"`},
		{"scene sports-final --duration 5s", "--duration 5s: a scene takes 6s at least"},
		{"scene sports-final --partitions 2", "--partitions 2: a scene needs 3 at least"},
		{"scene sports-final --rate 9", "--rate 9: give a number from 10 to"},
		{"scene sports-final --rooms 3", "a scene has its own number of rooms"},
		{"scene sports-final --scale 0", "--scale 0: give a number from 0.01 to 100"},
		{"scene sports-final --scale NaN", "--scale NaN: give a number"},
		{"scene product-launch --scale 90", "connections: this process may have "},
		{"scene sports-final --server a:1", "starts a cluster of its own"},
		{"storm --fault pause", `--fault "pause": use kill or drain`},
		{"storm --clients 3", "--clients 3: give at least one for each of the 20 rooms"},
		{"storm --rate 0", "--rate 0: give a number from 1 to"},
		{"storm --bystanders 1", "--bystanders 1: give a number from 2 to"},
		{"storm --duration 2s", "lasts until all clients have resumed"},
		{"storm --server a:1", "starts a cluster of its own"},
		{"latency --payload 23", "--payload 23: give a number from 24 to"},
		{"latency --mode async", `--mode "async": use e2e or sync`},
		{"latency --rate 0", "--rate 0: mode e2e needs a number above 0"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := run(t, nil, append([]string{"bench"}, strings.Fields(tt.args)...)...)
			if got.code != 2 || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("exit %d, stderr %q; want 2 and %q", got.code, got.stderr, tt.want)
			}
			if got.stdout != "" {
				t.Errorf("printed %q", got.stdout)
			}
		})
	}
}

// runBench runs a benchmark and returns its last line.
func runBench(t *testing.T, args string) map[string]any {
	t.Helper()
	got := run(t, nil, append([]string{"bench"}, strings.Fields(args)...)...)
	if got.code != 0 {
		t.Fatalf("%s: exit %d: %s", args, got.code, got.stderr)
	}
	lines := strings.Split(strings.TrimSuffix(got.stdout, "\n"), "\n")
	var last map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("%s: the last line is %q: %v", args, lines[len(lines)-1], err)
	}
	if text := len(lines) > 1; text == strings.Contains(args, "-o json") {
		t.Errorf("%s printed %d lines: %s", args, len(lines), got.stdout)
	}
	return last
}

// checkFigures looks for the figures that are never 0, and those that must be.
func checkFigures(t *testing.T, report map[string]any, positive string) {
	t.Helper()
	for _, name := range append(strings.Fields(positive), "duration_s", "cpus", "rooms") {
		if v, ok := report[name].(float64); !ok || v <= 0 {
			t.Errorf("%s is %v", name, report[name])
		}
	}
	for _, name := range []string{"missing", "duplicates", "reordered"} {
		if v, ok := report[name].(float64); !ok || v != 0 {
			t.Errorf("%s is %v", name, report[name])
		}
	}
	leaders, _ := report["leaders"].(map[string]any)
	if report["fsync"] != true || report["partitions"] != 3.0 || len(leaders) != 3 {
		t.Errorf("settings are %v", report)
	}
}

// checkFresh: the benchmark's own cluster is gone, and was balanced.
func checkFresh(t *testing.T, report map[string]any, dir string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	leaders, _ := report["leaders"].(map[string]any)
	if report["servers"] != "fresh" || leaders["n1"] != 1.0 || leaders["n2"] != 1.0 || leaders["n3"] != 1.0 {
		t.Errorf("the servers were %v, with leaders %v", report["servers"], leaders)
	}
}

// TestBenchFailover takes some seconds: the load runs alone for three of them.
func TestBenchFailover(t *testing.T) {
	dir := t.TempDir()
	checkFailover(t, runBench(t, "failover --partitions 3 --kills 1 --dir "+dir), dir, "kill", 1)
}

func checkFailover(t *testing.T, r map[string]any, dir, fault string, least float64) {
	t.Helper()
	checkFresh(t, r, dir)
	for _, name := range []string{"publish_gap_ms", "delivery_gap_ms", "delivery_gap_same_node_ms"} {
		gap, _ := r[name].(map[string]any)
		if low, _ := gap["min"].(float64); low < least || gap["min"] != gap["max"] {
			t.Errorf("%s is %v", name, r[name])
		}
	}
	for _, name := range []string{"lost", "duplicates", "reordered"} {
		if r[name] != 0.0 {
			t.Errorf("%s is %v", name, r[name])
		}
	}
	if r["fault"] != fault || r["kills"] != 1.0 {
		t.Errorf("%v", r)
	}
}

// TestBenchScenes plays each scene with a small crowd; whether it is contained
// depends on the machine.
func TestBenchScenes(t *testing.T) {
	for name, faults := range map[string]map[string]any{
		"sports-final":   {"kill": 1.0},
		"product-launch": {"restart": 3.0},
		"viral-moment":   {"slow reader": 5.0},
		"regional-spike": {"slow link": 1.0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they last for a fixed time
			dir := t.TempDir()
			r := runBench(t, "scene "+name+" --scale 0.05 --partitions 3 --duration 6s --dir "+dir)
			checkFresh(t, r, dir)
			for _, name := range []string{"lost", "duplicates", "reordered"} {
				if r[name] != 0.0 {
					t.Errorf("%s is %v", name, r[name])
				}
			}
			for _, name := range []string{"bystander_p99_before_ms", "bystander_p99_during_ms", "hit_p99_during_ms"} {
				if p99, _ := r[name].(float64); p99 <= 0 {
					t.Errorf("%s is %v", name, r[name])
				}
			}
			if r["scene"] != name || !reflect.DeepEqual(r["faults"], any(faults)) {
				t.Errorf("scene %v with faults %v, want %v", r["scene"], r["faults"], faults)
			}
			if v := r["verdict"]; v != bench.Contained && v != bench.NotContained || r["why"] == "" {
				t.Errorf("the verdict is %v: %v", v, r["why"])
			}
			checkSeconds(t, r["seconds"].([]any))
		})
	}
}

// checkSeconds: each has its place and messages in it.
func checkSeconds(t *testing.T, all []any) {
	t.Helper()
	delivered := 0.0
	for i, s := range all {
		second := s.(map[string]any)
		if second["t"] != float64(i) || second["published"] == 0.0 {
			t.Errorf("second %d: %v", i, second)
		}
		for _, part := range []string{"hit", "bystander"} {
			l := second[part].(map[string]any)
			if l["p50"].(float64) > l["p99"].(float64) || l["p99"].(float64) > l["max"].(float64) || l["drift_max"].(float64) > l["max"].(float64)+1 {
				t.Errorf("second %d: %s %v", i, part, l)
			}
		}
		delivered += second["delivered"].(float64)
	}
	if len(all) != 6 || delivered == 0 {
		t.Errorf("%d seconds, %v delivered", len(all), delivered)
	}
}

// TestBenchStorm takes some seconds: the load runs alone for five of them.
func TestBenchStorm(t *testing.T) {
	for name, flags := range map[string]string{"alone": "", "standby": "--standby "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := runBench(t, "storm --partitions 3 --rooms 4 --clients 40 --bystanders 4 "+flags+"--dir "+dir)
			checkFresh(t, r, dir)
			checkStorm(t, r)
			if standby := r["standby"] == true; standby != (name == "standby") {
				t.Errorf("standby is %v", r["standby"])
			}
		})
	}
}

func checkStorm(t *testing.T, r map[string]any) {
	t.Helper()
	for _, name := range strings.Fields("resumed_50_ms resumed_99_ms resumed_max_ms bystander_p50_before_ms bystander_p99_before_ms " +
		"bystander_p50_during_ms bystander_p99_during_ms server_cpu_s client_cpu_s duration_s") {
		if v, ok := r[name].(float64); !ok || v <= 0 {
			t.Errorf("%s is %v", name, r[name])
		}
	}
	for _, name := range []string{"lost", "duplicates", "reordered", "unresumed"} {
		if r[name] != 0.0 {
			t.Errorf("%s is %v", name, r[name])
		}
	}
	if r["fault"] != "kill" || r["clients"] != 40.0 {
		t.Errorf("%v", r)
	}
	if admitted := r["handshakes_admitted"].(float64); r["standby"] == nil && admitted < 40 {
		t.Errorf("%v handshakes were admitted", admitted)
	}
}

func TestBenchPublish(t *testing.T) {
	dir := t.TempDir()
	plot := filepath.Join(t.TempDir(), "p.png")
	r := runBench(t, "publish --partitions 3 --duration 200ms --rooms 4 --clients 2 --inflight 64 --dir "+dir+" --plot "+plot)
	checkFresh(t, r, dir)
	checkFigures(t, r, "acked_per_s server_cpu_us_per_msg client_cpu_us_per_msg p50_ms p99_ms p999_ms")
	if _, told := r["elections"]; !told {
		t.Errorf("elections are not told: %v", r)
	}
	if _, err := os.Stat(plot); err != nil {
		t.Error(err)
	}
}

func TestBenchIdle(t *testing.T) {
	dir := t.TempDir()
	r := runBench(t, "idle --partitions 3 --duration 100ms --subs 6 --rooms 2 -o json --dir "+dir)
	checkFresh(t, r, dir)
	checkFigures(t, r, "server_cpu_cores connects_per_s rss_before_mb rss_after_mb server_cpu_ms_per_connect")
	if _, ok := r["rss_kib_per_conn"].(float64); !ok {
		t.Errorf("rss_kib_per_conn is %v", r["rss_kib_per_conn"])
	}
}

// TestBenchRunning measures a cluster that runs already.
func TestBenchRunning(t *testing.T) {
	dir := t.TempDir()
	cluster, err := bench.StartTarget(t.Context(), os.Args[0], dir, 3, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	}()
	profiles, _ := filepath.Glob(filepath.Join(dir, "*", "profile.yaml"))
	if len(profiles) != 1 {
		t.Fatalf("profiles: %v", profiles)
	}
	const latencies = " p50_ms p99_ms p999_ms"
	for _, tt := range []struct{ name, args, positive, cpu string }{
		{"e2e", "latency --rooms 5 --rate 200", "achieved_per_s" + latencies, "server_cpu_us_per_msg"},
		{"sync", "latency --mode sync", "achieved_per_s" + latencies, "server_cpu_us_per_msg"},
		{"sync at a rate", "latency --mode sync --rate 50 -o json", "achieved_per_s rate" + latencies, "server_cpu_us_per_msg"},
		{"publish at a rate", "publish --rooms 4 --rate 300", "acked_per_s rate" + latencies, "server_cpu_us_per_msg"},
		{"fanout", "fanout --subs 9 --conns 5 --rooms 2 --stalled 1 --rate 100 -o json",
			"deliveries_per_s client_cpu_us_per_delivery spread_p99_ms" + latencies, "server_cpu_us_per_delivery"},
		{"idle", "idle --subs 3", "connects_per_s", "server_cpu_cores"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := runBench(t, tt.args+" --duration 200ms --profile "+profiles[0])
			checkFigures(t, r, tt.positive)
			if cpu, there := r[tt.cpu]; !there || cpu != nil || r["servers"] != "running" {
				t.Errorf("%s is %v, there: %v; servers are %v", tt.cpu, cpu, there, r["servers"])
			}
		})
	}
}

// TestBenchNoDir: the directory of --dir must be there.
func TestBenchNoDir(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	got := run(t, nil, "bench", "publish", "--dir", missing)
	if got.code != 1 || !strings.Contains(got.stderr, "no such file or directory") {
		t.Errorf("exit %d, stderr %q", got.code, got.stderr)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory was made")
	}
}
