package partition

import (
	"context"
	"errors"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Gap is a range of seqs that a reader cannot have because retention has
// removed them.
type Gap struct{ From, To Seq }

// Batch is what a reader gets: a gap or blocks or, when there is nothing yet, a
// channel that is closed when there may be. Next is the seq to ask for afterwards.
type Batch struct {
	Gap    *Gap
	Blocks []Block
	Next   Seq
	Wait   <-chan struct{}
}

// Read returns messages of room from seq next on, of about maxBytes together
// and at least one if there is one. next runs from 1 and must not be beyond the
// head + 1. Blocks may be shared with other readers and must not be changed.
func (p *Partition) Read(room string, next Seq, maxBytes int) (Batch, error) {
	maxBytes = max(maxBytes, 1)
	p.mu.RLock()
	r := p.machine.rooms[room]
	if r == nil || next > r.last {
		if seededServeBeyondCommit { // a control
			if blocks := p.foresight.beyond(room, next); len(blocks) > 0 {
				p.mu.RUnlock()
				return Batch{Blocks: blocks, Next: blocks[len(blocks)-1].Last + 1}, nil
			}
		}
		p.mu.RUnlock()
		return p.wait(room, next), nil
	}
	if first := p.machine.first(r); next < first {
		p.mu.RUnlock()
		return Batch{Gap: &Gap{next, first - 1}, Next: first}, nil
	}
	blocks := p.tail.from(room, next, maxBytes)
	p.mu.RUnlock()
	if len(blocks) > 0 {
		return Batch{Blocks: blocks, Next: blocks[len(blocks)-1].Last + 1}, nil
	}
	return p.readLog(room, next, maxBytes)
}

// Newest returns what Read would of messages that are in memory; none if next
// is beyond the head, or older.
func (p *Partition) Newest(room string, next Seq, maxBytes int) []Block {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.machine.rooms[room]; r == nil || next > r.last || next < p.machine.first(r) {
		if seededServeBeyondCommit { // a control
			return p.foresight.beyond(room, next)
		}
		return nil
	}
	return p.tail.from(room, next, max(maxBytes, 1))
}

// wait returns a batch that waits for room's seq next, unless it has come.
func (p *Partition) wait(room string, next Seq) Batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.machine.rooms[room]; r != nil && next <= r.last {
		return Batch{Next: next, Wait: ready}
	}
	wait, ok := p.waits[room]
	if !ok {
		wait = make(chan struct{})
		p.waits[room] = wait
		if p.watched[room] == nil {
			p.loose = append(p.loose, room)
		}
	}
	return Batch{Next: next, Wait: wait}
}

// ready is the channel for those who need not wait.
var ready = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// readLog reads what is older than the tail. Nobody waits for a disk or for the
// decoding of an entry: the mutex is held only to look up where to read.
func (p *Partition) readLog(room string, next Seq, maxBytes int) (Batch, error) {
	batch := Batch{Next: next}
	log := &meter{entryReader: p.group}
	taken := 0
	for taken < maxBytes {
		loc, ok := p.locate(room, batch.Next)
		if !ok { // the end or, if that comes first, trimmed meanwhile
			break
		}
		wait, err := p.follow(loc, room, func(c *course) error {
			c.from(batch.Next)
			return c.walk(log, room, maxBytes-taken, func(b Block) bool {
				if b.Last >= batch.Next {
					batch.Blocks = append(batch.Blocks, b.behind(batch.Next))
					batch.Next = b.Last + 1
					taken += len(b.Data)
				}
				return taken < maxBytes
			})
		})
		if err != nil {
			return Batch{}, err
		}
		if wait != nil {
			if len(batch.Blocks) == 0 {
				batch.Wait = wait
			}
			break
		}
	}
	if len(batch.Blocks) == 0 && batch.Wait == nil {
		batch.Wait = ready
	}
	if log.bytes > 4*taken {
		batch.compact(taken)
	}
	return batch, nil
}

// compact moves the blocks' data, of the given size together, out of pieces of
// the log of which they are a small part.
func (b *Batch) compact(size int) {
	data := make([]byte, 0, size)
	for i := range b.Blocks {
		at := len(data)
		data = append(data, b.Blocks[i].Data...)
		b.Blocks[i].Data = data[at:len(data):len(data)]
	}
}

// meter counts what is read.
type meter struct {
	entryReader
	bytes int
}

func (m *meter) Read(from raftlog.Index, maxBytes int) ([]raftlog.Entry, raftlog.Index, error) {
	entries, next, err := m.entryReader.Read(from, maxBytes)
	for _, e := range entries {
		m.bytes += len(e.Data)
	}
	return entries, next, err
}

// locate finds room's seq, unless the room does not hold it.
func (p *Partition) locate(room string, seq Seq) (loc location, ok bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	r := p.machine.rooms[room]
	if r == nil || seq > r.last || seq < p.machine.first(r) {
		return location{}, false
	}
	return p.machine.locate(r, seq), true
}

// follow reads along a course. What could not be read because it has been
// trimmed since, or is about to be readable, comes with a channel to wait for.
func (p *Partition) follow(loc location, room string, read func(*course) error) (wait <-chan struct{}, err error) {
	if loc.inFile {
		wait, err = p.files.find(&loc, room)
	}
	if wait == nil && err == nil {
		err = read(&loc.course)
	}
	switch {
	case errors.Is(err, errAhead): // Apply may have to wait before it returns
		return soon(time.Millisecond), nil
	case err != nil && p.isTrimmed(room, loc.seq):
		return ready, nil
	}
	return wait, err
}

// isTrimmed tells whether room's seq is not held any more.
func (p *Partition) isTrimmed(room string, seq Seq) bool {
	_, ok := p.locate(room, seq)
	return !ok
}

// Head returns the seqs that this replica holds of room: 1 and 0 if none were
// ever given.
func (p *Partition) Head(room string) (first, last Seq) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.machine.rooms[room]; r != nil {
		return p.machine.first(r), r.last
	}
	return 1, 0
}

// Place returns Head and the first seq published at or after t (nanoseconds
// since 1970 UTC), as of now: it fails with ErrNotLeader unless this node leads.
func (p *Partition) Place(ctx context.Context, room string, t int64) (first, last, at Seq, err error) {
	if err := p.group.Confirm(ctx); err != nil && !seededOwnHead {
		return 0, 0, 0, leaderError(err)
	}
	for {
		first, last, at, wait, err := p.place(room, t)
		if wait == nil || err != nil {
			return first, last, at, err
		}
		if wait == ready { // it is about to be there
			wait = soon(time.Millisecond)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, 0, 0, errors.Join(ErrUnavailable, ctx.Err())
		}
	}
}

// soon returns a channel that is closed after d.
func soon(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

// place looks once; with wait it has to be asked again.
func (p *Partition) place(room string, t int64) (first, last, at Seq, wait <-chan struct{}, err error) {
	p.mu.RLock()
	r := p.machine.rooms[room]
	if r == nil {
		p.mu.RUnlock()
		return 1, 0, 1, nil, nil
	}
	first, last = p.machine.first(r), r.last
	loc, at, inside := p.machine.locateTime(r, t)
	p.mu.RUnlock()
	if !inside {
		return first, last, at, nil, nil
	}
	wait, err = p.follow(loc, room, func(c *course) error {
		c.until(t)
		at = c.last + 1
		return c.walk(p.group, room, 1, func(b Block) bool {
			if b.Time >= t {
				at = b.First
			}
			return b.Time < t
		})
	})
	return first, last, max(at, first), wait, err
}

// CheckBeyond decides about a subscriber who asks for seq next, which this
// replica does not know yet: nil if it exists or is the next to come,
// *BeyondHeadError if not. It fails with ErrNotLeader unless this node leads; an
// entry in the log makes sure that it does.
func (p *Partition) CheckBeyond(ctx context.Context, room string, next Seq) error {
	if err := p.group.Barrier(ctx); err != nil {
		return leaderError(err)
	}
	if _, last := p.Head(room); next > last+1 {
		return &BeyondHeadError{Room: room, Want: next, Head: last}
	}
	return nil
}

func leaderError(err error) error {
	if errors.Is(err, raftlog.ErrNotLeader) {
		return ErrNotLeader
	}
	return errors.Join(ErrUnavailable, err)
}
