package partition

import (
	"fmt"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Retention says what must be kept; the rest is removed, a chunk at a time. So a
// little more is kept than it says: about a sixteenth of Age, Bytes or Messages.
// Zero means without limit; of several limits the strictest counts. It acts where
// the partition leads, so all nodes should have the same.
type Retention struct {
	Age      time.Duration // messages younger than this are kept
	Bytes    int64         // so much of the log is kept
	Messages int64         // so many messages are kept
	Policies []Policy
}

// Policy lets the messages of rooms whose names begin with Prefix go earlier
// than Age. Their bytes are freed when the rest of their chunk goes too.
type Policy struct {
	Prefix string
	Age    time.Duration
}

// MaxPolicies bounds Retention.Policies.
const MaxPolicies = 256

// Check returns what is wrong with r, or nil.
func (r *Retention) Check() error {
	switch {
	case r.Age < 0 || r.Bytes < 0 || r.Messages < 0:
		return fmt.Errorf("retention is negative: %+v", *r)
	case len(r.Policies) > MaxPolicies:
		return fmt.Errorf("retention has %d policies, at most %d are possible", len(r.Policies), MaxPolicies)
	}
	seen := map[string]bool{}
	for _, p := range r.Policies {
		switch {
		case p.Age <= 0:
			return fmt.Errorf("retention of rooms %q…: age %v must be positive", p.Prefix, p.Age)
		case r.Age > 0 && p.Age > r.Age:
			return fmt.Errorf("retention of rooms %q…: age %v is longer than that of all rooms, %v", p.Prefix, p.Age, r.Age)
		case len(p.Prefix) > 255:
			return fmt.Errorf("retention: prefix %q… has %d bytes, no room's name has more than 255", p.Prefix[:20], len(p.Prefix))
		case seen[p.Prefix]:
			return fmt.Errorf("retention: two policies for rooms %q…", p.Prefix)
		}
		seen[p.Prefix] = true
	}
	return nil
}

const (
	defaultChunkBytes = 64 << 20
	minChunkBytes     = 1 << 20 // whatever Bytes says
	chunksKept        = 16      // chunks that Age, Bytes or Messages are divided into
)

// shortest is the shortest age, 0 if there is none.
func (r *Retention) shortest() time.Duration {
	age := r.Age
	for _, p := range r.Policies {
		if age == 0 || p.Age < age {
			age = p.Age
		}
	}
	return age
}

// full tells whether the open chunk is to be closed.
func (r *Retention) full(open *openChunk, now, chunkBytes int64) bool {
	if r.Bytes > 0 {
		chunkBytes = min(chunkBytes, max(r.Bytes/chunksKept, minChunkBytes))
	}
	age := r.shortest()
	switch {
	case open.bytes >= uint64(chunkBytes):
		return true
	case open.messages == 0:
		return false
	case r.Messages > 0 && open.messages >= uint64(max(1, r.Messages/chunksKept)):
		return true
	}
	return age > 0 && now-open.began >= int64(age)/chunksKept
}

// floors returns how far everything and the rooms of policies may be trimmed;
// none of them is below what is trimmed already. news tells whether any is above.
func (r *Retention) floors(c *chunks, now int64) (floor raftlog.Index, prefixes []prefixFloor, news bool) {
	bytes, messages := c.open.bytes, c.open.messages
	for i := range c.closed {
		bytes += c.closed[i].bytes
		messages += c.closed[i].messages
	}
	floor = c.floor
	for i := range c.closed {
		ch := &c.closed[i]
		enough := r.Bytes > 0 && bytes-ch.bytes >= uint64(r.Bytes) || r.Messages > 0 && messages-ch.messages >= uint64(r.Messages)
		if !enough && (r.Age == 0 || ch.time >= now-int64(r.Age)) {
			break
		}
		floor, bytes, messages = ch.to, bytes-ch.bytes, messages-ch.messages
	}
	news = floor > c.floor
	for _, policy := range r.Policies {
		p := prefixFloor{prefix: policy.Prefix}
		for i := range c.closed {
			if c.closed[i].time >= now-int64(policy.Age) {
				break
			}
			p.index = c.closed[i].to
		}
		known := c.floor
		for _, old := range c.prefixes {
			if old.prefix == p.prefix {
				known = old.index
			}
		}
		if p.index > max(floor, known) {
			prefixes, news = append(prefixes, p), true
		}
	}
	return floor, prefixes, news
}

// steadyClock tells whether the wall clock has run evenly for a while. What is
// trimmed by age is gone for good, so a clock that has jumped must not decide: a
// node whose clock is off the others' hands over before it is steady again.
type steadyClock struct {
	last  time.Time
	since time.Time // when it began to run evenly, by the monotonic clock
}

const (
	clockJump  = time.Second // between the wall clock and the monotonic one
	clockTrial = 10 * time.Second
)

// steady is asked about once a second.
func (c *steadyClock) steady(now time.Time) bool {
	jump := now.Round(0).Sub(c.last.Round(0)) - now.Sub(c.last)
	if c.last.IsZero() || jump.Abs() > clockJump {
		c.since = now
	}
	c.last = now
	return now.Sub(c.since) >= clockTrial
}

// retain proposes what retention asks for, if this node leads: a checkpoint if
// the open chunk is full, a trim if closed ones may go. By age nothing goes
// unless the clock is steady.
func (p *Partition) retain(now time.Time, steady bool) {
	if !p.group.Leading() {
		return
	}
	p.mu.RLock()
	c := p.machine.chunks
	busy := p.machine.view != nil
	p.mu.RUnlock()
	if !busy && p.cfg.Retention.full(&c.open, now.UnixNano(), p.cfg.ChunkBytes) {
		p.group.Propose(encodeCheckpoint(now.UnixNano(), c.last()))
	}
	r := p.cfg.Retention
	if !steady {
		r.Age, r.Policies = 0, nil
	}
	if floor, prefixes, news := r.floors(&c, now.UnixNano()); news {
		p.group.Propose(encodeTrim(now.UnixNano(), floor, prefixes))
	}
}
