package peer

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestUntilBeat(t *testing.T) {
	const every = 100 * time.Millisecond
	for _, tt := range []struct{ since, want time.Duration }{
		{0, 30}, {10, 20}, {30, 0}, {31, 69}, {99, 1}, {100, 30},
	} {
		now := time.Unix(1000, int64(tt.since*time.Millisecond))
		if got := untilBeat(now, every); got != tt.want*time.Millisecond {
			t.Errorf("%v ms after a beat it waits %v, want %v ms", int64(tt.since), got, int64(tt.want))
		}
	}
	if got := untilBeat(time.Now(), 0); got != 0 {
		t.Errorf("without beats it waits %v", got)
	}
}

// beaten is what a call of Beat returned.
type beaten struct {
	group  uint32
	answer BeatAnswer
	err    error
}

func beatInto(n *Network, results chan<- beaten, group uint32, hurry bool) {
	a, err := n.Beat(context.Background(), "n2", Beat{Group: group, Term: 4}, hurry)
	results <- beaten{group, a, err}
}

// awaitBeats waits until so many beats of n1 wait for the next time.
func awaitBeats(t *testing.T, n *Network, count int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		g := n.peers["n2"].out.beats
		g.mu.Lock()
		waiting := g.count
		g.mu.Unlock()
		if waiting == count {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d beats wait, want %d", waiting, count)
		}
	}
}

// Beats wait for each other; one that hurries takes the others with it, and so
// does HurryBeats. Each gets the answer of its own group.
func TestBeatsGoTogether(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1", func(cfg *Config) { cfg.BeatEvery = 1000 * time.Hour })
	late := make(chan func())
	c.start("n2", func(cfg *Config) {
		cfg.OnBeat = func(node string, b Beat, answer func(BeatAnswer, bool)) {
			say := func() { answer(BeatAnswer{Term: b.Term + 1, Last: uint64(b.Group), OK: b.Group%2 == 0}, b.Group != 5) }
			if node != "n1" {
				t.Errorf("a beat of %s", node)
			}
			if b.Group == 6 {
				go func() { late <- say }()
			} else {
				say()
			}
		}
	})
	if _, err := n1.Beat(soon(t), "n9", Beat{}, true); err == nil {
		t.Error("a node that is no member was beaten")
	}
	awaitUp(t, n1, "n2")
	results := make(chan beaten, 10)
	check := func(count int) {
		t.Helper()
		for range count {
			select {
			case r := <-results:
				want := BeatAnswer{Term: 5, Last: uint64(r.group), OK: r.group%2 == 0}
				if r.group == 5 && !errors.Is(r.err, ErrNoAnswer) || r.group != 5 && (r.err != nil || r.answer != want) {
					t.Errorf("%+v", r)
				}
			case <-time.After(patience):
				t.Fatal("no answer")
			}
		}
	}
	for group := range uint32(6) {
		go beatInto(n1, results, group, false)
	}
	awaitBeats(t, n1, 6)
	n1.HurryBeats()
	check(6)
	go beatInto(n1, results, 1, false)
	awaitBeats(t, n1, 1)
	go beatInto(n1, results, 2, true)
	check(2)

	// One that is not answered keeps no other waiting.
	go beatInto(n1, results, 6, true)
	say := <-late
	go beatInto(n1, results, 7, true)
	check(1)
	say()
	check(1)

	// Without an answer it ends with its context, and with the link.
	go beatInto(n1, results, 6, true)
	<-late
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n1.Beat(ctx, "n2", Beat{Group: 6}, false); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	n1.end(n1.peers["n2"].out)
	if r := <-results; !errors.Is(r.err, ErrLinkDown) {
		t.Errorf("when the link ends: %+v", r)
	}
}

// A node that beats by its clock needs no hurry.
func TestBeatsByTheClock(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1", func(cfg *Config) { cfg.BeatEvery = 10 * time.Millisecond })
	c.start("n2", func(cfg *Config) {
		cfg.OnBeat = func(_ string, b Beat, answer func(BeatAnswer, bool)) { answer(BeatAnswer{}, true) }
	})
	awaitUp(t, n1, "n2")
	for range 20 {
		if _, err := n1.Beat(soon(t), "n2", Beat{Group: 1}, false); err != nil {
			t.Fatal(err)
		}
	}
}
