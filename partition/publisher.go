package partition

import (
	"errors"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Replier is told what became of a Publisher's work. Its methods are called one
// at a time for one Publisher and must not block.
type Replier interface {
	// Opened: the session is in the log.
	Opened()
	// Acked: publishes got their numbers; Err is nil in each.
	Acked(answers []Answer)
	// Refused is the last call for this Publisher: everything from r.Counter
	// on that was not acked is refused, and nothing of it is under way any more.
	Refused(r Refusal)
}

// Refusal ends a Publisher. With Maybe the refused publishes may be in the log
// all the same; otherwise this Publisher left nothing of them behind.
type Refusal struct {
	Counter    Counter // 0: the session could not be opened
	Err        error
	Maybe      bool
	RetryAfter time.Duration
}

// A client whose publish found the queue full is told to come back when the
// queue will have drained, within these bounds.
const (
	minRetryAfter = 5 * time.Millisecond
	maxRetryAfter = time.Second
)

// Publisher is one attachment of a session to the partition: a stream of
// publishes with rising counters. After its first refusal it takes no more;
// the refusal is told when everything accepted before has been answered, so
// that the client can go on with a new Publisher knowing where it stands.
// Publish, Open and Refuse belong to one goroutine.
type Publisher struct {
	session   SessionID
	partition *Partition
	reply     Replier

	mu       sync.Mutex
	underway int  // accepted and not yet answered
	taken    bool // a publish has been accepted
	refusal  *Refusal
	told     bool
}

// Attach returns a Publisher for session. Whether the session exists is found
// when its publishes are applied.
func (p *Partition) Attach(session SessionID, reply Replier) *Publisher {
	return &Publisher{session: session, partition: p, reply: reply}
}

// Open proposes the session.
func (pub *Publisher) Open() { pub.push(item{kind: kindOpen, bundle: bundle{from: pub}}, nil) }

// Detach proposes to forget the session, if the queue has room, also after a
// refusal. There is no answer.
func (pub *Publisher) Detach() { pub.push(item{kind: kindClose, bundle: bundle{from: pub}}, nil) }

// Publish queues one message. name, room and payload are copied; room and
// payload have been checked by the caller. floor is the lowest counter that the
// client has no answer for.
func (pub *Publisher) Publish(counter, floor Counter, name, room, payload []byte) {
	pub.push(item{kind: kindPublish, bundle: bundle{from: pub, counter: counter, floor: floor, name: name, room: room}}, payload)
}

// Refuse refuses counter and all that follow, for a reason of the caller's.
func (pub *Publisher) Refuse(counter Counter, err error) {
	pub.mu.Lock()
	defer pub.mu.Unlock()
	pub.refuse(Refusal{Counter: counter, Err: err})
	pub.settle(0)
}

func (pub *Publisher) push(it item, payload []byte) {
	pub.mu.Lock()
	defer pub.mu.Unlock()
	if pub.partition == nil || pub.refusal != nil && it.kind != kindClose {
		return
	}
	if it.kind == kindPublish && pub.taken && pub.partition.full.Load() {
		// One publish goes into the log to be refused there, since its floor may
		// free what is kept; the others would only fill the log.
		pub.refuse(refusalFor(it.counter, ErrWindow))
		pub.settle(0)
		return
	}
	if pub.partition.diskFull(it) {
		pub.partition.metrics.refused(diskFullError{}, 1)
		pub.refuse(refusalFor(it.counter, diskFullError{}))
		pub.settle(0)
		return
	}
	err := pub.partition.queue.push(it, payload)
	switch {
	case err == nil:
		pub.underway++
		pub.taken = pub.taken || it.kind == kindPublish
		return
	case it.kind == kindClose:
		return
	}
	pub.partition.metrics.refused(err, 1)
	r := refusalFor(it.counter, err)
	r.RetryAfter = pub.partition.drainTime()
	pub.refuse(r)
	pub.settle(0)
}

// refused tells whether counter is among what has been refused.
func (pub *Publisher) refused(counter Counter) bool {
	pub.mu.Lock()
	defer pub.mu.Unlock()
	return pub.refusal != nil && counter >= pub.refusal.Counter
}

// answered takes the outcome of n items: acks, and a refusal if there was one.
func (pub *Publisher) answered(n int, acks []Answer, r *Refusal) {
	pub.mu.Lock()
	defer pub.mu.Unlock()
	if len(acks) > 0 && !pub.told {
		pub.reply.Acked(acks)
	}
	if r != nil {
		pub.refuse(*r)
	}
	pub.settle(n)
}

func (pub *Publisher) opened(err error) {
	pub.mu.Lock()
	defer pub.mu.Unlock()
	if err == nil {
		pub.reply.Opened()
	} else {
		pub.refuse(refusalFor(0, err))
	}
	pub.settle(1)
}

// refuse records r, merged with an earlier refusal. It needs pub.mu.
func (pub *Publisher) refuse(r Refusal) {
	if old := pub.refusal; old != nil {
		r.Maybe = r.Maybe || old.Maybe
		if old.Counter <= r.Counter {
			r.Counter, r.Err, r.RetryAfter = old.Counter, old.Err, old.RetryAfter
		}
	}
	pub.refusal = &r
}

// settle counts n items as answered and tells the refusal once nothing is under
// way. It needs pub.mu.
func (pub *Publisher) settle(n int) {
	pub.underway -= n
	if pub.underway == 0 && pub.refusal != nil && !pub.told {
		pub.told = true
		pub.reply.Refused(*pub.refusal)
	}
}

// refusalFor says what an error means for counter and those behind it.
func refusalFor(counter Counter, err error) Refusal {
	r := Refusal{Counter: counter, Err: err}
	switch {
	case errors.Is(err, ErrTooManySessions), errors.Is(err, ErrWindow):
		r.RetryAfter = maxRetryAfter
	case errors.Is(err, raftlog.ErrNoSpace), errors.Is(err, diskFullError{}):
		r.Err, r.RetryAfter = diskFullError{}, maxRetryAfter
	case errors.Is(err, raftlog.ErrUnknown):
		r.Err, r.Maybe = errors.Join(ErrOutcomeUnknown, err), true
	case errors.Is(err, raftlog.ErrNotLeader):
		r.Err = ErrNotLeader
	case errors.Is(err, raftlog.ErrTransferring), errors.Is(err, raftlog.ErrClosed):
		r.Err = ErrUnavailable
	}
	return r
}

// Refused returns a Publisher that takes nothing, after telling reply why: for
// a partition that this node does not hold.
func Refused(reply Replier, err error) *Publisher {
	pub := &Publisher{reply: reply}
	pub.Refuse(0, err)
	return pub
}
