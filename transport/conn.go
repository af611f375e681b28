package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

// refusedError closes the connection with a code that the client can act on.
type refusedError struct {
	code   wire.Code
	reason string
}

func (e *refusedError) Error() string { return e.reason }

func refuse(code wire.Code, format string, args ...any) error {
	return &refusedError{code, fmt.Sprintf(format, args...)}
}

// conn is one client's connection. serve, the control stream, publish streams and
// what is being answered each have a goroutine; subscriptions have none.
type conn struct {
	server   *Server
	quic     *quic.Conn
	streams  sync.WaitGroup
	control  *outbox
	delivery *delivery

	name          []byte // the publisher name of Hello
	subscriptions atomic.Int32
	publishing    atomic.Bool
	watches       atomic.Bool // it has asked to be told of nodes that are gone
	leaders       atomic.Bool // and at once of new leaders
	mapVersion    int         // what it has been told; guarded by server.mu once it has joined
}

func newConn(s *Server, qc *quic.Conn) *conn {
	return &conn{server: s, quic: qc, delivery: newDelivery(&s.fanout, qc)}
}

// serve runs the connection until it ends or has to be ended.
func (c *conn) serve() error {
	control, in, err := c.hello()
	greeted(c.quic)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(c.server.ctx)
	defer cancel(nil)
	fail := func(err error) {
		if err != nil {
			cancel(err)
		}
	}
	c.control = newOutbox(control, fail)
	c.server.join(c)
	defer c.server.leave(c)
	c.streams.Go(func() { fail(c.readControl(in)) })
	for {
		stream, err := c.quic.AcceptStream(ctx)
		if err != nil {
			var r *refusedError
			if errors.As(context.Cause(ctx), &r) {
				return r
			}
			return err
		}
		c.streams.Go(func() { fail(c.serveStream(ctx, stream)) })
	}
}

// close returns when the last of the conn's goroutines has ended. The connection
// must be at its end.
func (c *conn) close() {
	c.streams.Wait()
	c.delivery.close()
	if c.control != nil {
		c.control.close()
	}
}

// hello reads the first frame of the first stream and answers it, all within
// helloTimeout.
func (c *conn) hello() (*quic.Stream, *wire.Reader, error) {
	ctx, cancel := context.WithTimeout(c.server.ctx, helloTimeout)
	defer cancel()
	stream, err := c.quic.AcceptStream(ctx)
	if err != nil {
		return nil, nil, c.noHello(err)
	}
	stop := abortWith(ctx, stream)
	defer stop()
	in := wire.NewReader(stream, wire.MaxSmallFrame)
	typ, body, err := in.Next()
	if err != nil {
		return nil, nil, c.noHello(err)
	}
	if typ != wire.TypeHello {
		return nil, nil, refuse(wire.CodeProtocol, "the first frame was %v, not hello", typ)
	}
	hello, err := wire.ParseHello(body)
	switch {
	case err != nil:
		return nil, nil, refuse(wire.CodeProtocol, "%v", err)
	case hello.Version != wire.Version:
		return nil, nil, refuse(wire.CodeVersion, "protocol version %d is not spoken here, only %d", hello.Version, wire.Version)
	case !c.server.checkToken(hello.Token):
		return nil, nil, refuse(wire.CodeAuth, "wrong token")
	}
	if err := wire.CheckName(hello.Name); err != nil {
		return nil, nil, refuse(wire.CodeProtocol, "%v", err)
	}
	c.name = []byte(hello.Name)
	clusterMap, version := c.server.currentMap()
	c.mapVersion = version
	welcome := wire.Welcome{
		Version: wire.Version,
		Node:    c.server.cfg.Node,
		Limits:  wire.Limits{Payload: wire.MaxPayload, Window: wire.MaxWindow, Subscriptions: maxSubscriptions},
		Map:     clusterMap,
	}
	if _, err := stream.Write(wire.Append(nil, &welcome)); err != nil || !stop() {
		return nil, nil, c.noHello(err)
	}
	return stream, in, nil
}

// noHello says why there was none: the node stops, or the client was too slow
// or spoke nonsense.
func (c *conn) noHello(err error) error {
	if c.server.ctx.Err() != nil {
		return c.server.ctx.Err()
	}
	return refuse(wire.CodeProtocol, "no hello within %v: %v", helloTimeout, err)
}

// abortWith ends a stream with ctx, until stop is called; stop returns false if
// ctx has ended already.
func abortWith(ctx context.Context, stream *quic.Stream) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		stream.CancelRead(quic.StreamErrorCode(wire.CodeGoingAway))
		stream.CancelWrite(quic.StreamErrorCode(wire.CodeGoingAway))
	})
}

// readControl takes what the client asks of the connection. The end of the stream
// ends the connection.
func (c *conn) readControl(in *wire.Reader) error {
	for {
		typ, body, err := in.Next()
		if errors.Is(err, wire.ErrMalformed) {
			return c.malformed(err)
		} else if err != nil {
			return err
		}
		if err := c.controlFrame(typ, body); err != nil {
			return c.malformed(err)
		}
	}
}

func (c *conn) controlFrame(typ wire.Type, body []byte) error {
	switch typ {
	case wire.TypePing:
		nonce, err := wire.ParsePing(typ, body)
		if err == nil {
			c.control.put(&wire.Pong{Nonce: nonce})
		}
		return err
	case wire.TypeWatch:
		w, err := wire.ParseWatch(body)
		if err == nil {
			c.leaders.Store(w.Leaders)
			c.watches.Store(true)
		}
		return err
	}
	return fmt.Errorf("%v does not belong on the control stream", typ)
}

// serveStream finds out what a stream is for and serves it. An error ends the
// connection.
func (c *conn) serveStream(ctx context.Context, stream *quic.Stream) error {
	stop := abortWith(ctx, stream)
	defer stop()
	in := wire.NewReader(stream, wire.MaxSmallFrame)
	stream.SetReadDeadline(time.Now().Add(helloTimeout))
	typ, body, err := in.Next()
	if err != nil {
		stream.CancelWrite(quic.StreamErrorCode(wire.CodeProtocol))
		stream.CancelRead(quic.StreamErrorCode(wire.CodeProtocol))
		return c.streamError(err)
	}
	stream.SetReadDeadline(time.Time{})
	switch typ {
	case wire.TypeAttach:
		return c.servePublish(stream, in, body)
	case wire.TypeSubscribe:
		return c.serveSubscribe(ctx, stream, body)
	case wire.TypeQuery:
		return c.serveQuery(ctx, stream, body)
	}
	return c.malformed(fmt.Errorf("a stream cannot begin with %v", typ))
}

// streamError tells a broken frame, which ends the connection, from a stream
// that has merely ended.
func (c *conn) streamError(err error) error {
	if errors.Is(err, wire.ErrMalformed) {
		return c.malformed(err)
	}
	return nil
}

func (c *conn) malformed(err error) error {
	c.server.cfg.Metrics.badFrames.Inc()
	return refuse(wire.CodeProtocol, "%v", err)
}

// end writes the last frame of a stream and closes both its directions.
func end(stream *quic.Stream, f wire.Frame) {
	stream.SetWriteDeadline(time.Now().Add(drainTimeout))
	stream.Write(wire.Append(nil, f))
	stream.Close()
	stream.CancelRead(quic.StreamErrorCode(wire.CodeNone))
}
