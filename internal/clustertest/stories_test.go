package clustertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/wire"
)

// TestStories plays the stories of testdata/cluster. Each file is a cluster of
// its own; a few wait for real timers and take up to 20 s.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "../../testdata/cluster", func(t *testing.T, path string) {
		t.Parallel()
		s := &story{publishers: map[string]*Publisher{}, readers: map[string]*reader{}, alias: map[string]string{}, raws: map[string]*Raw{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t, s.d = t, d
			return s.run()
		})
		s.end()
	})
}

// story is the state of one file. Nodes are named n1, n2, …, or leader(ROOM),
// follower(ROOM), or an alias that an "as" argument gave to a choice.
type story struct {
	t *testing.T
	d *datadriven.TestData

	c          *Cluster
	publishers map[string]*Publisher
	readers    map[string]*reader
	alias      map[string]string
	raws       map[string]*Raw
}

func (s *story) run() string {
	commands := map[string]func() string{
		"cluster": s.cluster, "as": s.as, "kill": s.kill, "stop": s.stop, "start": s.start, "cut": s.cut, "heal": s.heal,
		"wait": s.wait, "publish": s.publish, "stream": s.stream, "finish": s.finish, "subscribe": s.subscribe,
		"expect": s.expect, "check": s.check, "raw-publish": s.rawPublish, "raw-drop": s.rawDrop, "raw-subscribe": s.rawSubscribe,
		"wait-sessions": s.waitSessions, "transfer": s.transfer,
	}
	f, ok := commands[s.d.Cmd]
	if !ok {
		s.t.Fatalf("%s: unknown command %q", s.d.Pos, s.d.Cmd)
	}
	return f()
}

func (s *story) end() {
	for _, p := range s.publishers {
		p.Halt()
	}
	for _, r := range s.readers {
		r.stop()
	}
}

func (s *story) str(key, otherwise string) string {
	if s.d.HasArg(key) {
		s.d.ScanArgs(s.t, key, &otherwise)
	}
	return otherwise
}

func (s *story) num(key string, otherwise int) int {
	if s.d.HasArg(key) {
		s.d.ScanArgs(s.t, key, &otherwise)
	}
	return otherwise
}

// node resolves the argument key.
func (s *story) node(key string) string {
	name := s.str(key, "")
	if other, ok := s.alias[name]; ok {
		return other
	}
	if room, ok := strings.CutPrefix(name, "leader-of-"); ok {
		return s.c.Leader(room)
	}
	if room, ok := strings.CutPrefix(name, "follower-of-"); ok {
		leader := s.c.Leader(room)
		for _, n := range s.c.Names() {
			if n != leader && s.c.Node(n) != nil && !s.named(n) {
				return n
			}
		}
	}
	if !slices.Contains(s.c.Names(), name) {
		s.t.Fatalf("%s: no node %q", s.d.Pos, name)
	}
	return name
}

func (s *story) named(node string) bool {
	for _, n := range s.alias {
		if n == node {
			return true
		}
	}
	return false
}

// cluster [nodes=3] [partitions=2] [session-ttl=D] [queue-bytes=N]: a cluster, ready
func (s *story) cluster() string {
	ttl, err := time.ParseDuration(s.str("session-ttl", "10m"))
	if err != nil {
		s.t.Fatal(err)
	}
	queue := s.num("queue-bytes", 0)
	s.c = Start(s.t, s.num("nodes", 3), s.num("partitions", 2), func(cfg *node.Config) {
		cfg.SessionTTL, cfg.QueueBytes = ttl, int64(queue)
	})
	return "ready"
}

// as name=X node=N: remember a choice
func (s *story) as() string {
	s.alias[s.str("name", "")] = s.node("node")
	return "ok"
}

func (s *story) kill() string { s.c.Kill(s.node("node")); return "ok" }

// stop node=N [room=r]: a clean stop; tells whether the room's partition has a
// leader elsewhere by then
func (s *story) stop() string {
	s.c.Stop(s.node("node"))
	if !s.d.HasArg("room") {
		return "ok"
	}
	id := wire.PartitionOf(s.str("room", ""), s.c.parts)
	for _, name := range s.c.Names() {
		if n := s.c.Node(name); n != nil && n.Partitions()[id].Leader == name {
			return "another leads"
		}
	}
	return "nobody leads"
}

func (s *story) start() string { s.c.Run(s.node("node")); return "ok" }
func (s *story) cut() string   { s.c.Cut(s.node("node")); return "ok" }
func (s *story) heal() string  { s.c.Heal(s.node("node")); return "ok" }

// wait for=D: let real time pass, where the length of a fault is the point
func (s *story) wait() string {
	d, err := time.ParseDuration(s.str("for", ""))
	if err != nil {
		s.t.Fatal(err)
	}
	<-time.After(d)
	return "ok"
}

// transfer room=R to=N: hand over leadership of the room's partition
func (s *story) transfer() string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	room := s.str("room", "r")
	if err := s.c.Node(s.c.Leader(room)).Transfer(ctx, wire.PartitionOf(room, s.c.parts), s.node("to")); err != nil {
		return "error: " + err.Error()
	}
	return "ok"
}

func (s *story) publisher() *Publisher {
	name := s.str("by", "p")
	p := s.publishers[name]
	if p == nil {
		var first []string
		if s.d.HasArg("at") {
			first = append(first, s.node("at"))
		}
		p = &Publisher{Name: name, Client: s.c.Client(name, first...), History: &s.c.History}
		s.publishers[name] = p
	}
	return p
}

func outcome(err error) string {
	if err != nil {
		return "failed: " + err.Error()
	}
	return "all acked"
}

// publish [by=p] [at=N] [room=r] [n=1] [size=0]: pipelined, and waited for
func (s *story) publish() string {
	p := s.publisher()
	for range s.num("n", 1) {
		if err := p.Send(s.str("room", "r"), s.num("size", 0)); err != nil {
			return "error: " + err.Error()
		}
	}
	return outcome(p.Wait())
}

// stream [by=p] [rooms=r+s] [every=1ms]: publish on and on, until finish
func (s *story) stream() string {
	p := s.publisher()
	every, err := time.ParseDuration(s.str("every", "1ms"))
	s.c.must(err)
	p.Stream(every, strings.Split(s.str("rooms", "r"), "+")...)
	s.flows(p) // something must be under way before the story goes on
	return "flowing"
}

// flows waits until another 20 messages are acked.
func (s *story) flows(p *Publisher) {
	before, _ := p.Progress()
	s.c.Until("the stream flows", func() bool {
		acked, failed := p.Progress()
		return acked > before+20 || failed != nil
	})
}

// finish [by=p] [within=D]: end a stream, after what was published since the
// last fault has got through too
func (s *story) finish() string {
	p := s.publisher()
	start := time.Now()
	s.flows(p)
	if s.d.HasArg("within") {
		limit, err := time.ParseDuration(s.str("within", ""))
		s.c.must(err)
		if took := time.Since(start); took > limit {
			return fmt.Sprintf("publishes paused for %v", took)
		}
	}
	p.Halt()
	return outcome(p.Wait())
}

// reader is a subscription that collects.
type reader struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	got   []client.Message
	err   error
	start uint64
}

func (r *reader) stop() {
	r.cancel()
	<-r.done
}

// subscribe name=X [at=N] [room=r] [after=N | from=now]: follow a room
func (s *story) subscribe() string {
	var opts []client.SubscribeOption
	start := uint64(1)
	room := s.str("room", "r")
	if s.d.HasArg("after") {
		start = uint64(s.num("after", 0)) + 1
		opts = append(opts, client.After(start-1))
	}
	var first []string
	if s.d.HasArg("at") {
		first = append(first, s.node("at"))
	}
	cl := s.c.Client("", first...)
	if s.str("from", "") == "now" {
		info, err := cl.Room(context.Background(), room)
		s.c.must(err)
		start = info.Last + 1
		opts = append(opts, client.FromNow())
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{cancel: cancel, done: make(chan struct{}), start: start}
	s.readers[s.str("name", "s")] = r
	go func() {
		defer close(r.done)
		for m, err := range cl.Subscribe(ctx, room, opts...) {
			r.mu.Lock()
			if err != nil {
				r.err = err
			} else {
				r.got = append(r.got, m)
			}
			r.mu.Unlock()
		}
	}()
	if s.d.HasArg("fails") {
		<-r.done
		var beyond *client.BeyondHeadError
		if errors.As(r.err, &beyond) {
			return fmt.Sprintf("beyond the head %d", beyond.Head)
		}
		return fmt.Sprint(r.err)
	}
	if n := uint64(s.num("wait", 0)); n > 0 {
		s.reach(r, n)
	}
	return "ok"
}

// reach waits until r has had seq n.
func (s *story) reach(r *reader, n uint64) {
	s.c.Until(fmt.Sprintf("the reader has had seq %d", n), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.err != nil {
			s.t.Fatalf("%s: the subscription ended: %v", s.d.Pos, r.err)
		}
		return len(r.got) > 0 && r.got[len(r.got)-1].Seq >= n
	})
}

// expect [name=s] [room=r] [n=N]: the reader has had everything up to N, or to
// the room's head, once and in order
func (s *story) expect() string {
	r := s.readers[s.str("name", "s")]
	room := s.str("room", "r")
	n := uint64(s.num("n", 0))
	if n == 0 {
		info, err := s.c.Client("").Room(context.Background(), room)
		s.c.must(err)
		n = info.Last
	}
	s.reach(r, n)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, m := range r.got {
		if m.Gap != nil || m.Seq != r.start+uint64(i) {
			return fmt.Sprintf("message %d has seq %d, gap %v", i, m.Seq, m.Gap)
		}
	}
	return "in order, no hole"
}

// check [room=r] [last=N]: every node serves the same, and what was acked
func (s *story) check() string {
	var out []string
	for _, room := range strings.Split(s.str("room", "r"), "+") {
		last := s.c.CheckRoom(room)
		if s.d.HasArg("count") {
			out = append(out, room+": "+strconv.FormatUint(last, 10)+" messages")
		}
	}
	return strings.Join(append(out, "ok"), "\n")
}

// raw-publish [conn=c] at=N [open] counter=N [room=r]
// payload
// ----
// the answer's line. The session is the same in the whole story.
func (s *story) rawPublish() string {
	name := s.str("conn", "c")
	if s.raws[name] == nil {
		s.raws[name] = s.c.DialRaw(s.node("at"))
	}
	var session wire.SessionID
	copy(session[:], "a story's session")
	return s.raws[name].Publish(session, s.d.HasArg("open"), uint64(s.num("counter", 1)), s.str("room", "r"), s.d.Input)
}

// raw-drop [conn=c]: the connection ends
func (s *story) rawDrop() string {
	name := s.str("conn", "c")
	s.raws[name].Close()
	delete(s.raws, name)
	return "ok"
}

// raw-subscribe at=N next=N [room=r] [delivers]: the frames that come, up to the
// first delivery if one is due
func (s *story) rawSubscribe() string {
	r := s.c.DialRaw(s.node("at"))
	defer r.Close()
	str := r.Open(&wire.Subscribe{Room: s.str("room", "r"), Next: uint64(s.num("next", 0))})
	var frames []string
	for {
		typ, body, err := str.Next()
		if err != nil {
			return strings.Join(append(frames, "end"), "\n")
		}
		line := typ.String()
		switch typ {
		case wire.TypeSubscribed:
			f, _ := wire.ParseSubscribed(body)
			line += fmt.Sprintf(" next=%d", f.Next)
			if !s.d.HasArg("delivers") {
				return line
			}
		case wire.TypeError:
			f, _ := wire.ParseError(body)
			line += fmt.Sprintf(" %v head=%d", f.Code, f.Head)
		case wire.TypeRedirect:
			f, _ := wire.ParseRedirect(body)
			if f.Node != "" && f.Node == s.c.Leader(s.str("room", "r")) {
				line += " to the leader"
			}
		case wire.TypeDeliver:
			var f wire.Deliver
			wire.ParseDeliver(body, &f)
			return strings.Join(append(frames, line+fmt.Sprintf(" first=%d", f.First)), "\n")
		}
		frames = append(frames, line)
	}
}

// wait-sessions room=R n=N: until the room's partition has so many sessions
func (s *story) waitSessions() string {
	room, n := s.str("room", "r"), s.num("n", 0)
	leader := s.c.Leader(room)
	s.c.Until(fmt.Sprintf("%d sessions", n), func() bool {
		return s.c.Node(leader).Partitions()[wire.PartitionOf(room, s.c.parts)].Sessions == n
	})
	return "ok"
}
