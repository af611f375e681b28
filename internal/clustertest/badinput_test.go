package clustertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/certs"
	"github.com/roomlog/roomlog/internal/node"
	"github.com/roomlog/roomlog/transport/peer"
	"github.com/roomlog/roomlog/transport/wire"
)

// unharmed publishes and reads on every node.
func (c *Cluster) unharmed() {
	c.tb.Helper()
	p := &Publisher{Name: "after", Client: c.Client("after"), History: &c.History}
	c.must(p.Send("unharmed", 0))
	c.must(p.Wait())
	c.CheckRoom("unharmed")
}

// TestBadInput shows each mistake a clear error, and the server unharmed.
func TestBadInput(t *testing.T) {
	c := Start(t, 3, 2, nil)
	servers := []string{c.Addr("n1"), c.Addr("n2")}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	t.Run("wrong token", func(t *testing.T) {
		_, err := client.Dial(ctx, servers, client.WithTLS(c.TLS()), client.WithToken("guess"))
		if !errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), "token") {
			t.Errorf("Dial = %v, want ErrDenied and the word token", err)
		}
	})
	t.Run("wrong CA", func(t *testing.T) {
		other, err := certs.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		pool, _ := certs.Pool(other.CertPEM())
		_, err = client.Dial(ctx, servers, client.WithTLS(&tls.Config{RootCAs: pool}), client.WithToken(Token))
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unknown) {
			t.Errorf("Dial = %v, want x509.UnknownAuthorityError", err)
		}
	})
	t.Run("payloads and rooms", func(t *testing.T) {
		cl := c.Client("")
		if _, err := cl.Publish(ctx, "r", make([]byte, wire.MaxPayload+1)); !errors.Is(err, client.ErrTooLarge) {
			t.Errorf("Publish of 1 MiB + 1 = %v, want ErrTooLarge", err)
		}
		if r, err := cl.Publish(ctx, "r", make([]byte, wire.MaxPayload)); err != nil || r.Seq != 1 {
			t.Errorf("Publish of 1 MiB = %v, %v, want seq 1", r, err)
		}
		for _, room := range []string{"", "a\x07b", strings.Repeat("r", 256), "\xff"} {
			if _, err := cl.Publish(ctx, room, nil); !errors.Is(err, client.ErrBadRoom) {
				t.Errorf("Publish to room %q = %v, want ErrBadRoom", room, err)
			}
			for _, err := range cl.Subscribe(ctx, room) {
				if !errors.Is(err, client.ErrBadRoom) {
					t.Errorf("Subscribe to room %q = %v, want ErrBadRoom", room, err)
				}
			}
			if _, err := cl.Room(ctx, room); !errors.Is(err, client.ErrBadRoom) {
				t.Errorf("Room(%q) = %v, want ErrBadRoom", room, err)
			}
		}
		if _, err := cl.Publish(ctx, strings.Repeat("r", 255), nil); err != nil {
			t.Errorf("Publish to a room of 255 bytes: %v", err)
		}
	})
	t.Run("the same from a client that does not check", func(t *testing.T) { c.unchecked(t) })
	t.Run("garbage on each port", func(t *testing.T) { c.garbage(t) })
	t.Run("garbage frames", func(t *testing.T) { c.garbageFrames(t) })
	c.unharmed()
}

func (c *Cluster) unchecked(t *testing.T) {
	for _, tt := range []struct {
		name, room, payload, want string
	}{
		{"payload of 1 MiB + 1", "big", strings.Repeat(".", wire.MaxPayload+1), "refused from 1: too large"},
		{"room with a control character", "a\x07b", "", "refused from 1: bad room name"},
		{"room of 256 bytes", strings.Repeat("r", 256), "", "refused from 1: bad room name"},
		{"empty room", "", "", "refused from 1: bad room name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			room := tt.room
			leader := c.Leader(room)
			raw := c.DialRaw(leader)
			defer raw.Close()
			if got := raw.Publish(wire.SessionID{1}, true, 1, room, tt.payload); got != tt.want {
				t.Errorf("publish: %s, want %s", got, tt.want)
			}
			if tt.payload != "" {
				return
			}
			str := raw.Open(&wire.Subscribe{Room: room, Next: 1})
			f, err := wire.ParseError(str.Expect(wire.TypeError))
			if err != nil || f.Code != wire.CodeBadRoom {
				t.Errorf("subscribe: %+v, %v, want %v", f, err, wire.CodeBadRoom)
			}
			str = raw.Open(&wire.Query{Room: room})
			f, err = wire.ParseError(str.Expect(wire.TypeError))
			if err != nil || f.Code != wire.CodeBadRoom {
				t.Errorf("query: %+v, %v, want %v", f, err, wire.CodeBadRoom)
			}
		})
	}
}

func (c *Cluster) garbage(t *testing.T) {
	junk := bytes.Repeat([]byte("no such thing \x00\xff"), 80)
	udp, err := net.Dial("udp", c.Addr("n1"))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for n := range 200 {
		udp.Write(junk[n : 2*n+50])
	}
	for _, addr := range []string{c.PeerAddr("n1"), c.HTTP("n1")} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(junk)
		conn.SetReadDeadline(time.Now().Add(patience))
		io.Copy(io.Discard, conn) // until the server has hung up
		conn.Close()
	}
}

// garbageFrames sends each kind of stream what does not belong there: the
// connection is closed with a code and a reason, and counted.
func (c *Cluster) garbageFrames(t *testing.T) {
	before := c.metric(t, "n1", "roomlog_bad_frames_total")
	cases := []struct {
		name  string
		first wire.Frame // nil: the control stream
		then  []byte
	}{
		{"a stream that begins with an answer", &wire.Pong{}, nil},
		{"a second hello", &wire.Hello{Version: wire.Version}, nil},
		{"a frame of 4 GiB on the publish stream", &wire.Attach{}, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"a publish without room", &wire.Attach{}, []byte{3, byte(wire.TypePublish), 1, 0}},
		{"a publish to a partition not attached to", &wire.Attach{}, wire.AppendPublish(nil, 1, 0, "", c.roomOf(1), nil)},
		{"an attach to a partition that does not exist", &wire.Attach{Partition: 2}, nil},
		{"a detach without attach", &wire.Attach{}, wire.Append(nil, &wire.Detach{Partition: 1})},
		{"an empty frame on the publish stream", &wire.Attach{}, []byte{0}},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			raw := c.DialRaw("n1")
			str := raw.Open(tt.first)
			str.Write(tt.then)
			select {
			case <-raw.conn.Context().Done():
			case <-time.After(patience):
				t.Fatal("the connection was not closed")
			}
			var closed *quic.ApplicationError
			if err := context.Cause(raw.conn.Context()); !errors.As(err, &closed) ||
				wire.Code(closed.ErrorCode) != wire.CodeProtocol || closed.ErrorMessage == "" {
				t.Errorf("closed with %v, want %v and a reason", err, wire.CodeProtocol)
			}
		})
	}
	c.Until("the frames are counted", func() bool {
		return c.metric(t, "n1", "roomlog_bad_frames_total") == before+float64(len(cases))
	})
}

// roomOf returns a room of partition id.
func (c *Cluster) roomOf(id int) string {
	room := "r"
	for wire.PartitionOf(room, c.parts) != id {
		room += "r"
	}
	return room
}

func (c *Cluster) metric(t *testing.T, node, name string) (value float64) {
	t.Helper()
	resp, err := http.Get("http://" + c.HTTP(node) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if n, found := strings.CutPrefix(line, name+" "); found {
			if value, err = strconv.ParseFloat(strings.TrimSpace(n), 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return value
}

// TestHello shows what a client is told that does not say hello as it should.
func TestHello(t *testing.T) {
	c := Start(t, 1, 1, nil)
	for _, tt := range []struct {
		name string
		send []byte
		code wire.Code
		says string
	}{
		{"another version", wire.Append(nil, &wire.Hello{Version: 99, Token: Token}), wire.CodeVersion, "99"},
		{"no token", wire.Append(nil, &wire.Hello{Version: wire.Version}), wire.CodeAuth, "token"},
		{"a publish first", wire.AppendPublish(nil, 1, 0, "", "r", nil), wire.CodeProtocol, "hello"},
		{"noise", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, wire.CodeProtocol, "malformed"},
		{"a name with a line break", wire.Append(nil, &wire.Hello{Version: wire.Version, Token: Token, Name: "a\nb"}), wire.CodeProtocol, "control character"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := dialQUIC(t, c.Addr("n1"), c.TLS(), nil)
			str, err := conn.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			str.Write(tt.send)
			<-conn.Context().Done()
			var closed *quic.ApplicationError
			if err := context.Cause(conn.Context()); !errors.As(err, &closed) ||
				wire.Code(closed.ErrorCode) != tt.code || !strings.Contains(closed.ErrorMessage, tt.says) {
				t.Errorf("closed with %v, want %v and %q", err, tt.code, tt.says)
			}
		})
	}
	c.unharmed()
}

// TestSubscriptionLimit opens one subscription too many.
func TestSubscriptionLimit(t *testing.T) {
	c := Start(t, 1, 1, nil)
	raw := c.DialRaw("n1")
	limit := int(raw.Welcome.Limits.Subscriptions)
	for range limit {
		raw.Open(&wire.Subscribe{Room: "r", Next: 1}).Expect(wire.TypeSubscribed)
	}
	f, err := wire.ParseError(raw.Open(&wire.Subscribe{Room: "r", Next: 1}).Expect(wire.TypeError))
	if err != nil || f.Code != wire.CodeTooManyStreams {
		t.Errorf("subscription %d: %+v, %v, want %v", limit+1, f, err, wire.CodeTooManyStreams)
	}
	c.unharmed()
}

// TestNodeMistakes starts nodes that must not run.
func TestNodeMistakes(t *testing.T) {
	c := Start(t, 3, 2, nil)
	m := c.members["n1"]
	base := node.Config{
		Name: "n1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", Peer: freeAddr(t), HTTP: "127.0.0.1:0",
		Members: map[string]string{"n1": m.peer, "n2": c.members["n2"].peer, "n3": c.members["n3"].peer}, Partitions: 2,
		CA: c.ca, Cert: m.cert, Logger: logger("n1"),
	}
	t.Run("refused at once", func(t *testing.T) {
		for _, tt := range []struct {
			name string
			edit func(*node.Config)
			want string
		}{
			{"data directory in use", func(cfg *node.Config) { cfg.DataDir = filepath.Join(c.dir, "n1") }, "in use by process"},
			{"listen port in use", func(cfg *node.Config) { cfg.Listen = m.listen }, "UDP port is in use"},
			{"http port in use", func(cfg *node.Config) { cfg.HTTP = m.http }, "TCP port is in use"},
			{"peer port in use", func(cfg *node.Config) { cfg.Peer = m.peer }, "in use"},
			{"no CA", func(cfg *node.Config) { cfg.CA = []byte("nothing") }, "ca: holds no PEM certificate"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				cfg := base
				cfg.DataDir = t.TempDir()
				tt.edit(&cfg)
				n, err := node.Open(cfg)
				if err == nil {
					n.Kill()
					t.Fatal("it runs")
				}
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %q, want %q in it", err, tt.want)
				}
			})
		}
	})
	t.Run("two nodes with one id", func(t *testing.T) {
		n, err := node.Open(base)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Kill()
		select {
		case err := <-n.Failed():
			var dup *peer.DuplicateError
			if !errors.As(err, &dup) || dup.Node != "n1" {
				t.Errorf("failed with %v, want a DuplicateError of n1", err)
			}
		case <-time.After(patience):
			t.Error("nobody minds a second n1")
		}
	})
	c.unharmed()
}

// TestDataDirMistakes restarts a node over a directory that is not its own.
func TestDataDirMistakes(t *testing.T) {
	c := Start(t, 1, 2, nil)
	c.Kill("n1")
	m := c.members["n1"]
	for _, tt := range []struct {
		name string
		edit func(*node.Config)
		want string
	}{
		{"of another node", func(cfg *node.Config) { cfg.Name, cfg.Members = "n9", map[string]string{"n9": m.peer} }, `belongs to node "n1"`},
		{"with other partitions", func(cfg *node.Config) { cfg.Partitions = 3 }, "has 2 partitions, the configuration says 3"},
		{"with other members", func(cfg *node.Config) { cfg.Members = map[string]string{"n1": m.peer, "n2": freeAddr(t)} }, "members cannot be changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := node.Config{
				Name: "n1", DataDir: filepath.Join(c.dir, "n1"), Listen: m.listen, Peer: m.peer, HTTP: m.http,
				Members: map[string]string{"n1": m.peer}, Partitions: 2, CA: c.ca, Cert: m.cert, Logger: logger("n1"),
			}
			tt.edit(&cfg)
			n, err := node.Open(cfg)
			if err == nil {
				n.Kill()
				t.Fatal("it runs")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q in it", err, tt.want)
			}
		})
	}
	c.Run("n1")
	c.WaitReady()
	c.unharmed()
}
