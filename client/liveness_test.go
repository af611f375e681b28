package client

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The pinger in time: what it does at each moment it asked to be woken.
func TestPinger(t *testing.T) {
	const ms = time.Millisecond
	t.Run("no answer", func(t *testing.T) {
		var p pinger
		var story []string
		for now, wait := 1000*ms, time.Duration(0); ; now += wait {
			var do verdict
			do, wait = p.step(now, 1000*ms, 1000*ms, 100*ms, false)
			story = append(story, fmt.Sprintf("%v:%d", now-1000*ms, do))
			if do == verdictDead {
				break
			}
		}
		if got := strings.Join(story, " "); got != "0s:0 100ms:1 350ms:1 600ms:1 850ms:1 1s:2" {
			t.Errorf("%s", got)
		}
	})
	t.Run("answered", func(t *testing.T) {
		var p pinger
		if do, _ := p.step(200*ms, 100*ms, 100*ms, 100*ms, false); do != verdictPing {
			t.Fatal("no ping")
		}
		do, wait := p.step(260*ms, 250*ms, 250*ms, 200*ms, false)
		if do != verdictWait || wait != 190*ms {
			t.Errorf("%v, %v", do, wait)
		}
	})
	t.Run("we were asleep ourselves", func(t *testing.T) {
		var p pinger
		p.step(200*ms, 100*ms, 100*ms, 100*ms, false)
		if do, wait := p.step(5000*ms, 100*ms, 100*ms, 100*ms, true); do != verdictPing || wait != pingAgain {
			t.Errorf("%v, %v", do, wait)
		}
		if do, _ := p.step(5900*ms, 100*ms, 100*ms, 100*ms, false); do != verdictDead {
			t.Errorf("%v", do)
		}
	})
}

func TestThreshold(t *testing.T) {
	for _, tt := range []struct {
		name  string
		busy  bool
		mean  time.Duration
		quiet int32
		want  time.Duration
	}{
		{name: "idle", mean: time.Millisecond, want: 15 * time.Second},
		{name: "talking fast", busy: true, mean: time.Millisecond, want: 100 * time.Millisecond},
		{name: "talking", busy: true, mean: 100 * time.Millisecond, want: 400 * time.Millisecond},
		{name: "one answered ping", busy: true, mean: time.Millisecond, quiet: 1, want: 200 * time.Millisecond},
		{name: "many answered pings", busy: true, mean: time.Millisecond, quiet: 40, want: 15 * time.Second},
		{name: "talking seldom", busy: true, mean: time.Minute, want: 15 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a liveness
			a.init()
			if tt.busy {
				a.expecting.Store(1)
			}
			a.mean.Store(int64(tt.mean))
			a.quiet.Store(tt.quiet)
			if got := a.threshold(); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for tries, want := range []time.Duration{10, 10, 20, 40, 80, 160, 320, 500, 500} {
		for range 50 {
			if d := backoff(tries); d < want*time.Millisecond/2 || d > want*time.Millisecond {
				t.Fatalf("backoff(%d) = %v", tries, d)
			}
		}
	}
}

// A silent room costs few pings: each answered one doubles the silence, until
// something comes.
func TestPingsInSilence(t *testing.T) {
	f := startFake(t, 1, 1)
	c := f.dial(t)
	f.append("lobby", "a")
	alive := &c.router.home.alive
	for m := range c.Subscribe(within(t), "lobby") {
		if m.Seq == 2 {
			break
		}
		waitFor(t, func() bool { return alive.quiet.Load() == 2 })
		if d := alive.threshold(); d < 4*minSilence {
			t.Errorf("the next ping after %v", d)
		}
		f.append("lobby", "b")
	}
	if n := alive.quiet.Load(); n != 0 {
		t.Errorf("%d pings counted after a message", n)
	}
}
