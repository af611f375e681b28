package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// job writes down what a checkpoint has frozen: first the chunk's index file,
// then the snapshot. It runs beside Apply, which waits for it only at the next
// checkpoint.
type job struct {
	view    *view
	machine *Machine
	ctx     context.Context
	cancel  context.CancelFunc
	began   time.Time
	hurry   chan struct{} // closed when Apply waits
	hurried bool          // belongs to Apply
	settled chan struct{} // closed when the view is
	saved   chan struct{} // closed when the snapshot is durable, or given up
}

// errClosing: the replica is about to end, and what it is given now is lost on it.
var errClosing = fmt.Errorf("%w: partition closes", raftlog.ErrUnknown)

// startJob begins to write the view of the checkpoint just applied. It needs p.mu.
func (p *Partition) startJob() {
	before := p.job
	ctx, cancel := context.WithCancel(p.ctx)
	j := &job{
		view: p.machine.view, machine: p.machine, ctx: ctx, cancel: cancel, began: time.Now(),
		hurry: make(chan struct{}), settled: make(chan struct{}), saved: make(chan struct{}),
	}
	p.job = j
	p.tasks.Go(func() { p.runJob(j, before) })
}

// awaitJob waits until the view of the last checkpoint is settled. It needs p.mu,
// and lets it go meanwhile; it belongs to Apply's goroutine.
func (p *Partition) awaitJob() {
	j := p.job
	if j == nil {
		return
	}
	if !j.hurried {
		j.hurried = true
		close(j.hurry)
	}
	p.mu.Unlock()
	<-j.settled
	p.mu.Lock()
}

// cancelJob ends the job without its snapshot. It belongs to Apply's goroutine.
func (p *Partition) cancelJob() {
	p.mu.Lock()
	j := p.job
	p.job = nil
	p.mu.Unlock()
	if j != nil {
		j.cancel()
		<-j.settled
		<-j.saved
	}
}

func (p *Partition) runJob(j, before *job) {
	defer close(j.saved)
	defer j.cancel()
	late, err := p.writeView(j, before)
	if err != nil {
		p.jobFailed(j, err)
		close(j.settled)
		return
	}
	close(j.settled)
	if late != nil {
		err = p.saveLate(j, before, late)
	}
	if err != nil {
		p.jobFailed(j, err)
		return
	}
	p.metrics.checkpointed(time.Since(j.began))
	p.log.Info("checkpoint", "index", j.view.index, "rooms", j.view.rooms, "took", time.Since(j.began))
	p.nudge()
}

// writeView writes index file and snapshot and settles the view. The log takes
// no snapshot of an entry that Apply has not returned from; if Apply waits for
// this job meanwhile, late holds the snapshot's bytes for later.
func (p *Partition) writeView(j, before *job) (late *bytes.Buffer, err error) {
	v, m, lock := j.view, j.machine, p.mu.RLocker()
	err = p.files.write(v.index, func(w io.Writer) error {
		return v.writeRooms(m, lock, p.files.group, w, j.ctx.Err)
	})
	if err != nil {
		return nil, err
	}
	if p.returned(j, before, j.hurry) {
		err = p.save(v.index, func(w io.Writer) error {
			return v.writeSnapshot(m, lock, w, j.ctx.Err)
		})
	} else {
		late = &bytes.Buffer{}
		err = v.writeSnapshot(m, lock, late, j.ctx.Err)
	}
	if err == nil {
		err = v.settle(m, &p.mu, j.ctx.Err)
	}
	return late, err
}

func (p *Partition) saveLate(j, before *job, late *bytes.Buffer) error {
	if !p.returned(j, before, nil) {
		return j.ctx.Err()
	}
	return p.save(j.view.index, func(w io.Writer) error {
		_, err := w.Write(late.Bytes())
		return err
	})
}

// save saves a snapshot, unless a newer one has come from another node, which
// Restore gets or has no need of.
func (p *Partition) save(index raftlog.Index, write func(io.Writer) error) error {
	err := p.group.SaveSnapshot(index, write)
	if errors.Is(err, raftlog.ErrOvertaken) {
		p.log.Info("a checkpoint was overtaken by a snapshot from another node", "index", index)
		return nil
	}
	return err
}

// returned waits until the log knows that the job's checkpoint has been applied,
// and the snapshot before is saved. It gives up when ctx ends or on hurry.
func (p *Partition) returned(j, before *job, hurry <-chan struct{}) bool {
	if before != nil {
		select {
		case <-before.saved:
		case <-hurry:
			return false
		case <-j.ctx.Done():
			return false
		}
	}
	select {
	case <-p.opened:
	case <-hurry:
		return false
	case <-j.ctx.Done():
		return false
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for p.group.Applied() < j.view.index {
		select {
		case <-look.C:
		case <-hurry:
			// It may have returned and come back by now.
			return p.group.Applied() >= j.view.index
		case <-j.ctx.Done():
			return false
		}
	}
	return true
}

// jobFailed leaves the machine behind: it cannot pass the next checkpoint.
func (p *Partition) jobFailed(j *job, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ctx.Err() != nil:
		p.failed = errClosing
	case j.ctx.Err() != nil: // the machine is about to be replaced
	default:
		p.log.Error("a checkpoint could not be written", "index", j.view.index, "err", err)
		p.failed = fmt.Errorf("%w: checkpoint at %d: %w", raftlog.ErrUnknown, j.view.index, err)
		p.cfg.Group.Fatal(p.failed)
	}
}

// Restore replaces what this replica knows by a snapshot.
func (a applier) Restore(index raftlog.Index, r io.Reader) error {
	p := a.p
	m, err := readSnapshot(index, r)
	if err != nil {
		return err
	}
	p.cancelJob()
	p.files.forgive()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group != nil {
		m.chunks.hold(lacks(p.group))
	}
	p.machine, p.tail, p.marks = m, newTail(p.cfg.TailBytes), nil
	p.applied = time.Now()
	p.full.Store(m.sessions.kept >= m.keep)
	for room := range p.waits {
		p.wake(room)
	}
	p.loose = nil
	for _, r := range p.watches { // they may have a gap now, or messages
		if known := m.rooms[r.name]; known != nil {
			r.last.Store(uint64(known.last))
		}
		p.waker.later(r.takeWaiting())
	}
	p.nudge() // index files of an earlier life
	p.log.Info("restored", "index", index, "rooms", m.table.len(), "sessions", len(m.sessions.byID))
	return nil
}

// lacks returns up to where a replica lacks what others may still have: its log, or
// the snapshots and index files, which go before the log does.
func lacks(g *raftlog.Group) raftlog.Index {
	boundary := g.First() - 1
	if all := g.Snapshots(); boundary > 0 && len(all) > 0 {
		return max(boundary, all[0])
	}
	return boundary
}

// nudge has clean look whether something can be removed.
func (p *Partition) nudge() {
	select {
	case p.trimmed <- struct{}{}:
	default:
	}
}

// clean removes what the floor has passed, when nudged, until ctx ends.
func (p *Partition) clean(ctx context.Context) {
	p.checkFiles()
	done := raftlog.Index(0)
	for {
		var again <-chan struct{}
		switch err := p.removeTrimmed(&done); {
		case errors.Is(err, raftlog.ErrNotYet):
			again = soon(time.Second)
		case err != nil:
			p.log.Error("what was trimmed could not be removed", "err", err)
		}
		select {
		case <-p.trimmed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// removeTrimmed drops log, snapshots and index files up to the newest snapshot
// at or below the floor, unless that has been done.
func (p *Partition) removeTrimmed(done *raftlog.Index) error {
	p.mu.RLock()
	floor := max(p.machine.chunks.floor, p.machine.chunks.held)
	p.mu.RUnlock()
	known := raftlog.Index(0)
	for _, index := range p.group.Snapshots() {
		if index <= floor {
			known = max(known, index)
		}
	}
	if known == *done {
		return nil
	}
	if err := errors.Join(p.group.Trim(known), p.files.trim(known)); err != nil {
		return err
	}
	p.log.Info("trimmed", "floor", known)
	*done = known
	return nil
}

// checkFiles has index files made again that are not there or not whole.
func (p *Partition) checkFiles() {
	p.mu.RLock()
	c := p.machine.chunks
	p.mu.RUnlock()
	from := c.floor
	for _, chunk := range c.closed {
		if chunk.to > c.held {
			if err := p.files.check(from, chunk.to); err != nil {
				p.files.mend(from, chunk.to, err)
			}
		}
		from = chunk.to
	}
}

// remakeRooms writes the index file of the chunk (from, to] by replay.
func (p *Partition) remakeRooms(ctx context.Context, from, to raftlog.Index) error {
	r, err := p.replayFrom(from)
	if err != nil {
		return err
	}
	for r.Index() < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := r.Chunk(entriesOf(p.group, r.Index()+1, to)); err != nil {
			return err
		}
	}
	if r.Index() != to {
		return fmt.Errorf("%w: entry %d is no checkpoint", errAstray, to)
	}
	return p.files.write(to, r.WriteRooms)
}

// replayFrom begins a replay at index or, if there is no snapshot of it, before.
func (p *Partition) replayFrom(index raftlog.Index) (*Replay, error) {
	newest := raftlog.Index(0)
	for _, at := range p.group.Snapshots() {
		if at <= index {
			newest = max(newest, at)
		}
	}
	if newest == 0 {
		return NewReplay(p.files.group, 0, nil)
	}
	body, err := p.group.OpenSnapshot(newest)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return NewReplay(p.files.group, newest, body)
}
