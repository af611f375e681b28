package bench

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/certs"
)

// The subscribers of a storm live in a process of their own (stormprocess.go), which
// gets a crowdOrder, then crowdWords, and answers with crowdNews: JSON all of it.

// crowdOrder is who shall gather where.
type crowdOrder struct {
	Nodes    []client.Node
	Leaders  []string // by partition
	CA       string   // file
	Token    string
	Victim   string
	Settings Settings
}

// crowdWord is what the crowd cannot know by itself.
type crowdWord struct {
	Failed, Ended time.Time `json:",omitzero"` // the victim; its process
	Finish        bool
}

// crowdNews is how the crowd fares; one of these.
type crowdNews struct {
	Doing    string       `json:",omitempty"`
	Done     float64      `json:",omitempty"` // of Doing
	Gathered bool         `json:",omitempty"` // all have had a message, and are talked to
	Resumed  bool         `json:",omitempty"` // all have
	Report   *crowdReport `json:",omitempty"` // the last
	Error    string       `json:",omitempty"` // likewise
}

// crowdReport is what the crowd has measured.
type crowdReport struct {
	Resumed, Silence Gaps // of those who have resumed
	Unresumed        int
	Faults           Faults
}

// crowd is the subscribers of a node that fails.
type crowd struct {
	target *Target
	order  crowdOrder
	load   *load
	talk   *talk
	failed chan error // the publisher's

	failedAt atomic.Int64 // of the load's clock, 0: not yet
	endedAt  atomic.Int64 // when the process was gone, likewise
	mu       sync.Mutex
	refugees []refugee     // by subscriber
	awaited  int           // that have not resumed
	all      chan struct{} // closed when awaited falls to 0
}

// refugee is a subscriber of the node that fails.
type refugee struct {
	heard   time.Duration // the last message
	silence time.Duration // the longest, from the fault on
	resumed time.Duration // 0: not yet
}

func newCrowd(t *Target, o crowdOrder) *crowd {
	n := o.Settings.Clients
	return &crowd{
		target: t, order: o, failed: make(chan error, 1),
		refugees: make([]refugee, n), awaited: n, all: make(chan struct{}),
	}
}

// crowdGC leaves more garbage than usual: collecting that of thousands of clients again and
// again would be a fifth of what they do, and each of them alone has next to none.
const crowdGC = 400

// RunStormCrowd is the subscribers' process of RunStorm, until in ends.
func RunStormCrowd(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	debug.SetGCPercent(crowdGC)
	words, news := json.NewDecoder(in), json.NewEncoder(out)
	var o crowdOrder
	if err := words.Decode(&o); err != nil {
		return fmt.Errorf("what the crowd shall do: %w", err)
	}
	t, err := o.target()
	if err != nil {
		return err
	}
	said := make(chan crowdWord)
	go func() { // it ends with in, or the process
		defer cancel()
		for {
			var w crowdWord
			if words.Decode(&w) != nil {
				return
			}
			select {
			case said <- w:
			case <-ctx.Done():
				return
			}
		}
	}()
	c := newCrowd(t, o)
	defer c.close()
	report, err := c.run(ctx, said, func(n crowdNews) { news.Encode(n) }) // who does not read has gone: in ends, too
	last := crowdNews{Report: report}
	if err != nil {
		last = crowdNews{Error: err.Error()}
	}
	return news.Encode(last)
}

// target is the cluster, whose processes are another one's.
func (o *crowdOrder) target() (*Target, error) {
	ca, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, err
	}
	pool, err := certs.Pool(ca)
	if err != nil {
		return nil, err
	}
	return &Target{nodes: o.Nodes, leaders: o.Leaders, token: o.Token, tls: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}, nil
}

// run gathers the crowd and takes it through the storm.
func (c *crowd) run(ctx context.Context, said <-chan crowdWord, tell func(crowdNews)) (*crowdReport, error) {
	if err := c.gather(ctx, func(what string, done float64) { tell(crowdNews{Doing: what, Done: done}) }); err != nil {
		return nil, err
	}
	c.talk = startTalk(ctx, c.load, c.order.Settings.Rate, func(err error) { c.failed <- err })
	tell(crowdNews{Gathered: true})
	resumed := c.all
	for {
		select {
		case w := <-said:
			if w.Finish {
				return c.finish(ctx)
			}
			c.hearOf(w)
		case <-resumed:
			tell(crowdNews{Resumed: true})
			resumed = nil
		case err := <-c.failed:
			return nil, err
		case err := <-c.load.audience.failed:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// gather connects everybody to the node that is to fail.
func (c *crowd) gather(ctx context.Context, progress Progress) (err error) {
	s := c.order.Settings
	var opts []client.Option
	if s.Standby {
		opts = append(opts, client.WithStandby())
	}
	there := func(ctx context.Context, _ int) (*client.Client, error) {
		return c.target.dialOnly(ctx, c.order.Victim, opts...)
	}
	c.load, err = assemble(ctx, c.target, c.target.rooms(s.Rooms), s.Clients, s.Payload, there, c.heard, progress)
	return err
}

func (c *crowd) close() {
	c.talk.close()
	if c.load != nil {
		c.load.close()
		c.load.audience.close()
	}
}

// hearOf takes times of the wall clock, the one that both processes have.
func (c *crowd) hearOf(w crowdWord) {
	at := func(t time.Time) int64 { return int64(t.Sub(c.load.audience.clock.began.Round(0))) }
	if !w.Failed.IsZero() {
		c.failedAt.Store(at(w.Failed))
	}
	if !w.Ended.IsZero() {
		c.endedAt.Store(at(w.Ended))
	}
}

// heard takes note of the silences of a subscriber, and of the first message that it gets of
// those published after the node had ended: until then that may still serve. What came before
// it has come in order, or is missing.
func (c *crowd) heard(s *subscriber, h header, now time.Duration) {
	failed, ended := time.Duration(c.failedAt.Load()), time.Duration(c.endedAt.Load())
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.refugees[s.index]
	if failed != 0 && r.resumed == 0 {
		r.silence = max(r.silence, now-max(r.heard, failed))
	}
	r.heard = now
	if ended == 0 || h.due < ended || r.resumed != 0 {
		return
	}
	r.resumed = now - failed
	if c.awaited--; c.awaited == 0 {
		close(c.all)
	}
}

// finish waits for the last message and tells what was found.
func (c *crowd) finish(ctx context.Context) (*crowdReport, error) {
	faults, err := c.load.finish(ctx, c.talk)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var resumed, silences []time.Duration
	for _, r := range c.refugees {
		if r.resumed != 0 {
			resumed, silences = append(resumed, r.resumed), append(silences, r.silence)
		}
	}
	return &crowdReport{
		Resumed: gapsOf(resumed), Silence: gapsOf(silences),
		Unresumed: len(c.refugees) - len(resumed), Faults: faults,
	}, nil
}

// errCrowdGone: its process has ended early; what it says on stderr tells why.
var errCrowdGone = errors.New("bench: the clients' process has ended")
