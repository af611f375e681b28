package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

const (
	nodes = 3
	procs = 1 // GOMAXPROCS of each server
)

// cluster is three servers in a temporary directory.
type cluster struct {
	dir   string
	tls   *tls.Config
	ports []string // of clients, then of routes
	cmds  []*exec.Cmd
	conns []*nats.Conn
	fail  context.CancelCauseFunc // ends the benchmark; the first error counts
	ended sync.WaitGroup          // one for each process
}

// start starts the servers. It does not wait until they serve. A server that ends
// before stop is a failure.
func start(server string, fail context.CancelCauseFunc) (*cluster, error) {
	dir, err := os.MkdirTemp("", "roomlog-peers-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, fail: fail}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	for i := range nodes {
		if err := c.startNode(server, i); err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	return c, nil
}

func (c *cluster) prepare() (err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.dir, &fs); err != nil {
		return err
	}
	if fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s lies in memory, where an fsync costs nothing: name a directory on a disk with TMPDIR", c.dir)
	}
	if c.tls, err = c.certify(); err != nil {
		return err
	}
	c.ports, err = freePorts(2 * nodes)
	return err
}

// certify writes a certificate for 127.0.0.1, which is its own authority, with
// its key. Clients trust it.
func (c *cluster) certify() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, errors.Join(
		os.WriteFile(filepath.Join(c.dir, "cert.pem"), certPEM, 0o600),
		os.WriteFile(filepath.Join(c.dir, "key.pem"), keyPEM, 0o600))
}

// freePorts are n that nobody uses at this moment.
func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // not before all are known: they would repeat
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}

const config = `server_name: %[1]s
listen: "127.0.0.1:%[3]s"
tls: {cert_file: "%[2]s/cert.pem", key_file: "%[2]s/key.pem", ca_file: "%[2]s/cert.pem"}
jetstream: {store_dir: "%[2]s/%[1]s", sync_interval: always, limits: {default_max_consumers: -1}}
cluster: {
  name: bench
  listen: "127.0.0.1:%[4]s"
  routes: ["nats://127.0.0.1:%[5]s"]
  tls: {cert_file: "%[2]s/cert.pem", key_file: "%[2]s/key.pem", ca_file: "%[2]s/cert.pem", verify: true}
}
`

func nodeName(i int) string { return fmt.Sprintf("n%d", i+1) }

func (c *cluster) file(i int, ext string) string { return filepath.Join(c.dir, nodeName(i)+ext) }

func (c *cluster) startNode(server string, i int) error {
	clients, routes := c.ports[:nodes], c.ports[nodes:]
	text := fmt.Sprintf(config, nodeName(i), c.dir, clients[i], routes[i], strings.Join(routes, `", "nats://127.0.0.1:`))
	if err := os.WriteFile(c.file(i, ".conf"), []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(c.file(i, ".log"))
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(server, "-c", c.file(i, ".conf"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", procs))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // the terminal's signals are for us
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", nodeName(i), err)
	}
	c.cmds = append(c.cmds, cmd)
	c.ended.Go(func() {
		cmd.Wait()
		c.fail(fmt.Errorf("%s has ended: %v", nodeName(i), cmd.ProcessState)) // after stop nobody asks
	})
	return nil
}

// stop closes all connections, kills the servers and removes their directory.
func (c *cluster) stop() error {
	for _, nc := range c.conns {
		nc.Close()
	}
	for _, cmd := range c.cmds {
		cmd.Process.Kill()
	}
	c.ended.Wait()
	return os.RemoveAll(c.dir)
}

// tails are the last lines of the servers' logs.
func (c *cluster) tails() string {
	const most = 8
	var b strings.Builder
	for i := range c.cmds {
		text, _ := os.ReadFile(c.file(i, ".log"))
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		fmt.Fprintf(&b, "%s:\n%s\n", nodeName(i), bytes.Join(lines[max(0, len(lines)-most):], []byte("\n")))
	}
	return b.String()
}

// dial connects to one server and stays there. A connection that is lost ends the
// benchmark.
func (c *cluster) dial(node int, opts ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	nc, err := nats.Connect("tls://127.0.0.1:"+c.ports[node], nats.Secure(c.tls), nats.NoReconnect(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: closed by us
				c.fail(fmt.Errorf("connection to %s: %w", nodeName(node), err))
			}
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", nodeName(node), err)
	}
	c.conns = append(c.conns, nc)
	return jetstream.New(nc, opts...)
}

// createStreams makes n streams, s0, s1 and so on, and waits until the servers lead
// them in turn. A leader that has just been elected may refuse to hand over, so
// it is asked again.
func (c *cluster) createStreams(ctx context.Context, n int) error {
	var js jetstream.JetStream
	if err := retry(ctx, func(context.Context) (err error) { js, err = c.dial(0); return err }); err != nil {
		return err
	}
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		conf := jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Replicas: nodes, Storage: jetstream.FileStorage}
		err := retry(ctx, func(ctx context.Context) error {
			stream, err := js.CreateStream(ctx, conf)
			if err != nil {
				return err
			}
			return lead(ctx, js.Conn(), stream, nodeName(i%nodes))
		})
		if err != nil {
			return fmt.Errorf("create stream %s: %w", name, err)
		}
	}
	return nil
}

// lead fails unless the server leads the stream; it asks for that.
func lead(ctx context.Context, nc *nats.Conn, stream jetstream.Stream, node string) error {
	info, err := stream.Info(ctx)
	if err != nil || info.Cluster.Leader == node {
		return err
	}
	ask, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": node}})
	if err != nil {
		return err
	}
	answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+info.Config.Name, ask)
	if err != nil {
		return err
	}
	return fmt.Errorf("led by %q, not %s; asked to hand over it says %s", info.Cluster.Leader, node, answer.Data)
}

// retry calls do until it succeeds. In the end the error is that of the last call.
func retry(ctx context.Context, do func(context.Context) error) error {
	for {
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := do(once)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		}
	}
}

// usage is CPU time at a moment.
type usage struct {
	at      time.Duration // since the load began
	servers time.Duration // of all servers together
	own     time.Duration
}

func (c *cluster) usage(at time.Duration) (u usage, err error) {
	u.at = at
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return u, err
	}
	u.own = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	for i, cmd := range c.cmds {
		const scheduled = 2 // CPUCLOCK_SCHED: the process's CPU clock, see clock_getcpuclockid(3)
		var used unix.Timespec
		if err := unix.ClockGettime(int32(^cmd.Process.Pid<<3|scheduled), &used); err != nil {
			return u, fmt.Errorf("CPU clock of %s: %w", nodeName(i), err)
		}
		u.servers += time.Duration(used.Nano())
	}
	return u, nil
}
