package devcluster

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/roomlog/roomlog/internal/certs"
)

// Defaults for what Options leave open.
const (
	DefaultNodes      = 3
	DefaultPartitions = 16
	DefaultBasePort   = 7400

	// FreePorts as base port takes any ports that are free.
	FreePorts = -1

	// MaxNodes is bound by the ports: listen, peer and http of the nodes lie
	// ten apart.
	MaxNodes = 10
)

const localhost = "127.0.0.1"

// Options say what a cluster shall look like. Zero values leave it to the
// directory, or to the default if that is new.
type Options struct {
	Dir        string
	Nodes      int
	BasePort   int // listen is base, base+1, …; peer base+10, …; http base+20, …
	Partitions int

	// Hosts are addresses of the nodes, one each, instead of 127.0.0.1. All nodes
	// then have the same ports: base, base+10 and base+20.
	Hosts []string

	// Data is the directory below each node's own where its data lies, such as
	// "data"; empty: beside its configuration. It can be a mount of its own.
	Data string

	// Settings are further lines of each config.yaml, such as "heartbeat":
	// "200ms". They are written when the directory is new.
	Settings map[string]string
}

// Layout is a cluster as it stands in its directory.
type Layout struct {
	Dir        string
	Profile    string // path of profile.yaml
	CA         string // path of ca.pem
	Token      string
	Partitions int
	Nodes      []Node
}

// Node is one node of a layout.
type Node struct {
	Name   string
	Dir    string // its certificates and log
	Data   string // its data; Dir, if Options did not say otherwise
	Config string // path of config.yaml
	Log    string // path of what it prints

	Listen, Peer, HTTP string // host:port
}

// Servers are the addresses that clients dial, in the order of the nodes.
func (l *Layout) Servers() []string {
	servers := make([]string, len(l.Nodes))
	for i, n := range l.Nodes {
		servers[i] = n.Listen
	}
	return servers
}

// Node finds a node by its name.
func (l *Layout) Node(name string) (Node, bool) {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Prepare lays opts.Dir out, or reads what lies there. A directory that
// contradicts opts is left alone and gives an error.
func Prepare(opts Options) (*Layout, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if opts.Nodes == 0 {
		opts.Nodes = len(opts.Hosts)
	}
	dir := filepath.Clean(opts.Dir)
	l := &Layout{Dir: dir, Profile: filepath.Join(dir, "profile.yaml"), CA: filepath.Join(dir, certs.CAFile)}
	_, err := os.Stat(l.Profile)
	switch {
	case err == nil:
		if err := l.read(opts); err != nil {
			return nil, err
		}
		return l, l.writeCerts()
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "n*", "config.yaml")); len(left) > 0 {
		return nil, fmt.Errorf("%s has nodes (%s) but no profile.yaml: restore it, remove the directory, or take another",
			dir, left[0])
	}
	return l, l.create(opts)
}

func (o *Options) check() error {
	switch {
	case o.Dir == "":
		return errors.New("a cluster needs a directory")
	case o.Nodes < 0 || o.Nodes > MaxNodes:
		return fmt.Errorf("%d nodes: a local cluster has 1 to %d", o.Nodes, MaxNodes)
	case len(o.Hosts) > MaxNodes || len(o.Hosts) > 0 && o.Nodes > 0 && o.Nodes != len(o.Hosts):
		return fmt.Errorf("%d addresses for %d nodes: each node, of at most %d, needs one", len(o.Hosts), o.Nodes, MaxNodes)
	case o.Data != "" && !filepath.IsLocal(o.Data):
		return fmt.Errorf("data directory %q: it must lie below its node's", o.Data)
	case o.Partitions < 0 || o.Partitions > 4096:
		return fmt.Errorf("%d partitions: a cluster has 1 to 4096", o.Partitions)
	case o.BasePort < FreePorts || o.BasePort > 65535-20-MaxNodes:
		return fmt.Errorf("base port %d: it must lie in 1 to %d", o.BasePort, 65535-20-MaxNodes)
	}
	return nil
}

// create writes the layout; the profile comes last, as the mark that all is there.
func (l *Layout) create(opts Options) error {
	nodes := orDefault(opts.Nodes, DefaultNodes)
	l.Partitions = orDefault(opts.Partitions, DefaultPartitions)
	base := orDefault(opts.BasePort, DefaultBasePort)
	var token [16]byte
	rand.Read(token[:]) // never fails
	l.Token = hex.EncodeToString(token[:])

	address := opts.addresses(base)
	if base == FreePorts && len(opts.Hosts) == 0 {
		free, err := freePorts(3 * nodes)
		if err != nil {
			return err
		}
		address = func(i, of int) string { return local(free[3*i+of]) }
	}
	for i := range nodes {
		n := l.node(i, opts.Data)
		n.Listen, n.Peer, n.HTTP = address(i, 0), address(i, 1), address(i, 2)
		l.Nodes = append(l.Nodes, n)
	}
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return err
	}
	if err := l.writeCerts(); err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if err := os.MkdirAll(n.Data, 0o700); err != nil {
			return err
		}
		if err := l.writeConfig(n, opts); err != nil {
			return err
		}
	}
	return l.writeProfile()
}

// addresses are those of the node at place i: 0 is listen, 1 peer, 2 HTTP.
func (o *Options) addresses(base int) func(i, of int) string {
	if len(o.Hosts) == 0 {
		return func(i, of int) string { return local(base + 10*of + i) }
	}
	if base == FreePorts {
		base = DefaultBasePort // nobody else is on these hosts
	}
	return func(i, of int) string { return net.JoinHostPort(o.Hosts[i], strconv.Itoa(base+10*of)) }
}

// NodeName is the name of the node at place i, from 0 on.
func NodeName(i int) string { return fmt.Sprintf("n%d", i+1) }

// node gives the names and paths of the node at place i.
func (l *Layout) node(i int, data string) Node {
	name := NodeName(i)
	dir := filepath.Join(l.Dir, name)
	return Node{Name: name, Dir: dir, Data: filepath.Join(dir, data),
		Config: filepath.Join(dir, "config.yaml"), Log: filepath.Join(dir, "log")}
}

func orDefault(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}

func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

func local(port int) string { return net.JoinHostPort(localhost, strconv.Itoa(port)) }

// writeCerts makes whatever certificate is missing.
func (l *Layout) writeCerts() error {
	for _, n := range l.Nodes {
		if _, err := certs.Load(n.Dir); err == nil {
			continue
		}
		ca, _, err := certs.OpenCA(l.Dir)
		if err != nil {
			return err
		}
		var hosts []string
		if host := hostOf(n.Listen); host != "" {
			hosts = append(hosts, host)
		}
		pair, err := ca.Issue(n.Name, hosts...)
		if err != nil {
			return err
		}
		if err := pair.Write(n.Dir, false); err != nil {
			return err
		}
	}
	return nil
}

// nodeConfig is what config.yaml has to say of a node; the file may hold more.
type nodeConfig struct {
	Node       string            `yaml:"node"`
	Data       string            `yaml:"data"`
	Listen     string            `yaml:"listen"`
	Peer       string            `yaml:"peer"`
	HTTP       string            `yaml:"http"`
	Cluster    map[string]string `yaml:"cluster"`
	Partitions int               `yaml:"partitions"`
	Token      string            `yaml:"token"`

	More map[string]string `yaml:",inline"`
}

func (l *Layout) writeConfig(n Node, opts Options) error {
	settings, data := opts.Settings, "."
	if opts.Data != "" {
		// Certificates are looked for beside the data, unless it is said where they are.
		settings = map[string]string{"ca": certs.CAFile, "cert": certs.CertFile, "key": certs.KeyFile}
		maps.Copy(settings, opts.Settings)
		data = filepath.ToSlash(opts.Data)
	}
	c := nodeConfig{
		Node: n.Name, Data: data, Listen: n.Listen, Peer: n.Peer, HTTP: n.HTTP,
		Cluster: make(map[string]string), Partitions: l.Partitions, Token: l.Token, More: settings,
	}
	for _, m := range l.Nodes {
		c.Cluster[m.Name] = m.Peer
	}
	body, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	head := "# One node of a cluster on this machine. Paths are relative to this file.\n" +
		"# Start it with: roomlog serve --config <this file>\n"
	return os.WriteFile(n.Config, append([]byte(head), body...), 0o600)
}

type profileFile struct {
	Servers []string `yaml:"servers"`
	CA      string   `yaml:"ca"`
	Token   string   `yaml:"token"`
}

func (l *Layout) writeProfile() error {
	body, err := yaml.Marshal(profileFile{Servers: l.Servers(), CA: certs.CAFile, Token: l.Token})
	if err != nil {
		return err
	}
	// Renamed into place: half a profile would be taken for a finished layout.
	next := l.Profile + ".new"
	if err := os.WriteFile(next, body, 0o600); err != nil {
		return err
	}
	return os.Rename(next, l.Profile)
}

// read takes the layout from its files and holds it against opts.
func (l *Layout) read(opts Options) error {
	var p profileFile
	if err := readYAML(l.Profile, &p); err != nil {
		return err
	}
	l.Token = p.Token
	for i := range len(p.Servers) {
		n := l.node(i, "")
		var c struct {
			Node, Data, Listen, Peer, HTTP, Token string
			Partitions                            int
		}
		if err := readYAML(n.Config, &c); err != nil {
			return err
		}
		if n.Data = c.Data; !filepath.IsAbs(c.Data) {
			n.Data = filepath.Join(n.Dir, c.Data)
		}
		n.Listen, n.Peer, n.HTTP = c.Listen, c.Peer, c.HTTP
		for key, value := range map[string]string{"listen": c.Listen, "peer": c.Peer, "http": c.HTTP} {
			if _, _, err := net.SplitHostPort(value); err != nil {
				return fmt.Errorf("%s: %s %q: want host:port", n.Config, key, value)
			}
		}
		switch {
		case c.Node != n.Name:
			return fmt.Errorf("%s: node is %q, want %q", n.Config, c.Node, n.Name)
		case c.Token != l.Token:
			return fmt.Errorf("%s: its token is not the one of %s", n.Config, l.Profile)
		case i > 0 && c.Partitions != l.Partitions:
			return fmt.Errorf("%s: %d partitions, but %s has %d", n.Config, c.Partitions, l.Nodes[0].Config, l.Partitions)
		}
		l.Partitions = c.Partitions
		l.Nodes = append(l.Nodes, n)
	}
	if len(l.Nodes) == 0 {
		return fmt.Errorf("%s names no servers", l.Profile)
	}
	return l.contradicts(opts)
}

func (l *Layout) contradicts(opts Options) error {
	var why []string
	if opts.Nodes != 0 && opts.Nodes != len(l.Nodes) {
		why = append(why, fmt.Sprintf("it has %d nodes, not %d", len(l.Nodes), opts.Nodes))
	}
	if opts.Partitions != 0 && opts.Partitions != l.Partitions {
		why = append(why, fmt.Sprintf("it has %d partitions, not %d", l.Partitions, opts.Partitions))
	}
	if want := opts.addresses(opts.BasePort)(0, 0); opts.BasePort > 0 && l.Nodes[0].Listen != want {
		why = append(why, fmt.Sprintf("its first node listens on %s, not on port %d", l.Nodes[0].Listen, opts.BasePort))
	}
	for i, host := range opts.Hosts {
		if i < len(l.Nodes) && hostOf(l.Nodes[i].Listen) != host {
			why = append(why, fmt.Sprintf("%s listens on %s, not on %s", l.Nodes[i].Name, l.Nodes[i].Listen, host))
		}
	}
	if len(why) == 0 {
		return nil
	}
	return fmt.Errorf("%s holds a cluster already, and %s: leave the options out to use it as it is, "+
		"or take another directory", l.Dir, strings.Join(why, ", "))
}

func readYAML(path string, dst any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(b, dst); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
