// Package netcluster is a cluster of real roomlog processes (internal/devcluster)
// on a network whose faults are made to order (internal/faultnet): each node is
// in a host of its own, under the node's name, and this process is the host
// Clients, so that what it dials goes over the network, too:
//
//	n1 (10.x.y.1) ─┐
//	n2 (10.x.y.2) ─┼─ switch, faults ─ clients (this process)
//	n3 (10.x.y.3) ─┘
//
// Operators' HTTP goes past all faults (Dial): a node is asked from within its
// own host. Linux and root are needed.
package netcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/internal/faultnet"
)

// Clients is the name of this process's host.
const Clients = "clients"

// Cluster is the processes and their network. Its methods are safe for
// concurrent use.
type Cluster struct {
	*devcluster.Cluster
	Net   *faultnet.Net
	hosts map[netip.Addr]*faultnet.Host // of the nodes
}

// New lays a cluster out in a new directory and gives its nodes a network; no
// process runs yet. opts.Hosts, cfg.Layout, cfg.Start and cfg.Dial are set here.
// Close it in the end.
func New(opts devcluster.Options, cfg devcluster.Config) (*Cluster, error) {
	n, err := faultnet.New()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Net: n, hosts: map[netip.Addr]*faultnet.Host{}}
	if err := c.prepare(opts, cfg); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return c, nil
}

func (c *Cluster) prepare(opts devcluster.Options, cfg devcluster.Config) error {
	if opts.Nodes == 0 {
		opts.Nodes = devcluster.DefaultNodes
	}
	byName := map[string]*faultnet.Host{}
	opts.Hosts = nil
	for i := range opts.Nodes {
		h, err := c.Net.Host(devcluster.NodeName(i))
		if err != nil {
			return err
		}
		byName[h.Name()], c.hosts[h.Addr()] = h, h
		opts.Hosts = append(opts.Hosts, h.Addr().String())
	}
	if _, err := c.Net.Here(Clients); err != nil {
		return err
	}
	layout, err := devcluster.Prepare(opts)
	if err != nil {
		return err
	}
	cfg.Layout = layout
	cfg.Start = func(node string, start func() error) error { return byName[node].Do(start) }
	cfg.Dial = c.Dial
	c.Cluster = devcluster.New(cfg)
	return nil
}

// Dial connects to an address of a node from within its host, past all faults.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	h := c.hosts[target.Addr()]
	if h == nil {
		return nil, fmt.Errorf("%s is not the address of a node", addr)
	}
	return h.DialContext(ctx, network, addr)
}

// Cut is a node that is cut off.
type Cut struct{ from, to *faultnet.Injected }

// CutOff drops all packets from and to a node, but for those of Dial.
func (c *Cluster) CutOff(node string) *Cut {
	return &Cut{
		from: c.Net.Inject(faultnet.Fault{From: []string{node}, Drop: 1}),
		to:   c.Net.Inject(faultnet.Fault{To: []string{node}, Drop: 1}),
	}
}

// Heal ends the cut.
func (c *Cut) Heal() {
	c.from.Off()
	c.to.Off()
}

// Count is how many packets were dropped.
func (c *Cut) Count() int { return c.from.Count() + c.to.Count() }

// Close stops the processes, as devcluster's does, and takes the network away.
func (c *Cluster) Close() error { return errors.Join(c.Cluster.Close(), c.Net.Close()) }
