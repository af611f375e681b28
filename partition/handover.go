package partition

import (
	"context"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Raft refuses proposals while leadership is handed over, and who is refused must
// come again without knowing when. So the proposer waits instead, with what it has
// taken: after a few milliseconds either this node still leads and proposes it, or
// another is known to lead, and whoever is refused then is told where to go.
const (
	// finishWait is how long entries that are on their way may take before
	// leadership is handed over all the same: then raft sees to them.
	finishWait = 50 * time.Millisecond
	// newLeaderWait is how long the old leader waits to hear of the new one.
	newLeaderWait = 200 * time.Millisecond
)

// HandOver hands leadership to the node to, or to any voter if to is "", and returns
// when another node is known to lead, or soon after. Nothing that was proposed
// before is lost, and publishes that come meanwhile wait.
func (p *Partition) HandOver(ctx context.Context, to string) error {
	return p.gate.hold(ctx, func() error {
		if err := p.group.Transfer(ctx, to); err != nil {
			return err
		}
		known, cancel := context.WithTimeout(ctx, newLeaderWait)
		defer cancel()
		p.group.AwaitLeader(known)
		return nil
	})
}

// gate keeps the proposer waiting while leadership is handed over, and tells when
// nothing is on its way.
type gate struct {
	mu     sync.Mutex
	inside int           // entries proposed and not answered
	opens  chan struct{} // closed when it opens; nil while it is open
	idle   chan struct{} // closed when inside has become 0; nil while nobody waits for that
}

// enter waits until the gate is open, or ctx ends, before an entry is proposed.
func (g *gate) enter(ctx context.Context) {
	for {
		g.mu.Lock()
		opens := g.opens
		if opens == nil || ctx.Err() != nil {
			g.inside++
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		select {
		case <-opens:
		case <-ctx.Done():
		}
	}
}

// leave says that an entry has been answered.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// hold calls do when nothing is on its way any more, or what is takes too long, and
// lets nothing in until do has returned.
func (g *gate) hold(ctx context.Context, do func() error) error {
	idle, ok := g.shut()
	if !ok {
		return raftlog.ErrTransferring
	}
	defer g.open()
	finish := time.NewTimer(finishWait)
	defer finish.Stop()
	select {
	case <-idle:
	case <-finish.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return do()
}

// shut shuts the gate, unless it is shut already, and returns what is closed once
// nothing is on its way.
func (g *gate) shut() (idle <-chan struct{}, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opens != nil {
		return nil, false
	}
	g.opens = make(chan struct{})
	wait := make(chan struct{})
	if g.inside == 0 {
		close(wait)
	} else {
		g.idle = wait
	}
	return wait, true
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opens)
	g.opens, g.idle = nil, nil
}
