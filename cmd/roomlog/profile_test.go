package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/internal/certs"
)

// write puts a file into a new directory and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads the profile that a command line leads to.
func load(t *testing.T, args ...string) (profile, error) {
	t.Helper()
	a := &app{}
	root := newRootOf(a)
	if err := root.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return a.loadProfile()
}

func TestProfile(t *testing.T) {
	path := write(t, "profile.yaml", "servers: [127.0.0.1:1, 127.0.0.1:2]\nca: ca.pem\ntoken: secret\n")
	dir := filepath.Dir(path)
	own := profile{Servers: []string{"127.0.0.1:1", "127.0.0.1:2"}, CA: filepath.Join(dir, "ca.pem"), Token: "secret"}
	other := write(t, "other.yaml", "servers: [127.0.0.1:9]\nca: /etc/ca.pem\n")
	for _, tt := range []struct {
		name string
		env  string
		vars map[string]string
		args []string
		want profile
	}{
		{name: "by flag", args: []string{"--profile", path}, want: own},
		{name: "by variable", env: path, want: own},
		{name: "flag over variable", env: path, args: []string{"--profile", other},
			want: profile{Servers: []string{"127.0.0.1:9"}, CA: "/etc/ca.pem"}},
		{name: "servers overridden", env: path, args: []string{"--server", "a:1,b:2", "--server", "c:3"},
			want: profile{Servers: []string{"a:1", "b:2", "c:3"}, CA: own.CA, Token: "secret"}},
		{name: "CA and token overridden", env: path, args: []string{"--ca", "my.pem", "--token", "other"},
			want: profile{Servers: own.Servers, CA: "my.pem", Token: "other"}},
		{name: "token taken away", env: path, args: []string{"--token="},
			want: profile{Servers: own.Servers, CA: own.CA}},
		{name: "variables over the profile", env: path,
			vars: map[string]string{"ROOMLOG_SERVER": "a:1,b:2", "ROOMLOG_CA": "my.pem", "ROOMLOG_TOKEN": "other"},
			want: profile{Servers: []string{"a:1", "b:2"}, CA: "my.pem", Token: "other"}},
		{name: "another name for the servers", vars: map[string]string{"ROOMLOG_SERVERS": "a:1"}, want: profile{Servers: []string{"a:1"}}},
		{name: "flags over variables", env: path, args: []string{"--server", "c:3", "--ca", "flag.pem", "--token="},
			vars: map[string]string{"ROOMLOG_SERVER": "a:1,b:2", "ROOMLOG_CA": "my.pem", "ROOMLOG_TOKEN": "other"},
			want: profile{Servers: []string{"c:3"}, CA: "flag.pem"}},
		{name: "no profile", args: []string{"--server", "[::1]:7400"}, want: profile{Servers: []string{"[::1]:7400"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("ROOMLOG_PROFILE", tt.env)
			for name, value := range tt.vars {
				t.Setenv(name, value)
			}
			got, err := load(t, tt.args...)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("profile = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestBadProfile(t *testing.T) {
	for _, tt := range []struct{ name, content, want string }{
		{"an unknown key", "servers: [a:1]\nserver: b:1\n", "profile.yaml:2: unknown key \"server\"; did you mean servers?"},
		{"a bad server", "servers: [localhost]\n", `profile.yaml:1: server "localhost": use host:port`},
		{"a bad port", "token: x\nservers:\n- a:1\n- b:99999\n", `profile.yaml:4: server "b:99999": port "99999": use a number`},
		{"not YAML", "servers: [\n", "profile.yaml: yaml:"},
		{"servers as text", "servers: a:1\n", "profile.yaml"},
		{"empty", "", "no server known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, "node", "list", "--profile", write(t, "profile.yaml", tt.content))
			if got.code != 2 || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("exit %d, %q, want 2 and %q", got.code, got.stderr, tt.want)
			}
		})
	}
	t.Run("a bad variable", func(t *testing.T) {
		t.Setenv("ROOMLOG_SERVER", "a:1,b")
		got := run(t, nil, "node", "list")
		if got.code != 2 || !strings.Contains(got.stderr, `ROOMLOG_SERVER: server "b": use host:port`) {
			t.Errorf("exit %d, %q", got.code, got.stderr)
		}
	})
	t.Run("missing", func(t *testing.T) {
		t.Setenv("ROOMLOG_PROFILE", "/nowhere/profile.yaml")
		got := run(t, nil, "node", "list")
		if got.code != 2 || !strings.Contains(got.stderr, "ROOMLOG_PROFILE: open /nowhere/profile.yaml") {
			t.Errorf("exit %d, %q", got.code, got.stderr)
		}
	})
}

func TestProfileTLS(t *testing.T) {
	ca, err := certs.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	good := write(t, "ca.pem", string(ca.CertPEM()))
	if cfg, err := (profile{CA: good}).tls(); err != nil || cfg.RootCAs == nil {
		t.Errorf("with a CA: %+v, %v", cfg, err)
	}
	if cfg, err := (profile{}).tls(); err != nil || cfg.RootCAs != nil {
		t.Errorf("without a CA: %+v, %v, want the system's", cfg, err)
	}
	for _, path := range []string{write(t, "ca.pem", "no PEM"), "/nowhere/ca.pem"} {
		if _, err := (profile{CA: path}).tls(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("CA %s: error %v, want one that names it", path, err)
		}
	}
}

// The SDK's Dial gives up after 10 s; --timeout may be longer.
func TestKeepDialing(t *testing.T) {
	refused, denied := errors.New("refused"), errors.New("denied")
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		up      time.Duration // when the server comes up
		denied  bool
		want    error
		took    time.Duration
		cut     bool // the second Dial says only that its time was up
	}{
		{"at once", 30 * time.Second, 0, false, nil, 0, false},
		{"within the first Dial", 30 * time.Second, 3 * time.Second, false, nil, 3 * time.Second, false},
		{"within the third", 30 * time.Second, 25 * time.Second, false, nil, 25 * time.Second, false},
		{"too late", 30 * time.Second, time.Hour, false, refused, 30 * time.Second, false},
		{"the reason from before", 15 * time.Second, time.Hour, false, refused, 15 * time.Second, true},
		{"a short timeout", time.Second, time.Hour, false, refused, time.Second, false},
		{"a wrong token", 30 * time.Second, time.Hour, true, denied, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				up := start.Add(tt.up)
				_, err := keepDialing(t.Context(), tt.timeout, func(ctx context.Context) (int, error) {
					if tt.cut && time.Since(start) > 0 {
						<-ctx.Done()
						return 0, ctx.Err()
					}
					if tt.denied {
						return 0, denied
					}
					select {
					case <-time.After(time.Until(up)):
						return 1, nil
					case <-time.After(dialBudget):
					case <-ctx.Done():
					}
					return 0, refused
				})
				if took := time.Since(start); err != tt.want || took != tt.took {
					t.Errorf("ended after %v with %v, want %v and %v", took, err, tt.took, tt.want)
				}
			})
		})
	}
}
