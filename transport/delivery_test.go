package transport

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

// fakeStream takes as many bytes as it has room for.
type fakeStream struct {
	mu       sync.Mutex
	room     int
	got      []byte
	writes   []time.Time // that took something
	deadline time.Time
	more     chan struct{} // closed when there is more room
	closed   bool
	err      error
}

func newFakeStream(room int) *fakeStream { return &fakeStream{room: room, more: make(chan struct{})} }

func (s *fakeStream) take(b []byte) int {
	n := min(len(b), s.room)
	s.room -= n
	s.got = append(s.got, b[:n]...)
	if n > 0 {
		s.writes = append(s.writes, time.Now())
	}
	return n
}

func (s *fakeStream) Write(b []byte) (n int, err error) {
	for {
		s.mu.Lock()
		n += s.take(b[n:])
		more, deadline, err := s.more, s.deadline, s.err
		s.mu.Unlock()
		if n == len(b) || err != nil {
			return n, err
		}
		select {
		case <-more:
		case <-time.After(time.Until(deadline)):
			return n, os.ErrDeadlineExceeded
		}
	}
}

func (s *fakeStream) TryWriteAll(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && len(b) > s.room {
		return quic.ErrWouldBlock
	}
	s.take(b)
	return s.err
}

func (s *fakeStream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return nil
}

func (s *fakeStream) CancelWrite(quic.StreamErrorCode) { s.Close() }

func (s *fakeStream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *fakeStream) allow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room += n
	close(s.more)
	s.more = make(chan struct{})
}

// seqs reads what has come and returns how many messages, which must be in order.
func (s *fakeStream) seqs(t *testing.T) (last uint64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	in := wire.NewReader(bytes.NewReader(s.got), wire.MaxDeliverFrame)
	for {
		typ, body, err := in.Next()
		if err != nil {
			return last
		}
		switch typ {
		case wire.TypeDeliver:
			var d wire.Deliver
			if err := wire.ParseDeliver(body, &d); err != nil {
				t.Fatal(err)
			}
			err = d.Records(func(r wire.Record) bool {
				if r.Seq != last+1 {
					t.Fatalf("seq %d after %d", r.Seq, last)
				}
				last = r.Seq
				return true
			})
		case wire.TypeGap:
			var g wire.Gap
			g, err = wire.ParseGap(body)
			last = g.To
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fakeRoom is a room of blocks of one message each, the newest of them in memory.
type fakeRoom struct {
	mu      sync.Mutex
	blocks  []partition.Block
	memory  int // blocks that Newest has
	first   partition.Seq
	stale   bool
	waiting []*fakeWatch
	reads   int // calls of Read
}

func (r *fakeRoom) publish(size int) {
	r.mu.Lock()
	seq := partition.Seq(len(r.blocks) + 1)
	data := []byte{1, 1, 0, 0} // one record, one publisher, without a name
	data = binary.AppendUvarint(data, uint64(size))
	data = append(data, make([]byte, size)...)
	r.blocks = append(r.blocks, partition.Block{Room: "r", First: seq, Last: seq, Time: time.Now().UnixNano(), Data: data})
	woken := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	for _, w := range woken {
		w.cursor.Wake()
	}
}

func (r *fakeRoom) between(from, next partition.Seq, max int) (blocks []partition.Block) {
	for ; next >= from && int(next) <= len(r.blocks) && max > 0; next++ {
		blocks = append(blocks, r.blocks[next-1])
		max -= len(r.blocks[next-1].Data)
	}
	return blocks
}

func (r *fakeRoom) Newest(_ string, next partition.Seq, max int) []partition.Block {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.between(partition.Seq(len(r.blocks)-r.memory+1), next, max)
}

func (r *fakeRoom) Read(_ string, next partition.Seq, max int) (partition.Batch, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	if next < r.first {
		return partition.Batch{Gap: &partition.Gap{From: next, To: r.first - 1}, Next: r.first}, nil
	}
	return partition.Batch{Blocks: r.between(1, next, max)}, nil
}

// howMany is how often it was read.
func (r *fakeRoom) howMany() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads
}

func (r *fakeRoom) IsStale() bool { return r.stale }

func (r *fakeRoom) turnStale() {
	r.mu.Lock()
	r.stale = true
	woken := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	for _, w := range woken {
		w.cursor.Wake()
	}
}

type fakeWatch struct {
	room      *fakeRoom
	cursor    *cursor
	delivered int
	left      bool
}

func (w *fakeWatch) Wait(next partition.Seq) bool {
	r := w.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if int(next) <= len(r.blocks) || r.stale {
		return false
	}
	r.waiting = append(r.waiting, w)
	return true
}

func (w *fakeWatch) Head() partition.Seq {
	w.room.mu.Lock()
	defer w.room.mu.Unlock()
	return partition.Seq(len(w.room.blocks))
}

func (w *fakeWatch) Delivered(_ time.Time, blocks []partition.Block) { w.delivered += len(blocks) }
func (w *fakeWatch) Leave()                                          { w.left = true }

type fakeConn struct {
	mu sync.Mutex
	st quic.ConnectionStats
}

// ConnectionStats are those of a client that acknowledges all at once.
func (c *fakeConn) ConnectionStats() quic.ConnectionStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.st.PacketsReceived++
	return c.st
}

// fixture is a server's fan-out with rooms, without a network.
type fixture struct {
	fanout
	t *testing.T
}

func newFixture(t *testing.T) *fixture {
	m := NewMetrics()
	f := &fixture{t: t, fanout: fanout{pace: &pace{metrics: m}, feeds: feeds{rooms: map[string]*feed{}}, metrics: m}}
	t.Cleanup(f.workers.close)
	return f
}

func (f *fixture) connect() *delivery { return newDelivery(&f.fanout, &fakeConn{}) }

// subscribe adds a cursor at seq next.
func (f *fixture) subscribe(d *delivery, r *fakeRoom, name string, s *fakeStream, next partition.Seq) *cursor {
	c := &cursor{delivery: d, stream: s, source: r, room: name, client: &net.UDPAddr{}, feed: f.feeds.join(name, r), ended: func() {}}
	c.watch = &fakeWatch{room: r, cursor: c}
	c.setNext(next)
	if !d.add(c) {
		f.t.Fatal("the delivery is closed")
	}
	return c
}

// end closes deliveries and waits for what the fixture has begun.
func (f *fixture) end(all ...*delivery) {
	for _, d := range all {
		d.close()
	}
	f.catchUp.tasks.Wait()
}

const plenty = 1 << 40

// A flush takes what all cursors of a connection have to get.
func TestDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.connect()
		rooms, streams := make([]*fakeRoom, 3), make([]*fakeStream, 3)
		for i := range rooms {
			rooms[i], streams[i] = &fakeRoom{memory: 100}, newFakeStream(plenty)
			f.subscribe(d, rooms[i], string(rune('a'+i)), streams[i], 1)
		}
		synctest.Wait()
		for range 10 {
			for _, r := range rooms {
				r.publish(100)
			}
		}
		synctest.Wait()
		for i, s := range streams {
			if got := s.seqs(t); got != 10 {
				t.Errorf("stream %d has %d messages, want 10", i, got)
			}
		}
		if d.state != idle || d.ready != nil {
			t.Errorf("an idle connection is in state %v with %d cursors ready", d.state, len(d.ready))
		}
		f.end(d)
	})
}

// Flushes of a connection are apart by the spacing, each from its own last one; a
// connection that was quiet for as long is flushed at once.
func TestDeliverySpacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.pace.spacing.Store(int64(50 * time.Millisecond))
		r := &fakeRoom{memory: 100}
		streams := []*fakeStream{newFakeStream(plenty), newFakeStream(plenty)}
		deliveries := []*delivery{f.connect(), f.connect()}
		begun := time.Now()
		f.subscribe(deliveries[0], r, "r", streams[0], 1)
		time.Sleep(30 * time.Millisecond)
		f.subscribe(deliveries[1], r, "r", streams[1], 1)
		synctest.Wait()
		time.Sleep(time.Millisecond) // no message comes at the moment of a flush
		for range 100 {
			r.publish(10)
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(time.Second)
		r.publish(10)
		synctest.Wait()
		for i, want := range [][]int{{50, 100, 150, 200, 250}, {80, 130, 180, 230}} {
			want = append(want, 1231) // at once
			var got []int
			for _, at := range streams[i].writes {
				got = append(got, int(at.Sub(begun).Milliseconds()))
			}
			if len(got) != len(want) || !equal(got, want) {
				t.Errorf("connection %d was flushed after %v ms, want %v", i, got, want)
			}
			if n := streams[i].seqs(t); n != 101 {
				t.Errorf("connection %d has %d messages, want 101", i, n)
			}
		}
		f.end(deliveries...)
	})
}

func equal(a, b []int) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Streams that take nothing do not hold up the connection's other ones, and hold
// nothing; they get everything when they are read again.
func TestStalledStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.connect()
		r := &fakeRoom{memory: 50}
		streams := make([]*fakeStream, 100)
		for i := range streams {
			streams[i] = newFakeStream(0)
			f.subscribe(d, r, "r", streams[i], 1)
		}
		good := newFakeStream(plenty)
		f.subscribe(d, r, "r", good, 1)
		for range 50 {
			r.publish(100)
			time.Sleep(10 * time.Millisecond)
		}
		late := 0
		for i := range 200 {
			r.publish(3000)
			time.Sleep(5 * time.Millisecond)
			synctest.Wait()
			if i%10 == 0 && good.seqs(t) < uint64(51+i) {
				late++
			}
		}
		if late > 0 {
			t.Errorf("%d of 20 messages were late for the stream that is read", late)
		}
		synctest.Wait()
		before := r.howMany()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := r.howMany() - before; n > 10*len(streams) {
			t.Errorf("the log was read %d times in a second for %d streams that take nothing", n, len(streams))
		}
		for _, s := range streams {
			s.allow(plenty)
		}
		time.Sleep(time.Second)
		for i, s := range streams {
			if n := s.seqs(t); n != 250 {
				t.Fatalf("stream %d has %d messages, want 250", i, n)
			}
		}
		f.end(d)
	})
}

// A stream that takes a few bytes at a time gets all of it, in order.
func TestNarrowStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.connect()
		r := &fakeRoom{memory: 3}
		s := newFakeStream(0)
		f.subscribe(d, r, "r", s, 1)
		for i := range 40 {
			r.publish(i * 97)
			s.allow(i)
			time.Sleep(3 * time.Millisecond)
		}
		r.publish(100_000)
		for s.seqs(t) < 41 {
			s.allow(1733)
			time.Sleep(5 * time.Millisecond)
		}
		f.end(d)
	})
}

// Connections that catch up get equal shares, however many cursors each has; and
// one at the head of its room does not wait for them.
func TestCatchUpShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		old := &fakeRoom{memory: 1}
		for range 200 {
			old.publish(10_000)
		}
		var all []*delivery
		var streams []*fakeStream
		for i := range 10 {
			d := f.connect()
			all = append(all, d)
			for range 1 + 5*(i%2) {
				s := newFakeStream(100 << 10)
				f.subscribe(d, old, "old", s, 1)
				streams = append(streams, s)
			}
		}
		live, head := &fakeRoom{memory: 1}, newFakeStream(plenty)
		d := f.connect()
		all = append(all, d)
		f.subscribe(d, live, "live", head, 1)
		synctest.Wait()
		if f.catchUp.workers > maxWorkers {
			t.Errorf("%d workers, at most %d are allowed", f.catchUp.workers, maxWorkers)
		}
		began := time.Now()
		live.publish(10)
		synctest.Wait()
		if head.seqs(t) != 1 || time.Since(began) > 0 {
			t.Errorf("the reader at the head has %d messages after %v, want 1 at once", head.seqs(t), time.Since(began))
		}
		for _, s := range streams {
			s.allow(plenty)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for i, s := range streams {
			if n := s.seqs(t); n != 200 {
				t.Errorf("reader %d has %d messages, want 200", i, n)
			}
		}
		f.end(all...)
		if f.catchUp.workers != 0 {
			t.Errorf("%d workers are left", f.catchUp.workers)
		}
	})
}

// The lane serves connections in turn, not cursors.
func TestCatchUpInTurn(t *testing.T) {
	f := newFixture(t)
	f.catchUp.workers = maxWorkers // none comes
	crowd, single := f.connect(), f.connect()
	r := &fakeRoom{memory: 1}
	for range 40 {
		r.publish(100_000)
	}
	lag := func(d *delivery) *fakeStream {
		s := newFakeStream(plenty)
		c := &cursor{delivery: d, stream: s, source: r, room: "r", client: &net.UDPAddr{}, feed: f.feeds.join("r", r), ended: func() {}}
		c.watch = &fakeWatch{room: r, cursor: c}
		c.setNext(1)
		d.mu.Lock()
		defer d.mu.Unlock()
		c.place = len(d.cursors)
		d.cursors = append(d.cursors, c)
		d.lag(c)
		return s
	}
	for range 10 {
		lag(crowd)
	}
	s := lag(single)
	var buf []byte
	for range 6 {
		buf = f.catchUp.next().catchTurn(buf)
	}
	if got := len(s.got); got < 3*turnBytes || got > 3*(turnBytes+readBytes) {
		t.Errorf("one of two connections has got %d bytes in six turns, want three turns of %d", got, turnBytes)
	}
	for len(f.catchUp.queue) > 0 {
		buf = f.catchUp.next().catchTurn(buf)
	}
	f.end(crowd, single)
}

// Gaps, large blocks and what is older than memory come by the lane.
func TestCatchUpGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.connect()
		r := &fakeRoom{memory: 5, first: 11}
		for i := range 40 {
			r.publish(i * 5000)
		}
		s := newFakeStream(plenty)
		c := f.subscribe(d, r, "r", s, 3)
		time.Sleep(time.Second)
		synctest.Wait()
		s.got = append(wire.Append(nil, &wire.Gap{From: 1, To: 2}), s.got...) // what was not asked for
		if got := s.seqs(t); got != 40 {
			t.Errorf("the reader has seqs to %d, want 40", got)
		}
		if w := c.watch.(*fakeWatch); w.delivered != 30 {
			t.Errorf("%d messages are told as delivered, want 30", w.delivered)
		}
		f.end(d)
	})
}

// TestCatchUpAllTrimmed: who has been told a gap up to the head waits like others.
func TestCatchUpAllTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.connect()
		r := &fakeRoom{first: 11}
		for range 10 {
			r.publish(10)
		}
		s := newFakeStream(plenty)
		f.subscribe(d, r, "r", s, 1)
		synctest.Wait()
		before := r.howMany()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := r.howMany() - before; n > 0 || s.seqs(t) != 10 {
			t.Errorf("the reader knows of %d seqs, want 10; then the log was read %d times in a second", s.seqs(t), n)
		}
		r.publish(10)
		synctest.Wait()
		time.Sleep(time.Second)
		if got := s.seqs(t); got != 11 {
			t.Errorf("then the reader has seqs to %d, want 11", got)
		}
		f.end(d)
	})
}

// TestFirstStalls: streams that stall for the first time in the same flush, on large
// messages, share the patience that there is.
func TestFirstStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.connect()
		r := &fakeRoom{memory: 1}
		for range 200 {
			f.subscribe(d, r, "r", newFakeStream(1500), 1)
		}
		good := newFakeStream(plenty)
		f.subscribe(d, r, "r", good, 1)
		synctest.Wait()
		r.publish(3000)
		time.Sleep(impatience + 2*200*minPatience)
		synctest.Wait()
		if good.seqs(t) != 1 {
			t.Errorf("a stream that is read waits for 200 that are not")
		}
		if n := d.unproven.Load(); n > maxUnprovenAll {
			t.Errorf("%d bytes may lie unsent", n)
		}
		f.end(d)
		if n := d.unproven.Load(); n != 0 {
			t.Errorf("%d bytes may lie unsent when all have left", n)
		}
	})
}

// Who has everything is sent away when the node stops or its replica is stale.
func TestSentAway(t *testing.T) {
	for name, away := range map[string]func(*fakeRoom, *delivery){
		"the node stops":                   func(_ *fakeRoom, d *delivery) { d.drain() },
		"this replica has lost its leader": func(r *fakeRoom, _ *delivery) { r.turnStale() },
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			d := f.connect()
			r := &fakeRoom{memory: 1}
			r.publish(10)
			s := newFakeStream(plenty)
			c := f.subscribe(d, r, "r", s, 1)
			synctest.Wait()
			away(r, d)
			synctest.Wait()
			last := wire.Append(nil, &wire.Redirect{Reason: name})
			if s.seqs(t) != 1 || !bytes.HasSuffix(s.got, last) || !s.closed {
				t.Errorf("%s: the stream ends with %q", name, s.got)
			}
			if c.state != gone || !c.watch.(*fakeWatch).left || len(d.cursors)+len(f.feeds.rooms) > 0 {
				t.Errorf("%s: the cursor is still there", name)
			}
			f.end(d)
		})
	}
}

// A connection is handed no more than maxUnacked until something comes back.
func TestUnacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &silentConn{received: 1}
		conn.rtt.Store(int64(20 * time.Millisecond))
		u := unacked{conn: conn}
		taken := func() (n int) {
			for u.take(32<<10) == 0 {
				n += 32 << 10
			}
			return n
		}
		if n := taken(); n != maxUnacked {
			t.Errorf("%d bytes are taken in the first round, want %d", n, maxUnacked)
		}
		time.Sleep(19 * time.Millisecond)
		conn.received++
		if n := taken(); n != 0 {
			t.Errorf("%d bytes more are taken before the round trip is over", n)
		}
		time.Sleep(time.Millisecond)
		if n := taken(); n != maxUnacked {
			t.Errorf("%d bytes are taken in a round, want %d", n, maxUnacked)
		}
		time.Sleep(time.Hour)
		if n := taken(); n != 0 {
			t.Errorf("%d bytes are taken while nothing comes back", n)
		}
		conn.received++
		if n := taken(); n != maxUnacked {
			t.Errorf("%d bytes are taken in the next round, want %d", n, maxUnacked)
		}
		u.giveBack(100 << 10)
		if n := taken(); n != 96<<10 {
			t.Errorf("%d bytes are taken of 100 KiB given back", n)
		}
	})
}

type silentConn struct {
	received uint64
	rtt      atomic.Int64
}

func (c *silentConn) ConnectionStats() quic.ConnectionStats {
	return quic.ConnectionStats{PacketsReceived: c.received, SmoothedRTT: time.Duration(c.rtt.Load())}
}
