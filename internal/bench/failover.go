package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
)

// Fault is what happens to the leader of the room.
type Fault string

const (
	FaultKill     Fault = "kill"     // its process is killed
	FaultPause    Fault = "pause"    // its process is stopped in its tracks, and goes on later
	FaultTransfer Fault = "transfer" // leadership is handed to another node
	FaultDrain    Fault = "drain"    // the node is told to stop, and does
	FaultRolling  Fault = "rolling"  // all nodes are restarted, one after the other

	FaultBlackhole Fault = "blackhole" // no packet reaches its host or leaves it, for a while: the target must be StartTargetOnNet's
	FaultStall     Fault = "stall"     // its disk takes no fsync any more, until it ends by itself: StartTargetOnDisks's
)

// AllFaults names them.
func AllFaults() []Fault {
	return []Fault{FaultKill, FaultPause, FaultTransfer, FaultDrain, FaultRolling, FaultBlackhole, FaultStall}
}

// FailoverReport is what RunFailover measures.
type FailoverReport struct {
	Settings
	Fault    Fault `json:"fault"`
	Kills    int   `json:"kills"`
	Publish  Gaps  `json:"publish_gap_ms"`            // between two acks; of a rolling restart: until an ack
	Delivery Gaps  `json:"delivery_gap_ms"`           // between two messages of a subscriber on another node; of a rolling restart: until one came
	SameNode Gaps  `json:"delivery_gap_same_node_ms"` // of one on the leader's node; of a rolling restart, whose readers are on all nodes, the same

	Lost         int64 `json:"lost"` // acked, but never received
	Duplicates   int64 `json:"duplicates"`
	Reordered    int64 `json:"reordered"`
	WithoutFault int   `json:"elections_without_fault"`       // in the load before the first fault
	Unplanned    *int  `json:"elections_unplanned,omitempty"` // of a rolling restart: not for a leader that stopped
}

// Gaps are the longest pauses of all faults, one of each.
type Gaps struct {
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func gapsOf(pauses []time.Duration) Gaps {
	if len(pauses) == 0 {
		return Gaps{}
	}
	slices.Sort(pauses)
	at := func(q float64) float64 {
		i := max(0, int(math.Ceil(q*float64(len(pauses))))-1) // nearest rank
		return cut(pauses[i].Seconds()*1e3, 1)
	}
	return Gaps{at(0), at(0.5), at(0.99), at(1)}
}

const (
	calmBefore   = 3 * time.Second        // the load alone
	calmBetween  = 500 * time.Millisecond // the load alone, between two faults
	faultLasts   = time.Second            // is watched at least
	faultLimit   = 30 * time.Second       // until everything flows again
	flowMessages = 20                     // so many of them are a flow
)

// RunFailover publishes s.Rate messages a second to one room and makes its leader
// fail, kills times. Another failure begins when the node is back.
func RunFailover(ctx context.Context, t *Target, s Settings, fault Fault, kills int, progress Progress) (*FailoverReport, error) {
	if !t.Local() {
		return nil, errors.New("nodes are made to fail: that needs a cluster of its own")
	}
	if fault == FaultRolling {
		return runRolling(ctx, t, s, kills, progress)
	}
	s.describe(t, 0, calmBefore)
	f := &failover{target: t, room: t.rooms(1)[0], fault: fault, standby: s.Standby, failed: make(chan error, 1)}
	ctx, cancel := context.WithCancel(ctx)
	defer f.running.Wait()
	defer f.close()
	defer cancel()
	began := time.Now()
	if err := f.begin(ctx, s); err != nil {
		return nil, err
	}
	r := &FailoverReport{Settings: s, Fault: fault, Kills: kills}
	var err error
	if r.WithoutFault, err = f.calm(ctx); err != nil {
		return nil, err
	}
	var published, other, same []time.Duration
	for i := range kills {
		progress(string(fault), float64(i)/float64(kills))
		g, err := f.fail(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s %d of %d: %w", fault, i+1, kills, err)
		}
		published, other, same = append(published, g[0]), append(other, g[1]), append(same, g[2])
	}
	r.Publish, r.Delivery, r.SameNode = gapsOf(published), gapsOf(other), gapsOf(same)
	r.Duration = cut(time.Since(began).Seconds(), 1)
	return r, f.finish(ctx, r)
}

// failover is one run of RunFailover.
type failover struct {
	target  *Target
	room    *room
	fault   Fault
	readAt  string // where the reader of all messages begins; "": at the leader
	standby bool   // clients have a connection in reserve

	clock  clock
	client *client.Client
	acks   pulse
	reader reader // of all messages, wherever it can
	acked  uint64 // highest seq; the collector's until it has ended

	failed     chan error    // the first one's
	stop       chan struct{} // closed: publish no more
	publishing sync.WaitGroup
	running    sync.WaitGroup // readers
}

func (f *failover) dial(ctx context.Context, first string) (*client.Client, error) {
	if f.standby {
		return f.target.dial(ctx, first, client.WithStandby())
	}
	return f.target.dial(ctx, first)
}

// pulse takes note of when things come.
type pulse struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration // since restart
	count   int           // since restart
	waits   bool          // longest is how long a message took, else it is between two
}

// beat counts a message that took so long.
func (p *pulse) beat(took time.Duration) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.waits:
		p.longest = max(p.longest, took)
	case !p.last.IsZero():
		p.longest = max(p.longest, now.Sub(p.last))
	}
	p.last = now
	p.count++
}

func (p *pulse) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest, p.count = 0, 0
}

func (p *pulse) pause() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.longest
}

func (p *pulse) flows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	recent := 2 * askAgain
	if p.waits {
		recent = 6 * askAgain // its room has a message every 100 ms at least
	}
	return p.count >= flowMessages && time.Since(p.last) < recent
}

// reader follows the room from some seq on.
type reader struct {
	client *client.Client
	pulse  pulse
	cancel context.CancelFunc

	mu     sync.Mutex
	last   uint64 // seq
	faults Faults // Missing: seqs that were left out
}

// read follows the room after a seq until close.
func (f *failover) read(ctx context.Context, r *reader, first string, after uint64) error {
	var err error
	if r.client, err = f.dial(ctx, first); err != nil {
		return err
	}
	ctx, r.cancel = context.WithCancel(ctx)
	r.last = after
	f.running.Go(func() {
		for m, err := range r.client.Subscribe(ctx, f.room.name, client.After(after)) {
			if err != nil {
				if ctx.Err() == nil {
					f.note(fmt.Errorf("a subscriber: %w", err))
				}
				return
			}
			if m.Gap != nil {
				continue // the next seq tells what is missing
			}
			h, err := parseHeader(m.Payload)
			if err != nil {
				f.note(err)
				return
			}
			r.see(m.Seq, f.clock.now()-h.due)
		}
	})
	return nil
}

func (r *reader) see(seq uint64, took time.Duration) {
	r.pulse.beat(took)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case seq == r.last:
		r.faults.Duplicates++
	case seq < r.last:
		r.faults.Reordered++
	default:
		r.faults.Missing += int64(seq - r.last - 1)
		r.last = seq
	}
}

func (r *reader) seen() (last uint64, faults Faults) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, r.faults
}

func (r *reader) close() {
	if r.client != nil {
		r.cancel()
		r.client.Close()
	}
}

// begin starts the publisher and the reader of everything.
func (f *failover) begin(ctx context.Context, s Settings) (err error) {
	if f.client, err = f.dial(ctx, f.room.leader); err != nil {
		return err
	}
	type sent struct {
		*client.Pending
		due time.Duration
	}
	pending := make(chan sent, 1<<16)
	f.stop = make(chan struct{})
	f.clock = startClock()
	speaker := newSpeaker(f.client, f.clock, s.Payload)
	f.publishing.Go(func() {
		defer close(pending)
		f.note(schedule{rate: s.Rate}.run(ctx, f.clock, math.MaxInt32, func(_ int, due time.Duration) error {
			select {
			case <-f.stop:
				return context.Canceled
			default:
			}
			header{number: f.room.published, due: due}.put(speaker.payload)
			p, err := f.client.PublishAsync(ctx, f.room.name, speaker.payload)
			if err != nil {
				return fmt.Errorf("publish: %w", err)
			}
			f.room.published++
			select {
			case pending <- sent{p, due}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
	})
	f.publishing.Go(func() {
		for p := range pending {
			receipt, err := p.Wait(ctx)
			if err != nil {
				f.note(fmt.Errorf("an ack: %w", err))
				continue // the next ones fail as well, or the run is at its end
			}
			f.acks.beat(f.clock.now() - p.due)
			f.acked = max(f.acked, receipt.Seq)
		}
	})
	return f.read(ctx, &f.reader, cmp.Or(f.readAt, f.room.leader), 0)
}

func (f *failover) note(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	select {
	case f.failed <- err:
	default:
	}
}

// close ends the load. The context of begin must be at its end.
func (f *failover) close() {
	f.publishing.Wait()
	f.reader.close()
	if f.client != nil {
		f.client.Close()
	}
}

// calm lets the load run alone and returns how many elections there were.
func (f *failover) calm(ctx context.Context) (elections int, err error) {
	before, err := f.target.ops.terms(ctx)
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, calmBefore); err != nil {
		return 0, err
	}
	after, err := f.target.ops.terms(ctx)
	return after - before, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fail makes the leader fail once. It returns the longest pauses of the acks, of a
// subscriber on another node and of one on the leader's.
func (f *failover) fail(ctx context.Context) (gaps [3]time.Duration, err error) {
	leaders, err := f.target.ops.settled(ctx)
	if err != nil {
		return gaps, err
	}
	leader := leaders[f.room.partition]
	others := slices.DeleteFunc(slices.Clone(f.target.nodes), func(n client.Node) bool { return n.Name == leader })
	from, _ := f.reader.seen()
	var other, same reader
	defer other.close()
	defer same.close()
	if err := errors.Join(f.read(ctx, &other, others[0].Name, from), f.read(ctx, &same, leader, from)); err != nil {
		return gaps, err
	}
	pulses := []*pulse{&f.acks, &other.pulse, &same.pulse}
	restart(pulses)
	if err := f.flows(ctx, pulses, calmBetween); err != nil {
		return gaps, err
	}
	restart(pulses)
	heal, err := f.inject(ctx, leader, others[1].Name)
	if err != nil {
		return gaps, err
	}
	if err := f.flows(ctx, pulses, faultLasts); err != nil {
		return gaps, errors.Join(err, heal())
	}
	for i, p := range pulses {
		gaps[i] = p.pause()
	}
	for _, r := range []*reader{&other, &same} {
		_, faults := r.seen()
		f.reader.mu.Lock()
		f.reader.faults.add(faults)
		f.reader.mu.Unlock()
	}
	if err := heal(); err != nil {
		return gaps, err
	}
	return gaps, f.target.cluster.WaitReady(ctx)
}

func restart(pulses []*pulse) {
	for _, p := range pulses {
		p.restart()
	}
}

// flows waits until all have had a flow of messages and have it now, and at least
// for d.
func (f *failover) flows(ctx context.Context, pulses []*pulse, d time.Duration) error {
	for began := time.Now(); ; {
		flowing := time.Since(began) >= d
		for _, p := range pulses {
			flowing = flowing && p.flows()
		}
		if flowing {
			return nil
		}
		if time.Since(began) > faultLimit {
			return fmt.Errorf("not all of acks and deliveries flow %v later", faultLimit)
		}
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
}

// wait waits for a moment, or returns what has failed.
func (f *failover) wait(ctx context.Context) error {
	select {
	case err := <-f.failed:
		return err
	case <-time.After(askAgain):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// inject makes a node fail, and returns what brings it back.
func (f *failover) inject(ctx context.Context, node, to string) (heal func() error, err error) {
	c := f.target.cluster
	again := func() error {
		<-c.Ended(node)
		return c.Start(node)
	}
	switch f.fault {
	case FaultKill:
		return again, c.Kill(node)
	case FaultDrain:
		return again, c.Terminate(node)
	case FaultPause:
		return func() error { return c.Resume(node) }, c.Pause(node)
	case FaultBlackhole:
		cut := f.target.net.CutOff(node)
		return func() error { cut.Heal(); return nil }, nil
	case FaultStall:
		return f.stall(ctx, node, again)
	case FaultTransfer:
		path := fmt.Sprintf("/v1/partitions/%d/transfer?to=%s", f.room.partition, to)
		return func() error { return nil }, f.target.ops.ask(ctx, f.target.nodes[f.target.place(node)], http.MethodPost, path, nil)
	}
	return nil, fmt.Errorf("there is no fault %q", f.fault)
}

// stall has the fsyncs of a node hang. Its process gives up by itself, but cannot
// end before they do not hang any more.
func (f *failover) stall(ctx context.Context, node string, again func() error) (heal func() error, err error) {
	n, _ := f.target.cluster.Layout().Node(node)
	before, err := givenUp(n.Log)
	if err != nil {
		return nil, err
	}
	off := f.target.disks[node].stall()
	return func() error {
		defer off()
		for began := time.Now(); time.Since(began) < faultLimit; {
			if now, err := givenUp(n.Log); err != nil {
				return err
			} else if now > before {
				off()
				return again()
			}
			if err := f.wait(ctx); err != nil {
				return err
			}
		}
		return fmt.Errorf("%s goes on, with a disk that has hung for %v", node, faultLimit)
	}, nil
}

// givenUp counts how often a node has given up, by its log.
func givenUp(log string) (int, error) {
	text, err := os.ReadFile(log)
	return bytes.Count(text, []byte("the node cannot go on")), err
}

// finish ends the publishing and compares what was read with what was acked.
func (f *failover) finish(ctx context.Context, r *FailoverReport) error {
	close(f.stop)
	f.publishing.Wait()
	for since := time.Now(); ; {
		if err := f.wait(ctx); err != nil {
			return err
		}
		last, faults := f.reader.seen()
		if last >= f.acked || time.Since(since) > patience {
			r.Lost = faults.Missing + int64(f.acked-min(last, f.acked))
			r.Duplicates, r.Reordered = faults.Duplicates, faults.Reordered
			// Each publish has one number: more numbers than publishes are doubles.
			r.Duplicates += int64(max(f.acked, f.room.published) - f.room.published)
			return nil
		}
	}
}
