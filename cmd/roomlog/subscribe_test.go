package main

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomlog/roomlog/client"
)

func said(seq uint64, payload string) client.Message {
	return client.Message{Room: "lobby", Seq: seq, Time: noon, Publisher: "ann", Payload: []byte(payload)}
}

func missing(from, to uint64) client.Message {
	return client.Message{Room: "lobby", Seq: to, Gap: &client.Gap{From: from, To: to, Reason: client.ReasonTrimmed}}
}

// script is a subscription that yields its steps, then waits for ctx.
type step struct {
	after time.Duration
	msg   client.Message
	err   error
}

func script(steps ...step) func(ctx context.Context) iter.Seq2[client.Message, error] {
	return func(ctx context.Context) iter.Seq2[client.Message, error] {
		return func(yield func(client.Message, error) bool) {
			for _, s := range steps {
				select {
				case <-time.After(s.after):
				case <-ctx.Done():
					yield(client.Message{}, ctx.Err())
					return
				}
				if !yield(s.msg, s.err) || s.err != nil {
					return
				}
			}
			<-ctx.Done()
			yield(client.Message{}, ctx.Err())
		}
	}
}

func reachable(context.Context) error { return nil }

func TestSubscribePrints(t *testing.T) {
	steps := script(
		step{msg: missing(1, 4)},
		step{msg: said(5, "hello <b>\"all\"</b> \\o/")},
		step{msg: said(6, "")},
		step{msg: client.Message{Room: "lobby", Seq: 7, Time: noon, Payload: []byte("a\xffb")}},
		step{msg: said(8, "two\nlines\x1b[2J")},
		step{msg: said(9, "not printed")},
	)
	for output, want := range map[string]string{
		"json": `{"room":"lobby","gap":{"from":1,"to":4,"reason":"trimmed"}}
{"room":"lobby","seq":5,"time":"2026-11-23T12:00:00.000000005Z","publisher":"ann","payload":"hello <b>\"all\"</b> \\o/"}
{"room":"lobby","seq":6,"time":"2026-11-23T12:00:00.000000005Z","publisher":"ann","payload":""}
{"room":"lobby","seq":7,"time":"2026-11-23T12:00:00.000000005Z","publisher":"","payload_b64":"Yf9i"}
{"room":"lobby","seq":8,"time":"2026-11-23T12:00:00.000000005Z","publisher":"ann","payload":"two\nlines\u001b[2J"}
`,
		"text": `lobby  gap: 1 to 4 (trimmed)
lobby  5  2026-11-23T12:00:00.000000005Z  <ann> hello <b>"all"</b> \o/
lobby  6  2026-11-23T12:00:00.000000005Z  <ann> ` + `
lobby  7  2026-11-23T12:00:00.000000005Z  a\xffb
lobby  8  2026-11-23T12:00:00.000000005Z  <ann> two\nlines\x1b[2J
`,
	} {
		t.Run(output, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, stdout, _ := newTestApp(output)
				// Gaps do not count.
				s := subscription{app: a, count: 4, messages: steps, reach: reachable}
				if err := s.run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if stdout.String() != want {
					t.Errorf("printed\n%s, want\n%s", stdout, want)
				}
			})
		})
	}
}

// placedAfter is a leader's answer that takes its time.
func placedAfter(d time.Duration, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestSubscribeEnds(t *testing.T) {
	gone := errors.New("connection refused")
	unreachable := func(context.Context) error { return gone }
	beyond := errors.New("beyond the head 3")
	for _, tt := range []struct {
		name  string
		sub   subscription
		ctrlC time.Duration
		took  time.Duration
		lines int
		want  error
	}{
		{
			name:  "idle from the beginning",
			sub:   subscription{idle: 2 * time.Second, messages: script(), reach: reachable},
			took:  2 * time.Second,
			lines: 0,
		},
		{
			name: "each message starts the idle time anew",
			sub: subscription{idle: 2 * time.Second, reach: reachable,
				messages: script(step{after: 1900 * time.Millisecond, msg: said(1, "")}, step{after: 1900 * time.Millisecond, msg: said(2, "")})},
			took:  5800 * time.Millisecond,
			lines: 2,
		},
		{
			name:  "idle for longer than the timeout",
			sub:   subscription{idle: time.Minute, messages: script(), reach: reachable},
			took:  time.Minute,
			lines: 0,
		},
		{
			name:  "counted",
			sub:   subscription{count: 2, messages: script(step{msg: said(1, "")}, step{after: time.Hour, msg: said(2, "")}, step{msg: said(3, "")}), reach: reachable},
			took:  time.Hour, // a quiet room is no trouble
			lines: 2,
		},
		{
			name:  "no server for the timeout",
			sub:   subscription{messages: script(step{msg: said(1, "")}), reach: unreachable},
			took:  30 * time.Second,
			lines: 1,
			want:  gone,
		},
		{
			name:  "no server when the idle time ends",
			sub:   subscription{idle: 2 * time.Second, messages: script(), reach: unreachable},
			took:  17 * time.Second,
			lines: 0,
			want:  gone,
		},
		{
			name:  "a message while no server can be reached",
			sub:   subscription{count: 2, messages: script(step{after: 20 * time.Second, msg: said(1, "")}, step{after: 20 * time.Second, msg: said(2, "")}), reach: unreachable},
			took:  40 * time.Second,
			lines: 2,
		},
		{
			name:  "the idle time begins when the place is known",
			sub:   subscription{idle: 2 * time.Second, messages: script(), reach: reachable, place: placedAfter(20*time.Second, nil)},
			took:  22 * time.Second,
			lines: 0,
		},
		{
			name:  "a message tells the place",
			sub:   subscription{idle: 2 * time.Second, messages: script(step{msg: said(1, "")}), reach: reachable, place: placedAfter(time.Hour, nil)},
			took:  2 * time.Second,
			lines: 1,
		},
		{
			name:  "the place never known",
			sub:   subscription{idle: 2 * time.Second, messages: script(), reach: reachable, place: placedAfter(30*time.Second, errNoLeader)},
			took:  30 * time.Second,
			lines: 0,
			want:  errNoLeader,
		},
		{
			name:  "Ctrl-C before the place is known",
			sub:   subscription{idle: 2 * time.Second, messages: script(), reach: reachable, place: placedAfter(time.Hour, nil)},
			ctrlC: 10 * time.Second,
			took:  10 * time.Second,
			lines: 0,
		},
		{
			name:  "a terminal error",
			sub:   subscription{messages: script(step{msg: said(1, "")}, step{err: beyond}), reach: reachable},
			lines: 1,
			want:  beyond,
		},
		{
			name:  "Ctrl-C",
			sub:   subscription{messages: script(step{msg: said(1, "")}), reach: reachable},
			ctrlC: 100 * time.Second,
			took:  100 * time.Second,
			lines: 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, stdout, _ := newTestApp("text")
				tt.sub.app = a
				ctx, interrupt := context.WithCancel(t.Context())
				defer interrupt()
				if tt.ctrlC > 0 {
					time.AfterFunc(tt.ctrlC, interrupt)
				}
				began := time.Now()
				err := ended(ctx, tt.sub.run(ctx))
				if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				if took := time.Since(began); took < tt.took || took > tt.took+time.Second {
					t.Errorf("ended after %v, want %v", took, tt.took)
				}
				if n := strings.Count(stdout.String(), "\n"); n != tt.lines {
					t.Errorf("printed %d lines, want %d: %s", n, tt.lines, stdout)
				}
			})
		})
	}
}

// TestSubscribePrintsAtOnce waits for a line while the subscription goes on.
func TestSubscribePrintsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, stdout, _ := newTestApp("text")
		ctx, interrupt := context.WithCancel(t.Context())
		s := subscription{app: a, messages: script(step{msg: said(1, "hello")}), reach: reachable}
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		synctest.Wait()
		if !strings.Contains(stdout.String(), "hello") {
			t.Errorf("printed %q", stdout)
		}
		interrupt()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestSubscribeUsage(t *testing.T) {
	for _, tt := range []struct{ name, args, stderr string }{
		{"no room", "subscribe", "ROOM is missing"},
		{"two starts", "subscribe r --after 3 --from now", "--after and --from both say where to start: give one of them"},
		{"no time", "subscribe r --from yesterday", `--from "yesterday": use start, now, or a time`},
		{"no count", "subscribe r --count 0", "--count 0: give a number above 0"},
		{"no idle time", "subscribe r --idle-exit 0s", "--idle-exit 0s: give a duration above 0"},
		{"a seq below 0", "subscribe r --after -1", `--after: "-1" is not a number from 0 on`},
		{"a control character", "subscribe \x01", "control character"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, nil, append(strings.Fields(tt.args), "--server", "127.0.0.1:1")...)
			if got.code != 2 || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("exit %d, stderr %q, want 2 and %q", got.code, got.stderr, tt.stderr)
			}
		})
	}
}

func TestFindStart(t *testing.T) {
	denied := errors.New("denied")
	for _, tt := range []struct {
		name  string
		takes time.Duration // the leader, for its answer
		err   error
		ctrlC time.Duration
		took  time.Duration
		want  error
	}{
		{name: "a leader answers", takes: 2 * time.Second, took: 2 * time.Second},
		{name: "no leader", takes: time.Hour, took: 3 * time.Second, want: errNoLeader},
		{name: "refused", err: denied, want: denied},
		{name: "Ctrl-C", takes: time.Hour, ctrlC: time.Second, took: time.Second, want: context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, interrupt := context.WithCancel(t.Context())
				defer interrupt()
				if tt.ctrlC > 0 {
					time.AfterFunc(tt.ctrlC, interrupt)
				}
				began := time.Now()
				s := start{ask: true, now: true}
				err := s.find(ctx, 3*time.Second, func(ctx context.Context) (client.RoomInfo, error) {
					return client.RoomInfo{Last: 7}, placedAfter(tt.takes, tt.err)(ctx)
				})
				if took := time.Since(began); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) || took != tt.took {
					t.Errorf("%v after %v, want %v after %v", err, took, tt.want, tt.took)
				}
				if (s.option != nil) != (err == nil) {
					t.Error("now has become a place, or has not")
				}
			})
		})
	}
}

func TestParseFrom(t *testing.T) {
	for _, from := range []string{"start", "now", "2026-11-23T18:00:00Z", "2026-11-23T18:00:00.123456789+01:00"} {
		if _, err := parseFrom(from); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
	for _, from := range []string{"", "Now", "2026-11-23", "12:00"} {
		if _, err := parseFrom(from); err == nil {
			t.Errorf("%q was accepted", from)
		}
	}
}
