// Package devcluster runs a cluster of real roomlog processes on this machine,
// for "roomlog dev", for tests and for the demo.
//
// Prepare lays a directory out: certificates, a profile for clients, and per
// node a directory with config.yaml and its certificates, where the node keeps
// its data too, unless Options give that a directory below:
//
//	DIR/profile.yaml  ca.pem  ca-key.pem
//	DIR/n1/           config.yaml  ca.pem  cert.pem  key.pem  log  …
//
// A directory laid out before is used as it is, with the same ports, token and
// data. Any node can also be started by hand:
//
//	roomlog serve --config DIR/n1/config.yaml
//
// A Cluster starts the processes, signals them and reaps them. Its methods are
// safe for concurrent use.
package devcluster
