package partition

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/roomlog/roomlog/raftlog"
	"pgregory.net/rapid"
)

// fakeLog takes proposals and leaves their outcome to the test.
type fakeLog struct {
	*Partition
	proposals chan *fakeProposal
	leads     atomic.Bool
	running   sync.WaitGroup
	stop      context.CancelFunc

	mu     sync.Mutex
	ledger *ledger
}

type fakeProposal struct {
	data   []byte
	done   chan struct{}
	result any
	err    error
}

func (p *fakeProposal) Wait(ctx context.Context) (any, error) {
	select {
	case <-p.done:
		return p.result, p.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", raftlog.ErrUnknown, ctx.Err())
	}
}

func (p *fakeProposal) fail(err error) {
	p.err = err
	close(p.done)
}

func startFakeLog(queueBytes int64) *fakeLog {
	f := &fakeLog{Partition: fakePartition(queueBytes), proposals: make(chan *fakeProposal, 1000), ledger: newLedger()}
	f.leads.Store(true)
	p := &proposer{
		queue: f.queue,
		gate:  &f.gate,
		propose: func(data []byte) proposal {
			p := &fakeProposal{data: data, done: make(chan struct{})}
			f.proposals <- p
			return p
		},
		leading:  f.leads.Load,
		now:      func() int64 { return 1 },
		ttl:      time.Hour,
		metrics:  f.metrics,
		took:     f.entryTook,
		loopTime: func() raftlog.LoopTime { return 0 },
		stages:   newStages(),
		slow:     func(Stage) {},
		inflight: make(chan batch, maxInflight),
		slots:    make(chan struct{}, maxInflight),
	}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	f.running.Go(func() { p.run(ctx) })
	f.running.Go(p.answer)
	return f
}

// next returns the next proposal, nil if there is none.
func (f *fakeLog) next() *fakeProposal {
	synctest.Wait()
	select {
	case p := <-f.proposals:
		return p
	default:
		return nil
	}
}

// apply puts a proposal into the log.
func (f *fakeLog) apply(p *fakeProposal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out, err := f.ledger.add(p.data)
	if p.result = out; err != nil {
		p.result = err
	}
}

// commit puts a proposal into the log and says so.
func (f *fakeLog) commit(p *fakeProposal) {
	f.apply(p)
	close(p.done)
	synctest.Wait()
}

func (f *fakeLog) end() {
	f.stop()
	f.running.Wait()
}

// opened returns a publisher whose session is in the log.
func (f *fakeLog) opened(name string) (*Publisher, *events) {
	f.apply(&fakeProposal{data: encodeOpen(1, time.Hour, sessionIDs(name))})
	e := newEvents()
	return f.Attach(sessionID(name), e), e
}

// counters lists the messages of a proposal.
func counters(t *testing.T, p *fakeProposal) string {
	t.Helper()
	if p == nil {
		return "none"
	}
	var e entry
	if err := e.decode(p.data); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint("kind ", e.kind, ":")
	for _, r := range e.runs {
		text += " " + through(r.counter, r.count)
	}
	return text
}

func proposing(t *testing.T, queueBytes int64, do func(*testing.T, *fakeLog)) {
	synctest.Test(t, func(t *testing.T) {
		f := startFakeLog(queueBytes)
		defer f.end()
		do(t, f)
	})
}

// TestProposerBatches: an idle partition proposes at once, a busy one packs what
// came while two entries were on their way.
func TestProposerBatches(t *testing.T) {
	proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
		pub, told := f.opened("anna")
		expect := func(want string) *fakeProposal {
			t.Helper()
			p := f.next()
			if got := counters(t, p); got != want {
				t.Fatalf("proposed %s, want %s", got, want)
			}
			return p
		}
		publishTo(pub, 1)
		first := expect("kind 1: 1")
		publishTo(pub, 2)
		second := expect("kind 1: 2")
		publishTo(pub, 3, 4, 5)
		expect("none")
		f.commit(first)
		third := expect("kind 1: 3-5")
		publishTo(pub, 6, 7)
		expect("none")
		f.commit(second)
		fourth := expect("kind 1: 6-7")
		expect("none")
		f.commit(third)
		f.commit(fourth)
		told.expect(t, "1+1 acked", "2+1 acked", "3+3 acked", "6+2 acked")
		publishTo(pub, 8)
		f.commit(expect("kind 1: 8"))
		told.expect(t, "8+1 acked")
	})
}

// TestProposerAnswersInOrder: an entry's outcome is told when those before it
// have theirs.
func TestProposerAnswersInOrder(t *testing.T) {
	proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
		pub, told := f.opened("anna")
		publishTo(pub, 1)
		first := f.next()
		publishTo(pub, 2)
		second := f.next()
		f.apply(first)
		f.commit(second)
		told.expect(t)
		close(first.done)
		synctest.Wait()
		told.expect(t, "1+1 acked", "2+1 acked")
	})
}

func TestProposerSessions(t *testing.T) {
	proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
		f.ledger.limit = 2
		var pubs []*Publisher
		var told []*events
		for _, name := range []string{"a", "b", "c"} {
			e := newEvents()
			pubs, told = append(pubs, f.Attach(sessionID(name), e)), append(told, e)
		}
		for _, pub := range pubs {
			pub.Open()
		}
		for p := f.next(); p != nil; p = f.next() {
			f.commit(p)
		}
		told[0].expect(t, "opened")
		told[1].expect(t, "opened")
		told[2].expect(t, "0 refused: partition: too many sessions")

		publishTo(pubs[0], 1)
		pubs[0].Detach()
		for p := f.next(); p != nil; p = f.next() {
			f.commit(p)
		}
		told[0].expect(t, "1+1 acked")
		again := newEvents()
		publishTo(f.Attach(sessionID("a"), again), 2)
		f.commit(f.next())
		again.expect(t, "2 refused: partition: session expired")

		lost := newEvents()
		f.Attach(sessionID("d"), lost).Open()
		f.next().fail(fmt.Errorf("%w: leadership lost", raftlog.ErrUnknown))
		synctest.Wait()
		lost.expect(t, "0 refused: partition: outcome unknown\nraftlog: outcome unknown: leadership lost, maybe")
	})
}

func TestProposerFailures(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail func(*fakeLog, *fakeProposal)
		want string // of the second of three entries
	}{
		{"lost", func(f *fakeLog, p *fakeProposal) { p.fail(fmt.Errorf("%w: x", raftlog.ErrUnknown)) },
			"2 refused: partition: outcome unknown\nraftlog: outcome unknown: x, maybe"},
		{"not the leader", func(f *fakeLog, p *fakeProposal) { p.fail(raftlog.ErrNotLeader) },
			"2 refused: partition: not the leader"},
		{"handing over", func(f *fakeLog, p *fakeProposal) { p.fail(raftlog.ErrTransferring) },
			"2 refused: partition: unavailable"},
		{"closed", func(f *fakeLog, p *fakeProposal) { p.fail(raftlog.ErrClosed) },
			"2 refused: partition: unavailable"},
		{"passed over by every replica", func(f *fakeLog, p *fakeProposal) {
			p.result = fmt.Errorf("entry 9: %w", errMalformed)
			close(p.done)
		}, "2 refused: entry 9: malformed entry"},
		{"no outcome in time", func(f *fakeLog, p *fakeProposal) {},
			"2 refused: partition: outcome unknown\nraftlog: outcome unknown: context deadline exceeded, maybe"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
				pub, told := f.opened("anna")
				other, toldOther := f.opened("ben")
				publishTo(pub, 1)
				f.commit(f.next())
				publishTo(pub, 2)
				second := f.next()
				publishTo(pub, 3)
				third := f.next()
				publishTo(other, 1)
				tt.fail(f, second)
				synctest.Wait()
				if second.err == nil && second.result == nil {
					<-time.After(proposeTimeout) // by synctest's clock
					synctest.Wait()
				}
				told.expect(t, "1+1 acked") // 3 is still under way
				f.commit(third)
				told.expect(t, tt.want)
				f.commit(f.next())
				toldOther.expect(t, "1+1 acked")
			})
		})
	}
}

// TestProposerDropsRefused: what a refused publisher had queued is not proposed,
// and its refusal is told when the last of it is gone.
func TestProposerDropsRefused(t *testing.T) {
	proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
		pub, told := f.opened("anna")
		other, toldOther := f.opened("ben")
		publishTo(pub, 1)
		first := f.next()
		publishTo(pub, 2)
		second := f.next()
		publishTo(pub, 1, 3, 4)
		publishTo(other, 1)
		first.fail(raftlog.ErrNotLeader)
		p := f.next()
		if got := counters(t, p); got != "kind 1: 1" {
			t.Fatalf("proposed %s, want ben's alone", got)
		}
		told.expect(t) // 2 is under way
		f.apply(p)
		f.commit(second)
		told.expect(t, "1 refused: partition: not the leader")
		close(p.done)
		synctest.Wait()
		toldOther.expect(t, "1+1 acked")
	})
}

func TestProposerNotLeading(t *testing.T) {
	proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
		pub, told := f.opened("anna")
		opener := newEvents()
		f.leads.Store(false)
		publishTo(pub, 1, 2)
		f.Attach(sessionID("ben"), opener).Open()
		if p := f.next(); p != nil {
			t.Fatalf("proposed %s", counters(t, p))
		}
		told.expect(t, "1 refused: partition: not the leader")
		opener.expect(t, "0 refused: partition: not the leader")

		f.leads.Store(true) // all slots are free again
		for c := range Counter(3 * maxInflight) {
			again, toldAgain := f.Attach(sessionID("anna"), newEvents()), newEvents()
			again.reply = toldAgain
			publishTo(again, c+1)
			f.commit(f.next())
			toldAgain.expect(t, fmt.Sprintf("%d+1 acked", c+1))
		}
	})
}

// TestProposerForgets: while there is nothing to do nothing of the last entry is
// kept: a publisher holds on to a connection.
func TestProposerForgets(t *testing.T) {
	f := startFakeLog(1 << 20)
	defer f.end()
	pub := func() weak.Pointer[Publisher] {
		pub, told := f.opened("anna")
		publishTo(pub, 1)
		p := receive(t, f.proposals)
		f.apply(p)
		close(p.done)
		if _, ok := told.next(t).([]Answer); !ok {
			t.Fatal("not acked")
		}
		return weak.Make(pub)
	}()
	for end := time.Now().Add(10 * time.Second); pub.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("the publisher is still held")
		}
	}
}

// TestProposerShutdown: everything is answered, what was not proposed as surely
// refused.
func TestProposerShutdown(t *testing.T) {
	proposing(t, 1<<20, func(t *testing.T, f *fakeLog) {
		flying, toldFlying := f.opened("anna")
		queued, toldQueued := f.opened("ben")
		publishTo(flying, 1)
		first := f.next()
		publishTo(flying, 2)
		second := f.next()
		publishTo(queued, 1, 2)
		f.stop()
		synctest.Wait()
		toldQueued.expect(t, "1 refused: partition: unavailable")
		toldFlying.expect(t)
		late := newEvents()
		publishTo(f.Attach(sessionID("eve"), late), 1)
		late.expect(t, "1 refused: partition: unavailable")
		f.commit(first)
		second.fail(fmt.Errorf("%w: closed", raftlog.ErrUnknown))
		f.running.Wait()
		toldFlying.expect(t, "1+1 acked", "2 refused: partition: outcome unknown\nraftlog: outcome unknown: closed, maybe")
	})
}

// TestProposerAny lets proposals end in any way, in the log or not, and checks
// what clients are told: an ack is in the log under its seq; what is refused
// and not maybe is not there; a refusal is the last word.
func TestProposerAny(t *testing.T) {
	outcomes := []string{"commit", "commit", "commit", "not leader", "unknown, in the log", "unknown, not there", "closed", "stop leading"}
	rapid.Check(t, func(rt *rapid.T) {
		fates := rapid.SliceOfN(rapid.SampledFrom(outcomes), 1, 20).Draw(rt, "fates")
		publishes := rapid.SliceOfN(rapid.IntRange(0, 2), 1, 60).Draw(rt, "publishes")
		queueBytes := rapid.SampledFrom([]int64{600, 3000, 1 << 20}).Draw(rt, "queue")
		proposing(t, queueBytes, func(t *testing.T, f *fakeLog) {
			var pubs []*Publisher
			var told []*events
			for _, name := range []string{"a", "b", "c"} {
				pub, e := f.opened(name)
				pubs, told = append(pubs, pub), append(told, e)
			}
			turn := 0
			f.running.Go(func() { // the log
				for p := range f.proposals {
					f.fate(p, fates[turn%len(fates)])
					turn++
				}
			})
			counter := [3]Counter{}
			for _, i := range publishes {
				counter[i]++
				pubs[i].Publish(counter[i], 1, nil, []byte("r"), []byte(fmt.Sprint(i, counter[i])))
			}
			synctest.Wait()
			f.stop()
			synctest.Wait()
			close(f.proposals)
			f.running.Wait()
			for i := range pubs {
				f.judge(rt, fmt.Sprint(i), counter[i], told[i])
			}
		})
	})
}

func (f *fakeLog) fate(p *fakeProposal, outcome string) {
	switch outcome {
	case "commit":
		f.apply(p)
		close(p.done)
	case "not leader":
		p.fail(raftlog.ErrNotLeader)
	case "unknown, in the log":
		f.apply(p)
		p.fail(raftlog.ErrUnknown)
	case "unknown, not there":
		p.fail(raftlog.ErrUnknown)
	case "closed":
		p.fail(raftlog.ErrClosed)
	case "stop leading":
		f.leads.Store(false)
		p.fail(raftlog.ErrNotLeader)
	}
}

// judge compares what a publisher was told with the log. Its messages are its
// name and their counter.
func (f *fakeLog) judge(t *rapid.T, name string, published Counter, told *events) {
	all, err := f.ledger.read("r", 1)
	if err != nil {
		t.Fatal(err)
	}
	logged := map[Counter]Seq{}
	for _, m := range all {
		var c Counter
		if n, _ := fmt.Sscanf(m.payload, name+" %d", &c); n == 1 {
			logged[c] = m.seq
		}
	}
	acked := map[Counter]bool{}
	var refused *Refusal
	for ev, ok := told.none(); ok; ev, ok = told.none() {
		if refused != nil {
			t.Fatalf("%s was told %+v after its refusal %+v", name, ev, refused)
		}
		switch ev := ev.(type) {
		case []Answer:
			for _, a := range ev {
				for i := range a.Count {
					c := a.Counter + Counter(i)
					if acked[c] || logged[c] != a.Seq+Seq(i) {
						t.Fatalf("%s: %d acked with seq %d, in the log it has %d", name, c, a.Seq+Seq(i), logged[c])
					}
					acked[c] = true
				}
			}
		case Refusal:
			refused = &ev
		}
	}
	for c := Counter(1); c <= published; c++ {
		switch {
		case acked[c]:
		case refused == nil || c < refused.Counter:
			t.Fatalf("%s: %d has no answer; refused is %+v", name, c, refused)
		case !refused.Maybe && logged[c] != 0:
			t.Fatalf("%s: %d is in the log as %d and refused for good: %+v", name, c, logged[c], refused)
		}
	}
	if refused != nil && !refused.Maybe && errors.Is(refused.Err, ErrOutcomeUnknown) {
		t.Fatalf("%s: %+v", name, refused)
	}
}
