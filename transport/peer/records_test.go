package peer

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// countingConn counts the writes that reach it.
type countingConn struct {
	net.Conn
	writes [][]byte
	err    error
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes = append(c.writes, bytes.Clone(b))
	return len(b), c.err
}

// TestRecordsHeld: what is written between hold and flush goes out in one piece
// and in order, everything else at once.
func TestRecordsHeld(t *testing.T) {
	under := &countingConn{}
	r := newRecords(under)
	write := func(s string) {
		t.Helper()
		if n, err := r.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("wrote %d of %q: %v", n, s, err)
		}
	}
	write("hello")
	r.hold()
	write("one ")
	write("two")
	if len(under.writes) != 1 {
		t.Fatalf("%d writes while it holds", len(under.writes)-1)
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	write("bye")
	if got := string(bytes.Join(under.writes, []byte("|"))); got != "hello|one two|bye" {
		t.Errorf("wrote %s", got)
	}
	under.err = io.ErrClosedPipe
	r.hold()
	write("lost")
	if err := r.flush(); err != io.ErrClosedPipe {
		t.Errorf("flush: %v", err)
	}
}

// TestStreamWritesAtOnce: many TLS records are one write, and arrive as they were.
func TestStreamWritesAtOnce(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1, n2 := c.start("n1"), c.start("n2")
	l1, l2 := n1.Streams(1), n2.Streams(1)
	awaitUp(t, n1, "n2")
	conn, err := l1.Dial("n2", patience)
	must(t, err)
	defer conn.Close()
	in, err := l2.Accept()
	must(t, err)
	defer in.Close()
	out := conn.(*stream)
	data := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	under := &tapConn{Conn: out.records.Conn}
	out.records.Conn = under
	sent := make(chan error, 1)
	go func() {
		_, err := out.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(in, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%v, or other bytes", err)
	}
	must(t, <-sent)
	if under.writes != 1 {
		t.Errorf("%d writes for %d bytes", under.writes, len(data))
	}
}

type tapConn struct {
	net.Conn
	writes int
}

func (c *tapConn) Write(b []byte) (int, error) {
	c.writes++
	return c.Conn.Write(b)
}
