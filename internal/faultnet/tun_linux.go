package faultnet

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	tunDevice = "/dev/net/tun"

	// txQueue is how many packets the kernel keeps for the switch; the rest it drops.
	txQueue = 2048
)

// openDevice makes a TUN device in the namespace of the calling thread and gives
// it an address, and thereby a route to the network. The device goes when it is
// closed.
func openDevice(addr netip.Prefix) (io.ReadWriteCloser, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explain(fmt.Errorf("open %s: %w", tunDevice, err))
	}
	name, err := makeInterface(fd)
	if err == nil {
		err = configure(name, addr)
	}
	if err != nil {
		return nil, errors.Join(explain(err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), tunDevice), nil
}

// makeInterface makes the interface of an open device; the kernel numbers it.
func makeInterface(fd int) (name string, err error) {
	req, err := unix.NewIfreq("faultnet%d")
	if err != nil {
		return "", err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return "", fmt.Errorf("make a TUN interface: %w", err)
	}
	return req.Name(), nil
}

// configure gives an interface its address and starts it.
func configure(name string, addr netip.Prefix) error {
	ip := addr.Addr().As4()
	mask := [4]byte{}
	for bit := range addr.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	for _, set := range []struct {
		what    string
		request uint
		value   func(*unix.Ifreq) error
	}{
		{"address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(ip[:]) }},
		{"netmask", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask[:]) }},
		{"MTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }},
		{"queue", unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) error { r.SetUint32(txQueue); return nil }},
	} {
		if err := ask(name, set.request, set.value); err != nil {
			return fmt.Errorf("set the %s of %s: %w", set.what, name, err)
		}
	}
	return setUp(name)
}

func setUp(name string) error {
	err := ask(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// ask makes one request about an interface in the namespace of the calling thread.
func ask(name string, request uint, value func(*unix.Ifreq) error) error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := value(req); err != nil {
		return err
	}
	return unix.IoctlIfreq(sock, request, req)
}
