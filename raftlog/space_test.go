package raftlog

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/roomlog/roomlog/raftlog/segment"
)

var errFull = errors.New("the reserve is reached")

// A replica whose disk is full takes no entries, and goes on when there is room.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	c := makeCluster(t, t.TempDir(), 3)
	full := map[string]*atomic.Bool{}
	c.change = func(cfg *Config) {
		cfg.SegmentBytes = smallSegment
		no := full[cfg.Node]
		cfg.Space = func(int64) error {
			if no.Load() {
				return errFull
			}
			return nil
		}
	}
	t.Cleanup(c.end)
	for _, name := range c.names {
		full[name] = &atomic.Bool{}
		c.open(name)
	}
	c.handTo("n1")
	big := strings.Repeat(".", 64<<10) // takes room soon

	full["n2"].Store(true)
	for i := range 32 {
		c.publish(fmt.Sprint("one is full ", i, big))
	}
	c.await("n2 to lag", func() bool { return c.nodes["n2"].group.Status().Last < c.nodes["n1"].group.Status().Last })
	c.publish("goes on without n2")
	full["n2"].Store(false)
	c.agree("goes on without n2")

	leader := c.handTo("n1")
	full["n1"].Store(true)
	var refused error
	var data string
	for i := 0; refused == nil && i < 64; i++ {
		data = fmt.Sprint("the leader is full ", i, big)
		_, refused = leader.group.Propose([]byte(data)).Wait(soon(t))
	}
	if !errors.Is(refused, ErrNoSpace) || !errors.Is(refused, errFull) || errors.Is(refused, ErrUnknown) {
		t.Errorf("the leader answers %v, want ErrNoSpace", refused)
	}
	c.publish("another leads, or it does again")
	full["n1"].Store(false)
	c.publish("there is room")
	if slices.Contains(c.agree("there is room"), data) {
		t.Error("the refused entry is there")
	}
	c.sameLogs()
}

// Raft remembers where its log ended before a cut, so what takes the place of
// cut entries is not refused.
func TestNoRefusalAfterACut(t *testing.T) {
	var full bool
	s, err := openLogStore(segment.Options{
		Dir: filepath.Join(t.TempDir(), "log"), Group: 7, SegmentBytes: smallSegment,
		Space: func(int64) error {
			if full {
				return errFull
			}
			return nil
		},
	}, 1000, func(err error) { t.Errorf("Fatal was told: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(false) })
	store := func(first, last, term uint64) error { return s.StoreLogs(entries(first, last, term, 64<<10)) }
	if err := store(1, 20, 1); err != nil {
		t.Fatal(err)
	}
	full = true
	refusal := func(term uint64) (next uint64) {
		t.Helper()
		last, _ := s.LastIndex()
		for next = last + 1; next < last+40; next++ {
			if err := store(next, next, term); err != nil {
				if !errors.Is(err, ErrNoSpace) || !errors.Is(err, errFull) {
					t.Fatalf("refused with %v", err)
				}
				return next
			}
		}
		t.Fatal("it is never refused")
		return 0
	}
	next := refusal(1)
	if err := s.DeleteRange(next-1, next-1); err != nil {
		t.Fatal(err)
	}
	if err := store(next-1, next+30, 2); err != nil {
		t.Errorf("after a cut: %v", err)
	}
	refusal(2)
	if err := s.Reset(5000, 3); err != nil {
		t.Fatal(err)
	}
	if err := store(5001, 5040, 3); err != nil {
		t.Errorf("after a reset: %v", err)
	}
	refusal(3)
	full = false
	last, _ := s.LastIndex()
	if err := store(last+1, last+20, 3); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
