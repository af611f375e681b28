package transport

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

// queryTimeout bounds how long a leader may take to make sure that it leads.
const queryTimeout = 5 * time.Second

// serveQuery answers one question about a room, if this node leads its partition.
func (c *conn) serveQuery(ctx context.Context, stream *quic.Stream, body []byte) error {
	q, err := wire.ParseQuery(body)
	if err != nil {
		return c.malformed(err)
	}
	end(stream, c.query(ctx, q))
	return nil
}

func (c *conn) query(ctx context.Context, q wire.Query) wire.Frame {
	if err := wire.CheckRoom(q.Room); err != nil {
		return &wire.Error{Code: wire.CodeBadRoom, Reason: err.Error()}
	}
	p := c.server.replica(q.Room)
	if p == nil {
		return &wire.Error{Code: wire.CodeNotLeader, Reason: errNoReplica.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	first, last, at, err := p.Place(ctx, q.Room, q.Time)
	if err != nil {
		return &wire.Error{Code: codeOf(err), Reason: err.Error()}
	}
	return &wire.Info{Partition: uint64(p.ID()), First: uint64(first), Last: uint64(last), At: uint64(at)}
}
