package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

func TestNanosOf(t *testing.T) {
	const last = math.MaxInt64 / int64(time.Second) // the second that does not fit any more
	for _, tt := range []struct {
		at   time.Time
		want int64
	}{
		{time.Time{}, 0},
		{time.Unix(0, -1), 0},
		{time.Unix(0, 0), 0},
		{time.Unix(1, 5), 1e9 + 5},
		{time.Unix(last-1, 7), (last-1)*1e9 + 7},
		{time.Unix(last, 0), math.MaxInt64},
		{time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), math.MaxInt64},
	} {
		if got := nanosOf(tt.at); got != tt.want {
			t.Errorf("nanosOf(%v) = %d, want %d", tt.at, got, tt.want)
		}
	}
}

// collect reads messages until it has n, as "seq:payload", gaps as "from-to".
func collect(t testing.TB, c *Client, room string, n int, opts ...SubscribeOption) []string {
	t.Helper()
	var got []string
	for m, err := range c.Subscribe(within(t), room, opts...) {
		if err != nil {
			t.Fatalf("Subscribe: %v (after %v)", err, got)
		}
		got = append(got, show(m))
		if len(got) == n {
			break
		}
	}
	return got
}

func show(m Message) string {
	if m.Gap != nil {
		return fmt.Sprintf("%d-%d", m.Gap.From, m.Gap.To)
	}
	return fmt.Sprintf("%d:%s", m.Seq, m.Payload)
}

func TestSubscribePlaces(t *testing.T) {
	f := startFake(t, 2, 2)
	c := f.dial(t)
	f.append("lobby", "a", "b", "c", "d")
	second := time.Unix(0, fakeEpoch+2e9)
	for _, tt := range []struct {
		name string
		opts []SubscribeOption
		want string
	}{
		{name: "no option", want: "[1:a 2:b]"},
		{name: "from the start", opts: []SubscribeOption{FromStart()}, want: "[1:a 2:b]"},
		{name: "after 0", opts: []SubscribeOption{After(0)}, want: "[1:a 2:b]"},
		{name: "after 2", opts: []SubscribeOption{After(2)}, want: "[3:c 4:d]"},
		{name: "from a time", opts: []SubscribeOption{FromTime(second)}, want: "[2:b 3:c]"},
		{name: "from just behind a time", opts: []SubscribeOption{FromTime(second.Add(1))}, want: "[3:c 4:d]"},
		{name: "from long ago", opts: []SubscribeOption{FromTime(time.Time{})}, want: "[1:a 2:b]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fmt.Sprint(collect(t, c, "lobby", 2, tt.opts...)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	for m := range c.Subscribe(within(t), "lobby") {
		if m.Room != "lobby" || m.Time.UnixNano() != fakeEpoch+1e9 {
			t.Errorf("%+v", m)
		}
		break
	}
}

// A time to come: what is published before it does not count, what comes behind
// the first does, whatever its time.
func TestFromATimeToCome(t *testing.T) {
	f := startFake(t, 2, 1)
	f.append("lobby", "a")
	at := func(s int64, payload string) fakeMsg { return fakeMsg{payload: payload, time: fakeEpoch + s*1e9} }
	times := 0
	f.onSubscribe = func(n *fakeNode, s wire.Subscribe) []wire.Frame {
		if times++; times == 1 {
			return []wire.Frame{&wire.Subscribed{Next: s.Next}, deliver(2, at(4, "b")), &wire.Redirect{}}
		}
		return []wire.Frame{&wire.Subscribed{Next: s.Next}, deliver(s.Next, at(5, "c")), deliver(s.Next+1, at(4, "d"))}
	}
	c := f.dial(t)
	if got := fmt.Sprint(collect(t, c, "lobby", 2, FromTime(time.Unix(0, fakeEpoch+5e9)))); got != "[3:c 4:d]" {
		t.Errorf("got %s", got)
	}
}

// Servers that break the protocol again and again are told of once and given up.
func TestBrokenServersAreGivenUp(t *testing.T) {
	msg := fakeMsg{payload: "a", time: fakeEpoch}
	for _, tt := range []struct {
		name   string
		frames []wire.Frame
		want   error
	}{
		{name: "out of order", frames: []wire.Frame{&wire.Subscribed{Next: 1}, deliver(9, msg)}, want: errOrder},
		{name: "a gap out of order", frames: []wire.Frame{&wire.Subscribed{Next: 1}, &wire.Gap{From: 9, To: 9}}, want: errOrder},
		{name: "a frame that does not belong here", frames: []wire.Frame{&wire.Pong{}}, want: wire.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, 2, 1)
			f.append("lobby", "a")
			var times atomic.Int32
			f.onSubscribe = func(*fakeNode, wire.Subscribe) []wire.Frame {
				times.Add(1)
				return tt.frames
			}
			var lines []string
			c := f.dial(t, WithLogger(slog.New(&gathering{Handler: slog.DiscardHandler, got: &lines})))
			for m, err := range c.Subscribe(within(t), "lobby", After(0)) {
				if !errors.Is(err, tt.want) {
					t.Errorf("%+v, %v", m, err)
				}
			}
			c.Close()
			if n := times.Load(); n != hardTries {
				t.Errorf("%d attempts", n)
			}
			if n := strings.Count(fmt.Sprint(lines), "subscription fails"); n != 1 {
				t.Errorf("logged %q", lines)
			}
		})
	}
}

// A server that answers queries with nonsense is given up too.
func TestBrokenQueryIsGivenUp(t *testing.T) {
	f := startFake(t, 1, 1)
	f.answer = &wire.Pong{}
	c := f.dial(t)
	if _, err := c.Room(within(t), "lobby"); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("%v", err)
	}
}

// A question that cannot be put gives its stream back.
func TestQueryThatIsNotTaken(t *testing.T) {
	f := startFake(t, 1, 1, func(f *fake) {
		f.limits.Subscriptions = 1
		f.window = 100
		f.stalled = make(chan struct{})
	})
	c := f.dial(t)
	ctx, cancel := context.WithCancel(context.Background())
	var asked sync.WaitGroup
	const streams = 16 // and the control stream
	for range streams {
		asked.Go(func() {
			// Too long for one packet, so that writing it waits for the server.
			q := &wire.Query{Room: strings.Repeat("r", 5000)}
			if _, err := c.ask(ctx, c.router.home, q); err == nil {
				t.Error("no error")
			}
		})
	}
	for range streams {
		f.await(t, "stream n1")
	}
	cancel()
	asked.Wait()
	close(f.stalled)
	if _, err := c.Room(within(t), "lobby"); err != nil {
		t.Error(err)
	}
}

// What is published between the look for the last seq and the first message,
// while the connection breaks, is not lost.
func TestFromNowIsResolvedOnce(t *testing.T) {
	f := startFake(t, 2, 1)
	f.append("lobby", "old")
	broke := false
	f.onSubscribe = func(n *fakeNode, s wire.Subscribe) []wire.Frame {
		if !broke {
			broke = true
			f.append("lobby", "new")
			return []wire.Frame{&wire.Error{Code: wire.CodeUnavailable}}
		}
		return nil
	}
	c := f.dial(t)
	if got := fmt.Sprint(collect(t, c, "lobby", 1, FromNow())); got != "[2:new]" {
		t.Errorf("got %s", got)
	}
}

func TestSubscriptionResumes(t *testing.T) {
	f := startFake(t, 3, 1)
	c := f.dial(t)
	f.append("lobby", "a", "b")
	var got []string
	for m, err := range c.Subscribe(within(t), "lobby") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, show(m))
		switch m.Seq {
		case 2:
			f.nodes[0].kill() // where Dial went
			f.append("lobby", "c")
		case 3:
			f.nodes[1].breakConns(wire.CodeGoingAway)
			f.nodes[2].breakConns(wire.CodeGoingAway)
			f.append("lobby", "d")
		}
		if m.Seq == 4 {
			break
		}
	}
	if fmt.Sprint(got) != "[1:a 2:b 3:c 4:d]" {
		t.Errorf("got %v", got)
	}
	asked := make(map[string]bool)
	for len(f.events) > 0 {
		e := <-f.events
		asked[e[strings.LastIndex(e, " ")+1:]] = strings.HasPrefix(e, "subscribe")
	}
	if !asked["0"] || !asked["3"] || !asked["4"] {
		t.Errorf("asked for %v", asked)
	}
}

func TestSubscriptionOfAHangingNode(t *testing.T) {
	t.Parallel()
	f := startFake(t, 2, 1)
	c := f.dial(t)
	f.append("lobby", "a")
	var got []string
	for m, err := range c.Subscribe(within(t), "lobby") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, show(m))
		if m.Seq == 2 {
			break
		}
		f.nodes[0].mute.Store(true)
		f.append("lobby", "b")
	}
	if fmt.Sprint(got) != "[1:a 2:b]" {
		t.Errorf("got %v", got)
	}
}

// A server that sends what is not due is left; what comes twice is dropped.
func TestSubscriptionKeepsTheOrder(t *testing.T) {
	at := int64(fakeEpoch)
	msg := func(p string) fakeMsg { return fakeMsg{payload: p, time: at} }
	for _, tt := range []struct {
		name   string
		frames []wire.Frame // of the first attempt
		asked  uint64       // of the second
	}{
		{name: "a hole", frames: []wire.Frame{&wire.Subscribed{Next: 1}, deliver(1, msg("a")), deliver(3, msg("c"))}, asked: 2},
		{name: "a hole before a gap", frames: []wire.Frame{&wire.Subscribed{Next: 1}, deliver(1, msg("a")), &wire.Gap{From: 3, To: 4, Reason: ReasonTrimmed}}, asked: 2},
		{name: "twice", frames: []wire.Frame{&wire.Subscribed{Next: 1}, deliver(1, msg("a"), msg("b")), deliver(1, msg("a"), msg("b"))}, asked: 3},
		{name: "an old gap", frames: []wire.Frame{&wire.Subscribed{Next: 1}, deliver(1, msg("a")), &wire.Gap{From: 1, To: 1, Reason: ReasonTrimmed}}, asked: 2},
		{name: "message before subscribed", frames: []wire.Frame{deliver(1, msg("a"))}, asked: 0},
		{name: "end before the first message", frames: []wire.Frame{&wire.Subscribed{Next: 1}}, asked: 1},
		{name: "a frame that makes no sense", frames: []wire.Frame{&wire.Subscribed{Next: 1}, &wire.Pong{}}, asked: 1},
		{name: "redirected to any", frames: []wire.Frame{&wire.Redirect{}}, asked: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, 2, 1)
			f.append("lobby", "a", "b", "c", "d")
			var asked []uint64
			f.onSubscribe = func(n *fakeNode, s wire.Subscribe) []wire.Frame {
				f.mu.Lock()
				defer f.mu.Unlock()
				if asked = append(asked, s.Next); len(asked) == 1 {
					return tt.frames
				}
				return nil
			}
			c := f.dial(t)
			if got := fmt.Sprint(collect(t, c, "lobby", 4)); got != "[1:a 2:b 3:c 4:d]" {
				t.Errorf("got %s", got)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if asked[1] != tt.asked {
				t.Errorf("then asked for %d, want %d", asked[1], tt.asked)
			}
		})
	}
}

func TestGaps(t *testing.T) {
	f := startFake(t, 1, 1)
	c := f.dial(t)
	f.append("lobby", "a", "b", "c", "d")
	f.trim("lobby", 3)
	if got := fmt.Sprint(collect(t, c, "lobby", 2)); got != "[3:c 4:d]" {
		t.Errorf("from the start: %s", got)
	}
	if got := fmt.Sprint(collect(t, c, "lobby", 3, After(0))); got != "[1-2 3:c 4:d]" {
		t.Errorf("after 0: %s", got)
	}
	for m := range c.Subscribe(within(t), "lobby", After(1)) {
		if m.Seq != 2 || m.Gap == nil || *m.Gap != (Gap{From: 2, To: 2, Reason: ReasonTrimmed}) {
			t.Errorf("%+v", m)
		}
		break
	}
}

func TestRedirected(t *testing.T) {
	f := startFake(t, 8, 1)
	f.append("lobby", "a")
	var served []string
	f.onSubscribe = func(n *fakeNode, s wire.Subscribe) []wire.Frame {
		f.mu.Lock()
		defer f.mu.Unlock()
		served = append(served, n.name)
		if n.name != "n7" {
			return []wire.Frame{&wire.Redirect{Node: "n7", Reason: "lags"}}
		}
		return nil
	}
	c := f.dial(t)
	collect(t, c, "lobby", 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if fmt.Sprint(served) != "[n1 n7]" {
		t.Errorf("asked %v", served)
	}
}

func TestBeyondHead(t *testing.T) {
	f := startFake(t, 2, 1)
	c := f.dial(t)
	f.append("lobby", "a", "b")
	for _, tt := range []struct {
		name  string
		after uint64
	}{{"by one", 3}, {"far", 100}, {"the largest", math.MaxUint64}} {
		t.Run(tt.name, func(t *testing.T) {
			var errs []error
			for _, err := range c.Subscribe(within(t), "lobby", After(tt.after)) {
				errs = append(errs, err)
			}
			if len(errs) != 1 {
				t.Fatalf("yielded %v", errs)
			}
			if e, ok := errors.AsType[*BeyondHeadError](errs[0]); !ok || e.Head != 2 {
				t.Errorf("%v", errs[0])
			}
			if n := len(f.events); n > 2 { // the welcome, and one subscription
				t.Errorf("%d events", n)
			}
			for len(f.events) > 0 {
				<-f.events
			}
		})
	}
	t.Run("at the head", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			f.await(t, "subscribe n1 lobby 3")
			f.append("lobby", "c")
		}()
		for m, err := range c.Subscribe(ctx, "lobby", After(2)) {
			if err != nil || m.Seq != 3 {
				t.Errorf("%+v, %v", m, err)
			}
			break
		}
	})
	t.Run("a replica that has fallen behind is left", func(t *testing.T) {
		behind := false
		f.mu.Lock()
		f.onSubscribe = func(n *fakeNode, s wire.Subscribe) []wire.Frame {
			if s.Next == 2 && !behind {
				behind = true
				return []wire.Frame{&wire.Subscribed{Next: 2}}
			}
			if n.name == "n2" {
				return []wire.Frame{&wire.Error{Code: wire.CodeBeyondHead, Head: 1}}
			}
			return nil
		}
		f.mu.Unlock()
		if got := fmt.Sprint(collect(t, c, "lobby", 1, After(1))); got != "[2:b]" {
			t.Errorf("got %s", got)
		}
	})
}

func TestSubscriptionEnds(t *testing.T) {
	t.Parallel()
	f := startFake(t, 1, 1)
	c := f.dial(t)
	f.append("lobby", "a")
	t.Run("leaving the loop", func(t *testing.T) {
		collect(t, c, "lobby", 1)
		f.await(t, "subscribe n1 lobby 0")
		f.append("lobby", "b") // so that the fake writes, and finds the reader gone
		f.await(t, "left lobby")
	})
	t.Run("ctx ends in the loop", func(t *testing.T) {
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		var errs []error
		for m, err := range c.Subscribe(ctx, "lobby") {
			if err != nil {
				errs = append(errs, err)
			}
			if m.Seq == 2 {
				cancel()
			}
		}
		if len(errs) != 1 || errs[0] != context.Canceled {
			t.Errorf("yielded %v", errs)
		}
	})
	t.Run("ctx ends while waiting", func(t *testing.T) {
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		var errs []error
		for m, err := range c.Subscribe(ctx, "lobby") {
			if err != nil {
				errs = append(errs, err)
			}
			if m.Seq == 2 {
				for len(f.events) > 0 {
					<-f.events
				}
				go func() {
					f.await(t, "ping n1") // nothing has come for a while
					cancel()
				}()
			}
		}
		if len(errs) != 1 || errs[0] != context.Canceled {
			t.Errorf("yielded %v", errs)
		}
	})
	t.Run("client closed while waiting", func(t *testing.T) {
		c := f.dial(t)
		var errs []error
		for m, err := range c.Subscribe(context.Background(), "lobby") {
			if err != nil {
				errs = append(errs, err)
			}
			if m.Seq == 2 {
				go c.Close()
			}
		}
		if len(errs) != 1 || !errors.Is(errs[0], ErrClosed) {
			t.Errorf("yielded %v", errs)
		}
	})
	t.Run("bad room", func(t *testing.T) {
		for _, err := range c.Subscribe(within(t), "") {
			if !errors.Is(err, ErrBadRoom) {
				t.Errorf("%v", err)
			}
		}
	})
	t.Run("denied", func(t *testing.T) {
		f.mu.Lock()
		f.onSubscribe = func(*fakeNode, wire.Subscribe) []wire.Frame {
			return []wire.Frame{&wire.Error{Code: wire.CodeDenied, Reason: "no right"}}
		}
		f.mu.Unlock()
		for _, err := range c.Subscribe(within(t), "lobby") {
			if !errors.Is(err, ErrDenied) {
				t.Errorf("%v", err)
			}
		}
	})
}

// More subscriptions than a connection may have need another connection.
func TestManySubscriptions(t *testing.T) {
	f := startFake(t, 1, 1)
	f.limits.Subscriptions = 2
	c := f.dial(t)
	f.append("lobby", "a")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first := make(chan error)
	for range 5 {
		go func() {
			told := false
			for _, err := range c.Subscribe(ctx, "lobby") {
				if !told {
					told = true
					first <- err
				}
			}
		}()
	}
	for range 5 {
		if err := <-first; err != nil {
			t.Fatal(err)
		}
	}
	c.router.mu.Lock()
	defer c.router.mu.Unlock()
	if n := len(c.router.conns); n < 3 {
		t.Errorf("5 subscriptions of 2 a connection on %d connections", n)
	}
}

func TestDrainingServerIsLeft(t *testing.T) {
	f := startFake(t, 2, 1)
	f.append("lobby", "a")
	var nodes []string
	f.onSubscribe = func(n *fakeNode, s wire.Subscribe) []wire.Frame {
		f.mu.Lock()
		defer f.mu.Unlock()
		nodes = append(nodes, n.name)
		if n.name == "n2" {
			go f.append("lobby", "b")
		}
		return nil
	}
	c := f.dial(t)
	for m, err := range c.Subscribe(within(t), "lobby") {
		if err != nil {
			t.Fatal(err)
		}
		if m.Seq == 2 {
			break
		}
		f.nodes[0].push(&wire.GoAway{Delay: 5})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fmt.Sprint(nodes) != "[n1 n2]" {
		t.Errorf("served by %v", nodes)
	}
}

// Who publishes to a node that is leaving connects to the others before its leader
// moves: any of them may be the next.
func TestGoAwayPreparesPublishers(t *testing.T) {
	f := startFake(t, 3, 3)
	c := f.dial(t)
	room := ""
	for i := 0; room == "" || wire.PartitionOf(room, 3) != 0; i++ {
		room = fmt.Sprint("r", i)
	}
	if _, err := c.Publish(within(t), room, []byte("a")); err != nil {
		t.Fatal(err)
	}
	f.nodes[0].push(&wire.GoAway{Delay: 1000})
	connected := func(n *fakeNode) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.conns) == 1
	}
	for ctx := within(t); !connected(f.nodes[1]) || !connected(f.nodes[2]); {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("it does not connect elsewhere")
		}
	}
	f.lead(0, 2, false)
	if _, err := c.Publish(within(t), room, []byte("b")); err != nil {
		t.Fatal(err)
	}
}

func TestRoom(t *testing.T) {
	f := startFake(t, 3, 3)
	c := f.dial(t)
	f.append("lobby", "a", "b")
	for _, tt := range []struct {
		room        string
		first, last uint64
	}{{"lobby", 1, 2}, {"never used", 1, 0}} {
		info, err := c.Room(within(t), tt.room)
		want := RoomInfo{Room: tt.room, First: tt.first, Last: tt.last, Partition: wire.PartitionOf(tt.room, 3)}
		if err != nil || info != want {
			t.Errorf("%+v, %v, want %+v", info, err, want)
		}
	}
	if _, err := c.Room(within(t), "a\tb"); !errors.Is(err, ErrBadRoom) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.mu.Lock()
	f.onQuery = func(*fakeNode, wire.Query) *wire.Error {
		cancel()
		return &wire.Error{Code: wire.CodeUnavailable}
	}
	f.mu.Unlock()
	if _, err := c.Room(ctx, "lobby"); err != context.Canceled {
		t.Errorf("%v", err)
	}
	f.mu.Lock()
	f.onQuery = nil
	f.mu.Unlock()
	f.lead(wire.PartitionOf("lobby", 3), 1, true)
	f.lead(wire.PartitionOf("lobby", 3), 2, true)
	if info, err := c.Room(within(t), "lobby"); err != nil || info.Last != 2 {
		t.Errorf("after the leader has moved quietly: %+v, %v", info, err)
	}
}
