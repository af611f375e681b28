package devcluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

// Free ports are sought below the range from which systems take the ports of
// outgoing connections. A port within it could go to some client's socket while
// its node is down, and the node could not come back.
const (
	lowestFree  = 11000
	highestFree = 32000
)

// freePorts finds n ports on which neither TCP nor UDP is bound. They are not
// held: someone else may take one before it is used.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	taken := make(map[int]bool)
	for range 200 * n {
		if len(ports) == n {
			return ports, nil
		}
		port := lowestFree + rand.IntN(highestFree-lowestFree)
		if !taken[port] && probe("tcp", address(port)) == nil && probe("udp", address(port)) == nil {
			ports = append(ports, port)
		}
		taken[port] = true
	}
	return nil, fmt.Errorf("no %d free ports found in %d to %d", n, lowestFree, highestFree)
}

// FreeAddrs finds n addresses of 127.0.0.1 on which neither TCP nor UDP is
// bound. They are not held.
func FreeAddrs(n int) ([]string, error) {
	ports, err := freePorts(n)
	addrs := make([]string, len(ports))
	for i, port := range ports {
		addrs[i] = address(port)
	}
	return addrs, err
}

// probe binds an address and lets it go.
func probe(network, addr string) error {
	if network == "udp" {
		conn, err := net.ListenPacket(network, addr)
		if err == nil {
			conn.Close()
		}
		return err
	}
	l, err := net.Listen(network, addr)
	if err == nil {
		l.Close()
	}
	return err
}

// CheckPorts tells which addresses of the nodes cannot be bound now.
func (l *Layout) CheckPorts() error {
	var errs []error
	for _, n := range l.Nodes {
		for _, p := range []struct{ key, network, addr string }{
			{"listen", "udp", n.Listen}, {"peer", "tcp", n.Peer}, {"http", "tcp", n.HTTP},
		} {
			switch err := probe(p.network, p.addr); {
			case errors.Is(err, syscall.EADDRINUSE):
				_, port, _ := net.SplitHostPort(p.addr)
				errs = append(errs, fmt.Errorf("%s port %s (%s of %s) is in use", p.network, port, p.key, n.Name))
			case err != nil:
				errs = append(errs, fmt.Errorf("%s of %s: %w", p.key, n.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Port is the port of a host:port address.
func Port(addr string) int {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return n
}
