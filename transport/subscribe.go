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

// lagWait is how long a replica waits for a seq that it does not have yet and the
// subscriber says it has, before it names the leader; checkAgain is how soon a
// leader that could not make sure of its head tries again.
const (
	lagWait    = 2 * time.Second
	checkAgain = 50 * time.Millisecond
)

// serveSubscribe begins a subscription, which its connection's delivery serves from
// then on.
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
	if last := c.subscribe(stream, req); last != nil {
		c.subscriptions.Add(-1)
		end(stream, last)
	}
	return nil
}

// subscribe returns the frame to end with if it cannot begin.
func (c *conn) subscribe(stream *quic.Stream, req wire.Subscribe) wire.Frame {
	if err := wire.CheckRoom(req.Room); err != nil {
		return &wire.Error{Code: wire.CodeBadRoom, Reason: err.Error()}
	}
	p := c.server.replica(req.Room)
	if p == nil {
		return &wire.Redirect{Reason: "this node holds no replica of the room"}
	}
	next := partition.Seq(req.Next)
	if next == 0 {
		next, _ = p.Head(req.Room)
	} else if last := c.reach(stream.Context(), p, req.Room, next); last != nil {
		return last
	}
	cur := &cursor{
		delivery: c.delivery, stream: stream, source: p, feed: c.server.fanout.feeds.join(req.Room, p),
		room: req.Room, client: c.quic.RemoteAddr(), ended: func() { c.subscriptions.Add(-1) },
	}
	cur.setNext(next)
	cur.watch = p.Watch(req.Room, cur)
	if _, err := stream.Write(wire.Append(nil, &wire.Subscribed{Next: uint64(next)})); err != nil || !c.delivery.add(cur) {
		cur.left()
		return nil
	}
	context.AfterFunc(stream.Context(), func() { c.delivery.leave(cur) })
	return nil
}

// reach makes sure that next is at most one beyond this replica's head. A
// leader knows the head; another replica waits for a moment, in case it lags.
func (c *conn) reach(ctx context.Context, p *partition.Partition, room string, next partition.Seq) wire.Frame {
	timeout := time.NewTimer(lagWait)
	defer timeout.Stop()
	check, cancel := context.WithTimeout(ctx, lagWait)
	defer cancel()
	for {
		_, last := p.Head(room)
		if next <= last+1 {
			return nil
		}
		if seededOwnHead { // a control
			err := &partition.BeyondHeadError{Room: room, Want: next, Head: last}
			return &wire.Error{Code: wire.CodeBeyondHead, Head: uint64(last), Reason: err.Error()}
		}
		var again <-chan time.Time
		if p.Group().Leading() {
			err := p.CheckBeyond(check, room, next)
			var beyond *partition.BeyondHeadError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &beyond):
				return &wire.Error{Code: wire.CodeBeyondHead, Head: uint64(beyond.Head), Reason: err.Error()}
			}
			again = time.After(checkAgain)
		}
		batch, err := p.Read(room, last+1, 1)
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
			return &wire.Redirect{Node: leaderOf(p), Reason: "this replica lags behind"}
		case <-c.server.draining:
			return &wire.Redirect{Reason: "the node stops"}
		case <-ctx.Done():
			return nil
		}
	}
}
