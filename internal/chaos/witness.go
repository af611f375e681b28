package chaos

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/wire"
)

// witness reads all rooms from one node and no other, frame by frame as they come:
// the SDK would drop a message that comes twice, and ask again for one that is not
// due. When the node is gone it comes back, behind what it had.
type witness struct {
	load  *load
	node  string
	addr  string
	token string
	tls   *tls.Config

	mu   sync.Mutex
	last map[string]uint64 // seq, by room
}

// again is how long a witness waits before it connects anew.
const again = 100 * time.Millisecond

func (w *witness) run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = w.visit(ctx, func(conn *quic.Conn) { w.followAll(ctx, conn) }) // it is down, cut off or overloaded
		_ = wait(ctx, again)
	}
}

// visit connects to the node, says hello and calls use.
func (w *witness) visit(ctx context.Context, use func(*quic.Conn)) error {
	conf := w.tls.Clone()
	conf.NextProtos = []string{wire.ALPN}
	dialing, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(dialing, w.addr, conf, &quic.Config{KeepAlivePeriod: time.Second, MaxIdleTimeout: 3 * time.Second})
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	defer context.AfterFunc(ctx, func() { conn.CloseWithError(0, "") })()
	control, err := open(conn, &wire.Hello{Version: wire.Version, Token: w.token, Name: "witness"})
	if err != nil {
		return err
	}
	if typ, _, err := control.Next(); err != nil || typ != wire.TypeWelcome {
		return fmt.Errorf("%s greets with %v: %w", w.node, typ, err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { // what comes there is for other clients
		for {
			if _, _, err := control.Next(); err != nil {
				return
			}
		}
	})
	use(conn)
	conn.CloseWithError(0, "")
	reading.Wait()
	return nil
}

// open opens a stream with a first frame.
func open(conn *quic.Conn, first wire.Frame) (*wire.Reader, error) {
	str, err := conn.OpenStream()
	if err != nil {
		return nil, err
	}
	if _, err := str.Write(wire.Append(nil, first)); err != nil {
		return nil, err
	}
	return wire.NewReader(str, wire.MaxDeliverFrame), nil
}

// followAll follows all rooms until one of the streams ends.
func (w *witness) followAll(ctx context.Context, conn *quic.Conn) {
	var rooms sync.WaitGroup
	for _, room := range w.load.rooms {
		rooms.Go(func() {
			defer conn.CloseWithError(0, "")
			w.mu.Lock()
			after := w.last[room]
			w.mu.Unlock()
			s := w.load.rec.subscribing(room, w.node, place{after: after})
			s.end(w.follow(ctx, conn, room, after, func(m client.Message) bool {
				s.got(m)
				w.mu.Lock()
				w.last[room] = m.Seq
				w.mu.Unlock()
				return true
			}))
		})
	}
	rooms.Wait()
}

// follow hands out what comes of a room, until see returns false.
func (w *witness) follow(ctx context.Context, conn *quic.Conn, room string, after uint64, see func(client.Message) bool) error {
	in, err := open(conn, &wire.Subscribe{Room: room, Next: after + 1})
	if err != nil {
		return err
	}
	var d wire.Deliver
	for ctx.Err() == nil {
		typ, body, err := in.Next()
		if err != nil {
			return err
		}
		more := true
		switch typ {
		case wire.TypeSubscribed:
		case wire.TypeDeliver:
			more, err = deliver(&d, room, body, see)
		case wire.TypeGap:
			var g wire.Gap
			if g, err = wire.ParseGap(body); err == nil {
				more = see(client.Message{Room: room, Seq: g.To, Gap: &client.Gap{From: g.From, To: g.To, Reason: g.Reason}})
			}
		case wire.TypeRedirect:
			return errSentAway
		case wire.TypeError:
			var e wire.Error
			if e, err = wire.ParseError(body); err == nil {
				err = refusal(room, after, e)
			}
		default:
			err = fmt.Errorf("%w: %v on a subscription", wire.ErrMalformed, typ)
		}
		if err != nil || !more {
			return err
		}
	}
	return ctx.Err()
}

var errSentAway = errors.New("sent away")

// refusal is an error frame as the SDK would tell it.
func refusal(room string, after uint64, e wire.Error) error {
	if e.Code == wire.CodeBeyondHead {
		return &client.BeyondHeadError{Room: room, Want: after + 1, Head: e.Head}
	}
	return fmt.Errorf("server: %v: %s", e.Code, e.Reason)
}

func deliver(d *wire.Deliver, room string, body []byte, see func(client.Message) bool) (more bool, err error) {
	if err := wire.ParseDeliver(body, d); err != nil {
		return false, err
	}
	more = true
	err = d.Records(func(r wire.Record) bool {
		more = see(client.Message{Room: room, Seq: r.Seq, Time: time.Unix(0, d.Time), Payload: r.Payload})
		return more
	})
	return more, err
}

// whole reads a room from its first message to seq last from the node.
func (w *witness) whole(ctx context.Context, room string, last uint64) (all []client.Message, err error) {
	if last == 0 {
		return nil, nil
	}
	visited := w.visit(ctx, func(conn *quic.Conn) {
		err = w.follow(ctx, conn, room, 0, func(m client.Message) bool {
			m.Payload = append([]byte(nil), m.Payload...)
			all = append(all, m)
			return m.Seq < last
		})
	})
	return all, firstOf(visited, err)
}
