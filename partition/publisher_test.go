package partition

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// fakePartition is what a Publisher needs of one.
func fakePartition(queueBytes int64) *Partition {
	return &Partition{queue: newQueue(queueBytes), metrics: NewMetrics()}
}

func publishTo(pub *Publisher, counters ...Counter) {
	for _, c := range counters {
		pub.Publish(c, 1, nil, []byte("r"), []byte("x"))
	}
}

// told lists what a Replier was told so far.
func (e *events) told() (list []string) {
	for {
		ev, ok := e.none()
		if !ok {
			return list
		}
		switch ev := ev.(type) {
		case openedEvent:
			list = append(list, "opened")
		case []Answer:
			for _, a := range ev {
				list = append(list, fmt.Sprintf("%d+%d acked", a.Counter, a.Count))
			}
		case Refusal:
			text := fmt.Sprintf("%d refused: %v", ev.Counter, ev.Err)
			if ev.Maybe {
				text += ", maybe"
			}
			list = append(list, text)
		}
	}
}

func (e *events) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := e.told(); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

var (
	errFirst  = errors.New("first")
	errSecond = errors.New("second")
)

func TestPublisherRefusal(t *testing.T) {
	ack := func(c Counter) []Answer { return []Answer{{Counter: c, Count: 1}} }
	refusal := func(c Counter, err error, maybe bool) *Refusal { return &Refusal{Counter: c, Err: err, Maybe: maybe} }
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *Publisher, *events)
	}{
		{"told at once when nothing is under way", func(t *testing.T, p *Publisher, e *events) {
			p.Refuse(5, errFirst)
			e.expect(t, "5 refused: first")
		}},
		{"told when all that came before is answered", func(t *testing.T, p *Publisher, e *events) {
			publishTo(p, 1, 2, 3)
			p.Refuse(4, errFirst)
			e.expect(t)
			p.answered(1, ack(1), nil)
			e.expect(t, "1+1 acked")
			p.answered(2, ack(2), nil)
			e.expect(t, "2+1 acked", "4 refused: first")
		}},
		{"told once", func(t *testing.T, p *Publisher, e *events) {
			p.Refuse(5, errFirst)
			p.Refuse(4, errSecond)
			p.Refuse(6, errSecond)
			e.expect(t, "5 refused: first")
		}},
		{"the lowest counter counts, with its reason", func(t *testing.T, p *Publisher, e *events) {
			publishTo(p, 1, 2, 3)
			p.Refuse(4, errFirst)
			p.answered(1, nil, refusal(2, errSecond, false))
			p.answered(2, nil, refusal(3, errFirst, false))
			e.expect(t, "2 refused: second")
		}},
		{"of two for one counter the first", func(t *testing.T, p *Publisher, e *events) {
			publishTo(p, 1, 1)
			p.answered(1, nil, refusal(1, errFirst, false))
			p.answered(1, nil, refusal(1, errSecond, false))
			e.expect(t, "1 refused: first")
		}},
		{"one maybe makes all maybe, a lower one", func(t *testing.T, p *Publisher, e *events) {
			publishTo(p, 1, 2)
			p.Refuse(3, errFirst)
			p.answered(2, nil, refusal(1, errSecond, true))
			e.expect(t, "1 refused: second, maybe")
		}},
		{"one maybe makes all maybe, a higher one", func(t *testing.T, p *Publisher, e *events) {
			publishTo(p, 1, 2)
			p.answered(1, nil, refusal(1, errFirst, false))
			p.answered(1, nil, refusal(2, errSecond, true))
			e.expect(t, "1 refused: first, maybe")
		}},
		{"acks above the refused counter are told before", func(t *testing.T, p *Publisher, e *events) {
			publishTo(p, 1, 2)
			p.answered(1, nil, refusal(1, errFirst, true))
			p.answered(1, ack(2), nil)
			e.expect(t, "2+1 acked", "1 refused: first, maybe")
		}},
		{"nothing is taken afterwards but the end of the session", func(t *testing.T, p *Publisher, e *events) {
			publishTo(p, 1)
			p.Refuse(2, errFirst)
			publishTo(p, 2, 3)
			p.Open()
			p.Detach()
			var kinds []entryKind
			for items := p.partition.queue.takeNow(1000, nil); len(items) > 0; items = p.partition.queue.takeNow(1000, nil) {
				for _, it := range items {
					kinds = append(kinds, it.kind)
				}
			}
			if !slices.Equal(kinds, []entryKind{kindPublish, kindClose}) {
				t.Errorf("items of the kinds %v were queued, want a publish and a close", kinds)
			}
			p.answered(1, nil, nil)
			p.answered(1, ack(1), nil)
			publishTo(p, 4)
			e.expect(t, "1+1 acked", "2 refused: first")
		}},
		{"opened, then refused", func(t *testing.T, p *Publisher, e *events) {
			p.Open()
			p.Refuse(1, errFirst)
			p.opened(nil)
			e.expect(t, "opened", "1 refused: first")
		}},
		{"not opened", func(t *testing.T, p *Publisher, e *events) {
			p.Open()
			publishTo(p, 1)
			p.opened(ErrTooManySessions)
			e.expect(t)
			p.answered(1, nil, refusal(1, ErrSessionExpired, false))
			e.expect(t, "0 refused: partition: too many sessions")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEvents()
			tt.do(t, fakePartition(1<<20).Attach(SessionID{}, e), e)
			e.expect(t)
		})
	}
}

func TestPublisherQueueFull(t *testing.T) {
	p := fakePartition(itemCost + 1 + 2*3) // two publishes in one item
	for range 100 {
		p.entryTook(80 * time.Millisecond)
	}
	e := newEvents()
	pub := p.Attach(SessionID{}, e)
	publishTo(pub, 1, 2, 3, 4)
	e.expect(t)
	pub.answered(2, nil, nil)
	ev, _ := e.none()
	r, ok := ev.(Refusal)
	if !ok || r.Counter != 3 || !errors.Is(r.Err, ErrOverloaded) || r.Maybe {
		t.Errorf("told %+v", ev)
	}
	if got := r.RetryAfter.Round(time.Millisecond); got != 40*time.Millisecond {
		t.Errorf("told to come back after %v, entries take half of 80 ms", r.RetryAfter)
	}
	e.expect(t)
}

// TestDrainTime: an entry's time over two in flight, for each entry that waits.
func TestDrainTime(t *testing.T) {
	for _, tt := range []struct {
		name   string
		entry  time.Duration
		queued int // items of maxEntryBytes, about
		want   time.Duration
	}{
		{"nothing known", 0, 0, minRetryAfter},
		{"fast", time.Millisecond, 1, minRetryAfter},
		{"an entry waits", 50 * time.Millisecond, 1, 50 * time.Millisecond},
		{"four wait", 50 * time.Millisecond, 4, 125 * time.Millisecond},
		{"slow", time.Second, 4, maxRetryAfter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := fakePartition(1 << 30)
			for range 200 {
				p.entryTook(tt.entry)
			}
			for range tt.queued {
				push(p.queue, 1, string(make([]byte, maxEntryBytes-itemCost-6)))
			}
			if got := p.drainTime().Round(time.Millisecond); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestDetachAnswersNothing: what may have come to the client's lane since has
// nothing to do with the session that ended.
func TestDetachAnswersNothing(t *testing.T) {
	t.Run("the queue is full", func(t *testing.T) {
		p, e := fakePartition(itemCost+2), newEvents()
		publishTo(p.Attach(SessionID{}, newEvents()), 1)
		p.Attach(SessionID{}, e).Detach()
		e.expect(t)
	})
	t.Run("the queue is closed", func(t *testing.T) {
		p, e := fakePartition(1000), newEvents()
		p.queue.close(ErrUnavailable)
		p.Attach(SessionID{}, e).Detach()
		e.expect(t)
	})
	t.Run("not proposed", func(t *testing.T) {
		p, e := fakePartition(1000), newEvents()
		p.Attach(SessionID{}, e).Detach()
		(&proposer{metrics: p.metrics}).drop(p.queue.takeNow(1, nil)[0], ErrNotLeader)
		e.expect(t)
	})
	t.Run("refused before", func(t *testing.T) {
		e := newEvents()
		pub := Refused(e, errFirst)
		pub.Detach()
		publishTo(pub, 1)
		e.expect(t, "0 refused: first")
	})
}

func TestRefusalFor(t *testing.T) {
	wrapped := func(err error) error { return fmt.Errorf("propose: %w", err) }
	for _, tt := range []struct {
		name  string
		err   error
		is    error
		maybe bool
		retry bool
	}{
		{name: "overloaded", err: ErrOverloaded, is: ErrOverloaded}, // push knows the time
		{name: "table full", err: ErrTooManySessions, is: ErrTooManySessions, retry: true},
		{name: "unknown", err: raftlog.ErrUnknown, is: ErrOutcomeUnknown, maybe: true},
		{name: "unknown, wrapped", err: wrapped(raftlog.ErrUnknown), is: ErrOutcomeUnknown, maybe: true},
		{name: "unknown because closed", err: errors.Join(raftlog.ErrUnknown, raftlog.ErrClosed), is: ErrOutcomeUnknown, maybe: true},
		{name: "unknown, and not the leader any more", err: errors.Join(raftlog.ErrNotLeader, raftlog.ErrUnknown), is: ErrOutcomeUnknown, maybe: true},
		{name: "not the leader", err: wrapped(raftlog.ErrNotLeader), is: ErrNotLeader},
		{name: "handing over", err: raftlog.ErrTransferring, is: ErrUnavailable},
		{name: "closed", err: raftlog.ErrClosed, is: ErrUnavailable},
		{name: "expired", err: ErrSessionExpired, is: ErrSessionExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := refusalFor(7, tt.err)
			if r.Counter != 7 || !errors.Is(r.Err, tt.is) || r.Maybe != tt.maybe || (r.RetryAfter > 0) != tt.retry {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// When no more answers can be kept, a publisher gets one publish into the log,
// whose floor may free some, and the rest is refused without an entry.
func TestPublisherOfAFullPartition(t *testing.T) {
	p := &Partition{queue: newQueue(1 << 20), metrics: NewMetrics()}
	p.full.Store(true)
	pub := p.Attach(sessionID("anna"), newEvents())
	for c := Counter(1); c <= 3; c++ {
		pub.Publish(c, 1, nil, []byte("lobby"), nil)
	}
	if items := p.queue.takeNow(1<<20, nil); len(items) != 1 || items[0].counter != 1 {
		t.Errorf("%d publishes are queued, want the first alone", len(items))
	}
	if r := pub.refusal; r == nil || r.Counter != 2 || !errors.Is(r.Err, ErrWindow) || r.Maybe || r.RetryAfter != maxRetryAfter {
		t.Errorf("refusal = %+v", pub.refusal)
	}
}
