package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"

	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/node"
)

// fakeRunning is a node that becomes ready, fails and closes when told to.
type fakeRunning struct {
	ready, failed chan error
	close         func() error
}

func newFakeRunning() *fakeRunning {
	return &fakeRunning{ready: make(chan error), failed: make(chan error, 1), close: func() error { return nil }}
}

func (f *fakeRunning) Ready() error {
	select {
	case <-f.ready:
		return nil
	default:
		return errors.New("partition 3 has no leader")
	}
}

func (f *fakeRunning) Failed() <-chan error               { return f.failed }
func (f *fakeRunning) Close() error                       { return f.close() }
func (f *fakeRunning) Addrs() (listen, peer, http string) { return "l:1", "p:2", "h:3" }

// serveFake runs serve with a fake node and returns its log and error.
func serveFake(ctx context.Context, n *fakeRunning) (log string, err error) {
	var out bytes.Buffer
	cfg := node.Config{Name: "n1", DataDir: "d", Logger: slog.New(slog.NewTextHandler(&out, nil))}
	err = serve(ctx, cfg, func(node.Config) (running, error) { return n, nil })
	return out.String(), err
}

func TestServeStopsWhenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeRunning()
		closed := 0
		n.close = func() error { closed++; return nil }
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, func() { close(n.ready) })
		time.AfterFunc(time.Minute, cancel)
		log, err := serveFake(ctx, n)
		if err != nil || closed != 1 {
			t.Errorf("serve: %v, closed %d times", err, closed)
		}
		if strings.Count(log, "msg=up node=n1 listen=l:1 peer=p:2 http=h:3 data=d") != 1 || strings.Count(log, "msg=ready") != 1 || strings.Contains(log, "not ready") {
			t.Errorf("want one line when up and one when ready:\n%s", log)
		}
		if strings.Count(log, "msg=stopping") != 1 || !strings.HasSuffix(log, "msg=stopped node=n1\n") {
			t.Errorf("want a line when it stops and one when it has:\n%s", log)
		}
	})
}

func TestServeNeverReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if log, err := serveFake(ctx, newFakeRunning()); err != nil || strings.Contains(log, "msg=ready") ||
			strings.Count(log, `msg="not ready yet" node=n1 why="partition 3 has no leader"`) != 1 {
			t.Errorf("serve: %v, want one line about what it waits for:\n%s", err, log)
		}
	})
}

func TestServeFails(t *testing.T) {
	n := newFakeRunning()
	n.close = func() error { t.Error("a failed node was asked to close"); return nil }
	n.failed <- errors.New("disk is gone")
	if _, err := serveFake(t.Context(), n); err == nil || err.Error() != "node n1 failed: disk is gone" {
		t.Errorf("serve: %v", err)
	}
}

func TestServeDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeRunning()
		release := make(chan error)
		n.close = func() error { return <-release }
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		_, err := serveFake(ctx, n)
		if took := time.Since(start); err == nil || took != closeLimit {
			t.Errorf("a hanging stop ended after %v with %v, want %v and an error", took, err, closeLimit)
		}
		close(release)
	})
}

func TestServeCannotOpen(t *testing.T) {
	inUse := errors.New("data directory d is in use")
	err := serve(t.Context(), node.Config{}, func(node.Config) (running, error) { return nil, inUse })
	if !errors.Is(err, inUse) {
		t.Errorf("serve: %v, want %v", err, inUse)
	}
}

// pair writes the certificates of a node into a new directory.
func pair(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if _, _, err := certs.Ensure(dir, "n1"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func configIn(dir string, nodes int) config {
	cfg := config{node: "n1", data: dir, listen: "127.0.0.1:0", advertise: "chat.example:7400", peer: "0.0.0.0:0", http: "127.0.0.1:0",
		ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"),
		cluster: map[string]string{}}
	for _, name := range []string{"n1", "n2"}[:nodes] {
		cfg.cluster[name] = name + ":7410"
	}
	return cfg
}

func TestCertificatesAreMadeForANodeAlone(t *testing.T) {
	cfg := configIn(filepath.Join(t.TempDir(), "data"), 1)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	ca, cert, err := cfg.certificates(true, logger)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), cfg.ca) {
		t.Errorf("want a warning that names %s: %s", cfg.ca, &log)
	}
	for _, host := range []string{"n1", "127.0.0.1", "localhost", "chat.example"} {
		if err := cert.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	log.Reset()
	again, _, err := cfg.certificates(true, logger)
	if err != nil || !bytes.Equal(again, ca) || log.Len() > 0 {
		t.Errorf("the second time: %v, %s; want the same CA and silence", err, &log)
	}
}

func TestCertificatesAreNotMadeInVain(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	cfg := configIn(filepath.Join(t.TempDir(), "data"), 1)
	cfg.http = busy.Addr().String()
	if _, _, err := cfg.certificates(true, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "(http of n1) is in use") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(cfg.data); err == nil {
		t.Error("the data directory was made")
	}
}

func TestCertificatesMissing(t *testing.T) {
	for _, tt := range []struct {
		name     string
		nodes    int
		ownFiles bool
		remove   []string
		want     string // the file that the error names
	}{
		{"all, in a cluster", 2, true, []string{"ca.pem", "cert.pem", "key.pem"}, "ca.pem"},
		{"all, named by the user", 1, false, []string{"ca.pem", "cert.pem", "key.pem"}, "ca.pem"},
		{"the key alone", 1, true, []string{"key.pem"}, "key.pem"},
		{"the certificate alone", 2, true, []string{"cert.pem"}, "cert.pem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := pair(t)
			for _, name := range tt.remove {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := configIn(dir, tt.nodes).certificates(tt.ownFiles, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, tt.want)+" is missing") || !strings.Contains(err.Error(), "roomlog certs") {
				t.Errorf("error %v, want one that names %s and the way out", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(dir, tt.want)); err == nil {
				t.Errorf("%s was made", tt.want)
			}
		})
	}
}

func TestCertificatesThatDoNotFit(t *testing.T) {
	dir, other := pair(t), pair(t)
	good := configIn(dir, 2)
	if _, _, err := good.certificates(true, nil); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*config)
		want   string
	}{
		{"another's key", func(c *config) { c.key = filepath.Join(other, "key.pem") }, "private key does not match"},
		{"a key for a CA", func(c *config) { c.ca = c.key }, "key.pem: no certificate in PEM form"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			if _, _, err := cfg.certificates(true, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// All that is configured reaches the node.
func TestNodeConfig(t *testing.T) {
	v, _, err := readFlags(t, "--node=n1", "--data=d", "--listen=h:1", "--advertise=h:2", "--peer=h:3", "--http=h:4",
		"--cluster=n1=h:3,n4=h:5", "--nonvoters=n4", "--partitions=5", "--token=t", "--session-ttl=6s", "--queue-bytes=7MiB", "--tail-bytes=8MiB", "--heartbeat=9s",
		"--segment-bytes=10MiB", "--reserve=11MiB", "--retention-age=12h", "--retention-bytes=13MiB", "--retention-messages=14",
		"--retention-policy=a/=15m,b=16s", "--drift-objective=17ms",
		"--flush-spacing=18ms", "--key-exchange=x25519")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := v.config()
	if err != nil {
		t.Fatal(err)
	}
	cfg.rebuild = []int{3}
	if never := (config{}).nodeConfig(nil, tls.Certificate{}, nil); never.FlushSpacing >= 0 {
		t.Errorf("a spacing of 0 is %v to the node, want none", never.FlushSpacing)
	}
	got := cfg.nodeConfig([]byte("ca"), tls.Certificate{}, nil)
	retention := node.Retention{Age: 12 * time.Hour, Bytes: 13 << 20, Messages: 14,
		Policies: []node.Policy{{Prefix: "a/", Age: 15 * time.Minute}, {Prefix: "b", Age: 16 * time.Second}}}
	if got.SegmentBytes != 10<<20 || got.Reserve != 11<<20 || !reflect.DeepEqual(got.Retention, retention) || !slices.Equal(got.Rebuild, []int{3}) {
		t.Errorf("node config = %+v", got)
	}
	if got.Name != "n1" || got.DataDir != "d" || got.Listen != "h:1" || got.Advertise != "h:2" || got.Peer != "h:3" || got.HTTP != "h:4" ||
		got.Members["n1"] != "h:3" || !slices.Equal(got.Nonvoters, []string{"n4"}) || got.Partitions != 5 || got.Token != "t" || string(got.CA) != "ca" ||
		got.SessionTTL != 6*time.Second || got.QueueBytes != 7<<20 || got.TailBytes != 8<<20 || got.Heartbeat != 9*time.Second ||
		got.Objective != 17*time.Millisecond || got.FlushSpacing != 18*time.Millisecond || !slices.Equal(got.KeyExchange, []tls.CurveID{tls.X25519}) ||
		got.Version == "" {
		t.Errorf("node config = %+v", got)
	}
}

func TestRebuildFlag(t *testing.T) {
	three := config{partitions: 4, cluster: map[string]string{"n1": "", "n2": "", "n3": ""}}
	for _, tt := range []struct {
		text string
		want []int
		err  string
	}{
		{"3", []int{3}, ""},
		{"3,0, 2,3", []int{0, 2, 3}, ""},
		{"all", []int{0, 1, 2, 3}, ""},
		{"4", nil, `partition "4": use numbers from 0 to 3 with commas between them, or all`},
		{"-1", nil, `partition "-1": use numbers`},
		{"1,all", nil, `partition "all": use numbers`},
		{"", nil, `partition "": use numbers`},
	} {
		got, err := three.parseRebuild(tt.text)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("--rebuild %q: %v, %v, want %v, %q", tt.text, got, err, tt.want, tt.err)
		}
	}
	for _, args := range [][]string{{"--rebuild", "all"}, {"--rebuild", "0"}} {
		got := run(t, nil, append([]string{"serve", "--data", t.TempDir()}, args...)...)
		if got.code != 2 || !strings.Contains(got.stderr, `--rebuild "`+args[1]+`": a cluster of 1 voter cannot rebuild anything`) {
			t.Errorf("alone, %v: exit %d, %q", args, got.code, got.stderr)
		}
	}
	two := "n1=127.0.0.1:1,n2=127.0.0.1:2"
	if got := run(t, nil, "serve", "--data", t.TempDir(), "--cluster", two, "--node=n1", "--rebuild", "1"); got.code != 2 ||
		!strings.Contains(got.stderr, "a cluster of 2 voters cannot rebuild") {
		t.Errorf("two nodes: exit %d, %q", got.code, got.stderr)
	}
	watcher := config{partitions: 4, node: "n3", cluster: map[string]string{"n1": "", "n2": "", "n3": ""}, nonvoters: []string{"n3"}}
	if got, err := watcher.parseRebuild("2"); !slices.Equal(got, []int{2}) || err != nil {
		t.Errorf("without a vote: %v, %v", got, err)
	}
	watcher.node = "n1"
	if _, err := watcher.parseRebuild("2"); err == nil || !strings.Contains(err.Error(), "a cluster of 2 voters cannot") {
		t.Errorf("one of two voters: %v", err)
	}
	got := run(t, nil, "serve", "--data", t.TempDir(), "--cluster", two+",n3=127.0.0.1:3", "--node=n1", "--rebuild", "16")
	if got.code != 2 || !strings.Contains(got.stderr, `--rebuild "16": partition "16": use numbers from 0 to 15`) {
		t.Errorf("out of range: exit %d, %q", got.code, got.stderr)
	}
}

// Damage is told with the very command that mends it.
func TestRemedy(t *testing.T) {
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	addSettingFlags(flags)
	flags.String("rebuild", "", "")
	flags.String("output", "", "")
	err := flags.Parse([]string{"--config", "/etc/room log.yaml", "--output=json", "--data=it's", "--token=secret", "--rebuild=1", "--node", "n1"})
	if err != nil {
		t.Fatal(err)
	}
	damage := errors.New("partition 3: f.seg at byte 4096: bad CRC")
	got := withRemedy(&node.DamagedError{Partitions: []int{3, 5}, Voters: 3, Rebuilds: true, Err: damage}, flags)
	const want = "roomlog serve --config '/etc/room log.yaml' --data 'it'\\''s' --token TOKEN --node n1 --rebuild 3,5"
	if !errors.Is(got, damage) || !strings.HasPrefix(got.Error(), damage.Error()+"\n") || !strings.HasSuffix(got.Error(), "\n  "+want) {
		t.Errorf("told %q, want the damage and then %q", got, want)
	}
	got = withRemedy(&node.DamagedError{Partitions: []int{0}, All: true, Voters: 3, Rebuilds: true, Err: damage}, pflag.NewFlagSet("", pflag.ContinueOnError))
	if !strings.HasSuffix(got.Error(), "\n  roomlog serve --rebuild all") {
		t.Errorf("told %q", got)
	}
	got = withRemedy(&node.DamagedError{Partitions: []int{0}, Voters: 2, Err: damage}, flags)
	if strings.Contains(got.Error(), "--rebuild") || !strings.Contains(got.Error(), "restore the data directory") {
		t.Errorf("a node of two is told %q", got)
	}
}
