package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

const (
	// lagWait is how long a replica waits for a seq that it does not have yet
	// and the subscriber says it has, before it names the leader; checkAgain is
	// how soon a leader that could not make sure of its head tries again.
	lagWait    = 2 * time.Second
	checkAgain = 50 * time.Millisecond
	// readBytes is about how much a subscription takes from the log at once,
	// writeBytes how much goes into one write.
	readBytes  = 256 << 10
	writeBytes = 32 << 10
	// patience is how long a write may take before the subscription lets go of
	// all it has read but the rest of that write.
	patience = 50 * time.Millisecond
)

// serveSubscribe serves one subscription until its stream ends.
func (c *conn) serveSubscribe(ctx context.Context, stream *quic.Stream, body []byte) error {
	req, err := wire.ParseSubscribe(body)
	if err != nil {
		return c.malformed(err)
	}
	stream.CancelRead(quic.StreamErrorCode(wire.CodeNone)) // the client has said all
	if n := c.subscriptions.Add(1); n > maxSubscriptions {
		c.subscriptions.Add(-1)
		end(stream, &wire.Error{Code: wire.CodeTooManyStreams, Reason: fmt.Sprintf("at most %d subscriptions a connection", maxSubscriptions)})
		return nil
	}
	defer c.subscriptions.Add(-1)
	if err := wire.CheckRoom(req.Room); err != nil {
		end(stream, &wire.Error{Code: wire.CodeBadRoom, Reason: err.Error()})
		return nil
	}
	p := c.server.replica(req.Room)
	if p == nil {
		end(stream, &wire.Redirect{Reason: "this node holds no replica of the room"})
		return nil
	}
	f := &follower{stream: stream, client: c.quic.RemoteAddr(), partition: p, room: req.Room, draining: c.server.draining, within: c.server.cfg.Leave}
	if last := f.run(stream.Context(), partition.Seq(req.Next)); last != nil {
		end(stream, last)
	}
	return nil
}

// follower is a cursor in a room. It belongs to one goroutine. What it holds
// while its client does not read is one write at most.
type follower struct {
	stream    *quic.Stream
	partition *partition.Partition
	room      string
	client    net.Addr
	watch     *partition.Watch

	next partition.Seq // to be sent next
	seen atomic.Uint64 // the same, for others to look at
	read int           // how much to read at once: little for a slow client
	sent int           // bytes already sent of the frame that next begins
	buf  []byte        // the write under way
	rest []byte        // of buf, what the client had no room for

	draining <-chan struct{}  // closed when the node begins to stop
	within   time.Duration    // it does so within this time
	leave    <-chan time.Time // when this follower is to go, then
}

// run follows the room and returns the frame to end with, nil if the stream is
// gone. ctx ends when the client or the connection leaves.
func (f *follower) run(ctx context.Context, next partition.Seq) wire.Frame {
	if next == 0 {
		next, _ = f.partition.Head(f.room)
	} else if last := f.reach(ctx, next); last != nil || ctx.Err() != nil {
		return last
	}
	f.next, f.read = next, readBytes
	if _, err := f.stream.Write(wire.Append(nil, &wire.Subscribed{Next: uint64(next)})); err != nil {
		return nil
	}
	f.seen.Store(uint64(next))
	f.watch = f.partition.Watch(f.room, f)
	defer f.watch.Leave()
	for {
		wait, err := f.advance()
		var failed *readError
		switch {
		case errors.As(err, &failed) && f.sent > 0: // in the middle of a frame
			f.stream.CancelWrite(quic.StreamErrorCode(wire.CodeInternal))
			return nil
		case errors.As(err, &failed):
			return &wire.Error{Code: wire.CodeInternal, Reason: failed.Error()}
		case err != nil:
			return nil
		case wait == nil:
			continue
		}
		if last := f.wait(ctx, wait); last != nil || ctx.Err() != nil {
			return last
		}
	}
}

// readError: the log could not be read.
type readError struct{ error }

// advance reads and sends once, and returns a channel to wait for if there is
// nothing to send. When the client has no room it blocks, holding no more than
// the rest of one write.
func (f *follower) advance() (wait <-chan struct{}, err error) {
	wait, err = f.readAndSend()
	if err != nil || len(f.rest) == 0 {
		return wait, err
	}
	f.stream.SetWriteDeadline(time.Time{})
	_, err = f.stream.Write(f.rest)
	f.rest = nil
	return nil, err
}

func (f *follower) readAndSend() (wait <-chan struct{}, err error) {
	batch, err := f.partition.Read(f.room, f.next, f.read)
	if err != nil {
		return nil, &readError{err}
	}
	f.read = readBytes
	if g := batch.Gap; g != nil && f.sent > 0 {
		return nil, &readError{errors.New("what was being sent has been trimmed")}
	} else if g != nil {
		f.buf = wire.Append(f.buf[:0], &wire.Gap{From: uint64(g.From), To: uint64(g.To), Reason: wire.ReasonTrimmed})
		f.moved(batch.Next)
		return nil, f.write()
	}
	for blocks := batch.Blocks; len(blocks) > 0 && len(f.rest) == 0; {
		var n int
		if len(blocks[0].Data) > writeBytes || f.sent > 0 {
			n, err = f.sendPiece(&blocks[0])
		} else {
			n, err = f.sendBlocks(blocks)
		}
		if err != nil {
			return nil, err
		}
		if n > 0 {
			f.moved(blocks[n-1].Last + 1)
			f.watch.Delivered(time.Now(), blocks[:n])
		}
		blocks = blocks[n:]
	}
	return batch.Wait, nil
}

func (f *follower) moved(next partition.Seq) {
	f.next = next
	f.seen.Store(uint64(next))
}

// Next and Name tell others of this cursor.
func (f *follower) Next() partition.Seq { return partition.Seq(f.seen.Load()) }
func (f *follower) Name() string        { return f.client.String() }

func head(dst []byte, b *partition.Block) []byte {
	return wire.AppendDeliverHead(dst, &wire.Deliver{
		First: uint64(b.First), Time: b.Time, Skip: uint64(b.Skip), Dropped: b.Dropped, Block: b.Data,
	})
}

// sendBlocks puts as many small blocks as fit into one write.
func (f *follower) sendBlocks(blocks []partition.Block) (n int, err error) {
	f.buf = f.buf[:0]
	for n < len(blocks) && (n == 0 || len(f.buf)+len(blocks[n].Data) <= writeBytes) {
		f.buf = append(head(f.buf, &blocks[n]), blocks[n].Data...)
		n++
	}
	return n, f.write()
}

// sendPiece sends the next part of a large block's frame, of which f.sent bytes
// are sent; n is 1 when that was the last. The frame is the same whenever it is
// read again, since next stays where it is.
func (f *follower) sendPiece(b *partition.Block) (n int, err error) {
	f.buf = head(f.buf[:0], b)
	before := len(f.buf)
	size := before + len(b.Data)
	if from := f.sent; from < before {
		f.buf = append(f.buf[:copy(f.buf, f.buf[from:])], b.Data[:min(len(b.Data), writeBytes)]...)
	} else {
		from -= before
		f.buf = append(f.buf[:0], b.Data[from:min(len(b.Data), from+writeBytes)]...)
	}
	if f.sent += len(f.buf); f.sent >= size {
		f.sent, n = 0, 1
	}
	return n, f.write()
}

// write sends f.buf, or as much of it as the client takes within patience: the
// rest is left in f.rest.
func (f *follower) write() error {
	f.stream.SetWriteDeadline(time.Now().Add(patience))
	n, err := f.stream.Write(f.buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		f.rest, f.read, err = f.buf[n:], writeBytes, nil
	}
	return err
}

// wait returns when there may be more, with the frame to end with if there is
// none to be had here.
func (f *follower) wait(ctx context.Context, more <-chan struct{}) wire.Frame {
	if cap(f.buf) > writeBytes/8 {
		f.buf = nil // a room may be silent for long
	}
	select {
	case <-more:
	case <-ctx.Done():
	case <-f.draining:
		// Not all at once: the others have to take them.
		f.draining, f.leave = nil, time.After(rand.N(f.within+1))
	case <-f.leave:
		return &wire.Redirect{Reason: "the node stops"}
	case <-f.partition.Stale():
		return &wire.Redirect{Reason: "this replica has lost its leader"}
	}
	return nil
}

// reach makes sure that next is at most one beyond this replica's head. A
// leader knows the head; another replica waits for a moment, in case it lags.
func (f *follower) reach(ctx context.Context, next partition.Seq) wire.Frame {
	timeout := time.NewTimer(lagWait)
	defer timeout.Stop()
	check, cancel := context.WithTimeout(ctx, lagWait)
	defer cancel()
	for {
		_, last := f.partition.Head(f.room)
		if next <= last+1 {
			return nil
		}
		var again <-chan time.Time
		if f.partition.Group().Leading() {
			err := f.partition.CheckBeyond(check, f.room, next)
			var beyond *partition.BeyondHeadError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &beyond):
				return &wire.Error{Code: wire.CodeBeyondHead, Head: uint64(beyond.Head), Reason: err.Error()}
			}
			again = time.After(checkAgain)
		}
		batch, err := f.partition.Read(f.room, last+1, 1)
		if err != nil {
			return &wire.Error{Code: wire.CodeInternal, Reason: err.Error()}
		}
		if batch.Wait == nil {
			continue
		}
		select {
		case <-batch.Wait:
		case <-again:
		case <-timeout.C:
			return &wire.Redirect{Node: leaderOf(f.partition), Reason: "this replica lags behind"}
		case <-f.draining:
			return &wire.Redirect{Reason: "the node stops"}
		case <-ctx.Done():
			return nil
		}
	}
}
