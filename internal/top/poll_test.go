package top

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/roomlog/roomlog/transport/admin"
)

// fakeNodes answer as answer says, after a moment.
func fakeNodes(answer func(ctx context.Context, node string) error) *Poller {
	return &Poller{
		Nodes: []string{"n1", "n2"}, Interval: time.Second, Timeout: 1900 * time.Millisecond,
		Ask: func(ctx context.Context, node, path string, out any) error {
			time.Sleep(time.Millisecond)
			if err := answer(ctx, node); err != nil {
				return err
			}
			switch out := out.(type) {
			case *admin.NodeStatus:
				out.Node = node
			case *[]admin.PartitionStatus:
				*out = []admin.PartitionStatus{{Leader: "n1", Term: 1}}
			case *admin.Drift:
				out.Node, out.Partitions = node, []admin.PartitionDrift{{InObjective: true, Subscribers: 1}}
			}
			return nil
		},
	}
}

func hang(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

var errEnough = errors.New("enough")

// A node that hangs is down after the timeout, comes back, and keeps the other waiting at no time.
func TestFollowWithANodeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := fakeNodes(func(ctx context.Context, node string) error {
			if at := time.Since(began); node == "n2" && at > 2500*time.Millisecond && at < 8500*time.Millisecond {
				return hang(ctx)
			}
			return nil
		})
		var alive strings.Builder
		err := Follow(t.Context(), p, 0, func(s Snapshot) error {
			alive.WriteByte('0' + byte(s.Alive))
			if s.Alive == 1 && s.Nodes[1].Error != "no answer within 1.9s" {
				t.Errorf("n2: %q", s.Nodes[1].Error)
			}
			if s.Subscribers != s.Alive || !s.Nodes[0].Alive {
				t.Errorf("after %v: %+v", time.Since(began), s)
			}
			if alive.Len() == 12 {
				return errEnough
			}
			return nil
		})
		// It hangs when asked at 3 s, is given up at 4.9 s, and answers when it is asked at 8.7 s.
		if got, want := alive.String(), "222221111222"; !errors.Is(err, errEnough) || got != want {
			t.Errorf("alive, once a second: %s, want %s (%v)", got, want, err)
		}
	})
}

func TestFollowCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, n := time.Now(), 0
		err := Follow(t.Context(), fakeNodes(func(context.Context, string) error { return nil }), 3, func(s Snapshot) error {
			if n++; s.Alive != 2 {
				t.Errorf("snapshot %d is not of all: %+v", n, s.Nodes)
			}
			return nil
		})
		if took := time.Since(began).Round(100 * time.Millisecond); err != nil || n != 3 || took != 2*time.Second {
			t.Errorf("%d snapshots in %v, %v", n, took, err)
		}
	})
}

func TestFollowWithoutAnyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fakeNodes(func(ctx context.Context, node string) error {
			if node == "n1" {
				return errGone
			}
			return hang(ctx)
		})
		err := Follow(t.Context(), p, 1, func(Snapshot) error { t.Error("emitted"); return nil })
		if want := "no node answered: n1: connection refused; n2: no answer within 1.9s"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		if werr := Watch(t.Context(), p, ByPartition, nil, io.Discard); werr == nil || werr.Error() != err.Error() {
			t.Errorf("Watch: %v", werr)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := Follow(ctx, p, 1, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended while it waits: %v", err)
		}
	})
}

func TestPollIsAllOrNothing(t *testing.T) {
	p := fakeNodes(func(context.Context, string) error { return nil })
	whole := p.Ask
	for _, missing := range []string{"/v1/node", "/v1/partitions", "/v1/drift?limit=100"} {
		asked := false
		p.Ask = func(ctx context.Context, node, path string, out any) error {
			if path == missing {
				asked = true
				return errGone
			}
			return whole(ctx, node, path, out)
		}
		if a := p.poll(t.Context(), "n1"); !asked || !errors.Is(a.Err, errGone) {
			t.Errorf("without %s: asked %v, %v", missing, asked, a.Err)
		}
	}
}

// terminal takes what is drawn and tells when a text has been.
type terminal struct {
	mu    sync.Mutex
	drawn bytes.Buffer
	want  string
	seen  chan struct{}
}

func (w *terminal) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drawn.Write(p)
	if w.want != "" && strings.Contains(w.drawn.String(), w.want) {
		w.want = ""
		close(w.seen)
	}
	return len(p), nil
}

// The view is drawn with one node's answer while the other hangs, and ends with
// a key or the context, without an error. Colours are there unless NO_COLOR is.
func TestWatch(t *testing.T) {
	for _, by := range []string{"key", "context"} {
		t.Run(by, func(t *testing.T) {
			environ := []string{"TERM=xterm-256color", "TTY_FORCE=1"} // as if it wrote to a terminal
			if by == "key" {
				environ = append(environ, "NO_COLOR=1")
			}
			p := fakeNodes(func(ctx context.Context, node string) error {
				if node == "n2" {
					return hang(ctx)
				}
				return nil
			})
			p.Timeout = time.Minute
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			in, keys := io.Pipe()
			defer keys.Close()
			out := &terminal{want: "n2 has not answered yet", seen: make(chan struct{})}
			ended := make(chan error, 1)
			go func() {
				ended <- Watch(ctx, p, ByDrift, in, out, tea.WithWindowSize(80, 24), tea.WithEnvironment(environ))
			}()
			select {
			case <-out.seen:
			case err := <-ended:
				t.Fatalf("ended before it drew: %v", err)
			}
			if by == "context" {
				cancel()
			} else {
				_, _ = keys.Write([]byte("q")) // fails if it has ended: told below
			}
			if err := <-ended; err != nil {
				t.Errorf("ended with %v", err)
			}
			if red := strings.Contains(out.drawn.String(), "\x1b[31"); red != (by == "context") {
				t.Errorf("red: %v, with %v: %q", red, environ, out.drawn.String())
			}
		})
	}
}
