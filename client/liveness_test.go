package client

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
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
			do, wait = p.step(now, 1000*ms, 1000*ms, 100*ms, deadAfter, false)
			story = append(story, fmt.Sprintf("%v:%d", now-1000*ms, do))
			if do == verdictDead {
				break
			}
		}
		if got := strings.Join(story, " "); got != "0s:0 100ms:1 350ms:1 850ms:1 1s:2" {
			t.Errorf("%s", got)
		}
	})
	t.Run("answered", func(t *testing.T) {
		var p pinger
		if do, _ := p.step(200*ms, 100*ms, 100*ms, 100*ms, deadAfter, false); do != verdictPing {
			t.Fatal("no ping")
		}
		do, wait := p.step(260*ms, 250*ms, 250*ms, 200*ms, deadAfter, false)
		if do != verdictWait || wait != 190*ms {
			t.Errorf("%v, %v", do, wait)
		}
	})
	t.Run("we were asleep ourselves", func(t *testing.T) {
		var p pinger
		p.step(200*ms, 100*ms, 100*ms, 100*ms, deadAfter, false)
		if do, wait := p.step(5000*ms, 100*ms, 100*ms, 100*ms, deadAfter, true); do != verdictPing || wait != pingAgain {
			t.Errorf("%v, %v", do, wait)
		}
		if do, _ := p.step(5900*ms, 100*ms, 100*ms, 100*ms, deadAfter, false); do != verdictDead {
			t.Errorf("%v", do)
		}
	})
}

func TestThreshold(t *testing.T) {
	const longest = 12 * time.Second // 15 s with the spread
	for _, tt := range []struct {
		name     string
		reads    bool
		owed     bool
		mean     time.Duration
		quiet    int32
		spread   float64
		trip     time.Duration
		doubted  bool
		gone     bool
		crowded  bool
		want     time.Duration
		patience time.Duration
	}{
		{name: "idle", mean: time.Millisecond, want: longest, patience: 3 * time.Second},
		{name: "idle, spread", spread: 1, want: 15 * time.Second, patience: 15 * time.Second / 4},
		{name: "talking fast", reads: true, mean: time.Millisecond, want: 100 * time.Millisecond, patience: deadAfter},
		{name: "talking", reads: true, mean: 100 * time.Millisecond, want: 400 * time.Millisecond, patience: deadAfter},
		{name: "talking, spread", reads: true, mean: 100 * time.Millisecond, spread: 0.5, want: 450 * time.Millisecond, patience: deadAfter},
		{name: "one answered ping", reads: true, mean: time.Millisecond, quiet: 1, want: 200 * time.Millisecond, patience: deadAfter},
		{name: "many answered pings", reads: true, mean: time.Millisecond, quiet: 40, want: longest, patience: 3 * time.Second},
		{name: "talking seldom", reads: true, mean: 15 * time.Second, want: longest, patience: 3 * time.Second},
		{name: "an answer is due", owed: true, mean: 15 * time.Second, want: answerSilence, patience: deadAfter},
		{name: "an answer is due to a reader", owed: true, reads: true, mean: 15 * time.Second, quiet: 1, want: 2 * answerSilence, patience: deadAfter},
		{name: "a busy server", reads: true, mean: time.Millisecond, trip: 300 * time.Millisecond, want: 100 * time.Millisecond, patience: 1200 * time.Millisecond},
		{name: "a very busy server", reads: true, mean: time.Millisecond, trip: time.Minute, want: 100 * time.Millisecond, patience: maxPatience},
		{name: "lost by another node", doubted: true, spread: 1, want: 0, patience: deadAfter},
		{name: "gone for another node", gone: true, reads: true, mean: 15 * time.Second, want: 0, patience: goneAfter},
		{name: "gone, and has been slow", gone: true, trip: 200 * time.Millisecond, want: 0, patience: 800 * time.Millisecond},
		{name: "has the clients of another", reads: true, mean: time.Millisecond, crowded: true, want: 100 * time.Millisecond, patience: maxPatience},
		{name: "had them, and is gone", gone: true, crowded: true, want: 0, patience: goneAfter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a liveness
			a.init()
			if tt.crowded {
				a.crowded()
			}
			if tt.reads {
				a.follow()
			}
			if tt.owed {
				a.expect()
			}
			a.mean.Store(int64(tt.mean))
			a.quiet.Store(tt.quiet)
			a.spread = tt.spread
			a.trip.Store(int64(tt.trip))
			if tt.doubted {
				a.doubt()
			}
			if tt.gone {
				a.gone()
			}
			if got := a.threshold(); got != tt.want {
				t.Errorf("threshold %v, want %v", got, tt.want)
			}
			if got := a.patience(); got != tt.patience {
				t.Errorf("patience %v, want %v", got, tt.patience)
			}
		})
	}
}

// TestTalk: a room has to talk for a while before its silence is unusual; pongs are
// no talk.
func TestTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a liveness
		a.init()
		a.spread = 0
		defer a.follow()()
		if d := a.threshold(); d < 10*time.Second {
			t.Errorf("who has heard nothing pings after %v", d)
		}
		a.heard()
		if d := a.threshold(); d < 5*time.Second {
			t.Errorf("after one message the next ping comes after %v", d)
		}
		for range 20 {
			time.Sleep(50 * time.Millisecond)
			a.heard()
		}
		if d := a.threshold(); d > 500*time.Millisecond {
			t.Errorf("a room talks every 50 ms, and a ping comes after %v", d)
		}
		for range 40 {
			time.Sleep(time.Second)
			a.pong(time.Millisecond)
		}
		a.heard()
		if d := a.threshold(); d < 5*time.Second {
			t.Errorf("after 40 s without a word the next ping comes after %v", d)
		}
		a.pong(800 * time.Millisecond)
		for range 30 {
			a.pong(time.Millisecond)
		}
		if d := a.trip.Load(); d > int64(50*time.Millisecond) {
			t.Errorf("a slow answer counts as %v after 30 fast ones", time.Duration(d))
		}
	})
}

// TestAskingAgain: who asks a dead node again and again still finds that it is silent.
func TestAskingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a liveness
		a.init()
		began := nanos()
		for range 20 {
			defer a.expect()()
			time.Sleep(100 * time.Millisecond)
		}
		if from := a.quietFrom(); from > began {
			t.Errorf("the silence is said to have begun %v ago, want 2 s", nanos()-from)
		}
		a.heard()
		began = nanos()
		for range 20 { // one after the other
			done := a.expect()
			time.Sleep(100 * time.Millisecond)
			done()
		}
		if from := a.quietFrom(); from > began {
			t.Errorf("then the silence is said to have begun %v ago, want 2 s", nanos()-from)
		}
	})
}

// TestPongsOfOneSeries: pings that are answered together are one sign of life.
func TestPongsOfOneSeries(t *testing.T) {
	var a liveness
	a.init()
	for range 3 {
		a.series.Add(1)
		for range 3 {
			a.pong(time.Second)
		}
	}
	if n := a.quiet.Load(); n != 3 {
		t.Errorf("%d series of pings are said to be answered, want 3", n)
	}
	for range 100 {
		a.heard()
	}
	if d := time.Duration(a.trip.Load()); d > deadAfter/4 {
		t.Errorf("after much talk a ping is still said to take %v", d)
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
	alive.mean.Store(1) // as if the room talked
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
