package peer

import (
	"context"
	"sync"
	"time"
)

// Beat is the heartbeat of a group's leader to one of its followers. It does not
// leave at once: those of all groups to a node that are due at about the same time
// share a frame's way there, and their answers share one back. An idle cluster
// mostly beats, and what that costs is wake-ups, not bytes.
type Beat struct {
	Group uint32
	Term  uint64
}

// BeatAnswer is what the follower's raft says to it.
type BeatAnswer struct {
	Term, Last uint64
	OK         bool
}

const (
	// beatAnswerPause is how long an answer waits for those of other groups whose
	// beats came with it.
	beatAnswerPause = 5 * time.Millisecond
	// maxBeatAnswers bounds the answers that the other end has not taken; with
	// more the link ends.
	maxBeatAnswers = 4096
)

// Beat sends a heartbeat and waits for its answer: it leaves at the next beat of
// Config.BeatEvery, or with hurry at once, and takes those that wait with it.
// Errors: ErrLinkDown, ErrNoAnswer, ctx's.
func (n *Network) Beat(ctx context.Context, node string, b Beat, hurry bool) (BeatAnswer, error) {
	s, err := n.linkTo(node)
	if err != nil {
		return BeatAnswer{}, err
	}
	nonce, answer := s.expect()
	defer s.forget(nonce)
	wait := time.Duration(0)
	if !hurry {
		wait = untilBeat(time.Now(), n.cfg.BeatEvery)
	}
	s.beats.add(frame{typ: frameBeat, nonce: nonce, beat: b}, wait)
	select {
	case f := <-answer:
		if !f.known {
			return BeatAnswer{}, ErrNoAnswer
		}
		return f.answer, nil
	case <-ctx.Done():
		return BeatAnswer{}, ctx.Err()
	case <-s.ctx.Done():
		return BeatAnswer{}, ErrLinkDown
	}
}

// HurryBeats lets leave what waits for the next beat.
func (n *Network) HurryBeats() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.peers {
		if p.out != nil {
			p.out.beats.hurry()
		}
	}
}

// untilBeat is how long it is to the next beat: the multiples of every, by the wall
// clock, so that all groups and all nodes meet there. Who is a little late goes a
// little later, rather than miss a whole beat.
func untilBeat(now time.Time, every time.Duration) time.Duration {
	if every <= 0 {
		return 0
	}
	late := every * 3 / 10
	since := time.Duration(now.UnixNano() % int64(every))
	if since <= late {
		return late - since
	}
	return every - since
}

// beatCame gives a beat to its group.
func (s *session) beatCame(f frame) {
	s.mu.Lock()
	s.openBeats++
	s.mu.Unlock()
	answer := func(a BeatAnswer, known bool) { s.answerBeat(f.nonce, a, known) }
	if s.net.cfg.OnBeat == nil {
		answer(BeatAnswer{}, false)
		return
	}
	s.net.cfg.OnBeat(s.peer.name, f.beat, answer)
}

// answerBeat leaves an answer to beatLoop, which writes it once all beats that
// have come are answered, or after a pause.
func (s *session) answerBeat(nonce uint64, a BeatAnswer, known bool) {
	if !known {
		a = BeatAnswer{}
	}
	s.mu.Lock()
	wait := beatAnswerPause
	if s.openBeats--; s.openBeats == 0 {
		wait = 0
	}
	s.mu.Unlock()
	if s.beatAnswers.add(frame{typ: frameBeaten, nonce: nonce, known: known, answer: a}, wait) > maxBeatAnswers {
		s.raw.Close() // wakes the reader
	}
}

// beatLoop is the goroutine that writes the answers to beats on an accepted link.
func (s *session) beatLoop() {
	for {
		select {
		case <-s.beatAnswers.due:
		case <-s.beatAnswers.timer.C:
		case <-s.ctx.Done():
			return
		}
		if answers := s.beatAnswers.take(); len(answers) > 0 {
			s.write(answers)
		}
	}
}

// sendBeats writes the beats that wait.
func (s *session) sendBeats() {
	if beats := s.beats.take(); len(beats) > 0 {
		s.write(beats)
	}
}

// gatherer keeps frames until it is time to write them.
type gatherer struct {
	due   chan struct{} // one token: it is time
	timer *time.Timer   // so it is when it fires

	mu    sync.Mutex
	buf   []byte
	count int
}

func newGatherer() *gatherer {
	g := &gatherer{due: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	g.timer.Stop()
	return g
}

// add keeps a frame, with those that are kept already, for a time; with 0 they are
// due. It returns how many there are.
func (g *gatherer) add(f frame, wait time.Duration) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.buf = f.append(g.buf)
	g.count++
	switch {
	case wait <= 0:
		g.signal()
	case g.count == 1:
		g.timer.Reset(wait)
	}
	return g.count
}

// hurry makes due what is kept.
func (g *gatherer) hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count > 0 {
		g.signal()
	}
}

// take returns what was kept, as it is to be written.
func (g *gatherer) take() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := g.buf
	g.buf, g.count = nil, 0
	g.timer.Stop()
	return taken
}

// signal needs mu.
func (g *gatherer) signal() {
	select {
	case g.due <- struct{}{}:
	default:
	}
}
