package faultnet

import (
	"context"
	"io"
	"net"
	"net/netip"
)

// Host is on a network. Its methods may be called concurrently.
type Host struct {
	name   string
	addr   netip.Addr
	space  *namespace // nil: this process's own
	device io.ReadWriteCloser
}

// Name is what faults call it.
func (h *Host) Name() string { return h.name }

// Addr is its address on the network.
func (h *Host) Addr() netip.Addr { return h.addr }

// Do runs run, on the caller's goroutine, with its thread in the host's
// namespace: sockets made and processes started in run are and stay in the host.
// Goroutines that run starts are not in there.
func (h *Host) Do(run func() error) error {
	if h.space == nil {
		return run()
	}
	return h.space.do(run)
}

// DialContext connects from inside of the host. What is on the host itself is
// reached over its loopback interface, whatever the faults. The address must be
// an IP address, not a name.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// deliver hands a packet to the host's kernel. What it does not take is lost, as
// on any network.
func (h *Host) deliver(packet []byte) { _, _ = h.device.Write(packet) }
