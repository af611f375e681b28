package partition

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// fill gives a machine rooms with a message each, in entries of many.
func fill(t testing.TB, m *Machine, rooms int, now int64) {
	t.Helper()
	var p packer
	index, session := m.index, SessionID{1}
	apply := func(data []byte) {
		index++
		if out, err := m.Apply(index, data); err != nil || len(out.Answers) > 0 && out.Answers[0].Err != nil {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	apply(encodeOpen(now, time.Hour, []SessionID{session}))
	pub := &Publisher{session: session}
	const each = 1000
	messages := make([]item, 0, each)
	for i := 0; i < rooms; i += len(messages) {
		messages = messages[:0]
		for k := i; k < min(i+each, rooms); k++ {
			messages = append(messages, item{kind: kindPublish, bundle: bundle{from: pub, counter: Counter(k) + 1, count: 1, floor: Counter(i) + 1, room: fmt.Appendf(nil, "room-%07d", k), records: appendBlockRecord(nil, []byte("x"))}})
		}
		data, _ := p.pack(now, messages)
		apply(data)
	}
	apply(encodeClose(now, []SessionID{session}))
}

// meteredLock notes how long it was held.
type meteredLock struct {
	sync.Locker
	since time.Time
	held  []time.Duration
}

func (l *meteredLock) Lock() { l.Locker.Lock(); l.since = time.Now() }
func (l *meteredLock) Unlock() {
	l.held = append(l.held, time.Since(l.since))
	l.Locker.Unlock()
}

// TestCheckpointHoldsNobody: with a million rooms and a full session table a
// checkpoint is applied in less than a millisecond, and so is what waits for
// the steps in which the snapshot is written. The scheduler of a busy machine
// may stretch single steps: the 99th percentile is judged.
func TestCheckpointHoldsNobody(t *testing.T) {
	rooms, limit := 1_000_000, time.Millisecond
	if underRace {
		rooms, limit = 100_000, 20*time.Millisecond
	}
	m := NewMachine()
	fill(t, m, rooms, 1)
	ids := make([]SessionID, maxSessions)
	for i := range ids {
		ids[i] = SessionID{2, byte(i), byte(i >> 8), byte(i >> 16)}
	}
	if _, err := m.Apply(m.index+1, encodeOpen(1, time.Hour, ids)); err != nil {
		t.Fatal(err)
	}
	data := encodeCheckpoint(2, 0)
	began := time.Now()
	out, err := m.Apply(m.index+1, data)
	if took := time.Since(began); took > limit || err != nil || !out.Checkpoint {
		t.Errorf("the checkpoint took %v: %+v, %v", took, out, err)
	}
	var mu sync.RWMutex
	read, write := &meteredLock{Locker: mu.RLocker()}, &meteredLock{Locker: &mu}
	v, size := m.view, &counter{}
	if err := v.writeRooms(m, read, 1, io.Discard, onward); err != nil {
		t.Fatal(err)
	}
	if err := v.writeSnapshot(m, read, size, onward); err != nil {
		t.Fatal(err)
	}
	if err := v.settle(m, write, onward); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*meteredLock{"writing": read, "settling": write} {
		slices.Sort(l.held)
		p99 := l.held[len(l.held)*99/100]
		t.Logf("%s: %d steps, p50 %v, p99 %v, max %v", name, len(l.held), l.held[len(l.held)/2], p99, l.held[len(l.held)-1])
		if p99 > limit {
			t.Errorf("%s held the lock for %v", name, p99)
		}
	}
	t.Logf("the snapshot has %d bytes", size.n)
}

type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var st runtime.MemStats
	runtime.ReadMemStats(&st)
	return st.HeapAlloc
}

// TestIdleRoomBytes: an idle room costs at most 300 bytes, as long as it is in
// the open chunk, when it is in a file, and after a restart.
func TestIdleRoomBytes(t *testing.T) {
	const rooms = 100_000
	before := heap()
	m := NewMachine()
	check := func(when string) {
		t.Helper()
		each := float64(heap()-before) / rooms
		t.Logf("%s: %.0f bytes a room", when, each)
		if each > 300 {
			t.Errorf("%s a room costs %.0f bytes", when, each)
		}
	}
	fill(t, m, rooms, 1)
	m.scratch = entry{}
	check("in the open chunk")
	m.Apply(m.index+1, encodeCheckpoint(2, 0))
	if err := m.settle(1); err != nil {
		t.Fatal(err)
	}
	check("in a file")
	m.Apply(m.index+1, encodeCheckpoint(2, m.chunks.last()))
	var snap bytes.Buffer
	m.view.writeRooms(m, noLock{}, 1, io.Discard, onward)
	if err := m.view.writeSnapshot(m, noLock{}, &snap, onward); err != nil {
		t.Fatal(err)
	}
	index := m.index
	m = nil
	saved := bytes.Clone(snap.Bytes())
	snap = bytes.Buffer{}
	before = heap()
	m, err := readSnapshot(index, bytes.NewReader(saved))
	if err != nil || m.table.len() != rooms {
		t.Fatal(err)
	}
	check("restored")
	runtime.KeepAlive(m)
	runtime.KeepAlive(saved)
}

// TestIndexBytes: the index of a room with many messages is a small part of them,
// in memory and in the files.
func TestIndexBytes(t *testing.T) {
	m := NewMachine()
	var files counter
	session := &Publisher{session: SessionID{1}}
	m.Apply(1, encodeOpen(1, time.Hour, []SessionID{session.session}))
	const messages, each = 1_000_000, 64
	batch := make([]item, each)
	records := appendBlockRecord(nil, bytes.Repeat([]byte("x"), 128))
	var p packer
	before := heap()
	for i := 0; i < messages; i += each {
		for k := range batch {
			batch[k] = item{kind: kindPublish, bundle: bundle{from: session, counter: Counter(i + k + 1), count: 1, floor: Counter(i + 1), room: []byte("busy"), records: records}}
		}
		data, _ := p.pack(int64(i)*1000, batch)
		m.Apply(m.index+1, data)
		if m.chunks.open.bytes > 32<<20 {
			m.Apply(m.index+1, encodeCheckpoint(int64(i)*1000, m.chunks.last()))
			m.view.writeRooms(m, noLock{}, 1, &files, onward)
			m.view.settle(m, noLock{}, onward)
		}
	}
	memory := max(heap(), before) - before
	t.Logf("1 M messages in %d chunks: %d bytes of memory, %d bytes of files", len(m.chunks.closed), memory, files.n)
	if memory > 1<<20 || files.n > 1<<20 || len(m.chunks.closed) < 2 {
		t.Errorf("1 M messages in %d chunks cost %d bytes of memory, %d bytes of files", len(m.chunks.closed), memory, files.n)
	}
	runtime.KeepAlive(m)
}

// TestFreezeTwice: a second view would take the first one's pre-images.
func TestFreezeTwice(t *testing.T) {
	m := NewMachine()
	m.Apply(1, encodeCheckpoint(1, 0))
	defer func() {
		if recover() == nil {
			t.Error("a second checkpoint passed before the first view was settled")
		}
	}()
	m.Apply(2, encodeCheckpoint(1, 1))
}

// TestViewStops: whoever writes a view can be told to stop between any pages.
func TestViewStops(t *testing.T) {
	m := NewMachine()
	fill(t, m, 3*viewPage, 1)
	m.Apply(m.index+1, encodeOpen(1, time.Hour, []SessionID{{1}, {2}}))
	m.Apply(m.index+1, encodeCheckpoint(2, 0))
	v := m.view
	for steps := 0; ; steps++ {
		left := steps
		goOn := func() error {
			if left--; left < 0 {
				return io.ErrClosedPipe
			}
			return nil
		}
		err := v.writeRooms(m, noLock{}, 1, io.Discard, goOn)
		if err == nil {
			err = v.writeSnapshot(m, noLock{}, io.Discard, goOn)
		}
		if err == nil {
			err = v.settle(m, noLock{}, goOn)
		}
		if err == nil {
			if steps != 3+1+3+3 {
				t.Errorf("it could be stopped %d times", steps)
			}
			break
		}
		if err != io.ErrClosedPipe || m.view == nil {
			t.Fatalf("stopped after %d steps: %v", steps, err)
		}
	}
	m.checked(t)
}

// BenchmarkSnapshot writes one of 100,000 rooms.
func BenchmarkSnapshot(b *testing.B) {
	m := NewMachine()
	fill(b, m, 100_000, 1)
	m.Apply(m.index+1, encodeCheckpoint(2, 0))
	m.view.writeRooms(m, noLock{}, 1, io.Discard, onward)
	var snap bytes.Buffer
	m.view.writeSnapshot(m, noLock{}, &snap, onward)
	b.Run("write", func(b *testing.B) {
		b.SetBytes(int64(snap.Len()))
		for b.Loop() {
			m.view.writeSnapshot(m, noLock{}, io.Discard, onward)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(int64(snap.Len()))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readSnapshot(m.index, bytes.NewReader(snap.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

var _ entryReader = (*raftlog.Group)(nil)
