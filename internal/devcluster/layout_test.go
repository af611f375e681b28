package devcluster

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/internal/certs"
)

func prepare(t *testing.T, opts Options) *Layout {
	t.Helper()
	l, err := Prepare(opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPrepareLaysOut(t *testing.T) {
	dir := t.TempDir()
	l := prepare(t, Options{Dir: dir, BasePort: 9100, Settings: map[string]string{"heartbeat": "200ms"}})
	if len(l.Nodes) != 3 || l.Partitions != 16 || len(l.Token) != 32 {
		t.Fatalf("%d nodes, %d partitions, token %q", len(l.Nodes), l.Partitions, l.Token)
	}
	n3 := l.Nodes[2]
	if n3.Listen != "127.0.0.1:9102" || n3.Peer != "127.0.0.1:9112" || n3.HTTP != "127.0.0.1:9122" {
		t.Errorf("the third node has %s, %s, %s", n3.Listen, n3.Peer, n3.HTTP)
	}
	for _, n := range l.Nodes {
		if _, err := certs.Load(n.Dir); err != nil {
			t.Error(err)
		}
	}
	var profile struct {
		Servers   []string
		CA, Token string
	}
	if err := readYAML(l.Profile, &profile); err != nil {
		t.Fatal(err)
	}
	if strings.Join(profile.Servers, " ") != "127.0.0.1:9100 127.0.0.1:9101 127.0.0.1:9102" ||
		profile.CA != "ca.pem" || profile.Token != l.Token {
		t.Errorf("profile %+v", profile)
	}
	var config map[string]any
	if err := readYAML(n3.Config, &config); err != nil {
		t.Fatal(err)
	}
	cluster, _ := config["cluster"].(map[string]any)
	if config["data"] != "." || config["node"] != "n3" || config["heartbeat"] != "200ms" ||
		config["token"] != l.Token || cluster["n1"] != "127.0.0.1:9110" || len(cluster) != 3 {
		t.Errorf("config %v", config)
	}
}

func TestPrepareWithAddresses(t *testing.T) {
	opts := Options{Dir: t.TempDir(), BasePort: FreePorts, Hosts: []string{"10.9.8.1", "10.9.8.2"}}
	l := prepare(t, opts)
	if len(l.Nodes) != 2 {
		t.Fatalf("%d nodes", len(l.Nodes))
	}
	n2 := l.Nodes[1]
	if n2.Listen != "10.9.8.2:7400" || n2.Peer != "10.9.8.2:7410" || n2.HTTP != "10.9.8.2:7420" {
		t.Errorf("the second node has %s, %s, %s", n2.Listen, n2.Peer, n2.HTTP)
	}
	pair, err := certs.Load(n2.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if names, _, err := pair.Names(); err != nil || !slices.Contains(names, "10.9.8.2") {
		t.Errorf("its certificate names %v, %v", names, err)
	}
	if again := prepare(t, opts); again.Nodes[1] != n2 {
		t.Errorf("read again it is %+v", again.Nodes[1])
	}
	opts.Hosts = []string{"10.9.8.1", "10.9.8.3"}
	if _, err := Prepare(opts); err == nil || !strings.Contains(err.Error(), "n2 listens on 10.9.8.2:7400, not on 10.9.8.3") {
		t.Errorf("another address: %v", err)
	}
	opts.Hosts, opts.BasePort = nil, 7500
	if _, err := Prepare(opts); err == nil || !strings.Contains(err.Error(), "not on port 7500") {
		t.Errorf("another port: %v", err)
	}
}

func TestPrepareWithDataElsewhere(t *testing.T) {
	dir := t.TempDir()
	l := prepare(t, Options{Dir: dir, Nodes: 1, Data: "data", Settings: map[string]string{"reserve": "1MiB"}})
	n := l.Nodes[0]
	if n.Data != filepath.Join(n.Dir, "data") {
		t.Errorf("the data lies in %s", n.Data)
	}
	if _, err := os.Stat(n.Data); err != nil {
		t.Error(err)
	}
	var config map[string]any
	if err := readYAML(n.Config, &config); err != nil {
		t.Fatal(err)
	}
	if config["data"] != "data" || config["ca"] != "ca.pem" || config["cert"] != "cert.pem" || config["key"] != "key.pem" ||
		config["reserve"] != "1MiB" {
		t.Errorf("config %v", config)
	}
	if again := prepare(t, Options{Dir: dir}); again.Nodes[0] != n {
		t.Errorf("read again it is %+v", again.Nodes[0])
	}
	if beside := prepare(t, Options{Dir: t.TempDir(), Nodes: 1}).Nodes[0]; beside.Data != beside.Dir {
		t.Errorf("by default the data lies in %s", beside.Data)
	}
}

func TestPrepareReusesADirectory(t *testing.T) {
	dir := t.TempDir()
	first := prepare(t, Options{Dir: dir, Nodes: 2, Partitions: 4, BasePort: FreePorts})
	before, err := os.ReadFile(first.Nodes[0].Config)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(filepath.Join(first.Nodes[0].Dir, certs.CertFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]Options{
		"nothing said": {Dir: dir},
		"the same":     {Dir: dir, Nodes: 2, Partitions: 4, BasePort: FreePorts},
		"its ports":    {Dir: dir, BasePort: 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := prepare(t, opts)
			if l.Token != first.Token || l.Partitions != 4 || len(l.Nodes) != 2 || l.Nodes[1] != first.Nodes[1] {
				t.Errorf("got %+v, want %+v", l, first)
			}
		})
	}
	after, err := os.ReadFile(first.Nodes[0].Config)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("config.yaml was rewritten: %v", err)
	}
	again, err := os.ReadFile(filepath.Join(first.Nodes[0].Dir, certs.CertFile))
	if err != nil || !bytes.Equal(cert, again) {
		t.Errorf("the certificate was renewed: %v", err)
	}
}

func TestPrepareKeepsAnEditedConfig(t *testing.T) {
	dir := t.TempDir()
	l := prepare(t, Options{Dir: dir, BasePort: FreePorts})
	text, err := os.ReadFile(l.Nodes[0].Config)
	if err != nil {
		t.Fatal(err)
	}
	free, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.ReplaceAll(string(text), l.Nodes[0].HTTP, local(free[0])) + "log-level: debug\n"
	if err := os.WriteFile(l.Nodes[0].Config, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := prepare(t, Options{Dir: dir}).Nodes[0].HTTP; got != local(free[0]) {
		t.Errorf("http is %s, the file says %s", got, local(free[0]))
	}
}

func TestPrepareRefusesContradictions(t *testing.T) {
	dir := t.TempDir()
	prepare(t, Options{Dir: dir, Nodes: 3, Partitions: 4, BasePort: 9100})
	for _, tt := range []struct {
		name string
		opts Options
		want string
	}{
		{"nodes", Options{Nodes: 5}, "it has 3 nodes, not 5"},
		{"partitions", Options{Partitions: 16}, "it has 4 partitions, not 16"},
		{"base port", Options{BasePort: 7400}, "listens on 127.0.0.1:9100, not on port 7400"},
		{"two of them", Options{Nodes: 1, Partitions: 1}, "3 nodes, not 1, it has 4 partitions, not 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Dir = dir
			if _, err := Prepare(tt.opts); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPrepareRefusesBadOptions(t *testing.T) {
	for name, opts := range map[string]Options{
		"no directory":        {},
		"too many nodes":      {Dir: "x", Nodes: MaxNodes + 1},
		"nodes below 0":       {Dir: "x", Nodes: -1},
		"partitions below 0":  {Dir: "x", Partitions: -1},
		"too many partitions": {Dir: "x", Partitions: 4097},
		"port too high":       {Dir: "x", BasePort: 65530},
		"port below 0":        {Dir: "x", BasePort: -2},
		"too few addresses":   {Dir: "x", Nodes: 3, Hosts: []string{"10.9.8.1"}},
		"too many addresses":  {Dir: "x", Hosts: make([]string, MaxNodes+1)},
		"data outside":        {Dir: "x", Data: "../data"},
	} {
		if _, err := Prepare(opts); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("a refused layout left a directory")
	}
}

func TestPrepareTellsWhatIsWrongWithADirectory(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(l *Layout) error
		want  string
	}{
		{"no profile", func(l *Layout) error { return os.Remove(l.Profile) }, "no profile.yaml"},
		{"no config", func(l *Layout) error { return os.Remove(l.Nodes[1].Config) }, "n2/config.yaml"},
		{"no YAML", func(l *Layout) error { return os.WriteFile(l.Profile, []byte("a: b: c"), 0o600) }, "profile.yaml"},
		{"no servers", func(l *Layout) error { return os.WriteFile(l.Profile, []byte("ca: ca.pem"), 0o600) }, "names no servers"},
		{"another node's config", func(l *Layout) error {
			b, err := os.ReadFile(l.Nodes[0].Config)
			if err != nil {
				return err
			}
			return os.WriteFile(l.Nodes[1].Config, b, 0o600)
		}, `node is "n1", want "n2"`},
		{"another token", func(l *Layout) error {
			b, err := os.ReadFile(l.Nodes[1].Config)
			if err != nil {
				return err
			}
			return os.WriteFile(l.Nodes[1].Config, []byte(strings.ReplaceAll(string(b), l.Token, "another")), 0o600)
		}, "token"},
		{"an address without port", func(l *Layout) error {
			b, err := os.ReadFile(l.Nodes[1].Config)
			if err != nil {
				return err
			}
			return os.WriteFile(l.Nodes[1].Config, []byte(strings.ReplaceAll(string(b), l.Nodes[1].HTTP, "nowhere")), 0o600)
		}, `http "nowhere"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := tt.spoil(prepare(t, Options{Dir: dir, BasePort: FreePorts})); err != nil {
				t.Fatal(err)
			}
			if _, err := Prepare(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestALostCertificateIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	l := prepare(t, Options{Dir: dir, BasePort: FreePorts})
	if err := os.Remove(filepath.Join(l.Nodes[1].Dir, certs.KeyFile)); err != nil {
		t.Fatal(err)
	}
	prepare(t, Options{Dir: dir})
	if _, err := certs.Load(l.Nodes[1].Dir); err != nil {
		t.Error(err)
	}
}

func TestCheckPortsNamesWhatIsInUse(t *testing.T) {
	l := prepare(t, Options{Dir: t.TempDir(), BasePort: FreePorts})
	if err := l.CheckPorts(); err != nil {
		t.Fatalf("free ports: %v", err)
	}
	tcp, err := net.Listen("tcp", l.Nodes[1].Peer)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", l.Nodes[2].Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	err = l.CheckPorts()
	for _, want := range []string{"(peer of n2) is in use", "(listen of n3) is in use"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestFreePortsDiffer(t *testing.T) {
	ports, err := freePorts(30)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]bool)
	for _, p := range ports {
		if seen[p] || p < lowestFree || p >= highestFree {
			t.Errorf("port %d", p)
		}
		seen[p] = true
	}
	if Port(local(7400)) != 7400 {
		t.Errorf("Port = %d", Port(local(7400)))
	}
}
