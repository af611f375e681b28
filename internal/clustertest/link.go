package clustertest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// link relays TCP connections from one node to another until it is cut.
type link struct {
	addr     string       // where the one dials
	to       string       // where the other listens
	listener net.Listener // the test's
	tasks    sync.WaitGroup

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

func newLink(tb testing.TB, to string) *link {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	k := &link{addr: l.Addr().String(), to: to, listener: l, conns: map[net.Conn]struct{}{}}
	k.tasks.Go(func() { k.accept(l) })
	return k
}

func (k *link) accept(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", k.to)
		if err != nil || !k.keep(in, out) {
			in.Close()
			if out != nil {
				out.Close()
			}
			continue
		}
		k.tasks.Go(func() { k.relay(in, out) })
		k.tasks.Go(func() { k.relay(out, in) })
	}
}

func (k *link) keep(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down {
		return false
	}
	for _, c := range conns {
		k.conns[c] = struct{}{}
	}
	return true
}

func (k *link) relay(from, to net.Conn) {
	io.Copy(to, from)
	from.Close()
	to.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, from)
	delete(k.conns, to)
}

// cut ends all connections and refuses new ones.
func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = true
	for c := range k.conns {
		c.Close()
	}
}

func (k *link) heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = false
}

// refuse is cut with a port that is closed, as if no process were there, until
// listen.
func (k *link) refuse() {
	k.listener.Close()
	k.cut()
}

func (k *link) listen(tb testing.TB) {
	l, err := net.Listen("tcp", k.addr)
	if err != nil {
		tb.Fatal(err)
	}
	k.listener = l
	k.tasks.Go(func() { k.accept(l) })
	k.heal()
}

func (k *link) close() {
	k.listener.Close()
	k.cut()
	k.tasks.Wait()
}
