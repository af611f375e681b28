package clustertest

import (
	"context"
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/transport/wire"
)

// Raw is a client that speaks frames, for what the SDK never does.
type Raw struct {
	tb      testing.TB
	conn    *quic.Conn
	Welcome wire.Welcome
	publish *RawStream
}

// RawStream is one stream of a Raw.
type RawStream struct {
	tb testing.TB
	*quic.Stream
	in *wire.Reader
}

// DialRaw connects to a node and says hello.
func (c *Cluster) DialRaw(node string) *Raw { return c.dialRaw(node, nil) }

// DialStingy is DialRaw of a client that has little room for what it does not read.
func (c *Cluster) DialStingy(node string) *Raw {
	return c.dialRaw(node, &quic.Config{
		InitialStreamReceiveWindow: 2 << 10, MaxStreamReceiveWindow: 2 << 10,
		InitialConnectionReceiveWindow: 4 << 20, MaxConnectionReceiveWindow: 4 << 20,
	})
}

func (c *Cluster) dialRaw(node string, conf *quic.Config) *Raw {
	c.tb.Helper()
	return dialRaw(c.tb, c.Addr(node), Token, c.TLS(), conf)
}

// DialRaw connects to a node and says hello.
func (p *Processes) DialRaw(node string) *Raw {
	p.tb.Helper()
	n, _ := p.Layout().Node(node)
	return dialRaw(p.tb, n.Listen, p.Layout().Token, p.tls(), nil)
}

func dialRaw(tb testing.TB, addr, token string, tlsConf *tls.Config, conf *quic.Config) *Raw {
	tb.Helper()
	r := &Raw{tb: tb, conn: dialQUIC(tb, addr, tlsConf, conf)}
	control := r.Open(&wire.Hello{Version: wire.Version, Token: token, Name: "raw"})
	body := control.Expect(wire.TypeWelcome)
	var err error
	if r.Welcome, err = wire.ParseWelcome(body); err != nil {
		tb.Fatal(err)
	}
	return r
}

func dialQUIC(tb testing.TB, addr string, tlsConf *tls.Config, conf *quic.Config) *quic.Conn {
	tb.Helper()
	tlsConf.NextProtos = []string{wire.ALPN}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, addr, tlsConf, conf)
	if err != nil {
		tb.Fatalf("dial %s: %v", addr, err)
	}
	tb.Cleanup(func() { conn.CloseWithError(0, "") })
	return conn
}

// Open opens a stream with a first frame.
func (r *Raw) Open(first wire.Frame) *RawStream {
	r.tb.Helper()
	str, err := r.conn.OpenStream()
	if err != nil {
		r.tb.Fatal(err)
	}
	s := &RawStream{tb: r.tb, Stream: str, in: wire.NewReader(str, wire.MaxDeliverFrame)}
	s.Send(first)
	return s
}

// Close drops the connection at once.
func (r *Raw) Close() { r.conn.CloseWithError(0, "") }

// Send writes a frame.
func (s *RawStream) Send(f wire.Frame) {
	s.tb.Helper()
	if _, err := s.Write(wire.Append(nil, f)); err != nil {
		s.tb.Fatal(err)
	}
}

// Next returns the next frame, "end" as its error when the stream has ended.
func (s *RawStream) Next() (wire.Type, []byte, error) {
	s.SetReadDeadline(time.Now().Add(patience))
	return s.in.Next()
}

// Expect returns the body of the next frame, which must be of that type.
func (s *RawStream) Expect(want wire.Type) []byte {
	s.tb.Helper()
	typ, body, err := s.Next()
	if err != nil || typ != want {
		s.tb.Fatalf("got %v, %v, want %v", typ, err, want)
	}
	return body
}

// Publish sends one publish on the publish stream of session, and returns the
// answer as a line. The first call attaches, with open as told.
func (r *Raw) Publish(session wire.SessionID, open bool, counter uint64, room, payload string) string {
	r.tb.Helper()
	if r.publish == nil {
		id := wire.PartitionOf(room, len(r.Welcome.Map.Partitions))
		r.publish = r.Open(&wire.Attach{Partition: uint64(id), Session: session, Open: open})
		if typ, body, err := r.publish.Next(); typ != wire.TypeAttached {
			return answerLine(typ, body, err)
		}
	}
	if _, err := r.publish.Write(wire.AppendPublish(nil, counter, 0, "", room, []byte(payload))); err != nil {
		r.tb.Fatal(err)
	}
	return answerLine(r.publish.Next())
}

func answerLine(typ wire.Type, body []byte, err error) string {
	switch {
	case err != nil:
		return "error: " + err.Error()
	case typ == wire.TypeAcks:
		var a wire.Acks
		if err := wire.ParseAcks(body, &a); err != nil {
			return "error: " + err.Error()
		}
		line := fmt.Sprintf("seq %d", a.Runs[0].Seq)
		if a.Duplicate {
			line += " duplicate"
		}
		return line
	case typ == wire.TypeRefused:
		f, err := wire.ParseRefused(body)
		if err != nil {
			return "error: " + err.Error()
		}
		return fmt.Sprintf("refused from %d: %v", f.Counter, f.Code)
	}
	return typ.String()
}
