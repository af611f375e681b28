package client

import "crypto/tls"

// ClusterForExamples starts the cluster that the examples talk to. It lives as long
// as the test binary.
func ClusterForExamples() (servers []string, cfg *tls.Config, token string) {
	f, err := newFake(2, 4)
	if err != nil {
		panic(err)
	}
	return f.addrs(), &tls.Config{RootCAs: f.roots}, f.token
}
