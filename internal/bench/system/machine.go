package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// machine says in words what the figures below it were measured on: they follow
// what a flush of the disk, a packet on loopback and a fresh page cost there.
func machine() (string, error) {
	dir, err := os.MkdirTemp("", "roomlog-machine-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	p50, p99, cpu, err := flushes(dir)
	if err != nil {
		return "", err
	}
	trip, err := roundTrip()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d CPUs, %s/%s, Go %s; write + fsync of 4 KiB: p50 %v, p99 %v, %v of CPU; UDP round trip on loopback: %v; first touch of a page: %v",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), us(p50), us(p99), us(cpu), us(trip), us(firstTouch())), nil
}

func us(d time.Duration) time.Duration { return d.Round(100 * time.Nanosecond) }

// flushes overwrites a part of a file and syncs it, again and again.
func flushes(dir string) (p50, p99, cpu time.Duration, err error) {
	const size, block, rounds = 4 << 20, 4 << 10, 1000
	f, err := os.OpenFile(filepath.Join(dir, "flushes"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, 0, 0, err
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, size)); err != nil {
		return 0, 0, 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, 0, 0, err
	}
	took := make([]time.Duration, rounds)
	data, before := make([]byte, block), cpuTime()
	for i := range took {
		began := time.Now()
		if _, err := f.WriteAt(data, int64(i)*block%size); err != nil {
			return 0, 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, 0, err
		}
		took[i] = time.Since(began)
	}
	cpu = (cpuTime() - before) / rounds
	slices.Sort(took)
	return took[rounds/2], took[rounds*99/100], cpu, nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for the process itself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// roundTrip is what a datagram there and back takes, between two goroutines.
func roundTrip() (time.Duration, error) {
	const rounds = 10_000
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	defer server.Close()
	client, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	b := make([]byte, 200)
	client.SetDeadline(time.Now().Add(10 * time.Second)) // loopback may lose a datagram, too
	began := time.Now()
	for range rounds {
		if _, err := client.Write(b); err != nil {
			return 0, err
		}
		if _, err := client.Read(b); err != nil {
			return 0, err
		}
	}
	return time.Since(began) / rounds, nil
}

func firstTouch() time.Duration {
	const pages, size = 16 << 10, 4 << 10
	b := make([]byte, pages*size)
	began := time.Now()
	for i := 0; i < len(b); i += size {
		b[i] = 1
	}
	return time.Since(began) / pages
}
