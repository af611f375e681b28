package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// alpn tells a peer's connection from any other; the version is in the hello,
// where a refusal can be put into words.
const alpn = "roomlog-peer"

func baseTLS(cfg Config) *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{cfg.Cert},
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // else a second of silence brings 1.4 KB records back
	}
}

func serverTLS(cfg Config) *tls.Config {
	c := baseTLS(cfg)
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = cfg.CA
	return c
}

// clientTLS accepts only a server whose certificate names node.
func clientTLS(cfg Config, node string) *tls.Config {
	c := baseTLS(cfg)
	c.RootCAs = cfg.CA
	c.ServerName = node
	return c
}

// checkCertificate finds out early what every other node would refuse.
func checkCertificate(cert tls.Certificate, ca *x509.CertPool, node string) error {
	if ca == nil {
		return errors.New("peer: no CA given (key \"ca\"): the nodes of a cluster trust each other by it")
	}
	if len(cert.Certificate) == 0 {
		return errors.New("peer: no certificate given (key \"cert\"): a node of a cluster needs one")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("peer: certificate (key \"cert\"): %w", err)
	}
	between := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		opts := x509.VerifyOptions{Roots: ca, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{use}}
		if _, err := leaf.Verify(opts); err != nil {
			return fmt.Errorf("peer: the other nodes will refuse this node's certificate (keys \"cert\", \"ca\"): %w", err)
		}
	}
	if err := leaf.VerifyHostname(node); err != nil {
		return fmt.Errorf("peer: this node's certificate (key \"cert\") must name node %q among its DNS names: %w", node, err)
	}
	return nil
}
