package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/node"
)

const (
	closeLimit = 3 * time.Second // a clean stop ends within this
	readyPoll  = 50 * time.Millisecond
	readyLate  = 10 * time.Second // when the log says what a node is still waiting for
)

func newServe(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run one node",
		Long: `Run one node until SIGINT or SIGTERM.

Each setting is a flag, a variable (--queue-bytes is ROOMLOG_QUEUE_BYTES) and a
key of the YAML file given with --config; flags win over variables, variables
over the file. Paths in the file are relative to it. "roomlog config" with the
same flags prints what comes out.

A node whose data is damaged, or contradicts that of the others, refuses to start
and says which partitions are concerned. With --rebuild it discards these and
builds them anew from the other nodes, all of which must run. Give it once: each
start with it begins the work again.`,
		Example: `  roomlog serve --config /etc/roomlog/config.yaml
  roomlog serve --node n1 --data /var/lib/roomlog --cluster n1=10.0.0.1:7410,n2=10.0.0.2:7410,n3=10.0.0.3:7410`,
		Args: noArgs,
	}
	addSettingFlags(cmd.Flags())
	rebuild := cmd.Flags().String("rebuild", "", "discard these `PARTITIONS` here and build them anew from the other nodes: 3,5 or all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v, warnings, err := readValues(cmd.Flags())
		if err != nil {
			return usageError{err}
		}
		cfg, err := v.config()
		if err != nil {
			return usageError{err}
		}
		if cmd.Flags().Changed("rebuild") {
			if cfg.rebuild, err = cfg.parseRebuild(*rebuild); err != nil {
				return usagef("--rebuild %q: %w", *rebuild, err)
			}
		}
		logger := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: cfg.logLevel}))
		for _, w := range warnings {
			logger.Warn(w)
		}
		if seeded, err := seededWarning(); err != nil {
			return usageError{err}
		} else if seeded != "" {
			logger.Warn(seeded)
		}
		ownFiles := !v.given("ca") && !v.given("cert") && !v.given("key")
		ca, cert, err := cfg.certificates(ownFiles, logger)
		if err != nil {
			return err
		}
		go paceGC(cmd.Context())
		err = serve(cmd.Context(), cfg.nodeConfig(ca, cert, logger), openNode)
		if damaged, ok := errors.AsType[*node.DamagedError](err); ok {
			return withRemedy(damaged, cmd.Flags())
		}
		return err
	}
	return cmd
}

// withRemedy adds to an error about damage what to do now.
func withRemedy(damaged *node.DamagedError, flags *pflag.FlagSet) error {
	if !damaged.Rebuilds {
		return fmt.Errorf("%w\na cluster of %s cannot rebuild it: restore the data directory from a copy", damaged, plural(damaged.Voters, "voter"))
	}
	return fmt.Errorf("%w\nto discard this and build it anew from the other nodes, all of which must run, start this node once with\n  %s",
		damaged, serveCommand(flags, damaged.Rebuild()))
}

// serveCommand is the command that was given, with --rebuild. A token is not
// shown.
func serveCommand(flags *pflag.FlagSet, rebuild string) string {
	words := []string{"roomlog serve"}
	flags.Visit(func(f *pflag.Flag) {
		setting := f.Name == "config" || slices.Contains(settingKeys(), f.Name)
		switch {
		case f.Name == "token":
			words = append(words, "--token TOKEN")
		case setting:
			words = append(words, "--"+f.Name+" "+shellWord(f.Value.String()))
		}
	})
	return strings.Join(append(words, "--rebuild "+rebuild), " ")
}

// shellWord quotes a word if a shell would not take it as it is.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@%+"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (cfg config) nodeConfig(ca []byte, cert tls.Certificate, logger *slog.Logger) node.Config {
	return node.Config{
		Name:       cfg.node,
		DataDir:    cfg.data,
		Listen:     cfg.listen,
		Advertise:  cfg.advertise,
		Peer:       cfg.peer,
		HTTP:       cfg.http,
		Members:    cfg.cluster,
		Nonvoters:  cfg.nonvoters,
		Partitions: cfg.partitions,
		Token:      cfg.token,
		CA:         ca,
		Cert:       cert,
		SessionTTL: cfg.sessionTTL,
		QueueBytes: cfg.queueBytes,
		TailBytes:  cfg.tailBytes,
		Heartbeat:  cfg.heartbeat,
		Objective:  cfg.objective,

		HeartbeatsOnly: !cfg.fastFailover,

		FlushSpacing: cmp.Or(cfg.spacing, -1),
		KeyExchange:  cfg.keyExchange,
		SegmentBytes: cfg.segmentBytes,
		Reserve:      cfg.reserve,
		Retention:    cfg.retention,
		Rebuild:      cfg.rebuild,

		Version: buildVersion(),
		Logger:  logger,
	}
}

// certificates loads the node's certificate and the CA. A node that is alone
// makes a development certificate in its data directory if none is there; files
// named by the user are never made, and half a set never completed.
func (cfg config) certificates(ownFiles bool, logger *slog.Logger) (ca []byte, cert tls.Certificate, err error) {
	paths := []string{cfg.ca, cfg.cert, cfg.key}
	var missing []string
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, path)
		}
	}
	switch {
	case len(missing) == len(paths) && ownFiles && len(cfg.cluster) == 1:
		if err := cfg.portsFree(); err != nil {
			return nil, cert, err // there would be a certificate and no node
		}
		if _, _, err := certs.Ensure(cfg.data, cfg.node, cfg.hosts()...); err != nil {
			return nil, cert, fmt.Errorf("make a development certificate: %w", err)
		}
		logger.Warn("no certificate given: made one for development; clients must trust its CA",
			"ca", filepath.Join(cfg.data, certs.CAFile))
	case len(missing) > 0:
		return nil, cert, fmt.Errorf("certificate file %s is missing: put it there, name another with --ca, --cert and --key, "+
			"or make a set with \"roomlog certs\"", missing[0])
	}
	if ca, err = os.ReadFile(cfg.ca); err != nil {
		return nil, cert, err
	}
	if _, err := certs.Pool(ca); err != nil {
		return nil, cert, fmt.Errorf("ca %s: %w", cfg.ca, err)
	}
	if cert, err = tls.LoadX509KeyPair(cfg.cert, cfg.key); err != nil {
		return nil, cert, fmt.Errorf("certificate %s with key %s: %w", cfg.cert, cfg.key, err)
	}
	return ca, cert, nil // whether the CA has signed it, the node checks
}

// portsFree tells which of the node's addresses cannot be bound.
func (cfg config) portsFree() error {
	alone := devcluster.Layout{Nodes: []devcluster.Node{{Name: cfg.node, Listen: cfg.listen, Peer: cfg.peer, HTTP: cfg.http}}}
	return alone.CheckPorts()
}

// hosts are the names under which others reach this node, for its certificate.
func (cfg config) hosts() []string {
	var hosts []string
	for _, address := range []string{cfg.listen, cfg.advertise, cfg.peer} {
		if host, _, err := net.SplitHostPort(address); err == nil && !isUnspecified(address) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// running is a node.Node, or a test's.
type running interface {
	Ready() error
	Failed() <-chan error
	Addrs() (listen, peer, http string)
	Close() error
}

func openNode(cfg node.Config) (running, error) { return node.Open(cfg) }

// serve runs a node until ctx ends, which is a clean stop, or the node fails.
func serve(ctx context.Context, cfg node.Config, open func(node.Config) (running, error)) error {
	n, err := open(cfg)
	if err != nil {
		return err
	}
	listen, peer, http := n.Addrs()
	cfg.Logger.Info("up", "node", cfg.Name, "listen", listen, "peer", peer, "http", http, "data", cfg.DataDir,
		"partitions", cfg.Partitions, "version", cfg.Version)

	poll, late := time.NewTicker(readyPoll), time.NewTimer(readyLate)
	defer poll.Stop()
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			cfg.Logger.Info("stopping", "node", cfg.Name)
			if err := closeNode(n); err != nil {
				return err
			}
			cfg.Logger.Info("stopped", "node", cfg.Name)
			return nil
		case err := <-n.Failed():
			// No Close: on a failed disk it could hang, or write what is not so.
			return fmt.Errorf("node %s failed: %w", cfg.Name, err)
		case <-poll.C:
			if n.Ready() == nil {
				poll.Stop()
				late.Stop()
				cfg.Logger.Info("ready", "node", cfg.Name)
			}
		case <-late.C:
			if err := n.Ready(); err != nil {
				cfg.Logger.Warn("not ready yet", "node", cfg.Name, "why", err)
			}
		}
	}
}

// closeNode waits for a stop, but not for ever. A node left behind ends with
// the process.
func closeNode(n running) error {
	closed := make(chan error, 1)
	go func() { closed <- n.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeLimit):
		return fmt.Errorf("the stop took more than %v and was given up", closeLimit)
	}
}
