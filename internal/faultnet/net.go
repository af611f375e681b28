package faultnet

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Net is a network. Its methods may be called concurrently.
type Net struct {
	prefix   netip.Prefix // a /24
	reserved io.Closer    // keeps other Nets from the prefix
	delayed  *delayed
	running  sync.WaitGroup

	hosts  [256]atomic.Pointer[Host]   // by the last byte of the address
	faults atomic.Pointer[[]*Injected] // replaced as a whole

	mu     sync.Mutex // of those who add, remove and close
	names  map[string]*Host
	here   *Host // this process's, if it is on the net
	closed bool
}

const maxHosts = 254 // of a /24

// New makes a network without hosts. Its addresses are a /24 of 10.0.0.0/8 that
// this machine does not use, nor another Net, of whatever process.
func New() (*Net, error) {
	prefix, reserved, err := reserve()
	if err != nil {
		return nil, fmt.Errorf("faultnet: %w", err)
	}
	return newNet(prefix, reserved), nil
}

func newNet(prefix netip.Prefix, reserved io.Closer) *Net {
	n := &Net{prefix: prefix, reserved: reserved, delayed: newDelayed(), names: map[string]*Host{}}
	n.faults.Store(&[]*Injected{})
	n.running.Go(n.delayed.run)
	return n
}

// Host adds a host in a namespace of its own.
func (n *Net) Host(name string) (*Host, error) { return n.add(name, newNamespace) }

// Here puts this process's own namespace on the network, as a host with a name
// like others. This can be done once.
func (n *Net) Here(name string) (*Host, error) { return n.add(name, nil) }

// add makes a host in the namespace that space makes; without it, in this process's.
func (n *Net) add(name string, space func() (*namespace, error)) (h *Host, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	place := len(n.names) + 1
	switch {
	case n.closed:
		return nil, errors.New("faultnet: the network is closed")
	case n.names[name] != nil:
		return nil, fmt.Errorf("faultnet: there is a host %q already", name)
	case space == nil && n.here != nil:
		return nil, fmt.Errorf("faultnet: this process is on the network already, as %q", n.here.name)
	case place > maxHosts:
		return nil, fmt.Errorf("faultnet: a network has at most %d hosts", maxHosts)
	}
	h = &Host{name: name, addr: n.at(place)}
	if space != nil {
		if h.space, err = space(); err != nil {
			return nil, fmt.Errorf("faultnet: host %q: %w", name, err)
		}
	}
	err = h.Do(func() (err error) {
		h.device, err = openDevice(netip.PrefixFrom(h.addr, n.prefix.Bits()))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("faultnet: host %q: %w", name, errors.Join(err, h.space.Close()))
	}
	n.join(h, place)
	return h, nil
}

// at is the address at a place, from 1 on.
func (n *Net) at(place int) netip.Addr {
	base := n.prefix.Addr().As4()
	base[3] = byte(place)
	return netip.AddrFrom4(base)
}

// join needs the mutex.
func (n *Net) join(h *Host, place int) {
	n.names[h.name] = h
	n.hosts[place].Store(h)
	if h.space == nil {
		n.here = h
	}
	n.running.Go(func() { n.forward(h) })
}

// forward hands on what a host sends until its device is closed.
func (n *Net) forward(from *Host) {
	packet := make([]byte, mtu)
	for {
		size, err := from.device.Read(packet)
		if err != nil {
			return
		}
		n.send(from, packet[:size])
	}
}

// send lets a packet meet its faults and go on. It may change the packet and
// does not keep it.
func (n *Net) send(from *Host, packet []byte) {
	h, ok := parse(packet)
	if !ok || !n.prefix.Contains(netip.AddrFrom4(h.to)) {
		return
	}
	to := n.hosts[h.to[3]].Load()
	if to == nil || to == from {
		return
	}
	faults := *n.faults.Load()
	if len(faults) == 0 {
		to.deliver(packet)
		return
	}
	now := time.Now()
	f := fate{due: now, copies: 1}
	for _, i := range faults {
		if l := (link{from, to}); i.matches(l, h.protocol) {
			i.meet(l, packet, &f)
		}
		if f.lost {
			return
		}
	}
	for range f.copies {
		if f.due.After(now) {
			n.delayed.add(f.due, to, packet)
		} else {
			to.deliver(packet)
		}
	}
}

// Inject has a fault take effect until it is taken off.
func (n *Net) Inject(f Fault) *Injected {
	i := newInjected(n, f)
	n.mu.Lock()
	defer n.mu.Unlock()
	faults := append(slices.Clone(*n.faults.Load()), i)
	n.faults.Store(&faults)
	return i
}

func (n *Net) remove(i *Injected) {
	n.mu.Lock()
	defer n.mu.Unlock()
	faults := slices.DeleteFunc(slices.Clone(*n.faults.Load()), func(other *Injected) bool { return other == i })
	n.faults.Store(&faults)
}

// Close takes the network away and returns when nothing of it works any more. A
// host's namespace is gone when no process is left in it either.
func (n *Net) Close() error {
	n.mu.Lock()
	closed := n.closed
	n.closed = true
	n.mu.Unlock()
	if closed {
		return nil
	}
	close(n.delayed.stop)
	var errs []error
	for _, h := range n.names { // nobody adds any more
		errs = append(errs, h.device.Close(), h.space.Close())
	}
	n.running.Wait()
	return errors.Join(append(errs, n.reserved.Close())...)
}
