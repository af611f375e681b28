package client

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

// A write carries what lanes have ready, at most about writeSize bytes, and of
// one lane at most laneSize before it is another's turn.
const (
	writeSize = 64 << 10
	laneSize  = 16 << 10

	// maxAnswer bounds a frame on the publish stream. Acks of a window of rooms
	// that take turns, each with a run of its own, come in several.
	maxAnswer = wire.MaxSmallFrame
)

// pubStream is the publish stream of a connection, shared by all lanes. Its
// writer asks the lanes that are ready for their frames, so that a write
// carries all that has come while the last one was on its way; nothing is
// queued between lane and stream. A writer of its own, not the caller, waits
// for the network: a publish whose ctx ends returns even when nothing moves.
//
// Locks: a lane's mutex is taken before mu.
type pubStream struct {
	conn *conn
	str  *quic.Stream

	mu    sync.Mutex
	ready []*lane    // each in it once, or again after it has changed streams
	lanes []*binding // by partition, nil for those that never used the stream
	err   error      // why it has ended
	wake  chan struct{}
	gone  chan struct{}
}

// binding is what a lane and the server have said to each other on one stream.
// It is guarded by the lane's mutex, but for lane itself.
type binding struct {
	lane    *lane
	attach  uint64              // Attach frames written: the number of the newest
	session wire.SessionID      // of the newest
	owed    map[uint64]struct{} // those left with publishes unanswered, whose last word has not come
}

// mixes tells whether acks of another session may still come on the stream: they
// do not say which Attach they answer.
func (b *binding) mixes(session wire.SessionID) bool { return len(b.owed) > 0 && b.session != session }

func newPubStream(c *conn, str *quic.Stream) *pubStream {
	return &pubStream{conn: c, str: str, wake: make(chan struct{}, 1), gone: make(chan struct{})}
}

// bind returns what ties l to the stream; it is the same each time.
func (s *pubStream) bind(l *lane) (*binding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, errStreamGone
	}
	for len(s.lanes) <= l.partition {
		s.lanes = append(s.lanes, nil)
	}
	if s.lanes[l.partition] == nil {
		s.lanes[l.partition] = &binding{lane: l}
	}
	return s.lanes[l.partition], nil
}

// bindingOf returns the binding of a partition's lane, nil if it never used the stream.
func (s *pubStream) bindingOf(partition uint64) *binding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if partition >= uint64(len(s.lanes)) {
		return nil
	}
	return s.lanes[partition]
}

// push says that l has something to write.
func (s *pubStream) push(l *lane) {
	s.mu.Lock()
	s.ready = append(s.ready, l)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pop takes the lane whose turn it is, nil if none is ready.
func (s *pubStream) pop() *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		return nil
	}
	l := s.ready[0]
	s.ready[0] = nil
	s.ready = s.ready[1:]
	if len(s.ready) == 0 {
		s.ready = nil
	}
	return l
}

// write is the stream's writer.
func (s *pubStream) write() {
	var buf []byte
	for {
		select {
		case <-s.wake:
		case <-s.gone:
			return
		}
		for l := s.pop(); l != nil; {
			if cap(buf) > 4*writeSize {
				buf = nil // a large message is past
			}
			buf = buf[:0]
			for ; l != nil; l = s.pop() {
				var more bool
				if buf, more = l.fill(buf, s, laneSize); more {
					s.push(l)
				}
				if len(buf) >= writeSize {
					break
				}
			}
			if len(buf) > 0 {
				s.conn.alive.published()
				if _, err := s.str.Write(buf); err != nil {
					s.broken(err)
					return
				}
			}
			l = s.pop()
		}
	}
}

// read takes the answers.
func (s *pubStream) read() {
	frames := wire.NewReader(listener{s.str, &s.conn.alive}, maxAnswer)
	var acks wire.Acks
	for {
		typ, body, err := frames.Next()
		if err == nil {
			err = s.handle(typ, body, &acks)
		}
		if err != nil {
			if err == io.EOF {
				err = errStreamGone
			}
			s.broken(err)
			return
		}
	}
}

func (s *pubStream) handle(typ wire.Type, body []byte, acks *wire.Acks) error {
	switch typ {
	case wire.TypeAcks:
		if err := wire.ParseAcks(body, acks); err != nil {
			return err
		}
		if b := s.bindingOf(acks.Partition); b != nil {
			b.lane.onAcks(b, acks)
		}
		return nil
	case wire.TypeRefused:
		r, err := wire.ParseRefused(body)
		if err != nil {
			return err
		}
		if b := s.bindingOf(r.Partition); b != nil {
			b.lane.onRefused(s, b, &r)
		}
		return nil
	case wire.TypeAttached:
		a, err := wire.ParseAttached(body)
		if err != nil {
			return err
		}
		if b := s.bindingOf(a.Partition); b != nil {
			b.lane.onAttached(s, &a)
		}
		return nil
	case wire.TypeError:
		return parseError(body)
	}
	return fmt.Errorf("%w: server sent %v on the publish stream", wire.ErrMalformed, typ)
}

// broken ends the connection: nothing more can be written or read here. It does
// nothing if the connection has ended anyway.
func (s *pubStream) broken(err error) {
	code := wire.CodeNone
	if errors.Is(err, wire.ErrMalformed) {
		code = wire.CodeProtocol
	}
	s.conn.kill(code, fmt.Sprintf("publish stream: %v", err))
}

// fail says that the connection has ended: what its lanes have sent without an answer may be in
// the log, and they go on elsewhere.
func (s *pubStream) fail(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	close(s.gone)
	lanes := s.lanes // nothing is added any more
	s.mu.Unlock()
	for _, b := range lanes {
		if b != nil {
			b.lane.streamLost(s)
		}
	}
}

// unanswered tells whether a lane waits for an answer on this stream.
func (s *pubStream) unanswered() bool {
	s.mu.Lock()
	lanes := slices.Clone(s.lanes)
	s.mu.Unlock()
	for _, b := range lanes {
		if b != nil && b.lane.waitsOn(s) {
			return true
		}
	}
	return false
}

// used tells whether a lane is on this stream.
func (s *pubStream) used() bool {
	s.mu.Lock()
	lanes := slices.Clone(s.lanes)
	s.mu.Unlock()
	return slices.ContainsFunc(lanes, func(b *binding) bool { return b != nil && b.lane.on(s) })
}

// detach returns the frames that end the sessions on this stream.
func (s *pubStream) detach() (frames []byte) {
	s.mu.Lock()
	lanes := slices.Clone(s.lanes)
	ended := s.err != nil
	s.mu.Unlock()
	for _, b := range lanes {
		if b != nil && !ended && b.lane.sessionOn(s) {
			frames = wire.Append(frames, &wire.Detach{Partition: uint64(b.lane.partition)})
		}
	}
	return frames
}
