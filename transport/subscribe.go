package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

const (
	// lagWait is how long a replica waits for a seq that it does not have yet
	// and the subscriber says it has, before it names the leader.
	lagWait = 2 * time.Second
	// readBytes is about how much a subscription takes from the log at once,
	// writeBytes how much goes into one write.
	readBytes  = 256 << 10
	writeBytes = 32 << 10
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
	f := &follower{stream: stream, partition: p, room: req.Room, draining: c.server.draining}
	if last := f.run(stream.Context(), partition.Seq(req.Next)); last != nil {
		end(stream, last)
	}
	return nil
}

// follower is a cursor in a room: next is the seq to send next. It belongs to
// one goroutine.
type follower struct {
	stream    *quic.Stream
	partition *partition.Partition
	room      string
	next      partition.Seq
	draining  <-chan struct{}
	delivered func(published int64, messages int)
	buf       []byte
}

// run follows the room and returns the frame to end with, nil if the stream is
// gone. ctx ends when the client or the connection leaves.
func (f *follower) run(ctx context.Context, next partition.Seq) wire.Frame {
	if next == 0 {
		next, _ = f.partition.Head(f.room)
	} else if last := f.reach(ctx, next); last != nil || ctx.Err() != nil {
		return last
	}
	f.next = next
	if _, err := f.stream.Write(wire.Append(nil, &wire.Subscribed{Next: uint64(next)})); err != nil {
		return nil
	}
	delivered, leave := f.partition.Watch(f.room)
	defer leave()
	f.delivered = delivered
	for {
		batch, err := f.partition.Read(f.room, f.next, readBytes)
		if err != nil {
			return &wire.Error{Code: wire.CodeInternal, Reason: err.Error()}
		}
		if err := f.send(batch); err != nil {
			return nil
		}
		if batch.Wait == nil {
			continue
		}
		if last := f.wait(ctx, batch.Wait); last != nil || ctx.Err() != nil {
			return last
		}
	}
}

// wait returns when there may be more, with the frame to end with if there is
// none to be had here.
func (f *follower) wait(ctx context.Context, more <-chan struct{}) wire.Frame {
	select {
	case <-more:
	case <-ctx.Done():
	case <-f.draining:
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
	for {
		_, last := f.partition.Head(f.room)
		if next <= last+1 {
			return nil
		}
		if f.partition.Group().Leading() {
			err := f.partition.CheckBeyond(ctx, f.room, next)
			var beyond *partition.BeyondHeadError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &beyond):
				return &wire.Error{Code: wire.CodeBeyondHead, Head: uint64(beyond.Head), Reason: err.Error()}
			}
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
		case <-timeout.C:
			return &wire.Redirect{Node: leaderOf(f.partition), Reason: "this replica lags behind"}
		case <-f.draining:
			return &wire.Redirect{Reason: "the node stops"}
		case <-ctx.Done():
			return nil
		}
	}
}

// send writes what a batch holds. It blocks while the client does not read.
func (f *follower) send(batch partition.Batch) error {
	if g := batch.Gap; g != nil {
		f.buf = wire.Append(f.buf[:0], &wire.Gap{From: uint64(g.From), To: uint64(g.To), Reason: wire.ReasonTrimmed})
		if _, err := f.stream.Write(f.buf); err != nil {
			return err
		}
	}
	for blocks := batch.Blocks; len(blocks) > 0; {
		f.buf = f.buf[:0]
		n := 0
		for n < len(blocks) && (n == 0 || len(f.buf)+len(blocks[n].Data) <= writeBytes) {
			b := &blocks[n]
			d := wire.Deliver{First: uint64(b.First), Time: b.Time, Skip: uint64(b.Skip), Dropped: b.Dropped, Block: b.Data}
			f.buf = wire.AppendDeliverHead(f.buf, &d)
			if len(b.Data) > writeBytes {
				if _, err := f.stream.Write(f.buf); err != nil {
					return err
				}
				if _, err := f.stream.Write(b.Data); err != nil {
					return err
				}
				f.buf = f.buf[:0]
			} else {
				f.buf = append(f.buf, b.Data...)
			}
			n++
		}
		if len(f.buf) > 0 {
			if _, err := f.stream.Write(f.buf); err != nil {
				return err
			}
		}
		for i := range blocks[:n] {
			f.delivered(blocks[i].Time, int(blocks[i].Last+1-blocks[i].First))
		}
		blocks = blocks[n:]
	}
	if cap(f.buf) > 2*writeBytes {
		f.buf = nil
	}
	f.next = batch.Next
	return nil
}
