package devcluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// Free ports are sought below the range from which systems take the ports of
// outgoing connections. A port within it could go to some client's socket while
// its node is down, and the node could not come back.
const (
	lowestFree  = 11000
	highestFree = 32000
)

// Processes that look for ports at the same time, as the tests of several
// packages do, must not find the same ones: ports are taken in blocks, and a
// process holds the first port of each block it has taken for as long as it lives.
const blockSize = 100

var blocks struct {
	sync.Mutex
	held      []net.Listener
	next, end int // ports of the newest block that were not given out yet
}

// freePorts finds n ports on which neither TCP nor UDP is bound. They are given
// out once.
func freePorts(n int) ([]int, error) {
	blocks.Lock()
	defer blocks.Unlock()
	ports := make([]int, 0, n)
	for len(ports) < n {
		if blocks.next == blocks.end {
			if err := takeBlock(); err != nil {
				return nil, err
			}
		}
		port := blocks.next
		blocks.next++
		if probe("tcp", local(port)) == nil && probe("udp", local(port)) == nil {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// takeBlock needs blocks' mutex.
func takeBlock() error {
	const count = (highestFree - lowestFree) / blockSize
	for _, i := range rand.Perm(count) {
		first := lowestFree + i*blockSize
		if held, err := net.Listen("tcp", local(first)); err == nil {
			blocks.held = append(blocks.held, held)
			blocks.next, blocks.end = first+1, first+blockSize
			return nil
		}
	}
	return fmt.Errorf("no free block of ports found in %d to %d", lowestFree, highestFree)
}

// FreeAddrs finds n addresses of 127.0.0.1 on which neither TCP nor UDP is
// bound. They are not held.
func FreeAddrs(n int) ([]string, error) {
	ports, err := freePorts(n)
	addrs := make([]string, len(ports))
	for i, port := range ports {
		addrs[i] = local(port)
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
