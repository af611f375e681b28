package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

func TestDialErrors(t *testing.T) {
	settled, last := 0, 0 // sockets are listened to a moment after they were opened
	f := startFake(t, 1, 1)
	f.token = "secret"
	good := f.options()
	waitFor(t, func() bool {
		n := transports()
		if settled++; n != last {
			settled, last = 0, n
		}
		return n > 0 && settled > 10
	})
	before := last - 1
	for _, tt := range []struct {
		name    string
		servers []string
		opts    []Option
		is      error
		words   []string
	}{
		{name: "no servers", opts: good, words: []string{"no servers"}},
		{name: "no port", servers: []string{"localhost"}, opts: good, words: []string{`"localhost"`, "host:port"}},
		{name: "empty port", servers: []string{"localhost:"}, opts: good, words: []string{"port is missing"}},
		{name: "publisher name of 65 bytes", servers: f.addrs(), opts: append(good, WithName(strings.Repeat("n", 65))), words: []string{"65 bytes", "at most 64"}},
		{name: "token of 5000 bytes", servers: f.addrs(), opts: append(good, WithToken(strings.Repeat("t", 5000))), words: []string{"5000 bytes"}},
		{name: "wrong token", servers: f.addrs(), opts: append(good, WithToken("guess")), is: ErrDenied, words: []string{f.nodes[0].addr, "wrong token"}},
		{name: "wrong CA", servers: append(f.addrs(), f.addrs()...), opts: append(good, WithTLS(&tls.Config{RootCAs: x509.NewCertPool()})), words: []string{f.nodes[0].addr, "certificate"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			_, err := Dial(within(t), tt.servers, tt.opts...)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("%v, want %v", err, tt.is)
			}
			for _, w := range tt.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if n := strings.Count(err.Error(), "wrong token"); n > 1 {
				t.Errorf("%q says it %d times", err, n)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	if left := ours(); len(left) > 0 {
		t.Errorf("goroutines left:\n%s", strings.Join(left, "\n\n"))
	}
	if n := transports() - before; n != 1 { // n1's
		t.Errorf("%d sockets left", n-1)
	}
}

func TestDialNobodyThere(t *testing.T) {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := socket.LocalAddr().String()
	socket.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, []string{addr, addr})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "refused") || strings.Count(err.Error(), addr+": ") != 1 {
		t.Errorf("%v", err)
	}
}

// A server that has refused our token is not asked again while others may answer.
func TestDialAsksOnceForAWrongToken(t *testing.T) {
	f := startFake(t, 2, 1)
	f.token = "secret"
	f.nodes[1].kill()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, f.addrs(), append(f.options(), WithToken("guess"))...)
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
	f.await(t, "denied n1")
	if n := len(f.events); n != 0 {
		t.Errorf("asked %d times more", n)
	}
}

func TestDialTakesTheFirstThatAnswers(t *testing.T) {
	f := startFake(t, 2, 1)
	f.nodes[0].kill()
	c := f.dial(t)
	if name := c.router.home.node; name != "n2" {
		t.Errorf("went to %s", name)
	}
	// localhost may have other addresses, at which nobody listens.
	_, port, _ := net.SplitHostPort(f.nodes[1].addr)
	other, err := Dial(within(t), []string{"localhost:" + port}, WithTLS(&tls.Config{RootCAs: f.roots}))
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
}

func TestNodes(t *testing.T) {
	f := startFake(t, 2, 1)
	c := f.dial(t)
	for range 2 {
		nodes, err := c.Nodes(within(t))
		if err != nil {
			t.Fatal(err)
		}
		want := []Node{{"n1", f.nodes[0].addr, "http-n1", true}, {"n2", f.nodes[1].addr, "http-n2", true}}
		if fmt.Sprint(nodes) != fmt.Sprint(want) {
			t.Errorf("%+v, want %+v", nodes, want)
		}
		waitFor(t, func() bool {
			f.nodes[0].breakConns(0) // again: a dial to the other node may still end well
			f.nodes[1].breakConns(0)
			c.router.mu.Lock()
			defer c.router.mu.Unlock()
			return len(c.router.conns) == 0
		})
	}
	c.Close()
	if _, err := c.Nodes(within(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	before := transports()
	f := startFake(t, 3, 4)
	waitFor(t, func() bool { return transports() == before+3 })
	c := f.dial(t)
	for i := range 40 {
		if _, err := c.PublishAsync(within(t), fmt.Sprintf("room %d", i), []byte("m1")); err != nil {
			t.Fatal(err)
		}
	}
	f.append("lobby", "a")
	ended := make(chan error)
	seen := make(chan struct{})
	go func() {
		for _, err := range c.Subscribe(context.Background(), "lobby") {
			if err != nil {
				ended <- err
			} else {
				close(seen)
			}
		}
	}()
	<-seen
	f.nodes[1].kill()
	c.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if left := ours(); len(left) > 0 {
		t.Errorf("goroutines left:\n%s", strings.Join(left, "\n\n"))
	}
	if n := transports() - before; n != 2 { // n1's and n3's
		t.Errorf("%d sockets left", n-2)
	}
}

// The clients of a test see a node come back on its port.
func TestNodeComesBack(t *testing.T) {
	f := startFake(t, 1, 1)
	c := f.dial(t)
	all := send(t, c, "lobby", 3)
	if err := c.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	f.nodes[0].kill()
	p, err := c.PublishAsync(within(t), "lobby", []byte("m4"))
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	err = f.nodes[0].start()
	f.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	checkLog(t, f, "lobby", append(all, p))
	if r, err := p.Wait(within(t)); err != nil || r.Seq != 4 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestMapsMerge(t *testing.T) {
	placed := func(epoch, term uint64, leader int) *wire.Map {
		return &wire.Map{
			Epoch:      epoch,
			Nodes:      []wire.Node{{Name: "n1", Listen: "a"}, {Name: "n2", Listen: "b"}},
			Partitions: []wire.Placement{{Term: term, Leader: leader, Replicas: []int{0, 1}}},
		}
	}
	type told struct {
		m    *wire.Map
		from string
	}
	for _, tt := range []struct {
		name string
		told []told
		want leader
	}{
		{name: "first", told: []told{{placed(1, 3, 0), "n1"}}, want: leader{node: "n1", term: 3}},
		{name: "higher term", told: []told{{placed(1, 3, 0), "n1"}, {placed(1, 4, 1), "n2"}}, want: leader{node: "n2", term: 4}},
		{name: "lower term", told: []told{{placed(1, 3, 0), "n1"}, {placed(1, 2, 1), "n2"}}, want: leader{node: "n1", term: 3}},
		{name: "lower term, newer epoch", told: []told{{placed(1, 3, 0), "n1"}, {placed(2, 2, 1), "n2"}}, want: leader{node: "n1", term: 3}},
		{name: "same term, now known", told: []told{{placed(1, 3, -1), "n1"}, {placed(1, 3, 1), "n2"}}, want: leader{node: "n2", term: 3}},
		{name: "same term, unknown to another", told: []told{{placed(1, 3, 0), "n1"}, {placed(1, 3, -1), "n2"}}, want: leader{node: "n1", term: 3}},
		{name: "same term, lost again", told: []told{{placed(1, 3, 0), "n1"}, {placed(1, 3, -1), "n1"}}, want: leader{term: 3}},
		{name: "same term, corrected by the same", told: []told{{placed(1, 3, 0), "n1"}, {placed(1, 3, 1), "n1"}}, want: leader{node: "n2", term: 3}},
		{name: "same term, contradicted by another", told: []told{{placed(1, 3, 0), "n1"}, {placed(1, 3, 1), "n2"}}, want: leader{node: "n1", term: 3}},
		{name: "higher term without a leader", told: []told{{placed(1, 3, 0), "n1"}, {placed(1, 4, -1), "n2"}}, want: leader{term: 4}},
		{name: "another cluster", told: []told{{placed(1, 3, 0), "n1"}, {&wire.Map{Epoch: 9}, "n2"}}, want: leader{node: "n1", term: 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Client{}
			if err := c.cfg.check([]string{"a:1"}); err != nil {
				t.Fatal(err)
			}
			r := newRouter(c, nil)
			for _, told := range tt.told {
				r.learn(told.m, told.from)
			}
			got := r.leader(0)
			if got.node != tt.want.node || got.term != tt.want.term {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			if len(r.members) != 2 {
				t.Errorf("members %v", r.members)
			}
		})
	}
}
