package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/wire"
)

// timeFormat is RFC 3339 with all nine digits, so that columns stay aligned.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

func formatTime(t time.Time) string { return t.UTC().Format(timeFormat) }

// message is one line of an input, to be published.
type message struct {
	line    int // where it stands in the input, from 1
	room    string
	author  string // "" for the client's own name
	payload []byte
}

// pending is a publish under way: a *client.Pending, or a test's.
type pending interface {
	Done() <-chan struct{}
	Wait(ctx context.Context) (client.Receipt, error)
}

// sendFunc starts a publish. Its ctx bounds the whole publish.
type sendFunc func(ctx context.Context, m message) (pending, error)

// sendWith publishes through the SDK.
func sendWith(c *client.Client) sendFunc {
	return func(ctx context.Context, m message) (pending, error) {
		var opts []client.PublishOption
		if m.author != "" {
			opts = append(opts, client.As(m.author))
		}
		return c.PublishAsync(ctx, m.room, m.payload, opts...)
	}
}

// sending publishes a stream of messages and hands the receipts on in the order
// of the messages. At most inflight of them are unanswered, so a stream of any
// length takes bounded memory.
type sending struct {
	send     sendFunc
	inflight int
	timeout  time.Duration // how long the oldest publish may stay unanswered

	// next returns the messages one after the other, then io.EOF. It returns
	// early if ctx ends.
	next func(ctx context.Context) (message, error)
	// sent is told of each message that was sent, acked of each receipt, both
	// in order, but not from the same goroutine.
	sent  func(message)
	acked func(client.Receipt) error
	// quiet is called before acked has to wait.
	quiet func() error
}

type sentMessage struct {
	line int
	pending
}

// errInterrupted: the user ended the command before the end of its input.
var errInterrupted = errors.New("interrupted")

// run returns when all that was sent is answered. It stops sending at the first
// error, its own or a publish's, and when ctx ends; it gives up waiting only
// when timeout passes without an answer.
func (s *sending) run(ctx context.Context) error {
	feedCtx, stopFeed := context.WithCancel(ctx)
	defer stopFeed()
	// Publishes go on after ctx, so that a Ctrl-C leaves none without an answer.
	sendCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()

	slots := make(chan struct{}, s.inflight) // taken by each publish without an answer
	queue := make(chan sentMessage, s.inflight)
	collected := make(chan error, 1)
	go func() {
		err := s.collect(sendCtx, queue, slots, func(fatal bool) {
			stopFeed()
			if fatal {
				giveUp()
			}
		})
		collected <- err
	}()
	fed := s.feed(feedCtx, sendCtx, queue, slots)
	close(queue)
	if err := <-collected; err != nil {
		return err // what made feed end, or what came of it
	}
	if fed == nil && ctx.Err() != nil {
		return errInterrupted
	}
	return fed
}

// feed sends until the input ends (nil), feedCtx does (nil), or an error.
func (s *sending) feed(feedCtx, sendCtx context.Context, queue chan<- sentMessage, slots chan<- struct{}) error {
	for {
		m, err := s.next(feedCtx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && feedCtx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-feedCtx.Done():
			return nil
		}
		p, err := s.send(sendCtx, m)
		if err != nil {
			return fmt.Errorf("line %d: %w", m.line, err)
		}
		s.sent(m)
		queue <- sentMessage{line: m.line, pending: p} // has room: it is as large as slots
	}
}

// collect waits for the answers in order. After an error it calls stop and goes
// on with the rest; fatal tells that waiting has no point any more. It returns
// the first error.
func (s *sending) collect(ctx context.Context, queue <-chan sentMessage, slots <-chan struct{}, stop func(fatal bool)) error {
	var first error
	failed := func(err error, fatal bool) {
		if first == nil {
			first = err
		}
		stop(fatal)
	}
	waiting := func() { // before every wait, for an answer or for something to wait for
		if err := s.quiet(); err != nil {
			failed(err, true)
		}
	}
	for {
		var p sentMessage
		var more bool
		select {
		case p, more = <-queue:
		default:
			waiting()
			p, more = <-queue
		}
		if !more {
			return first
		}
		select {
		case <-p.Done():
		default:
			waiting()
		}
		receipt, err := s.wait(ctx, p)
		<-slots
		switch {
		case errors.Is(err, errNoAnswer):
			failed(fmt.Errorf("line %d: %w", p.line, err), true)
		case err != nil:
			failed(fmt.Errorf("line %d: %w", p.line, err), false)
		default:
			if err := s.acked(receipt); err != nil {
				failed(err, true)
			}
		}
	}
}

var errNoAnswer = errors.New("no answer from the cluster")

func (s *sending) wait(ctx context.Context, p pending) (client.Receipt, error) {
	select {
	case <-p.Done():
		return p.Wait(context.WithoutCancel(ctx))
	default:
	}
	limit := time.NewTimer(s.timeout)
	defer limit.Stop()
	select {
	case <-p.Done():
		return p.Wait(context.WithoutCancel(ctx))
	case <-ctx.Done(): // given up; the publish ends with it
		return client.Receipt{}, ctx.Err()
	case <-limit.C:
		return client.Receipt{}, fmt.Errorf("%w for %v, so it may or may not be in the log", errNoAnswer, s.timeout)
	}
}

// lineReader cuts an input into lines without their "\n". A line may hold as
// much as a message; the last one needs no "\n".
type lineReader struct {
	r   *bufio.Reader
	max int
	n   int // of the line read last
}

func newLineReader(r io.Reader, max int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10), max: max}
}

// next returns the next line, which belongs to the caller, then io.EOF.
func (l *lineReader) next() ([]byte, error) {
	line := []byte{}
	for {
		part, err := l.r.ReadSlice('\n')
		complete := err == nil
		if complete {
			part = part[:len(part)-1]
		}
		if len(line)+len(part) > l.max {
			return nil, fmt.Errorf("line %d is longer than %d bytes, the most that a message may have", l.n+1, l.max)
		}
		line = append(line, part...)
		switch {
		case complete:
			l.n++
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			l.n++
			return line, nil
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		default:
			return nil, fmt.Errorf("read line %d: %w", l.n+1, err)
		}
	}
}

// prefetch calls read in a goroutine of its own until it fails, and returns a
// function that hands on what it returned or ends with ctx. A read that hangs (a
// terminal without input) so does not hang the command; it is left behind and
// ends with the process.
func prefetch[T any](read func() (T, error)) (next func(ctx context.Context) (T, error), stop func()) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 16)
	stopped, stop := context.WithCancel(context.Background())
	go func() {
		for {
			v, err := read()
			select {
			case results <- result{v, err}:
			case <-stopped.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return func(ctx context.Context) (T, error) {
		if ctx.Err() != nil { // select would draw lots
			var none T
			return none, ctx.Err()
		}
		select {
		case r := <-results:
			return r.value, r.err
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}, stop
}

// checkRoomArg judges a room given on the command line.
func checkRoomArg(room string) error {
	if err := wire.CheckRoom(room); err != nil {
		return usageError{err}
	}
	return nil
}
