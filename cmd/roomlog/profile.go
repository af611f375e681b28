package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/roomlog/roomlog/client"
)

// profile tells how commands reach a cluster.
type profile struct {
	Servers []string `yaml:"servers"`
	CA      string   `yaml:"ca"` // path; "" trusts the system's certificates
	Token   string   `yaml:"token"`
}

// loadProfile reads the profile named by --profile or ROOMLOG_PROFILE. Variables
// override it, flags override these.
func (a *app) loadProfile() (profile, error) {
	var p profile
	path, by := a.profile, "--profile"
	if path == "" {
		path, by = os.Getenv("ROOMLOG_PROFILE"), "ROOMLOG_PROFILE"
	}
	if path != "" {
		var err error
		if p, err = readProfile(path); err != nil {
			return p, usagef("%s: %w", by, err)
		}
	}
	if err := p.override(a); err != nil {
		return p, asUsage(err)
	}
	if len(p.Servers) == 0 {
		return p, usagef("no server known: name a profile with --profile or ROOMLOG_PROFILE, or a server with --server " +
			"(\"roomlog dev\" starts a cluster on this machine and prints the path of its profile)")
	}
	return p, nil
}

// override takes what flags and variables say.
func (p *profile) override(a *app) error {
	servers, by := a.servers, "--server"
	for _, name := range []string{"ROOMLOG_SERVER", "ROOMLOG_SERVERS"} {
		if list := os.Getenv(name); len(servers) == 0 && list != "" {
			servers, by = strings.Split(list, ","), name
		}
	}
	if len(servers) > 0 {
		p.Servers = servers
	}
	p.CA, p.Token = cmp.Or(os.Getenv("ROOMLOG_CA"), p.CA), cmp.Or(os.Getenv("ROOMLOG_TOKEN"), p.Token)
	if a.given("ca") {
		p.CA = a.ca
	}
	if a.given("token") {
		p.Token = a.token
	}
	for _, s := range servers {
		if err := checkServer(s); err != nil {
			return fmt.Errorf("%s: server %q: %w", by, s, err)
		}
	}
	return nil
}

func checkServer(address string) error {
	if strings.HasPrefix(address, ":") {
		return errors.New("the host is missing: use host:port, such as 127.0.0.1:7400")
	}
	return checkAddress(address, 1)
}

func readProfile(path string) (profile, error) {
	var p profile
	root, err := readYAML(path, []string{"servers", "ca", "token"})
	if err != nil {
		return p, err
	}
	if err := root.Decode(&p); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	if err := checkServers(path, root); err != nil {
		return p, err
	}
	if p.CA != "" && !filepath.IsAbs(p.CA) {
		p.CA = filepath.Join(filepath.Dir(path), p.CA)
	}
	return p, nil
}

// checkServers names each bad entry of a profile's servers.
func checkServers(path string, root *yaml.Node) error {
	var bad []error
	for i := 0; i < len(root.Content); i += 2 {
		if root.Content[i].Value != "servers" {
			continue
		}
		for _, entry := range resolve(root.Content[i+1]).Content {
			if err := checkServer(resolve(entry).Value); err != nil {
				bad = append(bad, fmt.Errorf("%s:%d: server %q: %w", path, entry.Line, resolve(entry).Value, err))
			}
		}
	}
	return errors.Join(bad...)
}

// tls returns the TLS settings that trust the profile's CA.
func (p profile) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if p.CA == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(p.CA)
	if err != nil {
		return nil, usagef("ca: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, usagef("ca %s: holds no PEM certificate", p.CA)
	}
	return cfg, nil
}

// dial connects to the cluster of the profile. It gives up after --timeout.
func (a *app) dial(ctx context.Context, opts ...client.Option) (*client.Client, error) {
	p, err := a.loadProfile()
	if err != nil {
		return nil, err
	}
	return dialProfile(ctx, p, a.timeout, opts...)
}

func dialProfile(ctx context.Context, p profile, timeout time.Duration, opts ...client.Option) (*client.Client, error) {
	cfg, err := p.tls()
	if err != nil {
		return nil, err
	}
	opts = append([]client.Option{client.WithTLS(cfg), client.WithToken(p.Token)}, opts...)
	c, err := keepDialing(ctx, timeout, func(ctx context.Context) (*client.Client, error) {
		return client.Dial(ctx, p.Servers, opts...)
	})
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, fmt.Errorf("%w while connecting", errInterrupted)
	}
	if err != nil {
		return nil, cannotConnect(p.Servers, err)
	}
	return c, nil
}

// dialBudget is how long the SDK's Dial tries.
const dialBudget = 10 * time.Second

// keepDialing dials until the timeout. A Dial that gave up before its time has
// said why more tries are no use: a wrong token, a server that is not trusted.
// One that the timeout has cut short knows less than the one before it.
func keepDialing[C any](ctx context.Context, timeout time.Duration, dial func(context.Context) (C, error)) (C, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for before := error(nil); ; {
		began := time.Now()
		c, err := dial(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return c, cmp.Or(before, err)
		case err == nil || time.Since(began) < dialBudget:
			return c, err
		}
		before = err
	}
}

// learner asks a cluster for its nodes. Tests put their own in the place of
// learnQUIC.
type learner func(ctx context.Context, p profile, timeout time.Duration) ([]client.Node, error)

func learnQUIC(ctx context.Context, p profile, timeout time.Duration) ([]client.Node, error) {
	c, err := dialProfile(ctx, p, timeout)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.Nodes(ctx)
}
