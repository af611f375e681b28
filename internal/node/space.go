package node

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// spaceCheck is how often the free space is looked at.
const spaceCheck = 250 * time.Millisecond

// errNoSpace: the log may not grow without touching the reserve.
var errNoSpace = errors.New("disk is nearly full")

// space watches the free space under a directory.
//
// The log grows only while the reserve stays free. Publishes are refused before,
// from a quarter of the reserve above it: what was accepted until then still has
// room, and so have the entries that an election and retention need, without
// which no room would ever be made. All methods may be called concurrently.
type space struct {
	dir     string
	reserve int64
	free    func(dir string) (int64, error)
	log     *slog.Logger

	last atomic.Int64 // free bytes when last looked
	full atomic.Bool  // publishes are refused
	told atomic.Bool  // an error of free has been logged
}

func newSpace(dir string, reserve int64, free func(string) (int64, error), log *slog.Logger) *space {
	s := &space{dir: dir, reserve: reserve, free: free, log: log}
	s.last.Store(math.MaxInt64) // until it is known
	s.look()
	return s
}

// look measures, and tells when publishing ends or begins again. It begins a
// sixteenth of the reserve above where it ended, so that it does not flutter.
func (s *space) look() int64 {
	free, err := s.free(s.dir)
	if err != nil {
		if !s.told.Swap(true) {
			s.log.Error("the free space of the disk is not known", "dir", s.dir, "err", err)
		}
		return s.last.Load()
	}
	s.told.Store(false)
	s.last.Store(free)
	limit := s.reserve + s.reserve/4
	switch {
	case free < limit && s.full.CompareAndSwap(false, true):
		s.log.Error("the disk is nearly full: publishes are refused", "dir", s.dir, "free", free, "reserve", s.reserve)
	case free >= limit+s.reserve/16 && s.full.CompareAndSwap(true, false):
		s.log.Info("the disk has room again: publishes are taken", "dir", s.dir, "free", free)
	}
	return free
}

// nearlyFull tells whether publishes are to be refused.
func (s *space) nearlyFull() bool { return s.full.Load() }

// take tells whether bytes more may be taken from the disk.
func (s *space) take(bytes int64) error {
	if free := s.look(); s.reserve > 0 && free-bytes < s.reserve {
		return fmt.Errorf("%w: %d bytes are free under %s, %d are wanted, %d are the reserve", errNoSpace, free, s.dir, bytes, s.reserve)
	}
	return nil
}

// watchSpace looks again and again.
func (n *Node) watchSpace() {
	tick := time.NewTicker(spaceCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.space.look()
		case <-n.ctx.Done():
			return
		}
	}
}

func (s *space) collectors() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "roomlog", Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("disk_free_bytes", "Free bytes under the data directory.", func() float64 { return float64(s.last.Load()) }),
		gauge("disk_full", "1 while publishes are refused because the disk is nearly full.", func() float64 {
			if s.nearlyFull() {
				return 1
			}
			return 0
		}),
	}
}

// freeBytes is what a process without privileges may still use.
func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
