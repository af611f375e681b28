package faultnet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tries is for how many prefixes New looks. Few of them are in use anywhere, or
// all: somebody has a route to 10.0.0.0/8.
const tries = 256

// reserve finds a prefix that nobody uses. An abstract socket keeps others from it
// until it is closed or this process dies.
func reserve() (netip.Prefix, io.Closer, error) {
	used, err := routes()
	if err != nil {
		return netip.Prefix{}, nil, err
	}
	for range tries {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rand.Uint32()), byte(rand.Uint32()), 0}), 24)
		if overlaps(prefix, used) {
			continue
		}
		switch reserved, err := net.Listen("unix", "@roomlog-faultnet-"+prefix.Addr().String()); {
		case err == nil:
			return prefix, reserved, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return netip.Prefix{}, nil, err
		}
	}
	return netip.Prefix{}, nil, errors.New("no /24 of 10.0.0.0/8 is free: this machine has routes to all of them (see /proc/net/route)")
}

func overlaps(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

// routes lists where this machine has routes to, but for the default.
func routes() ([]netip.Prefix, error) {
	table, err := os.ReadFile("/proc/thread-self/net/route")
	if err != nil {
		return nil, err
	}
	return parseRoutes(table)
}

// parseRoutes reads a table as the kernel shows it: a line of headings, then per
// route the interface, destination, gateway, flags, three numbers and the mask.
// Addresses are in hexadecimal, as the machine's memory has them.
func parseRoutes(table []byte) (all []netip.Prefix, err error) {
	lines := bufio.NewScanner(bytes.NewReader(table))
	lines.Scan()
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 {
			return nil, fmt.Errorf("a route that is none: %q", lines.Text())
		}
		dest, destErr := strconv.ParseUint(fields[1], 16, 32)
		mask, maskErr := strconv.ParseUint(fields[7], 16, 32)
		if err := errors.Join(destErr, maskErr); err != nil {
			return nil, fmt.Errorf("route %q: %w", lines.Text(), err)
		}
		if mask == 0 {
			continue
		}
		var addr [4]byte
		binary.NativeEndian.PutUint32(addr[:], uint32(dest))
		all = append(all, netip.PrefixFrom(netip.AddrFrom4(addr), bits.OnesCount32(uint32(mask))))
	}
	return all, lines.Err()
}
