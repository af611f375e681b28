package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *CA, node string, hosts ...string) Pair {
	t.Helper()
	p, err := ca.Issue(node, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func leaf(t *testing.T, p Pair) *x509.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	if len(pair.Certificate) != 1 {
		t.Errorf("the chain has %d certificates, want 1", len(pair.Certificate))
	}
	return pair.Leaf
}

func TestPairIsGoodForBothSides(t *testing.T) {
	ca := newCA(t)
	pool, err := Pool(ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, issue(t, ca, "n1", "db.example", "10.1.2.3", "localhost", "127.0.0.1"))
	for _, name := range []string{"n1", "localhost", "127.0.0.1", "::1", "db.example", "10.1.2.3"} {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			opts := x509.VerifyOptions{DNSName: name, Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}}
			if name == "::1" {
				opts.DNSName = "[::1]"
			}
			if _, err := cert.Verify(opts); err != nil {
				t.Errorf("verify as %s, usage %d: %v", name, usage, err)
			}
		}
	}
	if _, err := cert.Verify(x509.VerifyOptions{DNSName: "n2", Roots: pool}); err == nil {
		t.Error("the certificate of n1 also names n2")
	}
	if n := len(cert.DNSNames) + len(cert.IPAddresses); n != 6 {
		t.Errorf("%v and %v: a host is named twice", cert.DNSNames, cert.IPAddresses)
	}
	other, err := Pool(newCA(t).CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{DNSName: "n1", Roots: other}); err == nil {
		t.Error("another authority vouches for the certificate")
	}
}

func TestMutualHandshake(t *testing.T) {
	ca := newCA(t)
	pool, err := Pool(ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	config := func(node string) *tls.Config {
		p := issue(t, ca, node)
		pair, err := tls.X509KeyPair(p.Cert, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{
			Certificates: []tls.Certificate{pair},
			RootCAs:      pool,
			ClientCAs:    pool,
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ServerName:   "n1",
			MinVersion:   tls.VersionTLS13,
		}
	}
	here, there := net.Pipe()
	server := tls.Server(there, config("n1"))
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(server, "hello")
		done <- err
	}()
	got := make([]byte, 5)
	if _, err := io.ReadFull(tls.Client(here, config("n2")), got); err != nil || string(got) != "hello" {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if peer := server.ConnectionState().PeerCertificates[0].Subject.CommonName; peer != "n2" {
		t.Errorf("the server saw %q, want n2", peer)
	}
}

func TestValidity(t *testing.T) {
	ca := newCA(t)
	cert := leaf(t, issue(t, ca, "n1"))
	now := time.Now()
	if cert.NotBefore.After(now.Add(-59*time.Minute)) || cert.NotAfter.Before(now.AddDate(9, 11, 0)) {
		t.Errorf("valid %v to %v", cert.NotBefore, cert.NotAfter)
	}
	if cert.NotAfter.After(ca.cert.NotAfter) {
		t.Errorf("the certificate outlives its authority: %v after %v", cert.NotAfter, ca.cert.NotAfter)
	}
	if cert.IsCA {
		t.Error("a node's certificate can sign others")
	}
}

func TestIssueRefusesBadHosts(t *testing.T) {
	ca := newCA(t)
	for _, host := range []string{"", "a b", "host:7400", "é", strings.Repeat("a", 254)} {
		if _, err := ca.Issue("n1", host); err == nil {
			t.Errorf("host %q was accepted", host)
		}
	}
	if _, err := ca.Issue(""); err == nil {
		t.Error("a node without a name was accepted")
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	ca, created, err := OpenCA(dir)
	if err != nil || !created {
		t.Fatalf("OpenCA in an empty directory: created %v, %v", created, err)
	}
	again, created, err := OpenCA(dir)
	if err != nil || created || !bytes.Equal(again.CertPEM(), ca.CertPEM()) {
		t.Fatalf("OpenCA did not reuse the authority: created %v, %v", created, err)
	}
	node := filepath.Join(dir, "n1")
	if err := issue(t, again, "n1").Write(node, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(node); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{filepath.Join(dir, CAKeyFile), filepath.Join(node, KeyFile)} {
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", key, info.Mode(), err)
		}
	}
	names, err := filepath.Glob(filepath.Join(node, ".*"))
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

func TestAnAuthorityIsNotOverwritten(t *testing.T) {
	dir := t.TempDir()
	first, second := newCA(t), newCA(t)
	if err := first.Write(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := second.Write(dir, false); !errors.Is(err, ErrCAExists) {
		t.Errorf("another authority was written over: %v", err)
	}
	if err := issue(t, second, "n1").Write(dir, false); !errors.Is(err, ErrCAExists) {
		t.Errorf("another authority's pair was written: %v", err)
	}
	if have, err := LoadCA(dir); err != nil || !bytes.Equal(have.CertPEM(), first.CertPEM()) {
		t.Errorf("the first authority is gone: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, KeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused pair left its key: %v", err)
	}
	if err := second.Write(dir, true); err != nil {
		t.Fatal(err)
	}
	if have, err := LoadCA(dir); err != nil || !bytes.Equal(have.CertPEM(), second.CertPEM()) {
		t.Errorf("not replaced when told: %v", err)
	}
}

func TestHalfAnAuthorityIsNotNone(t *testing.T) {
	for _, missing := range []string{CAFile, CAKeyFile} {
		t.Run(missing, func(t *testing.T) {
			dir := t.TempDir()
			if err := newCA(t).Write(dir, false); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(dir, missing)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := OpenCA(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("OpenCA = %v, want an error that is not fs.ErrNotExist", err)
			}
		})
	}
}

func TestLoadRejectsAPairThatDoesNotFit(t *testing.T) {
	ca := newCA(t)
	one, two := issue(t, ca, "n1"), issue(t, ca, "n1")
	stranger := issue(t, newCA(t), "n1")
	for name, p := range map[string]Pair{
		"another key":       {CA: one.CA, Cert: one.Cert, Key: two.Key},
		"another authority": {CA: stranger.CA, Cert: one.Cert, Key: one.Key},
		"no authority":      {CA: []byte("hello"), Cert: one.Cert, Key: one.Key},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := p.Write(dir, false); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); err == nil {
				t.Error("Load took it")
			}
		})
	}
}

func TestEnsure(t *testing.T) {
	dir := t.TempDir()
	first, created, err := Ensure(dir, "n1")
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	second, created, err := Ensure(dir, "n1")
	if err != nil || created || !bytes.Equal(first.Cert, second.Cert) {
		t.Fatalf("the second call: created %v, %v", created, err)
	}
	if err := os.Remove(filepath.Join(dir, KeyFile)); err != nil {
		t.Fatal(err)
	}
	third, created, err := Ensure(dir, "n1")
	if err != nil || !created || !bytes.Equal(third.CA, first.CA) {
		t.Fatalf("a lost key: created %v, %v", created, err)
	}
}
