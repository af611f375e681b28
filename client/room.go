package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// RoomInfo tells which seqs a room holds, First to Last, and its partition. A
// room never used has First 1, Last 0.
type RoomInfo struct {
	Room        string
	First, Last uint64
	Partition   int
}

// Room asks the leader of the room's partition. What it tells includes every
// message that was acked before the call.
func (c *Client) Room(ctx context.Context, room string) (RoomInfo, error) {
	if err := badRoom(room); err != nil {
		return RoomInfo{}, err
	}
	info, err := c.query(ctx, room, time.Time{})
	if err != nil {
		return RoomInfo{}, err
	}
	return RoomInfo{Room: room, First: info.First, Last: info.Last, Partition: int(info.Partition)}, nil
}

// query asks until a leader answers or ctx ends.
func (c *Client) query(ctx context.Context, room string, at time.Time) (wire.Info, error) {
	q := wire.Query{Room: room, Time: nanosOf(at)}
	partition := wire.PartitionOf(room, len(c.lanes))
	var overload *OverloadedError
	broken := 0 // answers that make no sense
	for tries := 0; ; {
		if c.ctx.Err() != nil {
			return wire.Info{}, ErrClosed
		}
		changed := c.router.changes()
		conn, lead, err := c.router.toLeader(ctx, partition, tries)
		var info wire.Info
		if err == nil {
			if info, err = c.ask(ctx, conn, &q); err == nil {
				return info, nil
			}
		}
		tries++
		wait := backoff(tries)
		overload = nil
		if refusal, ok := errors.AsType[*codeError](err); ok {
			switch refusal.code {
			case wire.CodeBadRoom, wire.CodeDenied, wire.CodeProtocol, wire.CodeVersion:
				return wire.Info{}, err
			case wire.CodeAuth:
				if tries >= stubborn {
					return wire.Info{}, err
				}
			case wire.CodeNotLeader:
				c.router.notLeader(partition, conn.node)
			case wire.CodeOverloaded:
				overload = &OverloadedError{RetryAfter: refusal.retryAfter}
			}
			if refusal.retryAfter > 0 {
				wait = spread(refusal.retryAfter)
			}
		} else if errors.Is(err, wire.ErrMalformed) {
			if broken++; broken >= hardTries {
				return wire.Info{}, err
			}
		}
		if err := c.await(ctx, partition, lead, wait, changed); err != nil {
			if overload != nil && err != ErrClosed {
				err = errors.Join(err, overload)
			}
			return wire.Info{}, err
		}
	}
}

// nanosOf is at in the protocol's time; what lies before 1970 or beyond 2262
// counts as the nearest that it can tell.
func nanosOf(at time.Time) int64 {
	switch {
	case at.Unix() < 0:
		return 0
	case at.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return at.UnixNano()
}

// await waits for d, or until another leader than the one tried is known.
func (c *Client) await(ctx context.Context, partition int, tried leader, d time.Duration, changed <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return ErrClosed
		case <-t.C:
			return nil
		case <-changed:
			changed = c.router.changes()
			if now := c.router.leader(partition); now.node != "" && (now.node != tried.node || now.term != tried.term) {
				return nil
			}
		}
	}
}

// ask puts one question to one node.
func (c *Client) ask(ctx context.Context, conn *conn, q *wire.Query) (wire.Info, error) {
	defer conn.alive.expect()()
	str, err := conn.quic.OpenStreamSync(ctx)
	if err != nil {
		return wire.Info{}, connError(err)
	}
	defer str.CancelRead(0)
	str.SetDeadline(time.Now().Add(helloBudget))
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() {
			str.CancelRead(0)
			str.CancelWrite(0)
		})()
	}
	if _, err := str.Write(wire.Append(nil, q)); err != nil {
		str.CancelWrite(0) // or the server waits for the rest, and we are short of a stream
		return wire.Info{}, connError(err)
	}
	str.Close()
	frames := wire.NewReader(listener{str, &conn.alive}, wire.MaxSmallFrame)
	typ, body, err := frames.Next()
	switch {
	case err == io.EOF:
		return wire.Info{}, io.ErrUnexpectedEOF
	case err != nil:
		return wire.Info{}, connError(err)
	case typ == wire.TypeInfo:
		return wire.ParseInfo(body)
	case typ == wire.TypeError:
		return wire.Info{}, parseError(body)
	}
	return wire.Info{}, fmt.Errorf("%w: server answers a query with %v", wire.ErrMalformed, typ)
}
