package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Mark is what a replica of a group knows itself by: its rolling hash after the
// entry at Index.
type Mark struct {
	Group       uint32
	Index, Hash uint64
}

// State is a group as the replica of another node sees it.
type State struct {
	Leader string // "" while unknown
	Term   uint64
	Last   uint64 // index of the newest entry in that replica's log
}

// ErrNoAnswer: that node says nothing about the group: it has not opened it, or
// its own replica is not fit to be asked.
var ErrNoAnswer = errors.New("peer: the node does not answer for this group")

// Bounds of what travels on a link beside pings. A question beyond maxAsking
// waits; one that finds maxQuestions of this link unanswered is dropped, and
// its asker waits until its context ends.
const (
	maxAsking    = 32  // questions of ours under way on one link
	maxQuestions = 64  // of another node that wait for Config.Answer
	marksAtOnce  = 256 // written in one go, between two pings
)

// SendMark tells a replica's hash to all nodes that are linked, and to each
// that links later until the group's next mark. It never blocks: a mark that a
// slow link has not taken when the next of its group comes is skipped.
func (n *Network) SendMark(m Mark) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.marks[m.Group] = m
	for _, p := range n.peers {
		if p.out != nil {
			p.out.marks.put(markKey{group: m.Group}, m)
		}
	}
}

// Ask asks a node how it sees a group. Errors: ErrLinkDown, also when the link
// goes down meanwhile, ErrNoAnswer, ctx's. The node may not answer at all: let
// ctx end within seconds and ask again.
func (n *Network) Ask(ctx context.Context, node string, group uint32) (State, error) {
	n.mu.Lock()
	p, closed := n.peers[node], n.closed
	var s *session
	if p != nil {
		s = p.out
	}
	n.mu.Unlock()
	switch {
	case closed:
		return State{}, ErrClosed
	case p == nil:
		return State{}, fmt.Errorf("peer: node %q is no other member of the cluster", node)
	case s == nil:
		return State{}, ErrLinkDown
	}
	return s.ask(ctx, group)
}

// ask sends one question on a link of ours and waits for its answer.
func (s *session) ask(ctx context.Context, group uint32) (State, error) {
	nonce, answer := s.expect()
	defer s.forget(nonce)
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return State{}, ctx.Err()
	case <-s.ctx.Done():
		return State{}, ErrLinkDown
	}
	select {
	case s.asks <- frame{typ: frameAsk, nonce: nonce, group: group}:
	case <-ctx.Done():
		return State{}, ctx.Err()
	case <-s.ctx.Done():
		return State{}, ErrLinkDown
	}
	select {
	case f := <-answer:
		if !f.known {
			return State{}, ErrNoAnswer
		}
		return f.state, nil
	case <-ctx.Done():
		return State{}, ctx.Err()
	case <-s.ctx.Done():
		return State{}, ErrLinkDown
	}
}

func (s *session) expect() (nonce uint64, answer chan frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastAsk++
	answer = make(chan frame, 1)
	s.answers[s.lastAsk] = answer
	return s.lastAsk, answer
}

func (s *session) forget(nonce uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.answers, nonce)
}

// told takes an answer to one of our questions; one that nobody waits for is
// dropped.
func (s *session) told(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer, ok := s.answers[f.nonce]; ok {
		delete(s.answers, f.nonce)
		answer <- f
	}
}

// answerLoop is the goroutine that answers the questions on an accepted link.
func (s *session) answerLoop() {
	for {
		select {
		case q := <-s.questions:
			f := frame{typ: frameTold, nonce: q.nonce}
			if s.net.cfg.Answer != nil {
				f.state, f.known = s.net.cfg.Answer(q.group)
			}
			if !f.known {
				f.state = State{}
			}
			s.send(f)
		case <-s.ctx.Done():
			return
		}
	}
}

// question leaves a question to answerLoop.
func (s *session) question(f frame) {
	select {
	case s.questions <- f:
	default:
	}
}

// marked takes a mark of another node. Those of groups that are not open here
// are dropped, so that what is kept is bounded.
func (s *session) marked(m Mark) {
	n := s.net
	n.mu.Lock()
	open := n.layers[m.Group] != nil
	n.mu.Unlock()
	if open && n.cfg.OnMark != nil {
		n.marksIn.put(markKey{node: s.peer.name, group: m.Group}, m)
	}
}

// markLoop is the goroutine that calls OnMark.
func (n *Network) markLoop() {
	for {
		select {
		case <-n.marksIn.more:
			for k, m := range n.marksIn.take() {
				n.cfg.OnMark(k.node, m)
			}
		case <-n.ctx.Done():
			return
		}
	}
}

// sendMarks writes some of the marks that wait.
func (s *session) sendMarks() {
	var buf []byte
	for _, m := range s.marks.take() {
		buf = frame{typ: frameMark, mark: m}.append(buf)
	}
	s.write(buf)
}

// markKey is whose mark it is; no node where it is this one's.
type markKey struct {
	node  string
	group uint32
}

// markBox holds marks on their way: the newest of each key, so that it never
// blocks and never grows beyond the keys there are.
type markBox struct {
	more chan struct{} // one token: there are some

	mu     sync.Mutex
	newest map[markKey]Mark
}

func newMarkBox() *markBox {
	return &markBox{more: make(chan struct{}, 1), newest: make(map[markKey]Mark)}
}

func (b *markBox) put(k markKey, m Mark) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newest[k] = m
	b.signal()
}

// take removes up to marksAtOnce marks, and leaves a token if there are more.
func (b *markBox) take() map[markKey]Mark {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := make(map[markKey]Mark, min(len(b.newest), marksAtOnce))
	for k, m := range b.newest {
		if len(taken) == marksAtOnce {
			b.signal()
			break
		}
		taken[k] = m
		delete(b.newest, k)
	}
	return taken
}

func (b *markBox) signal() {
	select {
	case b.more <- struct{}{}:
	default:
	}
}
