package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func TestStreamsReachTheirNodeAndGroup(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	names := []string{"n1", "n2", "n3"}
	nets := make(map[string]*Network)
	for _, name := range names {
		n := c.start(name)
		nets[name] = n
		for group := range uint32(2) {
			l := n.Streams(group)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprintf(conn, "%s/%d", name, group)
					conn.Close()
				}
			}()
		}
	}
	for _, from := range names {
		for _, to := range names {
			if from == to {
				continue
			}
			awaitUp(t, nets[from], to)
			for group := range uint32(2) {
				conn, err := nets[from].Streams(group).Dial(raft.ServerAddress(to), patience)
				must(t, err)
				got, err := io.ReadAll(conn)
				must(t, err)
				if want := fmt.Sprintf("%s/%d", to, group); string(got) != want {
					t.Errorf("%s dialed %s and reached %q", from, want, got)
				}
				must(t, conn.Close())
			}
		}
		for _, s := range nets[from].Status() {
			if !s.Alive || string(s.Info) != "info of "+s.Node {
				t.Errorf("%s sees %+v", from, s)
			}
		}
	}
	if addr := nets["n1"].Streams(0).Addr().String(); addr != "n1" {
		t.Errorf("the layer's address is %q, want the node's name", addr)
	}
}

// A raft.NetworkTransport lives on these layers.
func TestRaftTransport(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	a, b := c.start("n1"), c.start("n2")
	ta := raft.NewNetworkTransport(a.Streams(7), 2, patience, io.Discard)
	tb := raft.NewNetworkTransport(b.Streams(7), 2, patience, io.Discard)
	defer ta.Close()
	defer tb.Close()
	if ta.LocalAddr() != "n1" {
		t.Errorf("local address %q", ta.LocalAddr())
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		rpc := <-tb.Consumer()
		rpc.Respond(&raft.RequestVoteResponse{Term: 4, Granted: true}, nil)
	}()
	awaitUp(t, a, "n2")
	var resp raft.RequestVoteResponse
	must(t, ta.RequestVote("n2", "n2", &raft.RequestVoteRequest{Term: 4}, &resp))
	<-answered
	if resp.Term != 4 || !resp.Granted {
		t.Errorf("response %+v", resp)
	}
}

func TestForeignCAIsRefused(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	j1, j3 := newJournal(), newJournal()
	n1 := c.start("n1", logTo(j1))
	n2 := c.start("n2")
	other := newAuthority(t)
	n3 := c.start("n3", logTo(j3), func(cfg *Config) { cfg.Cert, cfg.CA = other.certFor(t, "n3"), other.pool })
	j1.await(t, "cannot link to node", "node=n3", "certificate")
	j3.await(t, "cannot link to node", "node=n1", "certificate")
	j1.await(t, "refused a connection on the peer port", "status=tls")
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	for _, n := range []*Network{n1, n2} {
		if n.Up("n3") || n3.Up(n.cfg.Node) {
			t.Errorf("%s and n3 are linked", n.cfg.Node)
		}
	}
	if got := value(t, n1.metrics.refused.WithLabelValues(refusedTLS)); got == 0 {
		t.Error("the refusal was not counted")
	}
}

// A node trusts this CA but not that the certificate is ours: an alert tells us.
func TestForeignClientCertificateIsToldWhy(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.start("n1")
	foreign := newAuthority(t).certFor(t, "n2")
	conn := c.call("n1", foreign)
	_, err := readAnswer(conn)
	if err == nil || !strings.Contains(cause(err).Error(), "certificate") {
		t.Errorf("the foreign node got %v, want an alert about its certificate", err)
	}
}

func TestServerCertificateOfAnotherNode(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	j := newJournal()
	n1 := c.start("n1", logTo(j))
	cfg := c.config("n2")
	cfg.Cert = c.ca.certFor(t, "n4")
	wrong := start(cfg, c.timing, c.listeners["n2"])
	defer wrong.Close()
	j.await(t, "cannot link to node", "node=n2", "n4")
	if n1.Up("n2") {
		t.Error("linked to a node with another's certificate")
	}
}

func TestHellosThatAreRefused(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.start("n1")
	fine := hello{kind: kindLink, instance: instance{1}, from: "n2", to: "n1", cluster: "n1,n2,n3/16"}
	for _, tt := range []struct {
		name   string
		names  []string // in the certificate
		change func(*hello)
		want   status
		reason string
	}{
		{"certificate of another node", []string{"n3"}, func(*hello) {}, statusCertificate, `does not name node "n2"`},
		{"no member", []string{"n9"}, func(h *hello) { h.from = "n9" }, statusStranger, `node "n9" is no member`},
		{"meant for another", []string{"n2"}, func(h *hello) { h.to = "n3" }, statusNotMe, `this is node "n1", not "n3"`},
		{"other cluster", []string{"n2"}, func(h *hello) { h.cluster = "n1,n2/8" }, statusCluster, `your cluster is "n1,n2/8", mine "n1,n2,n3/16"`},
		{"stream without a link", []string{"n2"}, func(h *hello) { h.kind = kindStream }, statusNoLink, "has no link"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := fine
			tt.change(&h)
			conn := c.call("n1", c.ca.certFor(t, tt.names...))
			a := conn.hello(h)
			if a.status != tt.want || !strings.Contains(a.reason, tt.reason) {
				t.Errorf("answer %v %q, want %v %q", a.status, a.reason, tt.want, tt.reason)
			}
			if a.info != nil {
				t.Errorf("told %q to somebody who is not welcome", a.info)
			}
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("after the refusal: %v, want the end of the stream", err)
			}
		})
	}
}

func TestAnotherVersionIsToldSo(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.start("n1")
	for _, theirs := range []byte{version - 1, version + 1} {
		conn := c.call("n1", c.ca.certFor(t, "n2"))
		b := hello{kind: kindLink, from: "n2", to: "n1"}.append(nil)
		b[4] = theirs
		_, err := conn.Write(b)
		must(t, err)
		a, err := readAnswer(conn)
		must(t, err)
		if a.status != statusVersion || !strings.Contains(a.reason, fmt.Sprintf("you speak version %d", theirs)) {
			t.Errorf("answer %v %q", a.status, a.reason)
		}
	}
}

func TestOtherFingerprint(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	j1, j2 := newJournal(), newJournal()
	n1 := c.start("n1", logTo(j1))
	n2 := c.start("n2", logTo(j2), func(cfg *Config) { cfg.Cluster = "n1,n2/8" })
	j1.await(t, "cannot link to node", "node=n2", "n2 refused", "must be equal on all nodes")
	j2.await(t, "refused a connection", "status=cluster", "node=n1")
	if n1.Up("n2") || n2.Up("n1") {
		t.Error("nodes of different clusters are linked")
	}
}

func TestGarbageOnThePort(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1")
	cert := c.ca.certFor(t, "n2")
	end := func(conn net.Conn) {
		t.Helper()
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection with garbage was kept")
		}
	}
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", strings.Repeat("\x00", 70_000), "\x16\x03\x01\xff\xff"} {
		raw, err := net.Dial("tcp", c.members["n1"])
		must(t, err)
		defer raw.Close()
		_, _ = io.WriteString(raw, garbage)
		raw.(*net.TCPConn).CloseWrite()
		end(raw)
	}
	for _, garbage := range []string{"garbage", fmt.Sprintf("RLPH%c\xff\xff", version), fmt.Sprintf("RLPH%c\x02\x00\x07\x07", version)} {
		conn := c.call("n1", cert)
		_, err := io.WriteString(conn, garbage)
		must(t, err)
		conn.CloseWrite()
		end(conn)
	}
	link := c.call("n1", cert)
	if a := link.hello(hello{kind: kindLink, instance: instance{9}, from: "n2", to: "n1", cluster: "n1,n2,n3/16"}); a.status != statusOK {
		t.Fatalf("link refused: %+v", a)
	}
	_, err := io.WriteString(link, "\xff\xffgarbage in a link")
	must(t, err)
	end(link)

	if tls, bad := value(t, n1.metrics.refused.WithLabelValues(refusedTLS)), value(t, n1.metrics.refused.WithLabelValues("malformed")); tls != 3 || bad != 3 {
		t.Errorf("counted %v and %v refusals, want 3 and 3", tls, bad)
	}
	n2 := c.start("n2")
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	l := n1.Streams(1)
	_, err = n2.Streams(1).Dial("n1", patience)
	must(t, err)
	accept(t, l)
}

func TestTooManyHalfOpen(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1")
	idle := make([]net.Conn, maxHalfOpen/2) // that many from one address
	for i := range idle {
		conn, err := net.Dial("tcp", c.members["n1"])
		must(t, err)
		defer conn.Close()
		idle[i] = conn
	}
	more, err := net.Dial("tcp", c.members["n1"])
	must(t, err)
	defer more.Close()
	more.SetDeadline(time.Now().Add(patience))
	if _, err := more.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one too many: %v, want it closed", err)
	}
	if got := value(t, n1.metrics.refused.WithLabelValues(refusedHalfOpen)); got != 1 {
		t.Errorf("counted %v", got)
	}
	for _, conn := range idle {
		conn.Close()
	}
	n2 := c.start("n2")
	awaitUp(t, n2, "n1")
}

// One address cannot take the places of all others.
func TestHalfOpenByAddress(t *testing.T) {
	var h halfOpen
	from := func(addr string) net.Conn { return addressed{addr: addr} }
	for range maxHalfOpen / 2 {
		if !h.take(from("10.0.0.1:1")) {
			t.Fatal("refused below the bound")
		}
	}
	if h.take(from("10.0.0.1:2")) {
		t.Error("one address has more than its share")
	}
	for i := range maxHalfOpen / 2 {
		if !h.take(from(fmt.Sprintf("10.0.1.%d:1", i))) {
			t.Fatal("another address was refused")
		}
	}
	if h.take(from("10.0.2.1:1")) {
		t.Error("more than the bound in all")
	}
	h.give(from("10.0.0.1:9"))
	if !h.take(from("10.0.0.1:3")) {
		t.Error("a place that was given back is not free")
	}
}

// addressed is a connection that only has an address.
type addressed struct {
	net.Conn
	addr string
}

func (a addressed) RemoteAddr() net.Addr {
	addr, _ := net.ResolveTCPAddr("tcp", a.addr)
	return addr
}

func TestSecondProcessOfANodeIsRefused(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	j2 := newJournal()
	n1, n2 := c.start("n1"), c.start("n2", logTo(j2))
	awaitUp(t, n1, "n2")
	accepting := n2.Streams(0)
	mine, err := n1.Streams(0).Dial("n2", patience)
	must(t, err)
	theirs := accept(t, accepting)

	second := start(c.config("n1"), c.timing, loopback(t))
	defer second.Close()
	var failure error
	select {
	case failure = <-second.Failed():
	case <-time.After(patience):
		t.Fatal("the second process was not told")
	}
	var dup *DuplicateError
	if !errors.As(failure, &dup) || dup.Node != "n1" || dup.At != "n2" {
		t.Fatalf("failure %v, want a DuplicateError", failure)
	}
	for _, words := range []string{`node id "n1" is in use twice`, "127.0.0.1:", `key "node"`} {
		if !strings.Contains(failure.Error(), words) {
			t.Errorf("the message lacks %q: %s", words, failure)
		}
	}
	j2.await(t, "refused a connection", "node=n1", "status=duplicate")
	if _, err := second.Streams(0).Dial("n2", patience); !errors.Is(err, ErrLinkDown) {
		t.Errorf("the second process dials a stream: %v, want ErrLinkDown", err)
	}
	a := c.call("n2", c.ca.certFor(t, "n1")).hello(hello{kind: kindStream, instance: second.instance, from: "n1", to: "n2", cluster: "n1,n2,n3/16"})
	if a.status != statusNoLink {
		t.Errorf("a stream of the second process: %v, want no-link", a.status)
	}
	if !n1.Up("n2") {
		t.Error("the first process lost its link")
	}
	_, err = mine.Write([]byte("x"))
	must(t, err)
	if _, err := io.ReadFull(theirs, make([]byte, 1)); err != nil {
		t.Errorf("the first process lost its stream: %v", err)
	}
	select {
	case err := <-n1.Failed():
		t.Errorf("the first process failed: %v", err)
	default:
	}
}

func TestDeadProcessIsReplaced(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.timing.silence = patience
	c.timing.probe = 50 * time.Millisecond
	n2 := c.start("n2")
	l := n2.Streams(0)
	cert := c.ca.certFor(t, "n1")
	say := hello{kind: kindLink, instance: instance{1}, from: "n1", to: "n2", cluster: "n1,n2,n3/16"}

	hung := c.call("n2", cert) // admitted, then never answers a ping
	if a := hung.hello(say); a.status != statusOK {
		t.Fatalf("first process: %+v", a)
	}
	say.kind = kindStream
	hungStream := c.call("n2", cert)
	if a := hungStream.hello(say); a.status != statusOK {
		t.Fatalf("stream of the first process: %+v", a)
	}
	accept(t, l)

	n1 := c.start("n1")
	awaitUp(t, n1, "n2")
	if f, err := readFrame(hung); err != nil || f.typ != framePing {
		t.Errorf("the hung process got %+v, %v, want a ping to prove itself", f, err)
	}
	for what, conn := range map[string]*caller{"link": hung, "stream": hungStream} {
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the hung process's %s was kept: %v", what, err)
		}
	}
	_, err := n1.Streams(0).Dial("n2", patience)
	must(t, err)
	accept(t, l)
}

// The same process may come again at once: it has seen its link break before
// the other end has.
func TestSameProcessComesAgain(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.timing.probe = patience
	c.start("n2")
	cert := c.ca.certFor(t, "n1")
	say := hello{kind: kindLink, instance: instance{1}, from: "n1", to: "n2", cluster: "n1,n2,n3/16"}
	first := c.call("n2", cert)
	if a := first.hello(say); a.status != statusOK {
		t.Fatalf("first: %+v", a)
	}
	if a := c.call("n2", cert).hello(say); a.status != statusOK {
		t.Fatalf("second: %+v", a)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first link was kept: %v", err)
	}
}

func TestLinkDownAndUpAgain(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1, n2 := c.start("n1"), c.start("n2")
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	l2 := n2.Streams(0)
	out, err := n1.Streams(0).Dial("n2", patience)
	must(t, err)
	accept(t, l2)
	l1 := n1.Streams(0)
	_, err = n2.Streams(0).Dial("n1", patience)
	must(t, err)
	in := accept(t, l1)

	began := time.Now()
	n2.Close()
	awaitState(t, n1, "link down", func() bool { return !n1.Up("n2") })
	if took := time.Since(began); took > defaultTiming.silence/2 {
		t.Errorf("a closed link was noticed after %v, want at once", took)
	}
	for name, conn := range map[string]net.Conn{"dialed": out, "accepted": in} {
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s stream outlived its link: %v", name, err)
		}
	}
	if _, err := n1.Streams(0).Dial("n2", patience); !errors.Is(err, ErrLinkDown) {
		t.Errorf("dial while the link is down: %v, want ErrLinkDown", err)
	}
	if s := n1.Status()[0]; s.Alive || string(s.Info) != "info of n2" {
		t.Errorf("status while down: %+v", s)
	}

	waiting := make(chan error, 1)
	ctx := soon(t)
	go func() { waiting <- n1.WaitUp(ctx, "n2") }()
	c.start("n2", func(cfg *Config) { cfg.Info = []byte("back") }).Streams(0)
	must(t, <-waiting)
	if s := n1.Status()[0]; !s.Alive || string(s.Info) != "back" {
		t.Errorf("status after the return: %+v", s)
	}
	conn, err := n1.Streams(0).Dial("n2", patience)
	must(t, err)
	conn.Close()
	if got := value(t, n1.metrics.linksUp); got != 1 {
		t.Errorf("%v links up, want 1", got)
	}
	if got := value(t, n1.metrics.linkDowns.WithLabelValues("n2")); got != 1 {
		t.Errorf("%v link downs, want 1", got)
	}
}

// answering is a hand-made n2 that admits all and then does what serve says. It
// seems to restart between a link and a stream. The caller closes n1.
func answering(t *testing.T, c *cluster, serve func(*tls.Conn)) {
	t.Helper()
	l := c.listeners["n2"]
	cfg := serverTLS(Config{Cert: c.ca.certFor(t, "n2"), CA: c.ca.pool})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, cfg)
			wg.Go(func() {
				defer raw.Close()
				h, err := readHello(conn)
				if err != nil {
					return
				}
				conn.Write(answer{node: "n2", instance: instance{1 + byte(h.kind)}}.append(nil))
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

func TestSilentLinkIsDown(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.timing.silence = 100 * time.Millisecond
	answering(t, c, func(conn *tls.Conn) { io.Copy(io.Discard, conn) }) // hears pings, says nothing
	j := newJournal()
	n1 := c.start("n1", logTo(j))
	awaitUp(t, n1, "n2")
	j.await(t, "link down", "node=n2", "silent for 100ms")
	n1.Close()
}

// A stream goes to the process that holds the other end of the link or nowhere.
func TestStreamToARestartedProcess(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.timing.silence = patience
	answering(t, c, func(conn *tls.Conn) { io.Copy(io.Discard, conn) })
	n1 := c.start("n1")
	defer n1.Close()
	awaitUp(t, n1, "n2")
	if _, err := n1.Streams(0).Dial("n2", patience); !errors.Is(err, ErrLinkDown) || !strings.Contains(err.Error(), "restarted") {
		t.Errorf("dial: %v, want ErrLinkDown", err)
	}
}

func TestDialsWaitForTheirTurn(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1, n2 := c.start("n1"), c.start("n2")
	awaitUp(t, n1, "n2")
	n2.Streams(0)
	out := n1.Streams(0)
	p := n1.peers["n2"]
	for range maxDialing {
		p.dialing <- struct{}{}
	}
	if _, err := out.Dial("n2", time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("dial without a turn: %v, want its deadline", err)
	}
	p.giveTurn()
	_, err := out.Dial("n2", patience)
	must(t, err)

	p.dialing <- struct{}{}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.takeTurn(over, context.Background(), patience); !errors.Is(err, ErrLinkDown) {
		t.Errorf("the link ended while waiting: %v, want ErrLinkDown", err)
	}
	if err := p.takeTurn(context.Background(), over, patience); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the group ended while waiting: %v, want net.ErrClosed", err)
	}
}

func TestClockOffset(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	measured := make(chan struct{}, 1)
	answering(t, c, func(conn *tls.Conn) {
		ping, err := readFrame(conn)
		if err != nil {
			return
		}
		theirs := time.Now().Add(time.Hour).UnixNano()
		conn.Write(frame{typ: framePong, nonce: ping.nonce, received: theirs, sent: theirs}.append(nil))
		conn.Write(frame{typ: framePing, nonce: 77}.append(nil)) // its answer says that the pong was taken
		for {
			f, err := readFrame(conn)
			if err != nil {
				return
			}
			if f.typ == framePong && f.nonce == 77 {
				select {
				case measured <- struct{}{}:
				default:
				}
			}
		}
	})
	n1 := c.start("n1")
	defer n1.Close()
	select {
	case <-measured:
	case <-time.After(patience):
		t.Fatal("our ping was not answered")
	}
	s := n1.Status()[0]
	hour := milliseconds(time.Hour)
	if s.RTTMs <= 0 || s.OffsetMs < hour-s.RTTMs || s.OffsetMs > hour+s.RTTMs {
		t.Errorf("offset %v ms, round trip %v ms, want %v within the round trip", s.OffsetMs, s.RTTMs, hour)
	}
}

func TestGroupsOpenAndCloseAlone(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1, n2 := c.start("n1"), c.start("n2")
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	one, two := n2.Streams(1), n2.Streams(2)
	dial := func(group uint32) (net.Conn, error) { return n1.Streams(group).Dial("n2", patience) }

	if _, err := dial(3); err == nil || !strings.Contains(err.Error(), "group 3 is not open") {
		t.Errorf("unknown group: %v", err)
	}
	kept, err := dial(2)
	must(t, err)
	keptThere := accept(t, two)
	closed, err := dial(1)
	must(t, err)
	accept(t, one)

	ended := make(chan error, 1)
	go func() {
		_, err := one.Accept()
		ended <- err
	}()
	must(t, one.Close())
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Close did not end Accept")
	}
	if _, err := closed.Read(make([]byte, 1)); err == nil {
		t.Error("a stream of the closed group still lives")
	}
	if _, err := dial(1); err == nil || !strings.Contains(err.Error(), "not open") {
		t.Errorf("closed group: %v", err)
	}
	if _, err := one.Dial("n1", patience); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial on the closed group: %v", err)
	}
	_, err = kept.Write([]byte("x"))
	must(t, err)
	if _, err := io.ReadFull(keptThere, make([]byte, 1)); err != nil {
		t.Errorf("the other group lost its stream: %v", err)
	}
	again, err := dial(2)
	must(t, err)
	again.Close()

	one = n2.Streams(1)
	_, err = dial(1)
	must(t, err)
	accept(t, one)
}

func TestAcceptQueueIsBounded(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1, n2 := c.start("n1"), c.start("n2")
	awaitUp(t, n1, "n2")
	l := n2.Streams(0)
	n2.Streams(1)
	for range maxWaiting {
		_, err := n1.Streams(0).Dial("n2", patience)
		must(t, err)
	}
	if _, err := n1.Streams(0).Dial("n2", patience); err == nil || !strings.Contains(err.Error(), "wait to be accepted") {
		t.Errorf("one stream too many: %v", err)
	}
	_, err := n1.Streams(1).Dial("n2", patience)
	must(t, err)
	accept(t, l)
	_, err = n1.Streams(0).Dial("n2", patience)
	must(t, err)
}

func TestDialUnknownNode(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.start("n1")
	for _, node := range []raft.ServerAddress{"n9", "n1", ""} {
		if _, err := n1.Streams(0).Dial(node, patience); err == nil || !strings.Contains(err.Error(), "no other member") {
			t.Errorf("dial %q: %v", node, err)
		}
	}
	if err := n1.WaitUp(soon(t), "n9"); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("wait for an unknown node: %v", err)
	}
	if n1.Up("n9") || !n1.Up("n1") {
		t.Error("a node is up to itself, an unknown one is not")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n1.WaitUp(ctx, "n2"); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with an ended context: %v", err)
	}
}

// Close ends every goroutine, and everyone who waits, whatever is under way.
func TestCloseLeavesNothing(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1, n2 := c.start("n1"), c.start("n2") // n3 stays away: its listener lets TCP in and says nothing
	awaitUp(t, n1, "n2")
	awaitUp(t, n2, "n1")
	idle, err := net.Dial("tcp", c.members["n1"])
	must(t, err)
	defer idle.Close()
	l := n2.Streams(0)
	out, err := n1.Streams(0).Dial("n2", patience)
	must(t, err)
	in := accept(t, l)
	_, err = n1.Streams(0).Dial("n2", patience) // waits to be accepted for ever
	must(t, err)
	waits := make(chan error, 3)
	ctx := soon(t)
	go func() { waits <- n1.WaitUp(ctx, "n3") }()
	mine := n1.Streams(0)
	go func() { _, err := mine.Accept(); waits <- err }()
	go func() { _, err := out.Read(make([]byte, 1)); waits <- err }()

	began := time.Now()
	var ended atomic.Bool
	n1.wg.Go(func() {
		<-n1.ctx.Done()
		for range 1000 {
			runtime.Gosched()
		}
		ended.Store(true)
	})
	must(t, n1.Close())
	if !ended.Load() {
		t.Error("Close did not wait for a goroutine of the Network")
	}
	must(t, n2.Close())
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	for range cap(waits) {
		select {
		case err := <-waits:
			if err == nil {
				t.Error("a waiter was told that all is well")
			}
		case <-time.After(patience):
			t.Fatal("a waiter is stranded")
		}
	}
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("an accepted stream still lives")
	}
	if _, err := n1.Streams(5).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept on a closed network: %v", err)
	}
	if err := n1.WaitUp(ctx, "n2"); !errors.Is(err, ErrClosed) {
		t.Errorf("WaitUp on a closed network: %v", err)
	}
	if n1.Up("n2") || n1.Up("n1") {
		t.Error("up on a closed network")
	}
	must(t, n1.Close())
	if left := ours(); len(left) > 0 {
		t.Errorf("%d goroutines left:\n%s", len(left), strings.Join(left, "\n\n"))
	}
	if len(n1.conns)+len(n1.streams)+len(n2.conns)+len(n2.streams) > 0 {
		t.Errorf("connections left: %v %v %v %v", n1.conns, n1.streams, n2.conns, n2.streams)
	}
}

func TestPortInUse(t *testing.T) {
	taken := loopback(t)
	_, err := Listen(Config{Node: "n1", Addr: taken.Addr().String(), Members: map[string]string{"n1": taken.Addr().String()}})
	if err == nil {
		t.Fatal("listening on a taken port")
	}
	for _, words := range []string{taken.Addr().String(), `key "peer"`, "another process has this port"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("the message lacks %q: %v", words, err)
		}
	}
}

func TestNodeAlone(t *testing.T) {
	n, err := Listen(Config{Node: "n1", Addr: "127.0.0.1:0", Members: map[string]string{"n1": "127.0.0.1:7410"}, Logger: slog.New(newJournal())})
	must(t, err)
	defer n.Close()
	if !n.Up("n1") || len(n.Status()) != 0 {
		t.Error("a node alone is up and has no peers")
	}
}

func TestConfigIsChecked(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"node is no member", func(c *Config) { c.Node = "n7" }, `node "n7" is not among the members`},
		{"address without a port", func(c *Config) { c.Members = map[string]string{"n1": "localhost"} }, `"localhost" of member "n1"`},
		{"one address twice", func(c *Config) { c.Members = map[string]string{"n1": "a:1", "n2": "a:1"} }, `members "n1" and "n2" have the same address a:1`},
		{"a name too long", func(c *Config) { c.Members[strings.Repeat("n", 256)] = "b:1" }, "1 to 255 bytes"},
		{"fingerprint too long", func(c *Config) { c.Cluster = strings.Repeat("c", 256) }, "fingerprint of 256 bytes"},
		{"info too long", func(c *Config) { c.Info = make([]byte, maxInfo+1) }, "info of 4097 bytes"},
		{"no CA", func(c *Config) { c.CA = nil }, `key "ca"`},
		{"no certificate", func(c *Config) { c.Cert = tls.Certificate{} }, `key "cert"`},
		{"foreign CA", func(c *Config) { c.CA = newAuthority(t).pool }, "will refuse this node's certificate"},
		{"certificate of another", func(cfg *Config) { cfg.Cert = c.ca.certFor(t, "n2") }, `must name node "n1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := c.config("n1")
			cfg.Members = map[string]string{"n1": cfg.Members["n1"], "n2": cfg.Members["n2"]}
			tt.change(&cfg)
			if err := cfg.check(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	cfg := c.config("n1")
	cfg.Info, cfg.Cluster = make([]byte, maxInfo), strings.Repeat("c", maxString)
	must(t, cfg.check())
}

// The largest Info arrives whole.
func TestLargestInfo(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	info := bytes.Repeat([]byte("i"), maxInfo)
	n1 := c.start("n1")
	c.start("n2", func(cfg *Config) { cfg.Info = info })
	awaitUp(t, n1, "n2")
	if got := n1.Status()[0].Info; !bytes.Equal(got, info) {
		t.Errorf("%d bytes of info arrived, want %d", len(got), len(info))
	}
}

// Refusals are logged once, not at each retry.
func TestRefusalsAreNews(t *testing.T) {
	n := newNetwork(Config{Node: "n1"}, defaultTiming, nil)
	for i, tt := range []struct {
		who, status string
		from        instance
		want        bool
	}{
		{"n2", "cluster", instance{1}, true},
		{"n2", "cluster", instance{1}, false},
		{"n2", "version", instance{1}, true},
		{"n2", "version", instance{2}, true},
		{"n3", "version", instance{2}, true},
		{"n2", "version", instance{2}, false},
	} {
		if got := n.news(tt.who, tt.status, tt.from); got != tt.want {
			t.Errorf("%d: news %v, want %v", i, got, tt.want)
		}
	}
	n.welcomed("n2", "127.0.0.1")
	if !n.news("n2", "version", instance{2}) {
		t.Error("after a success a refusal is news again")
	}
	for i := range 2 * maxTold {
		n.news(fmt.Sprint(i), "tls", instance{})
	}
	if len(n.told) > maxTold {
		t.Errorf("%d refusals are remembered, at most %d are allowed", len(n.told), maxTold)
	}
}

func BenchmarkDial(b *testing.B) {
	c := newCluster(b, "n1", "n2")
	n1, n2 := c.start("n1"), c.start("n2")
	awaitUp(b, n1, "n2")
	in := n2.Streams(0)
	out := n1.Streams(0)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := out.Dial("n2", patience)
		must(b, err)
		theirs, err := in.Accept()
		must(b, err)
		conn.Close()
		theirs.Close()
	}
}

func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	must(t, m.Write(&d))
	if d.Counter != nil {
		return d.Counter.GetValue()
	}
	return d.Gauge.GetValue()
}

func TestEachTroubleIsLoggedOnce(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	c.timing.refused, c.timing.retryMax = time.Millisecond, time.Millisecond
	c.timing.retryMin = 0
	tries := make(chan struct{})
	l := c.listeners["n2"]
	cfg := serverTLS(Config{Cert: c.ca.certFor(t, "n2"), CA: c.ca.pool})
	go func() {
		defer close(tries)
		for range 5 {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, cfg)
			if _, err := readHello(conn); err == nil {
				conn.Write(answer{status: statusCluster, node: "n2", reason: "no"}.append(nil))
				io.Copy(io.Discard, conn)
			}
			raw.Close()
		}
	}()
	j := newJournal()
	n1 := c.start("n1", logTo(j))
	select {
	case <-tries:
	case <-time.After(patience):
		t.Fatal("the link is not tried again")
	}
	n1.Close()
	if lines := j.with("cannot link to node", "n2 refused: no"); len(lines) != 1 {
		t.Errorf("%d lines about 5 refusals: %q", len(lines), lines)
	}

	n1 = c.start("n1", logTo(j))
	defer n1.Close()
	cert := c.ca.certFor(t, "n2")
	for range 3 {
		c.call("n1", cert).hello(hello{kind: kindLink, from: "n2", to: "n1", cluster: "other"})
	}
	if lines := j.with("refused a connection", "status=cluster"); len(lines) != 1 {
		t.Errorf("%d lines about 3 refused hellos: %q", len(lines), lines)
	}
}

func TestRetryAfter(t *testing.T) {
	n := &Network{timing: defaultTiming}
	for _, tt := range []struct {
		err         error
		least, most time.Duration
	}{
		{io.EOF, 20 * time.Millisecond, 200 * time.Millisecond},
		{&refusedError{status: statusBusy}, 20 * time.Millisecond, 200 * time.Millisecond},
		{&refusedError{status: statusCluster}, 500 * time.Millisecond, time.Second},
		{fmt.Errorf("answer: %w", versionError(1)), 500 * time.Millisecond, time.Second},
	} {
		for range 100 {
			if d := n.retryAfter(tt.err); d < tt.least || d > tt.most {
				t.Fatalf("after %v: again in %v, want %v to %v", tt.err, d, tt.least, tt.most)
			}
		}
	}
}
