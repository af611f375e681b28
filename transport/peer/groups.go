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

	Draining bool // that node is to lead nothing
}

// Push tells that a group's entry at Index, which has that term, is committed. The
// sender led the group in that term.
type Push struct {
	Group       uint32
	Index, Term uint64
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
	maxHeirs     = 8   // of these that Config.OnHeir is preparing
	takenAtOnce  = 256 // marks or pushes written in one go, between two pings
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

// SendPush tells a node what is committed, and returns false if its link is down.
// It never blocks: a push that a slow link has not taken when the next of its group
// comes is skipped, and one may get lost with the link.
func (n *Network) SendPush(node string, p Push) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.peers[node]
	if to == nil || to.out == nil {
		return false
	}
	to.out.pushes.put(p.Group, p)
	return true
}

// Ask asks a node how it sees a group. Errors: ErrLinkDown, also when the link
// goes down meanwhile, ErrNoAnswer, ctx's. The node may not answer at all: let
// ctx end within seconds and ask again.
func (n *Network) Ask(ctx context.Context, node string, group uint32) (State, error) {
	return n.askGroup(ctx, node, frame{typ: frameAsk, group: group})
}

// AskHeir is Ask to a node that is to lead the group soon: it gets ready for that
// (Config.OnHeir) and answers then.
func (n *Network) AskHeir(ctx context.Context, node string, group uint32) (State, error) {
	return n.askGroup(ctx, node, frame{typ: frameHeir, group: group})
}

func (n *Network) askGroup(ctx context.Context, node string, question frame) (State, error) {
	s, err := n.linkTo(node)
	if err != nil {
		return State{}, err
	}
	f, err := s.ask(ctx, question)
	if err == nil && !f.known {
		err = ErrNoAnswer
	}
	return f.state, err
}

// AskDead asks one node whether another one is dead or silent to it, too. Errors: as of
// Ask.
func (n *Network) AskDead(ctx context.Context, node, suspect string) (bool, error) {
	s, err := n.linkTo(node)
	if err != nil {
		return false, err
	}
	f, err := s.ask(ctx, frame{typ: frameSuspect, node: suspect})
	return f.known, err
}

// linkTo returns our link to a node.
func (n *Network) linkTo(node string) (*session, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch p := n.peers[node]; {
	case n.closed:
		return nil, ErrClosed
	case p == nil:
		return nil, fmt.Errorf("peer: node %q is no other member of the cluster", node)
	case p.out == nil:
		return nil, ErrLinkDown
	default:
		return p.out, nil
	}
}

// ask sends one question on a link of ours and waits for its answer.
func (s *session) ask(ctx context.Context, question frame) (frame, error) {
	nonce, answer := s.expect()
	question.nonce = nonce
	defer s.forget(nonce)
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return frame{}, ctx.Err()
	case <-s.ctx.Done():
		return frame{}, ErrLinkDown
	}
	select {
	case s.asks <- question:
	case <-ctx.Done():
		return frame{}, ctx.Err()
	case <-s.ctx.Done():
		return frame{}, ErrLinkDown
	}
	select {
	case f := <-answer:
		return f, nil
	case <-ctx.Done():
		return frame{}, ctx.Err()
	case <-s.ctx.Done():
		return frame{}, ErrLinkDown
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

// told takes an answer to one of our questions or beats; one that nobody waits for is
// dropped.
func (s *session) told(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer, ok := s.answers[f.nonce]; ok {
		delete(s.answers, f.nonce)
		answer <- f
	}
}

// answerLoop is the goroutine that answers the questions on an accepted link. Heirs
// take a moment, which the others do not wait for; beyond maxHeirs one is answered as
// it is.
func (s *session) answerLoop() {
	var preparing sync.WaitGroup
	defer preparing.Wait()
	heirs := make(chan struct{}, maxHeirs)
	for {
		select {
		case q := <-s.questions:
			if q.typ != frameHeir || s.net.cfg.OnHeir == nil {
				s.answer(q)
				continue
			}
			select {
			case heirs <- struct{}{}:
			default:
				s.answer(q)
				continue
			}
			preparing.Go(func() {
				defer func() { <-heirs }()
				s.net.cfg.OnHeir(s.ctx, q.group)
				s.answer(q)
			})
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *session) answer(q frame) {
	f := frame{typ: frameTold, nonce: q.nonce}
	switch {
	case q.typ == frameSuspect:
		f.typ, f.known = frameVerdict, s.net.seesDead(s.ctx, q.node)
	case s.net.cfg.Answer != nil:
		if f.state, f.known = s.net.cfg.Answer(q.group); !f.known {
			f.state = State{}
		}
	}
	s.send(f)
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
			for _, m := range n.marksIn.take() {
				n.cfg.OnMark(m.key.node, m.value)
			}
		case <-n.ctx.Done():
			return
		}
	}
}

// sendPushes writes some of the pushes that wait.
func (s *session) sendPushes() {
	var buf []byte
	for _, p := range s.pushes.take() {
		buf = frame{typ: framePush, push: p.value}.append(buf)
	}
	s.write(buf)
}

// sendMarks writes some of the marks that wait.
func (s *session) sendMarks() {
	var buf []byte
	for _, m := range s.marks.take() {
		buf = frame{typ: frameMark, mark: m.value}.append(buf)
	}
	s.write(buf)
}

// markKey is whose mark it is; no node where it is this one's.
type markKey struct {
	node  string
	group uint32
}

// box holds what is on its way: the newest value of each key, so that it never
// blocks and never grows beyond the keys there are.
type box[K comparable, V any] struct {
	more chan struct{} // one token: there are some

	mu    sync.Mutex
	items []boxItem[K, V]
	at    map[K]int // where in items
}

type boxItem[K comparable, V any] struct {
	key   K
	value V
}

func newBox[K comparable, V any]() *box[K, V] {
	return &box[K, V]{more: make(chan struct{}, 1), at: make(map[K]int)}
}

func (b *box[K, V]) put(k K, v V) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, ok := b.at[k]
	if !ok {
		i = len(b.items)
		b.at[k], b.items = i, append(b.items, boxItem[K, V]{key: k})
	}
	b.items[i].value = v
	b.signal()
}

// take removes the first items, up to takenAtOnce, and leaves a token if there are
// more.
func (b *box[K, V]) take() []boxItem[K, V] {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.items), takenAtOnce)
	taken := b.items[:n:n]
	b.items = b.items[n:]
	for _, item := range taken {
		delete(b.at, item.key)
	}
	for i, item := range b.items {
		b.at[item.key] = i
	}
	if len(b.items) > 0 {
		b.signal()
	}
	return taken
}

func (b *box[K, V]) signal() {
	select {
	case b.more <- struct{}{}:
	default:
	}
}
