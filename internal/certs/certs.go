// Package certs makes the certificates of a development cluster: an authority
// and, signed by it, one certificate per node.
//
// A node shows its certificate to clients and to the other nodes, so it is good
// for both sides of a TLS connection. It names the node, localhost, 127.0.0.1,
// ::1 and whatever hosts are given. Keys are ECDSA P-256 and the chain is one
// certificate long: both keep handshakes cheap.
//
// A directory holds an authority as ca.pem and ca-key.pem, a node's pair as
// ca.pem, cert.pem and key.pem. Files are replaced whole; keys are readable by
// their owner alone. Functions here may be called concurrently for different
// directories.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The files that a directory of certificates holds.
const (
	CAFile    = "ca.pem"
	CAKeyFile = "ca-key.pem"
	CertFile  = "cert.pem"
	KeyFile   = "key.pem"
)

const (
	validity = 10 * 365 * 24 * time.Hour
	backdate = time.Hour // for nodes whose clock is behind
)

// ErrCAExists: the directory holds another authority's certificate, and
// replacing it would make every certificate it has signed worthless.
var ErrCAExists = errors.New("certs: another authority is there already")

// CA signs the certificates of one cluster.
type CA struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
	keyPEM  []byte
}

// NewCA makes an authority.
func NewCA() (*CA, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	template, err := newTemplate("roomlog development CA")
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.MaxPathLenZero = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{cert: cert, key: key, certPEM: encodeCert(der), keyPEM: keyPEM}, nil
}

// LoadCA reads the authority of dir. The error wraps fs.ErrNotExist if dir has
// neither of its files.
func LoadCA(dir string) (*CA, error) {
	certPath, keyPath := filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile)
	certPEM, err := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	switch {
	case err != nil && errors.Is(keyErr, fs.ErrNotExist):
		return nil, err
	case err != nil:
		// Made new, ca.pem would not fit the key that lies here: say so.
		return nil, fmt.Errorf("%s is here but not its certificate: %w", keyPath, hideNotExist(err))
	case keyErr != nil:
		return nil, fmt.Errorf("%s is here but not its key, so nothing can be signed: %w", certPath, hideNotExist(keyErr))
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", certPath, keyPath, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not the certificate of an ECDSA authority", certPath)
	}
	return &CA{cert: pair.Leaf, key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

// hideNotExist keeps the words of err but not its identity: half an authority
// must not be taken for none.
func hideNotExist(err error) error { return errors.New(err.Error()) }

// OpenCA reads the authority of dir, or makes one there if there is none.
func OpenCA(dir string) (ca *CA, created bool, err error) {
	ca, err = LoadCA(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return ca, false, err
	}
	if ca, err = NewCA(); err != nil {
		return nil, false, err
	}
	if err := ca.Write(dir, false); err != nil {
		return nil, false, err
	}
	return ca, true, nil
}

// CertPEM is what clients and nodes need to trust the authority.
func (ca *CA) CertPEM() []byte { return bytes.Clone(ca.certPEM) }

// Write puts the authority into dir. Another one there is replaced only if
// replace says so; else the error is ErrCAExists.
func (ca *CA) Write(dir string, replace bool) error {
	if err := checkCA(dir, ca.certPEM); err != nil && !replace {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, CAKeyFile), ca.keyPEM, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, CAFile), ca.certPEM, 0o644)
}

// checkCA gives ErrCAExists if dir has the certificate of another authority.
func checkCA(dir string, certPEM []byte) error {
	path := filepath.Join(dir, CAFile)
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && bytes.Equal(have, certPEM) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, ErrCAExists)
}

// Pair is what a node needs: its certificate, its key, and the authority that
// it and its peers are checked against. All are PEM.
type Pair struct{ CA, Cert, Key []byte }

// Issue makes the pair of a node. Hosts are DNS names or IP addresses under
// which it is reached, beside its name, localhost and the loopback addresses.
func (ca *CA) Issue(node string, hosts ...string) (Pair, error) {
	if node == "" {
		return Pair{}, errors.New("a certificate needs a node name")
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return Pair{}, fmt.Errorf("make the key of %s: %w", node, err)
	}
	template, err := newTemplate(node)
	if err != nil {
		return Pair{}, err
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if err := addHosts(template, append([]string{node, "localhost", "127.0.0.1", "::1"}, hosts...)); err != nil {
		return Pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign the certificate of %s: %w", node, err)
	}
	return Pair{CA: ca.CertPEM(), Cert: encodeCert(der), Key: keyPEM}, nil
}

func addHosts(template *x509.Certificate, hosts []string) error {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			if !slices.ContainsFunc(template.IPAddresses, ip.Equal) {
				template.IPAddresses = append(template.IPAddresses, ip)
			}
			continue
		}
		if err := checkDNSName(host); err != nil {
			return err
		}
		if !slices.Contains(template.DNSNames, host) {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return nil
}

// checkDNSName keeps out what a name cannot be, above all a host with its port.
func checkDNSName(host string) error {
	for i := range len(host) {
		c := host[i]
		ok := c == '.' || c == '-' || c == '_' || c == '*' ||
			'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !ok {
			return fmt.Errorf("%q is no host name: letters, digits, '-', '_' and '.', or an IP address (no port)", host)
		}
	}
	if host == "" || len(host) > 253 {
		return fmt.Errorf("a host name has 1 to 253 bytes, not %d", len(host))
	}
	return nil
}

// Write puts the pair into dir. It gives ErrCAExists, and leaves dir alone, if
// dir belongs to another authority, unless replace says so.
func (p Pair) Write(dir string, replace bool) error {
	if err := checkCA(dir, p.CA); err != nil && !replace {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The key goes first: a crash in between leaves a pair that Load rejects.
	if err := writeFile(filepath.Join(dir, KeyFile), p.Key, 0o600); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, CertFile), p.Cert, 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, CAFile), p.CA, 0o644)
}

// Load reads a node's pair from dir and checks that it fits together.
func Load(dir string) (Pair, error) {
	var p Pair
	for _, f := range []struct {
		name string
		dst  *[]byte
	}{{CAFile, &p.CA}, {CertFile, &p.Cert}, {KeyFile, &p.Key}} {
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return Pair{}, err
		}
		*f.dst = b
	}
	if err := p.check(); err != nil {
		return Pair{}, fmt.Errorf("certificates in %s: %w", dir, err)
	}
	return p, nil
}

func (p Pair) check() error {
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return err
	}
	roots, err := Pool(p.CA)
	if err != nil {
		return fmt.Errorf("%s: %w", CAFile, err)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

// Names tells what the pair's certificate is good for, and until when.
func (p Pair) Names() (hosts []string, notAfter time.Time, err error) {
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, time.Time{}, err
	}
	hosts = slices.Clone(pair.Leaf.DNSNames)
	for _, ip := range pair.Leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts, pair.Leaf.NotAfter, nil
}

// Ensure makes sure that dir holds a pair of node, and the authority to sign it
// with; both are made if they are missing. For a node that is a cluster alone.
func Ensure(dir, node string, hosts ...string) (p Pair, created bool, err error) {
	if p, err = Load(dir); err == nil {
		return p, false, nil
	}
	ca, _, err := OpenCA(dir)
	if err != nil {
		return Pair{}, false, err
	}
	if p, err = ca.Issue(node, hosts...); err != nil {
		return Pair{}, false, err
	}
	return p, true, p.Write(dir, false)
}

// Pool turns PEM into a pool to verify with.
func Pool(pemBytes []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pemBytes) {
		return nil, errors.New("no certificate in PEM form")
	}
	return pool, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(validity),
	}, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// writeFile replaces path as a whole, so that a crash leaves the old or the new
// content.
func writeFile(path string, content []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
