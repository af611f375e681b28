package raftlog

import (
	"context"
	"fmt"
	"time"
)

// enqueueTimeout bounds how long raft's main loop may leave a proposal lying.
const enqueueTimeout = 5 * time.Second

// Proposal is an entry on its way.
type Proposal struct {
	done   chan struct{}
	result any
	err    error
	left   <-chan struct{} // closed when the raft instance that has it is left
	ended  <-chan struct{} // closed when the term of office ends that it was made in; nil: none had begun
	stuck  func() bool     // whether raft hangs in a write and cannot answer
}

// Propose starts to replicate data. Proposals of one caller are appended in the
// order of its calls. data must not be changed afterwards.
func (g *Group) Propose(data []byte) *Proposal {
	p := &Proposal{done: make(chan struct{}), stuck: g.store.stalled}
	inst := g.instance()
	if inst == nil || g.ctx.Err() != nil {
		p.finish(nil, g.notRunning())
		return p
	}
	p.left = inst.done
	if l := g.leadingNow(); l != nil {
		p.ended = l.ctx.Done()
	}
	g.store.watch.proposed()
	future := inst.raft.Apply(data, enqueueTimeout)
	// Raft may leave a future without an answer for ever when it shuts down, so
	// nobody waits for it but this goroutine.
	go func() {
		err := future.Error()
		if err != nil {
			p.finish(nil, proposalError(err))
		} else {
			p.finish(future.Response(), nil)
		}
		g.watchTransfer(err)
	}()
	return p
}

func (p *Proposal) finish(result any, err error) {
	p.result, p.err = result, err
	close(p.done)
}

// Wait returns what the StateMachine answered. Every error but ErrUnknown means
// that the entry never will be in the log; the end of ctx, and of the group or a
// restart of its raft, is ErrUnknown, and so is the loss of leadership by a write
// that hangs.
func (p *Proposal) Wait(ctx context.Context) (any, error) {
	select {
	case <-p.done:
		return p.result, p.err
	default:
	}
	ended := p.ended
	for {
		select {
		case <-p.done:
			return p.result, p.err
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		case <-p.left:
			return nil, fmt.Errorf("%w: raft was stopped", ErrUnknown)
		case <-ended:
			if p.stuck() {
				return nil, fmt.Errorf("%w: %w", ErrUnknown, errStalled)
			}
			ended = nil // raft answers
		}
	}
}
