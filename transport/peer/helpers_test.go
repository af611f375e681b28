package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// patience bounds every wait of these tests; none comes near it.
const patience = 20 * time.Second

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// authority signs the certificates of one cluster.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert: cert, key: key, pool: pool}
}

func (a *authority) certFor(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// journal collects what a Network logs.
type journal struct {
	mu    *sync.Mutex
	lines *[]string
	more  chan struct{} // one token: a line has come since the last look
}

func newJournal() journal {
	return journal{mu: new(sync.Mutex), lines: new([]string), more: make(chan struct{}, 1)}
}

func (j journal) Enabled(context.Context, slog.Level) bool { return true }
func (j journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j journal) WithGroup(string) slog.Handler            { return j }
func (j journal) Handle(_ context.Context, r slog.Record) error {
	j.mu.Lock()
	*j.lines = append(*j.lines, line(r))
	j.mu.Unlock()
	select {
	case j.more <- struct{}{}:
	default:
	}
	return nil
}

// with returns the lines that have all the words.
func (j journal) with(words ...string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []string
next:
	for _, l := range *j.lines {
		for _, w := range words {
			if !strings.Contains(l, w) {
				continue next
			}
		}
		found = append(found, l)
	}
	return found
}

func line(r slog.Record) string {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(" " + a.String())
		return true
	})
	return b.String()
}

// await waits for a line that has all the words, also one of earlier.
func (j journal) await(t testing.TB, words ...string) {
	t.Helper()
	timeout := time.After(patience)
	for len(j.with(words...)) == 0 {
		select {
		case <-j.more:
		case <-timeout:
			t.Fatalf("nothing logged with %q, but:\n%s", words, strings.Join(j.with(), "\n"))
		}
	}
}

// cluster is the common ground of some Networks.
type cluster struct {
	t         testing.TB
	ca        *authority
	listeners map[string]net.Listener // not yet used
	members   map[string]string
	timing    timing
}

func newCluster(t testing.TB, names ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, ca: newAuthority(t), listeners: make(map[string]net.Listener), members: make(map[string]string), timing: defaultTiming}
	for _, name := range names {
		l := loopback(t)
		c.listeners[name] = l
		c.members[name] = l.Addr().String()
	}
	return c
}

func loopback(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func (c *cluster) config(name string) Config {
	return Config{
		Node: name, Addr: c.members[name], Members: c.members, Cluster: "n1,n2,n3/16",
		Cert: c.ca.certFor(c.t, name), CA: c.ca.pool, Info: []byte("info of " + name), Logger: slog.New(newJournal()),
	}
}

// start starts a node at its address; the first time the port is bound already.
func (c *cluster) start(name string, change ...func(*Config)) *Network {
	c.t.Helper()
	cfg := c.config(name)
	for _, f := range change {
		f(&cfg)
	}
	must(c.t, cfg.check())
	l := c.listeners[name]
	delete(c.listeners, name)
	if l == nil {
		var err error
		l, err = net.Listen("tcp", cfg.Addr)
		must(c.t, err)
	}
	n := start(cfg, c.timing, l)
	c.t.Cleanup(func() { n.Close() })
	return n
}

func logTo(j journal) func(*Config) { return func(c *Config) { c.Logger = slog.New(j) } }

func awaitUp(t testing.TB, n *Network, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		if err := n.WaitUp(soon(t), node); err != nil {
			t.Fatalf("link of %s to %s: %v (%+v)", n.cfg.Node, node, err, n.Status())
		}
	}
}

// awaitState waits until cond holds; it looks again whenever a link changes.
func awaitState(t testing.TB, n *Network, what string, cond func() bool) {
	t.Helper()
	ctx := soon(t)
	for {
		changed := n.Changed()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// caller speaks the protocol by hand.
type caller struct {
	t   testing.TB
	raw net.Conn
	*tls.Conn
}

// call connects to the node at addr with the given certificate.
func (c *cluster) call(node string, cert tls.Certificate) *caller {
	c.t.Helper()
	raw, err := net.Dial("tcp", c.members[node])
	must(c.t, err)
	raw.SetDeadline(time.Now().Add(patience))
	conn := tls.Client(raw, clientTLS(Config{Cert: cert, CA: c.ca.pool}, node))
	c.t.Cleanup(func() { raw.Close() })
	must(c.t, conn.Handshake())
	return &caller{t: c.t, raw: raw, Conn: conn}
}

func (c *caller) hello(h hello) answer {
	c.t.Helper()
	_, err := c.Write(h.append(nil))
	must(c.t, err)
	a, err := readAnswer(c)
	must(c.t, err)
	return a
}

// accept takes one stream.
func accept(t testing.TB, l raft.StreamLayer) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	got := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		got <- result{conn, err}
	}()
	select {
	case r := <-got:
		must(t, r.err)
		t.Cleanup(func() { r.conn.Close() })
		return r.conn
	case <-time.After(patience):
		t.Fatal("no stream arrived")
		return nil
	}
}

// ours returns the stacks of this package's own goroutines.
func ours() []string {
	buf := make([]byte, 4<<20)
	var found []string
	for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "peer.(*Network)") || strings.Contains(stack, "peer.(*session)") || strings.Contains(stack, "peer.(*layer)") {
			found = append(found, stack)
		}
	}
	return found
}
