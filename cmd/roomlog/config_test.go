package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// readFlags gathers the settings of a command line.
func readFlags(t *testing.T, args ...string) (values, []string, error) {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	addSettingFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return readValues(flags)
}

func TestOrigins(t *testing.T) {
	file := write(t, "node.conf", `
node: N.1
data: .
key: /secret/key.pem
cluster: {N.1: 127.0.0.1:7411, n2: 127.0.0.1:7412}
partitions: 8
heartbeat: 1s
session-ttl: 1h
token:
`)
	dir := filepath.Dir(file)
	t.Setenv("ROOMLOG_HEARTBEAT", "2s")
	t.Setenv("ROOMLOG_SESSION_TTL", "2h")
	t.Setenv("ROOMLOG_PARTITIONS", "")
	t.Setenv("ROOMLOG_CERT", "cert.pem")
	v, warnings, err := readFlags(t, "--config", file, "--session-ttl", "3h", "--ca", "ca.pem")
	if err != nil || warnings != nil {
		t.Fatal(warnings, err)
	}
	for _, want := range (values{
		{"node", "N.1", "file " + file},
		{"data", dir, "file " + file},                // relative to the file
		{"key", "/secret/key.pem", "file " + file},   // absolute
		{"ca", "ca.pem", "flag --ca"},                // relative to the working directory
		{"cert", "cert.pem", "env ROOMLOG_CERT"},     // likewise
		{"partitions", "8", "file " + file},          // an empty variable is none
		{"heartbeat", "2s", "env ROOMLOG_HEARTBEAT"}, // over the file
		{"session-ttl", "3h", "flag --session-ttl"},  // over both
		{"token", "", "default"},                     // a null in the file is none
		{"peer", "127.0.0.1:7411", "default"},        // the cluster's
		{"listen", "127.0.0.1:7400", "default"},      //
		{"advertise", "127.0.0.1:7400", "default"},   // what will be told
		{"cluster", "N.1=127.0.0.1:7411,n2=127.0.0.1:7412", // names keep case and dots
			"file " + file},
	}) {
		if got := *v.at(want.Key); got != want {
			t.Errorf("%s = %+v, want %+v", want.Key, got, want)
		}
	}
	cfg, err := v.config()
	if want := map[string]string{"N.1": "127.0.0.1:7411", "n2": "127.0.0.1:7412"}; err != nil || !reflect.DeepEqual(cfg.cluster, want) {
		t.Errorf("cluster = %v, %v, want %v", cfg.cluster, err, want)
	}
}

func TestDefaults(t *testing.T) {
	v, _, err := readFlags(t)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := v.config()
	want := config{
		node: "n1", data: "roomlog-data",
		listen: "127.0.0.1:7400", peer: "127.0.0.1:7410", http: "127.0.0.1:7420",
		cluster:    map[string]string{"n1": "127.0.0.1:7410"},
		partitions: 16,
		ca:         "roomlog-data/ca.pem", cert: "roomlog-data/cert.pem", key: "roomlog-data/key.pem",
		sessionTTL: 10 * time.Minute, heartbeat: 500 * time.Millisecond, objective: 100 * time.Millisecond, spacing: 60 * time.Millisecond,
		queueBytes: 16 << 20, tailBytes: 8 << 20, segmentBytes: 64 << 20, reserve: 256 << 20,
		logLevel: slog.LevelInfo, fastFailover: true,
	}
	if err != nil || !reflect.DeepEqual(cfg, want) {
		t.Errorf("config = %+v, %v, want %+v", cfg, err, want)
	}
}

// Every value that serve refuses, and both sides of each edge. An empty want is
// a value that is good.
func TestValidation(t *testing.T) {
	const three = "--cluster=n1=127.0.0.1:7410,n2=127.0.0.1:7411"
	long := strings.Repeat("x", 65)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"alone", []string{"--node", "a-b_c.D9"}, ""},
		{"a node of the cluster", []string{three, "--node", "n2"}, ""},
		{"not named", []string{three}, `node: "" (default): say which node of the cluster this one is`},
		{"not in the cluster", []string{three, "--node", "n3"}, `node: "n3" (flag --node): the cluster has no such node: use one of n1, n2`},
		{"a name with a space", []string{"--node", "n 1"}, `node: "n 1" (flag --node): node name "n 1": use letters`},
		{"a name with =", []string{"--node", "a=b"}, `use letters, digits`},
		{"a name beyond ASCII", []string{"--node", "né"}, `use letters, digits`},
		{"a name that begins with a dash", []string{"--node=-n1"}, `use letters, digits`},
		{"a name that ends with a dot", []string{"--node=n1."}, `use letters, digits`},
		{"the longest name", []string{"--node", long[:64]}, ""},
		{"a name too long", []string{"--node", long}, "use at most 64 letters"},

		{"no data", []string{"--data="}, `data: "" (flag --data): give a path`},

		{"any port", []string{"--listen", "127.0.0.1:0", "--http", "[::1]:0"}, ""},
		{"highest port", []string{"--listen", "127.0.0.1:65535"}, ""},
		{"port out of range", []string{"--listen", "127.0.0.1:65536"}, `listen: "127.0.0.1:65536" (flag --listen): port "65536": use a number from 0 to 65535`},
		{"a negative port", []string{"--http", "127.0.0.1:-1"}, `port "-1": use a number`},
		{"a port's name", []string{"--http", "127.0.0.1:http"}, `port "http": use a number`},
		{"no port", []string{"--http", "127.0.0.1"}, "use host:port"},
		{"a bare IPv6 address", []string{"--http", "::1:7420"}, "use host:port"},
		{"any peer port", []string{"--peer", "127.0.0.1:0"}, `peer: "127.0.0.1:0" (flag --peer): port "0": use a number from 1 to 65535`},
		{"one address for both", []string{"--http", "127.0.0.1:7410"}, `http: "127.0.0.1:7410" (flag --http): peer has this address`},
		{"listen and http may share", []string{"--listen", "127.0.0.1:7420"}, ""},

		{"all addresses", []string{"--listen", "0.0.0.0:7400"}, `listen: "0.0.0.0:7400" (flag --listen): clients cannot be told that host: set advertise`},
		{"all addresses, short", []string{"--listen", ":7400"}, "set advertise"},
		{"all addresses, advertised", []string{"--listen", "[::]:7400", "--advertise", "chat.example:7400"}, ""},
		{"advertised for nobody", []string{"--advertise", "0.0.0.0:7400"}, "clients cannot connect to that host"},
		{"advertised without port", []string{"--advertise", "chat.example"}, "use host:port"},

		{"peer as in the cluster", []string{three, "--node=n2", "--peer=127.0.0.1:7411"}, ""},
		{"peer unlike the cluster", []string{three, "--node=n2", "--peer=127.0.0.1:7410"},
			`peer: "127.0.0.1:7410" (flag --peer): the cluster has this node at 127.0.0.1:7411`},
		{"peer on another host", []string{three, "--node=n2", "--peer=127.0.0.2:7411"}, "the cluster has this node at"},
		{"peer on all addresses", []string{three, "--node=n2", "--peer=0.0.0.0:7411"}, ""},
		{"peer bound by address, reached by name", []string{"--cluster=n1=db1.example:7410", "--node=n1", "--peer=10.0.0.1:7410"}, ""},
		{"cluster of names", []string{"--cluster= n1=db1.example:7410, n2=db2.example:7410", "--node=n1"}, ""},
		{"cluster without names", []string{"--cluster=127.0.0.1:7410", "--node=n1"}, `"127.0.0.1:7410": use NAME=HOST:PORT`},
		{"cluster with a bad name", []string{"--cluster=n/1=127.0.0.1:7410", "--node=n1"}, `node name "n/1"`},
		{"cluster with a bad port", []string{"--cluster=n1=127.0.0.1:70000", "--node=n1"}, `node n1 at "127.0.0.1:70000": port "70000"`},
		{"cluster with port 0", []string{"--cluster=n1=127.0.0.1:0", "--node=n1"}, `port "0": use a number from 1`},
		{"cluster on all addresses", []string{"--cluster=n1=0.0.0.0:7410", "--node=n1"}, "other nodes cannot connect"},
		{"one name twice", []string{"--cluster=n1=127.0.0.1:7410,n1=127.0.0.1:7411", "--node=n1"}, "node n1 is named twice"},
		{"one address twice", []string{"--cluster=n1=127.0.0.1:7410,n2=127.0.0.1:7410", "--node=n1"}, "nodes n1 and n2 have the same address"},

		{"a nonvoter", []string{three, "--node=n2", "--nonvoters= n2"}, ""},
		{"a nonvoter of no cluster", []string{three, "--node=n1", "--nonvoters=n4"}, `"n4": use names of nodes of the cluster, which are n1, n2`},
		{"a nonvoter twice", []string{three, "--node=n1", "--nonvoters=n2,n2"}, "node n2 is named twice"},
		{"nobody votes", []string{three, "--node=n1", "--nonvoters=n1,n2"}, "no node of the cluster is left to vote"},

		{"fewest partitions", []string{"--partitions", "1"}, ""},
		{"most partitions", []string{"--partitions", "4096"}, ""},
		{"no partition", []string{"--partitions", "0"}, `partitions: "0" (flag --partitions): use a number from 1 to 4096`},
		{"too many partitions", []string{"--partitions", "4097"}, "use a number from 1 to 4096"},
		{"half a partition", []string{"--partitions", "1.5"}, "use a number from 1 to 4096"},

		{"the longest token", []string{"--token", strings.Repeat("x", 4096)}, ""},
		{"a token too long", []string{"--token", strings.Repeat("x", 4097)}, "token: **** (flag --token): use at most 4096 bytes"},
		{"a token with a line end", []string{"--token", "secret\n"}, "token: **** (flag --token): use ASCII letters"},

		{"shortest session", []string{"--session-ttl", "1s"}, ""},
		{"too short a session", []string{"--session-ttl", "999ms"}, "use at least 1s"},
		{"a time without unit", []string{"--session-ttl", "10"}, `session-ttl: "10" (flag --session-ttl): use a number with a unit`},
		{"fastest heartbeat", []string{"--heartbeat", "50ms"}, ""},
		{"too fast a heartbeat", []string{"--heartbeat", "49ms"}, "use at least 50ms"},
		{"slow failover", []string{"--fast-failover", "false"}, ""},
		{"no failover", []string{"--fast-failover", "no"}, `fast-failover: "no" (flag --fast-failover): use true or false`},
		{"slowest heartbeat", []string{"--heartbeat", "10s"}, ""},
		{"too slow a heartbeat", []string{"--heartbeat", "10001ms"}, "use at most 10s"},

		{"strictest objective", []string{"--drift-objective", "1ms"}, ""},
		{"too strict an objective", []string{"--drift-objective", "999us"}, `drift-objective: "999us" (flag --drift-objective): use at least 1ms`},
		{"laxest objective", []string{"--drift-objective", "1m"}, ""},
		{"too lax an objective", []string{"--drift-objective", "60001ms"}, "use at most 1m0s"},

		{"no spacing", []string{"--flush-spacing", "0"}, ""},
		{"widest spacing", []string{"--flush-spacing", "1s"}, ""},
		{"too wide a spacing", []string{"--flush-spacing", "1001ms"}, `flush-spacing: "1001ms" (flag --flush-spacing): use at most 1s`},
		{"a cheap key exchange", []string{"--key-exchange", "x25519"}, ""},
		{"an unknown key exchange", []string{"--key-exchange", "rsa"}, `key-exchange: "rsa" (flag --key-exchange): use hybrid or x25519`},

		{"smallest queue", []string{"--queue-bytes", "1048576"}, ""},
		{"too small a queue", []string{"--queue-bytes", "1023KiB"}, `queue-bytes: "1023KiB" (flag --queue-bytes): use at least 1 MiB`},
		{"a large tail", []string{"--tail-bytes", "2 GiB"}, ""},
		{"a size in other units", []string{"--tail-bytes", "8MB"}, "use a number of bytes, or one with KiB"},
		{"a negative size", []string{"--tail-bytes", "-8MiB"}, "use a number of bytes"},
		{"a size beyond all", []string{"--tail-bytes", "9999999999GiB"}, "use a number of bytes"},

		{"smallest segment", []string{"--segment-bytes", "1MiB"}, ""},
		{"too small a segment", []string{"--segment-bytes", "1048575"}, `segment-bytes: "1048575" (flag --segment-bytes): use at least 1 MiB`},
		{"largest segment", []string{"--segment-bytes", "1GiB"}, ""},
		{"too large a segment", []string{"--segment-bytes", "1073741825"}, "use at most 1 GiB"},
		{"no reserve", []string{"--reserve", "0"}, ""},
		{"a reserve in other units", []string{"--reserve", "10%"}, "use a number of bytes"},

		{"kept for ever", []string{"--retention-age", "0"}, ""},
		{"shortest age", []string{"--retention-age", "1s"}, ""},
		{"too short an age", []string{"--retention-age", "999ms"}, `retention-age: "999ms" (flag --retention-age): use 0 for no limit, or at least 1s`},
		{"a negative age", []string{"--retention-age", "-1h"}, "use a number with a unit, such as 30m"},
		{"an age in days", []string{"--retention-age", "7d"}, "use a number with a unit, such as 30m"},
		{"fewest bytes", []string{"--retention-bytes", "1MiB"}, ""},
		{"too few bytes", []string{"--retention-bytes", "1"}, "use 0 for no limit, or at least 1 MiB"},
		{"fewest messages", []string{"--retention-messages", "1"}, ""},
		{"negative messages", []string{"--retention-messages", "-1"}, "use a number"},

		{"policies", []string{"--retention-policy", "match/=1h, chat:=30m,a=b=1s"}, ""},
		{"a policy as long as the rest", []string{"--retention-age=1h", "--retention-policy=a=1h"}, ""},
		{"a longer policy", []string{"--retention-age=1h", "--retention-policy=a=61m"},
			`retention-policy: "a=61m" (flag --retention-policy): prefix "a": a policy can only shorten: use at most retention-age, which is 1h0m0s`},
		{"a policy without age", []string{"--retention-policy", "a"}, `"a": use PREFIX=AGE`},
		{"a policy with a bad age", []string{"--retention-policy", "a=x"}, `prefix "a": age "x": use a number with a unit`},
		{"too short a policy", []string{"--retention-policy", "a=0"}, `prefix "a": use at least 1s`},
		{"a policy for all", []string{"--retention-policy", "=1h"}, "for all rooms use retention-age"},
		{"a policy for no room", []string{"--retention-policy", "a\x01=1h"}, "no room's name can begin so"},
		{"a policy twice", []string{"--retention-policy", "a=1h,a=2h"}, `prefix "a" stands there twice`},
		{"most policies", []string{"--retention-policy", policies(256)}, ""},
		{"too many policies", []string{"--retention-policy", policies(257)}, "257 policies: use at most 256"},

		{"a log level", []string{"--log-level", "WARN"}, ""},
		{"no log level", []string{"--log-level", "loud"}, `log-level: "loud" (flag --log-level): use debug, info, warn or error`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, _, err := readFlags(t, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			_, err = v.config()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%q: %v, want %q", tt.args, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v tells the token", tt.args, err)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: more than one complaint: %v", tt.args, err)
			}
		})
	}
}

func policies(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("p%d=1h", i))
	}
	return strings.Join(all, ",")
}

func TestAllThatIsWrongIsNamedAtOnce(t *testing.T) {
	v, _, err := readFlags(t, "--partitions", "0", "--heartbeat", "x")
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.config()
	if got := fmt.Sprint(err); strings.Count(got, "\n") != 1 || !strings.Contains(got, "partitions:") || !strings.Contains(got, "heartbeat:") {
		t.Errorf("error %q, want two lines", got)
	}
}

func TestConfigFile(t *testing.T) {
	for _, tt := range []struct{ name, content, want string }{
		{"empty", "", ""},
		{"comments only", "# nothing\n", ""},
		{"cluster as text", "node: n1\ncluster: n1=127.0.0.1:7410\n", ""},
		{"an anchor", "peer: &a 127.0.0.1:7410\nnode: n1\ncluster: {n1: *a}\n", ""},
		{"an unknown key", "data: x\nlisen: 127.0.0.1:1\n", `:2: unknown key "lisen"; did you mean listen?`},
		{"an underscore", "queue_bytes: 1\n", `unknown key "queue_bytes"; did you mean queue-bytes?`},
		{"upper case", "Listen: 127.0.0.1:1\n", `unknown key "Listen"; did you mean listen?`},
		{"nothing like it", "zzzzzzzzzzzzzzzzzz: 1\n", `unknown key "zzzzzzzzzzzzzzzzzz"; known are node, data,`},
		{"two unknown keys", "a: 1\nb: 2\n", `:2: unknown key "b"`},
		{"a key twice", "listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n", `:2: key "listen" stands here a second time`},
		{"a list", "listen: [127.0.0.1:1]\n", ":1: listen: want a single value"},
		{"a map", "listen: {a: 1}\n", ":1: listen: want a single value"},
		{"a nested cluster", "cluster:\n  n1: {host: a}\n", ":1: cluster: want NAME: HOST:PORT"},
		{"nonvoters as text", "node: n1\ncluster: {n1: h:1, n2: h:2, n3: h:3}\nnonvoters: n2, n3\n", ""},
		{"nonvoters as a list", "node: n1\ncluster: {n1: h:1, n2: h:2, n3: h:3}\nnonvoters: [n2, n3]\n", ""},
		{"too long a list of nonvoters", "node: n1\ncluster: {n1: h:1, n2: h:2}\nnonvoters: [n2, n1]\n", `nonvoters: "n2,n1" (file `},
		{"a nested nonvoter", "nonvoters: [[n2]]\n", ":1: nonvoters: want names of nodes"},
		{"policies as text", "retention-policy: a=1h\n", ""},
		{"policies as a map", "retention-policy: {match/: 1h, 'a=b': 2m}\n", ""},
		{"a nested policy", "retention-policy:\n  a: {age: 1h}\n", ":1: retention-policy: want PREFIX: AGE"},
		{"a policy with a comma", "retention-policy: {'a,b': 1h}\n", `for "a,b"`},
		{"the rebuild flag", "rebuild: all\n", `unknown key "rebuild"`},
		{"no mapping", "just text\n", ":1: want lines of the form KEY: VALUE"},
		{"not YAML", "listen: [\n", "yaml:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, "config", tt.content)
			v, _, err := readFlags(t, "--config", file)
			if err == nil {
				_, err = v.config()
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file)) {
				t.Errorf("%v, want %q and the file's name", err, tt.want)
			}
		})
	}
	t.Run("missing, named by variable", func(t *testing.T) {
		t.Setenv("ROOMLOG_CONFIG", "/nowhere/config")
		if _, _, err := readFlags(t); err == nil || !strings.Contains(err.Error(), "/nowhere/config") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("bad value", func(t *testing.T) {
		file := write(t, "config", "partitions: none\n")
		got := run(t, nil, "serve", "--config", file)
		if want := `partitions: "none" (file ` + file + `): use a number`; got.code != 2 || !strings.Contains(got.stderr, want) {
			t.Errorf("exit %d, %q, want %q", got.code, got.stderr, want)
		}
	})
}

func TestUnknownVariables(t *testing.T) {
	got := unknownVariables([]string{"ROOMLOG_TOKNE=x", "ROOMLOG_DATA=d", "ROOMLOG_PROFILE=p", "ROOMLOG_CONFIG=c", "PATH=/", "ROOMLOGS=1"})
	want := []string{"environment variable ROOMLOG_TOKNE sets nothing; did you mean ROOMLOG_TOKEN?"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

func TestConfigCommand(t *testing.T) {
	t.Setenv("ROOMLOG_TOKEN", "secret")
	t.Setenv("ROOMLOG_TAILBYTES", "1MiB")
	got := run(t, nil, "config", "--node", "a", "--listen", "127.0.0.1:1", "-o", "json")
	for _, line := range []string{
		`{"key":"node","value":"a","origin":"flag --node"}`,
		`{"key":"token","value":"****","origin":"env ROOMLOG_TOKEN"}`,
		`{"key":"advertise","value":"127.0.0.1:1","origin":"default"}`,
		`{"key":"cluster","value":"a=127.0.0.1:7410","origin":"default"}`,
		`{"key":"cert","value":"roomlog-data/cert.pem","origin":"default"}`,
	} {
		if !strings.Contains(got.stdout, line+"\n") {
			t.Errorf("no line %s in\n%s", line, got.stdout)
		}
	}
	if want := "roomlog: warning: environment variable ROOMLOG_TAILBYTES sets nothing; did you mean ROOMLOG_TAIL_BYTES?\n"; got.stderr != want {
		t.Errorf("standard error %q, want %q", got.stderr, want)
	}
	if lines := strings.Count(got.stdout, "\n"); got.code != 0 || lines != len(settings) || strings.Contains(got.stdout, "secret") {
		t.Errorf("exit %d, %d lines, want 0 and %d:\n%s", got.code, lines, len(settings), got.stdout)
	}

	got = run(t, nil, "config", "--partitions", "0")
	if got.code != 2 || !strings.Contains(got.stdout, "partitions") || !strings.Contains(got.stderr, "use a number from 1 to 4096") {
		t.Errorf("a bad value: exit %d, %q, %q", got.code, got.stdout, got.stderr)
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 16 << 20: "16 MiB", 1<<63 - 1: "8 EiB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("formatBytes(%d) = %q, want %q", n, got, want)
		}
	}
}
