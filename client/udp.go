package client

import "net"

// connected is a UDP socket bound to one server. Only such a socket is told by
// the kernel that the server's port is closed, so that a killed server shows
// with the next packet; quic-go addresses every packet, which a connected
// socket refuses, hence the nil addresses.
type connected struct{ *net.UDPConn }

func (c *connected) WriteTo(b []byte, _ net.Addr) (int, error) { return c.Write(b) }

func (c *connected) WriteMsgUDP(b, oob []byte, _ *net.UDPAddr) (int, int, error) {
	return c.UDPConn.WriteMsgUDP(b, oob, nil)
}
