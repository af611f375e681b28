//go:build !linux

package faultnet

import (
	"errors"
	"io"
	"net/netip"
)

var errNeedsLinux = errors.New("a network with faults needs Linux")

type namespace struct{}

func (*namespace) Close() error                 { return nil }
func (*namespace) do(func() error) error        { return errNeedsLinux }
func newNamespace() (*namespace, error)         { return nil, errNeedsLinux }
func reserve() (netip.Prefix, io.Closer, error) { return netip.Prefix{}, nil, errNeedsLinux }

func openDevice(netip.Prefix) (io.ReadWriteCloser, error) { return nil, errNeedsLinux }
