package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/wire"
)

// settings are what a node is configured with, each as a flag --KEY, a variable
// ROOMLOG_KEY and a key of the configuration file.
var settings = []struct {
	key, value string // value is the default
	help       string
}{
	{"node", "", "`NAME` of this node (default n1, if no cluster is given)"},
	{"data", "roomlog-data", "`DIR` of everything the node keeps"},
	{"listen", "127.0.0.1:7400", "`ADDRESS` for clients, UDP"},
	{"advertise", "", "`ADDRESS` that clients are told (default: that of --listen)"},
	{"peer", "127.0.0.1:7410", "`ADDRESS` for the other nodes, TCP; if not given, the cluster's for this node"},
	{"http", "127.0.0.1:7420", "`ADDRESS` for operators, TCP"},
	{"cluster", "", "peer address of every node: `n1=HOST:PORT,n2=...` (default: this node alone)"},
	{"nonvoters", "", "`NAMES` of nodes of the cluster that only serve readers, with commas between (default: none)"},
	{"partitions", "16", "`NUMBER` of partitions, fixed when the cluster is created"},
	{"token", "", "`TOKEN` that clients and operators must show (default: none needed)"},
	{"ca", "", "`FILE` with the CA of nodes and clients, PEM (default DATA/ca.pem)"},
	{"cert", "", "`FILE` with this node's certificate, PEM (default DATA/cert.pem)"},
	{"key", "", "`FILE` with the certificate's key, PEM (default DATA/key.pem)"},
	{"session-ttl", "10m", "`TIME` after which an idle publisher session is forgotten"},
	{"queue-bytes", "16MiB", "`SIZE` of a partition's queue of publishes"},
	{"tail-bytes", "8MiB", "`SIZE` of a partition's newest messages in memory"},
	{"heartbeat", "500ms", "`TIME` without the leader's heartbeat before followers elect"},
	{"fast-failover", "true", "`BOOL`: elect as soon as a leader's process is seen to be gone; false: when its heartbeats are missed"},
	{"segment-bytes", "64MiB", "`SIZE` of a file of a partition's log"},
	{"reserve", "256MiB", "`SIZE` of the free disk space below which publishes are refused (0: none)"},
	{"retention-age", "0", "`TIME` for which messages are kept (0: for ever)"},
	{"retention-bytes", "0", "`SIZE` of a partition's messages that are kept (0: all)"},
	{"retention-messages", "0", "`NUMBER` of a partition's messages that are kept (0: all)"},
	{"retention-policy", "", "shorter ages for rooms by the beginning of their names: `PREFIX=AGE,...`"},
	{"drift-objective", "100ms", "`TIME` that 99 of 100 messages shall take at most, from received to handed to subscribers"},
	{"flush-spacing", "60ms", "`TIME` that flushes of a client's connection are apart at most when processors are busy (0: none; default: 0.6 of the drift objective, 60ms at most)"},
	{"key-exchange", "hybrid", "`NAME` of the key exchange with clients: hybrid, which later quantum computers do not break, or x25519, which costs less"},
	{"log-level", "info", "`LEVEL` of the log on standard error: debug, info, warn, error"},
}

const (
	maxPartitions = 4096
	minBytes      = wire.MaxPayload // of a queue, a tail, what is kept: one largest message

	minSessionTTL = time.Second // sessions age in steps of a second
	minObjective  = time.Millisecond
	maxObjective  = time.Minute
	minHeartbeat  = 50 * time.Millisecond
	maxHeartbeat  = 10 * time.Second

	maxSpacing = time.Second
)

func envName(key string) string {
	return "ROOMLOG_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

func addSettingFlags(flags *pflag.FlagSet) {
	flags.String("config", "", "YAML `FILE` with any of these settings (default $ROOMLOG_CONFIG)")
	for _, s := range settings {
		flags.String(s.key, s.value, s.help)
	}
	flags.SortFlags = false
}

// value is one setting, as text, and where it comes from.
type value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", "file F", "env NAME", "flag --x"
}

const originDefault = "default"

// values are all settings in the order of the table above.
type values []value

func (v values) at(key string) *value {
	i := slices.IndexFunc(v, func(v value) bool { return v.Key == key })
	return &v[i] // keys are constants of this file
}

func (v values) get(key string) string { return v.at(key).Value }

// given tells whether somebody has set the key.
func (v values) given(key string) bool { return v.at(key).Origin != originDefault }

// readValues gathers the settings: flags over environment over file over
// defaults. Values are not judged here. Warnings are about variables that look
// like ours.
func readValues(flags *pflag.FlagSet) (v values, warnings []string, err error) {
	file, _ := flags.GetString("config")
	if file == "" {
		file = os.Getenv("ROOMLOG_CONFIG")
	}
	vip := viper.New()
	if file != "" {
		fromFile, err := readConfigFile(file)
		if err != nil {
			return nil, nil, err
		}
		if err := vip.MergeConfigMap(fromFile); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, s := range settings {
		vip.SetDefault(s.key, s.value)
		if err := errors.Join(vip.BindEnv(s.key, envName(s.key)), vip.BindPFlag(s.key, flags.Lookup(s.key))); err != nil {
			return nil, nil, err
		}
		set := value{Key: s.key, Value: vip.GetString(s.key), Origin: originDefault}
		switch {
		case flags.Changed(s.key):
			set.Origin = "flag --" + s.key
		case os.Getenv(envName(s.key)) != "":
			set.Origin = "env " + envName(s.key)
		case vip.InConfig(s.key):
			set.Origin = "file " + file
		}
		v = append(v, set)
	}
	v.derive()
	return v, unknownVariables(os.Environ()), nil
}

// derive fills in the defaults that follow from other settings.
func (v values) derive() {
	fill := func(key, derived string) {
		if set := v.at(key); !v.given(key) {
			set.Value = derived
		}
	}
	if !v.given("cluster") {
		fill("node", "n1")
		fill("cluster", v.get("node")+"="+v.get("peer"))
	} else if members, err := parseCluster(v.get("cluster")); err == nil {
		if own, ok := members[v.get("node")]; ok {
			fill("peer", own)
		}
	}
	fill("advertise", v.get("listen"))
	if objective, err := time.ParseDuration(v.get("drift-objective")); err == nil && objective > 0 {
		fill("flush-spacing", node.DefaultSpacing(objective).String())
	}
	for key, name := range map[string]string{"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"} {
		fill(key, filepath.Join(v.get("data"), name))
	}
}

// readConfigFile reads a YAML mapping of settings, all values as text. viper is
// handed its content and not the file: it would lower the case of node names and
// forget line numbers.
func readConfigFile(path string) (map[string]any, error) {
	root, err := readYAML(path, settingKeys())
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	var bad []error
	for i := 0; i < len(root.Content); i += 2 {
		key := root.Content[i]
		text, isSet, err := settingText(key.Value, root.Content[i+1])
		if err != nil {
			bad = append(bad, fmt.Errorf("%s:%d: %w", path, key.Line, err))
		} else if isSet {
			out[key.Value] = relativeTo(path, key.Value, text)
		}
	}
	return out, errors.Join(bad...)
}

// settingText turns a YAML value into what a flag would say. A null sets nothing.
func settingText(key string, node *yaml.Node) (text string, isSet bool, err error) {
	node = resolve(node)
	switch {
	case node.Kind == yaml.ScalarNode:
		return node.Value, node.Tag != "!!null", nil
	case node.Kind == yaml.MappingNode && key == "cluster":
		text, err := pairsText(node, "cluster: want NAME: HOST:PORT for node %q")
		return text, true, err
	case node.Kind == yaml.SequenceNode && key == "nonvoters":
		text, err := listText(node, "nonvoters: want names of nodes")
		return text, true, err
	case node.Kind == yaml.MappingNode && key == "retention-policy":
		text, err := pairsText(node, "retention-policy: want PREFIX: AGE, and no comma in the prefix, for %q")
		return text, true, err
	}
	return "", false, fmt.Errorf("%s: want a single value", key)
}

// pairsText writes a mapping as a flag would have it: "KEY=VALUE,KEY=VALUE".
// want is the complaint about an entry that cannot be written so.
func pairsText(node *yaml.Node, want string) (string, error) {
	var pairs []string
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], resolve(node.Content[i+1])
		if value.Kind != yaml.ScalarNode || strings.Contains(key.Value, ",") {
			return "", fmt.Errorf(want, key.Value)
		}
		pairs = append(pairs, key.Value+"="+value.Value)
	}
	return strings.Join(pairs, ","), nil
}

// listText writes a sequence as a flag would have it: "A,B".
func listText(node *yaml.Node, want string) (string, error) {
	var items []string
	for _, item := range node.Content {
		if item = resolve(item); item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
			return "", errors.New(want)
		}
		items = append(items, item.Value)
	}
	return strings.Join(items, ","), nil
}

// resolve follows an alias (*a) to what it stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// relativeTo makes the paths in a configuration file relative to it.
func relativeTo(file, key, text string) string {
	switch key {
	case "data", "ca", "cert", "key":
		if text != "" && !filepath.IsAbs(text) {
			return filepath.Join(filepath.Dir(file), text)
		}
	}
	return text
}

func settingKeys() []string {
	var keys []string
	for _, s := range settings {
		keys = append(keys, s.key)
	}
	return keys
}

// unknownVariables warns of ROOMLOG_* variables that set nothing: typing errors
// mostly, yet Kubernetes makes some of its own, so they are no errors.
func unknownVariables(environ []string) []string {
	known := []string{"ROOMLOG_PROFILE", "ROOMLOG_CONFIG", "ROOMLOG_SERVER", "ROOMLOG_SERVERS"}
	for _, key := range settingKeys() {
		known = append(known, envName(key))
	}
	var warnings []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "ROOMLOG_") && !slices.Contains(known, name) {
			warnings = append(warnings, fmt.Sprintf("environment variable %s sets nothing%s", name, didYouMean(name, known)))
		}
	}
	slices.Sort(warnings)
	return warnings
}

func didYouMean(word string, known []string) string {
	near := slices.MinFunc(known, func(a, b string) int { return cmp.Compare(distance(word, a), distance(word, b)) })
	if distance(word, near) > max(2, len(word)/2) {
		return "; known are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("; did you mean %s?", near)
}

// distance is the number of letters to add, drop or change from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// config is a node's configuration, checked.
type config struct {
	node, data                    string
	listen, advertise, peer, http string
	cluster                       map[string]string
	nonvoters                     []string
	partitions                    int
	token                         string
	ca, cert, key                 string
	sessionTTL, heartbeat         time.Duration
	objective, spacing            time.Duration
	keyExchange                   []tls.CurveID
	queueBytes, tailBytes         int64
	segmentBytes, reserve         int64
	retention                     node.Retention
	fastFailover                  bool
	rebuild                       []int // of the command line alone
	logLevel                      slog.Level
}

// config checks all values. The error names each that is wrong, with its key,
// where it comes from, and what to do.
func (v values) config() (config, error) {
	c := checker{values: v}
	cfg := config{
		node:       c.name("node"),
		data:       c.path("data"),
		listen:     c.address("listen", 0),
		advertise:  c.advertise(),
		peer:       c.address("peer", 1),
		http:       c.address("http", 0),
		cluster:    c.cluster(),
		partitions: c.number("partitions", 1, maxPartitions),
		token:      c.token(),
		ca:         c.path("ca"),
		cert:       c.path("cert"),
		key:        c.path("key"),
		sessionTTL: c.duration("session-ttl", minSessionTTL, math.MaxInt64),
		heartbeat:  c.duration("heartbeat", minHeartbeat, maxHeartbeat),
		objective:  c.duration("drift-objective", minObjective, maxObjective),
		spacing:    c.duration("flush-spacing", 0, maxSpacing),
		queueBytes: c.sizeBetween("queue-bytes", minBytes, unlimited),
		tailBytes:  c.sizeBetween("tail-bytes", minBytes, unlimited),

		segmentBytes: c.sizeBetween("segment-bytes", minSegment, maxSegment),
		reserve:      c.sizeBetween("reserve", 0, unlimited),
		retention:    c.retention(),
		keyExchange:  c.keyExchange(),
		fastFailover: c.bool("fast-failover"),

		logLevel: c.level("log-level"),
	}
	cfg.nonvoters = c.nonvoters(cfg.cluster)
	c.ownEntry(cfg)
	c.apart(cfg)
	return cfg, errors.Join(c.bad...)
}

// checker reads values and collects what is wrong with them.
type checker struct {
	values values
	bad    []error
}

// fail notes that a value is wrong and how to mend it.
func (c *checker) fail(key, fix string, args ...any) {
	v := c.values.at(key)
	text := strconv.Quote(v.Value)
	if key == "token" {
		text = mask(v.Value)
	}
	c.bad = append(c.bad, fmt.Errorf("%s: %s (%s): %s", key, text, v.Origin, fmt.Sprintf(fix, args...)))
}

func mask(token string) string {
	if token == "" {
		return ""
	}
	return "****"
}

func (c *checker) name(key string) string {
	name := c.values.get(key)
	if name == "" {
		c.fail(key, "say which node of the cluster this one is, with --node or the key node")
	} else if err := checkNodeName(name); err != nil {
		c.fail(key, "%v", err)
	}
	return name
}

// nodeNames are those that a certificate can name.
var nodeNames = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*$`)

func checkNodeName(name string) error {
	if len(name) > wire.MaxName {
		return fmt.Errorf("node name %q: use at most %d letters", name, wire.MaxName)
	}
	if !nodeNames.MatchString(name) {
		return fmt.Errorf("node name %q: use letters, digits, '_', '-' and '.', such as n1 or chat-1.example", name)
	}
	return nil
}

func (c *checker) bool(key string) bool {
	switch c.values.get(key) {
	case "true":
		return true
	case "false":
	default:
		c.fail(key, "use true or false")
	}
	return false
}

func (c *checker) path(key string) string {
	if c.values.get(key) == "" {
		c.fail(key, "give a path")
	}
	return c.values.get(key)
}

// address checks a host:port to listen on. Port 0, where allowed, leaves the
// choice to the system.
func (c *checker) address(key string, minPort int) string {
	if err := checkAddress(c.values.get(key), minPort); err != nil {
		c.fail(key, "%v", err)
	}
	return c.values.get(key)
}

func checkAddress(address string, minPort int) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("use host:port, such as 127.0.0.1:7400 or [::1]:7400")
	}
	if n, err := strconv.Atoi(port); err != nil || n < minPort || n > math.MaxUint16 {
		return fmt.Errorf("port %q: use a number from %d to %d", port, minPort, math.MaxUint16)
	}
	return nil
}

// advertise checks the address that others are told: it must lead somewhere.
// Not given, it is empty: the node tells the address it is bound to.
func (c *checker) advertise() string {
	address := c.values.get("advertise")
	switch given := c.values.given("advertise"); {
	case given:
		if err := checkAddress(address, 1); err != nil {
			c.fail("advertise", "%v", err)
		} else if isUnspecified(address) {
			c.fail("advertise", "clients cannot connect to that host: use this machine's name or address")
		}
		return address
	case checkAddress(address, 0) == nil && isUnspecified(address):
		c.fail("listen", "clients cannot be told that host: set advertise to HOST:PORT as clients reach it")
	}
	return ""
}

// isUnspecified tells whether an address stands for all of the machine's.
func isUnspecified(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	return host == "" || net.ParseIP(host).IsUnspecified()
}

func (c *checker) cluster() map[string]string {
	members, err := parseCluster(c.values.get("cluster"))
	if err != nil && c.values.given("cluster") { // else node or peer is wrong, and has been named
		c.fail("cluster", "%v", err)
	}
	return members
}

// nonvoters reads "n4,n5".
func (c *checker) nonvoters(members map[string]string) (names []string) {
	text := c.values.get("nonvoters")
	if text == "" || members == nil {
		return nil
	}
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		switch _, member := members[name]; {
		case !member:
			c.fail("nonvoters", "%q: use names of nodes of the cluster, which are %s", name, strings.Join(slices.Sorted(maps.Keys(members)), ", "))
		case slices.Contains(names, name):
			c.fail("nonvoters", "node %s is named twice: name it once", name)
		default:
			names = append(names, name)
		}
	}
	if len(names) == len(members) {
		c.fail("nonvoters", "no node of the cluster is left to vote: leave out at least one, better three")
	}
	return names
}

// parseCluster reads "n1=HOST:PORT,n2=HOST:PORT".
func parseCluster(text string) (map[string]string, error) {
	members, byAddress := map[string]string{}, map[string]string{}
	for entry := range strings.SplitSeq(text, ",") {
		name, address, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok {
			return nil, fmt.Errorf("%q: use NAME=HOST:PORT, with commas between the nodes", entry)
		}
		if err := checkNodeName(name); err != nil {
			return nil, err
		}
		if err := checkAddress(address, 1); err != nil {
			return nil, fmt.Errorf("node %s at %q: %w", name, address, err)
		}
		if isUnspecified(address) {
			return nil, fmt.Errorf("node %s at %q: other nodes cannot connect to that host: use its name or address", name, address)
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("node %s is named twice: give each node a name of its own", name)
		}
		if other, twice := byAddress[address]; twice {
			return nil, fmt.Errorf("nodes %s and %s have the same address %s: give each its own", other, name, address)
		}
		members[name], byAddress[address] = address, name
	}
	return members, nil
}

// ownEntry checks that the cluster has this node, at the address it binds.
func (c *checker) ownEntry(cfg config) {
	if cfg.cluster == nil || cfg.node == "" || !c.values.given("cluster") {
		return
	}
	own, ok := cfg.cluster[cfg.node]
	if !ok {
		names := strings.Join(slices.Sorted(maps.Keys(cfg.cluster)), ", ")
		c.fail("node", "the cluster has no such node: use one of %s, or add it to cluster", names)
		return
	}
	if !sameAddress(cfg.peer, own) {
		c.fail("peer", "the cluster has this node at %s: make the two agree, or leave peer out", own)
	}
}

// sameAddress tells whether a socket bound to bind can be what others reach at
// entry. All addresses of the machine include entry's; a name may stand for any.
func sameAddress(bind, entry string) bool {
	bindHost, bindPort, _ := net.SplitHostPort(bind)
	host, port, _ := net.SplitHostPort(entry)
	a, b := net.ParseIP(bindHost), net.ParseIP(host)
	return bindPort == port && (bindHost == host || isUnspecified(bind) || a == nil || b == nil || a.Equal(b))
}

// apart checks that peer and http, both TCP, do not want the same port.
func (c *checker) apart(cfg config) {
	if cfg.http == cfg.peer && checkAddress(cfg.http, 0) == nil {
		c.fail("http", "peer has this address: use another port")
	}
}

func (c *checker) number(key string, low, high int) int {
	n, err := strconv.Atoi(c.values.get(key))
	if err != nil || n < low || n > high {
		c.fail(key, "use a number from %d to %d", low, high)
	}
	return n
}

func (c *checker) token() string {
	token := c.values.get("token")
	if len(token) > wire.MaxToken {
		c.fail("token", "use at most %d bytes", wire.MaxToken)
	}
	for _, r := range token {
		if r <= ' ' || r > '~' {
			c.fail("token", "use ASCII letters, digits and signs, without spaces or line ends")
			break
		}
	}
	return token
}

func (c *checker) duration(key string, low, high time.Duration) time.Duration {
	d, err := time.ParseDuration(c.values.get(key))
	switch {
	case err != nil:
		c.fail(key, "use a number with a unit, such as 500ms, 10s or 5m")
	case d < low:
		c.fail(key, "use at least %v", low)
	case d > high:
		c.fail(key, "use at most %v", high)
	}
	return d
}

// parseSize reads bytes, or a number with KiB, MiB or GiB.
func parseSize(text string) (int64, error) {
	number, unit := strings.TrimSpace(text), int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = strings.TrimSpace(n), 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, errors.New("use a number of bytes, or one with KiB, MiB or GiB, such as 16MiB")
	}
	return n * unit, nil
}

// keyExchange returns nil for what crypto/tls takes by itself.
func (c *checker) keyExchange() []tls.CurveID {
	switch c.values.get("key-exchange") {
	case "hybrid":
	case "x25519":
		return []tls.CurveID{tls.X25519}
	default:
		c.fail("key-exchange", "use hybrid or x25519")
	}
	return nil
}

func (c *checker) level(key string) slog.Level {
	text := c.values.get(key)
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(text, l.String()) {
			return l
		}
	}
	c.fail(key, "use debug, info, warn or error")
	return slog.LevelInfo
}
