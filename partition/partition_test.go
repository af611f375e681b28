package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/raftlog/vfs"
)

// alone is the network of a group of one: nobody comes and nobody is called.
type alone struct {
	raftlog.StreamLayer
	once   *sync.Once
	closed chan struct{}
}

func newAlone() raftlog.StreamLayer {
	return alone{once: new(sync.Once), closed: make(chan struct{})}
}

func (a alone) Accept() (net.Conn, error) {
	<-a.closed
	return nil, net.ErrClosed
}

func (a alone) Close() error {
	a.once.Do(func() { close(a.closed) })
	return nil
}

func (a alone) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (a alone) Up(string) bool                             { return false }
func (a alone) WaitUp(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }

// replica is a partition of one replica in a folder, which it survives.
type replica struct {
	*Partition
	dir    string
	cfg    Config
	stable *raftlog.StableStore
	fatal  chan error
}

func openReplica(t *testing.T, cfg Config) *replica {
	t.Helper()
	r := &replica{dir: t.TempDir(), cfg: cfg, fatal: make(chan error, 10)}
	r.open(t)
	t.Cleanup(func() { r.close(t) })
	return r
}

func (r *replica) open(t *testing.T) {
	t.Helper()
	var err error
	if r.stable, err = raftlog.OpenStable(filepath.Join(r.dir, "stable.db")); err != nil {
		t.Fatal(err)
	}
	leads := make(chan struct{}, 100)
	cfg := r.cfg
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Group.ID = 3
	cfg.Group.Node, cfg.Group.Voters = "n1", []string{"n1"}
	cfg.Group.Dir, cfg.Group.Stable = filepath.Join(r.dir, "group"), r.stable
	cfg.Group.Streams, cfg.Group.Links = newAlone, newAlone().(alone)
	cfg.Group.Heartbeat = 20 * time.Millisecond
	cfg.Group.Logger = cfg.Logger
	cfg.Group.Fatal = func(err error) { r.fatal <- err }
	cfg.Group.LeaderChanged = func(leader string, _ raftlog.Term) {
		if leader != "" {
			leads <- struct{}{}
		}
	}
	if r.Partition, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	receive(t, leads)
	if err := r.group.Confirm(deadline(t)); err != nil {
		t.Fatal(err)
	}
}

// close ends the replica, once.
func (r *replica) close(t *testing.T) {
	t.Helper()
	if r.Partition == nil {
		return
	}
	if err := errors.Join(r.Close(), r.stable.Close()); err != nil {
		t.Error(err)
	}
	r.Partition = nil
}

func (r *replica) reopen(t *testing.T) {
	t.Helper()
	r.close(t)
	r.open(t)
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
	}
	return v
}

// session opens one and returns its publisher.
func (r *replica) session(t *testing.T, name string) (*Publisher, *events) {
	t.Helper()
	e := newEvents()
	pub := r.Attach(sessionID(name), e)
	pub.Open()
	if ev := e.next(t); ev != (openedEvent{}) {
		t.Fatalf("session %s: %+v", name, ev)
	}
	return pub, e
}

// send publishes a message to each room, in order, and waits for the acks.
func send(t *testing.T, pub *Publisher, e *events, from Counter, rooms ...string) (acks []Answer) {
	t.Helper()
	for i, room := range rooms {
		c := from + Counter(i)
		pub.Publish(c, from, []byte("n"), []byte(room), []byte(fmt.Sprint("m", c)))
	}
	for n := 0; n < len(rooms); {
		ev := e.next(t)
		answers, ok := ev.([]Answer)
		if !ok {
			t.Fatalf("told %+v", ev)
		}
		for _, a := range answers {
			n += a.Count
		}
		acks = append(acks, answers...)
	}
	return acks
}

// readAll reads a room from seq next to its end, maxBytes at a time.
func (r *replica) readAll(t *testing.T, room string, next Seq, maxBytes int) (all []got) {
	t.Helper()
	for {
		batch, err := r.Read(room, next, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		if batch.Wait != nil {
			return all
		}
		if batch.Gap != nil || len(batch.Blocks) == 0 || batch.Blocks[0].First != next {
			t.Fatalf("room %s from %d: %+v", room, next, batch)
		}
		for i, b := range batch.Blocks {
			records, err := readBlock(b)
			if err != nil {
				t.Fatal(err)
			}
			if maxBytes == 1 && i > 0 {
				t.Fatalf("more than one block of %d bytes for one byte asked", len(b.Data))
			}
			all = append(all, records...)
		}
		next = batch.Next
		if batch.Next != batch.Blocks[len(batch.Blocks)-1].Last+1 {
			t.Fatalf("next is %d behind seq %d", batch.Next, batch.Blocks[len(batch.Blocks)-1].Last)
		}
	}
}

// checkRooms reads every room from every seq and compares with what it got from
// seq 1. It returns that.
func (r *replica) checkRooms(t *testing.T) map[string][]got {
	t.Helper()
	rooms := map[string][]got{}
	for _, st := range r.Rooms() {
		all := r.readAll(t, st.Room, 1, 1<<20)
		if Seq(len(all)) != st.Last || st.First != 1 || st.Partition != 3 {
			t.Fatalf("room %s: %d messages, %+v", st.Room, len(all), st)
		}
		for next := Seq(1); next <= st.Last+1; next++ {
			for _, maxBytes := range []int{0, 1, 30, 1 << 20} {
				if got := r.readAll(t, st.Room, next, maxBytes); !slices.Equal(got, all[next-1:]) {
					t.Fatalf("room %s from %d: %v, want %v", st.Room, next, got, all[next-1:])
				}
			}
		}
		rooms[st.Room] = all
	}
	return rooms
}

// TestPartitionLife publishes, reads from the tail and from the log, and comes
// back after a restart with the same rooms, answers and hash.
func TestPartitionLife(t *testing.T) {
	r := openReplica(t, Config{})
	anna, told := r.session(t, "anna")
	ben, toldBen := r.session(t, "ben")
	rooms := []string{"lobby", "match", "lobby", "a", "lobby", "b", "match"}
	first := send(t, anna, told, 1, rooms...)
	send(t, ben, toldBen, 1, "lobby", "a")
	send(t, anna, told, 8, rooms...)
	again := packed(time.Now().UnixNano(), // counter 2 once more: dropped from its block
		sent{session: "ben", counter: 2, floor: 1, room: "a", payload: "m2"},
		sent{session: "ben", counter: 3, floor: 1, room: "a", payload: "m3"},
		sent{session: "ben", counter: 4, floor: 1, room: "lobby", payload: "m4"},
	)
	if out, err := r.group.Propose(again).Wait(deadline(t)); err != nil || fmt.Sprint(out.(Outcome).Blocks[0].Dropped) != "[0]" {
		t.Fatalf("%+v, %v", out, err)
	}
	want := r.checkRooms(t)
	if len(want) != 4 || len(want["lobby"]) != 8 {
		t.Fatalf("rooms %v", want)
	}
	if l, st := r.Room("lobby"), r.Status(); l.Last != 8 || l.Rate != 0.8 || st.Rooms != 4 || st.Sessions != 2 || st.Partition != 3 {
		t.Errorf("lobby %+v, status %+v", l, st)
	}
	hash := r.Status().Hash

	r.cfg.TailBytes, r.cfg.Group.RingBytes = 1, 1 // from the log on disk from now on
	r.reopen(t)
	if got := r.checkRooms(t); fmt.Sprint(got) != fmt.Sprint(want) || r.Status().Hash != hash {
		t.Errorf("after a restart hash %x and rooms\n%v\nwant %x\n%v", r.Status().Hash, got, hash, want)
	}
	back := newEvents()
	if acks := send(t, r.Attach(sessionID("anna"), back), back, 8, rooms...); !acks[0].Duplicate {
		t.Errorf("a repeat after the restart: %+v", acks)
	}
	late := newEvents()
	r.Attach(sessionID("anna"), late).Publish(1, 1, []byte("n"), []byte("lobby"), []byte("m1"))
	var order *OutOfOrderError
	if ev, ok := late.next(t).(Refusal); !ok || !errors.As(ev.Err, &order) || order.Want != 15 {
		t.Errorf("a repeat of what the client has (%+v): %+v", first[0], ev)
	}
	if got := r.checkRooms(t); fmt.Sprint(got) != fmt.Sprint(want) || r.Status().Hash != hash {
		t.Errorf("repeats changed the rooms to %v", got)
	}
}

// TestPartitionFollow: readers who wait are woken by what they wait for, and
// all see every message once, in order, while it is published.
func TestPartitionFollow(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 2000, Group: raftlog.Config{RingBytes: 2000}})
	const publishers, each = 3, 60
	var running sync.WaitGroup
	logs := make([][]got, 4)
	errs := make(chan error, 100)
	ctx := deadline(t)
	for i := range logs {
		running.Go(func() {
			cursor := cursorAt(1, "")
			w := r.Watch("lobby", cursor)
			defer w.Leave()
			for next := Seq(1); next <= publishers*each; {
				batch, err := r.Read("lobby", next, 1+i*300)
				for _, b := range batch.Blocks {
					records, err := readBlock(b)
					logs[i] = append(logs[i], records...)
					if err != nil {
						errs <- err
						return
					}
				}
				if err != nil {
					errs <- err
					return
				}
				next = batch.Next
				cursor.next.Store(uint64(next))
				w.Delivered(time.Now(), batch.Blocks)
				if batch.Wait != nil {
					select {
					case <-batch.Wait:
					case <-ctx.Done():
						errs <- fmt.Errorf("reader %d waits for seq %d for ever", i, next)
						return
					}
				}
			}
		})
	}
	for i := range publishers {
		pub, told := r.session(t, fmt.Sprint("s", i))
		running.Go(func() {
			for c := Counter(1); c <= each; c += 3 {
				for k := range Counter(3) {
					pub.Publish(c+k, c, nil, []byte("lobby"), []byte(fmt.Sprint("m", c+k)))
					pub.Publish(c+k, c, nil, []byte("lobby"), []byte(fmt.Sprint("m", c+k)))
				}
				for n := 0; n < 6; {
					ev, _ := told.within(20 * time.Second)
					answers, ok := ev.([]Answer)
					if !ok {
						errs <- fmt.Errorf("told %+v", ev)
						return
					}
					for _, a := range answers {
						n += a.Count
					}
				}
			}
		})
	}
	running.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	for i, log := range logs {
		if !slices.Equal(log, logs[0]) || len(log) != publishers*each || log[len(log)-1].seq != publishers*each {
			t.Errorf("reader %d has %d messages, reader 0 %d", i, len(log), len(logs[0]))
		}
	}
	if n := len(r.waits) + len(r.watched); n != 0 {
		t.Errorf("%d rooms are still waited for", n)
	}
}

// TestReadAppliedAhead: the machine knows an entry a moment before the log hands
// it out. A reader who comes then is asked to come again.
func TestReadAppliedAhead(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 1})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	index := r.machine.index + 1000
	applier{r.Partition}.Apply([]raftlog.Entry{
		{Index: index, Data: packed(1, sent{session: "anna", counter: 2, room: "lobby"})},
		{Index: index + 1, Data: packed(1, sent{session: "anna", counter: 3, room: "other"})},
	})
	batch, err := r.Read("lobby", 1, 1000)
	if err != nil || len(batch.Blocks) != 1 || batch.Next != 2 || batch.Wait != nil {
		t.Errorf("what the log has: %+v, %v", batch, err)
	}
	batch, err = r.Read("lobby", 2, 1000)
	if err != nil || len(batch.Blocks) != 0 || batch.Next != 2 || batch.Wait == nil {
		t.Fatalf("what it is about to have: %+v, %v", batch, err)
	}
	receive(t, batch.Wait)
}

func TestReadWaits(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	expectWait := func(room string, next Seq) <-chan struct{} {
		t.Helper()
		batch, err := r.Read(room, next, 100)
		if err != nil || batch.Wait == nil || batch.Next != next || len(batch.Blocks) > 0 {
			t.Fatalf("got %+v, %v", batch, err)
		}
		return batch.Wait
	}
	asleep := func(wait <-chan struct{}) {
		t.Helper()
		select {
		case <-wait:
			t.Error("woken for nothing")
		default:
		}
	}
	unknown, other := expectWait("lobby", 1), expectWait("other", 1)
	if expectWait("lobby", 1) != unknown {
		t.Error("two channels for one room")
	}
	send(t, pub, told, 1, "lobby")
	receive(t, unknown)
	asleep(other)
	head := expectWait("lobby", 2)
	send(t, pub, told, 2, "match")
	asleep(head)
	if acks := send(t, pub, told, 2, "match"); !acks[0].Duplicate { // repeats are nothing new
		t.Errorf("a repeat: %+v", acks)
	}
	asleep(head)
	send(t, pub, told, 3, "lobby")
	receive(t, head)

	// It came between the reader's look and its wait.
	if batch := r.wait("lobby", 2); batch.Wait != ready {
		t.Error("a reader waits for what is there")
	}
}

// TestReadGap: what retention has removed is told as a gap, once.
func TestReadGap(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby", "lobby", "lobby", "lobby")
	r.mu.Lock()
	lobby := r.machine.rooms["lobby"]
	held := lobby.hot[0].index // the places before 3 go
	r.machine.chunks.held, lobby.hot = held, []place{{first: 1, index: held}, {first: 3, index: held + 1}}
	r.mu.Unlock()
	for next := Seq(1); next <= 3; next++ {
		batch, err := r.Read("lobby", next, 1000)
		switch {
		case err != nil:
			t.Fatal(err)
		case next < 3 && (batch.Gap == nil || *batch.Gap != Gap{next, 2} || batch.Next != 3 || batch.Blocks != nil || batch.Wait != nil):
			t.Errorf("from %d: %+v", next, batch)
		case next == 3 && (batch.Gap != nil || len(batch.Blocks) == 0 || batch.Blocks[0].First != 3):
			t.Errorf("from %d: %+v", next, batch)
		}
	}
	if first, last := r.Head("lobby"); first != 3 || last != 4 {
		t.Errorf("it holds %d to %d", first, last)
	}
}

// TestReadFails: a reader is told when the log cannot be read.
func TestReadFails(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 1, Group: raftlog.Config{RingBytes: 1}})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	send(t, pub, told, 2, "match")
	r.mu.Lock()
	places := r.machine.rooms["lobby"].hot
	right := places[0]
	for name, index := range map[string]raftlog.Index{
		"another room's entry": r.machine.rooms["match"].hot[0].index,
		"a configuration":      1,
	} {
		places[0].index = index
		r.mu.Unlock()
		if batch, err := r.Read("lobby", 1, 1000); err == nil {
			t.Errorf("%s gives %+v", name, batch)
		}
		r.mu.Lock()
	}
	places[0] = right
	r.mu.Unlock()
	p := r.Partition
	r.close(t)
	if batch, err := p.Read("lobby", 1, 1000); err == nil {
		t.Errorf("a closed log gives %+v", batch)
	}
}

// TestTick: it comes about once a second and wakes who waits loosely.
func TestTick(t *testing.T) {
	r := openReplica(t, Config{})
	batch, err := r.Read("nowhere", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, batch.Wait)
}

// TestWaitsForgotten: to ask for rooms that nobody publishes to costs nothing
// for long.
func TestWaitsForgotten(t *testing.T) {
	r := openReplica(t, Config{})
	leave := r.Watch("watched", cursorAt(1, "")).Leave
	leaveToo := r.Watch("watched", cursorAt(1, "")).Leave
	var waits []<-chan struct{}
	for i := range 100 {
		batch, _ := r.Read(fmt.Sprint("room-", i), 1, 1)
		waits = append(waits, batch.Wait)
	}
	watched, _ := r.Read("watched", 1, 1)
	late, _ := r.Read("watched late", 1, 1)
	leaveLate := r.Watch("watched late", cursorAt(1, "")).Leave
	r.wakeLoose()
	for _, wait := range waits {
		receive(t, wait)
	}
	open := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return false
		default:
			return true
		}
	}
	if !open(late.Wait) {
		t.Error("a room that has a subscriber by now was woken")
	}
	leaveLate()
	receive(t, late.Wait)
	leave()
	if !open(watched.Wait) || len(r.waits) != 1 || len(r.loose) != 0 {
		t.Errorf("a subscriber is left and woken; %d rooms are waited for, %d loosely", len(r.waits), len(r.loose))
	}
	leaveToo()
	receive(t, watched.Wait)
	if len(r.waits) != 0 || len(r.watched) != 0 {
		t.Errorf("%d rooms are waited for, %d watched", len(r.waits), len(r.watched))
	}
}

func TestPlaceAndHead(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	var times []int64
	for c := range Counter(3) {
		times = append(times, send(t, pub, told, c+1, "lobby")[0].Time)
	}
	ctx := deadline(t)
	for _, tt := range []struct {
		name string
		room string
		time int64
		want string
	}{
		{"a room never used", "nowhere", times[0], "1 0 1"},
		{"long before", "lobby", 0, "1 3 1"},
		{"at the first", "lobby", times[0], "1 3 1"},
		{"behind the first", "lobby", times[0] + 1, "1 3 2"},
		{"at the last", "lobby", times[2], "1 3 3"},
		{"behind the last", "lobby", times[2] + 1, "1 3 4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, last, at, err := r.Place(ctx, tt.room, tt.time)
			if got := fmt.Sprint(first, last, at); err != nil || got != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
	for _, tt := range []struct {
		room string
		next Seq
		head Seq
		fail bool
	}{
		{"lobby", 1, 3, false}, {"lobby", 4, 3, false}, {"lobby", 5, 3, true},
		{"nowhere", 1, 0, false}, {"nowhere", 2, 0, true},
	} {
		var beyond *BeyondHeadError
		err := r.CheckBeyond(ctx, tt.room, tt.next)
		switch {
		case !tt.fail && err != nil:
			t.Errorf("%s from %d: %v", tt.room, tt.next, err)
		case tt.fail && (!errors.As(err, &beyond) || *beyond != BeyondHeadError{tt.room, tt.next, tt.head}):
			t.Errorf("%s from %d: %v", tt.room, tt.next, err)
		}
		if _, last := r.Head(tt.room); last != tt.head {
			t.Errorf("%s: head %d, want %d", tt.room, last, tt.head)
		}
	}
	p := r.Partition
	r.close(t)
	if _, _, _, err := p.Place(ctx, "lobby", 0); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a closed one tells the place: %v", err)
	}
	if err := p.CheckBeyond(ctx, "lobby", 9); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a closed one tells the head: %v", err)
	}
}

// TestSessionExpiry: by the clock of the log, whether something is published or
// ticks alone keep it going.
func TestSessionExpiry(t *testing.T) {
	r := openReplica(t, Config{SessionTTL: time.Nanosecond})
	expired, told := r.session(t, "anna")
	r.session(t, "ben") // time passes
	publishTo(expired, 1, 2)
	if ev, ok := told.next(t).(Refusal); !ok || ev.Counter != 1 || !errors.Is(ev.Err, ErrSessionExpired) || ev.Maybe {
		t.Errorf("told %+v", ev)
	}
	r.session(t, "eve")
	idle := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.applied = time.Time{}
	}
	for range 2 { // the first tick may fall on the same nanosecond
		idle()
		r.expire()
		if err := r.group.Barrier(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.Status().Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	last := r.Status().HashIndex
	idle()
	r.expire()
	if err := r.group.Barrier(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if got := r.Status().HashIndex; got != last {
		t.Errorf("a tick without sessions at %d", got)
	}
}

func TestOverload(t *testing.T) {
	r := openReplica(t, Config{QueueBytes: 5 * (itemCost + 2)})
	pub, told := r.session(t, "anna")
	const many = 10_000
	for c := range Counter(many) {
		pub.Publish(c+1, 1, nil, []byte("r"), []byte("x"))
	}
	acked := Counter(0)
	for {
		switch ev := told.next(t).(type) {
		case []Answer:
			for _, a := range ev {
				if a.Counter != acked+1 {
					t.Fatalf("%d acked behind %d", a.Counter, acked)
				}
				acked += Counter(a.Count)
			}
			continue
		case Refusal:
			if ev.Counter != acked+1 || !errors.Is(ev.Err, ErrOverloaded) || ev.Maybe || ev.RetryAfter < minRetryAfter {
				t.Errorf("behind %d acked: %+v", acked, ev)
			}
		}
		break
	}
	if acked == many || acked < 5 {
		t.Errorf("%d of %d acked", acked, many)
	}
	if all := r.readAll(t, "r", 1, 1<<20); Counter(len(all)) != acked {
		t.Errorf("%d messages, %d acked", len(all), acked)
	}
}

// TestCloseAnswers: Close comes while all are publishing. Everybody gets an
// answer, and what was told is true of the log.
func TestCloseAnswers(t *testing.T) {
	r := openReplica(t, Config{})
	const publishers = 4
	var running sync.WaitGroup
	enough := make(chan struct{}, publishers)
	stories := make([][]any, publishers)
	counters := make([]Counter, publishers)
	for i := range publishers {
		pub, told := r.session(t, fmt.Sprint("s", i))
		running.Go(func() {
			for c := Counter(1); ; c++ {
				pub.Publish(c, 1, nil, []byte("r"), []byte(fmt.Sprint(i, " ", c)))
				counters[i] = c
				ev, ok := told.none()
				if !ok && c%50 == 0 {
					ev, ok = told.within(20 * time.Second)
				}
				if ok {
					stories[i] = append(stories[i], ev)
				}
				if _, refused := ev.(Refusal); refused || c == MaxWindow {
					break
				}
				if c == 200 {
					enough <- struct{}{}
				}
			}
			for n := len(stories[i]); ; n++ {
				if n > 0 {
					if _, refused := stories[i][n-1].(Refusal); refused {
						return
					}
				}
				ev, ok := told.within(20 * time.Second)
				if !ok {
					return // told below
				}
				stories[i] = append(stories[i], ev)
			}
		})
	}
	for range publishers {
		receive(t, enough)
	}
	r.close(t)
	running.Wait()
	r.open(t)
	logged := map[string]Seq{}
	for _, m := range r.readAll(t, "r", 1, 1<<20) {
		if logged[m.payload] != 0 {
			t.Fatalf("%q is there twice", m.payload)
		}
		logged[m.payload] = m.seq
	}
	for i, story := range stories {
		acked := map[Counter]bool{}
		for _, ev := range story {
			switch ev := ev.(type) {
			case []Answer:
				for _, a := range ev {
					for k := range a.Count {
						c := a.Counter + Counter(k)
						acked[c] = true
						if logged[fmt.Sprint(i, " ", c)] != a.Seq+Seq(k) {
							t.Fatalf("publisher %d: %d was acked with seq %d, it has %d", i, c, a.Seq+Seq(k), logged[fmt.Sprint(i, " ", c)])
						}
					}
				}
			case Refusal:
				for c := Counter(1); c <= counters[i]; c++ {
					if !acked[c] && (c < ev.Counter || !ev.Maybe && logged[fmt.Sprint(i, " ", c)] != 0) {
						t.Fatalf("publisher %d: %d is in the log as %d and was told %+v", i, c, logged[fmt.Sprint(i, " ", c)], ev)
					}
				}
				acked = nil
			}
		}
		if acked != nil {
			t.Fatalf("publisher %d waits for an answer", i)
		}
	}
}

// TestForeignEntries: what is malformed is passed over; a later version ends the
// node, and nothing is numbered behind it.
func TestForeignEntries(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	if result, err := r.group.Propose([]byte{entryVersion}).Wait(deadline(t)); err != nil || !errors.Is(result.(error), errMalformed) {
		t.Errorf("a malformed entry: %v, %v", result, err)
	}
	send(t, pub, told, 2, "lobby")
	if len(r.fatal) != 0 {
		t.Errorf("the node was ended: %v", <-r.fatal)
	}
	if result, err := r.group.Propose([]byte{entryVersion + 1}).Wait(deadline(t)); err != nil || !errors.Is(result.(error), errEntryVersion) {
		t.Errorf("a later version's entry: %v, %v", result, err)
	}
	if err := receive(t, r.fatal); !errors.Is(err, errEntryVersion) {
		t.Errorf("the node was ended for %v", err)
	}
	publishTo(pub, 3)
	if ev, ok := told.next(t).(Refusal); !ok || !ev.Maybe || !errors.Is(ev.Err, ErrOutcomeUnknown) {
		t.Errorf("behind it: %+v", ev)
	}
	if _, last := r.Head("lobby"); last != 2 {
		t.Errorf("the lobby goes on to %d", last)
	}
}

func TestStale(t *testing.T) {
	r := openReplica(t, Config{})
	fresh := r.Stale()
	r.checkStale()
	select {
	case <-fresh:
		t.Fatal("a leader is stale")
	default:
	}
	r.mu.Lock()
	r.isStale, r.stale = true, closedChan
	r.mu.Unlock()
	r.checkStale()
	fresh = r.Stale()
	select {
	case <-fresh:
		t.Fatal("stale though a leader is back")
	default:
	}
	p := r.Partition
	r.close(t)
	p.checkStale()
	p.checkStale()
	receive(t, fresh)
	receive(t, p.Stale())
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func TestWatchMeasures(t *testing.T) {
	metrics := NewMetrics()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.Collectors()...)
	r := openReplica(t, Config{Metrics: metrics})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby", "lobby")
	w := r.Watch("lobby", cursorAt(3, "a"))
	now := time.Now()
	w.Delivered(now, []Block{
		{First: 1, Last: 2, Time: now.Add(-time.Hour).UnixNano()}, // was there before it came
		{First: 3, Last: 92, Time: now.Add(-time.Second).UnixNano()},
		{First: 93, Last: 102, Time: now.Add(-10 * time.Second).UnixNano()},
	})
	st := r.Room("lobby")
	if st.Subscribers != 1 || st.Drift < 10*time.Second || st.Drift > 13*time.Second || st.Spread < 8*time.Second || st.Spread > 12*time.Second {
		t.Errorf("got %+v", st)
	}
	w.Leave()
	if st := r.Room("lobby"); st.Subscribers != 0 || st.Drift != 0 {
		t.Errorf("without subscribers: %+v", st)
	}
	p := fakePartition(1)
	p.metrics = metrics
	publishTo(p.Attach(SessionID{}, newEvents()), 1, 2)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			fmt.Fprintf(&b, "%s%v %v %v\n", f.GetName(), m.GetLabel(), m.GetCounter().GetValue()+m.GetGauge().GetValue(), m.GetHistogram().GetSampleCount())
		}
	}
	for _, want := range []string{
		"roomlog_messages_applied_total[] 2 0",
		"roomlog_messages_delivered_total[] 102 0",
		"roomlog_drift_seconds[] 0 2",
		"roomlog_subscriptions[] 0 0",
		`roomlog_publishes_refused_total[name:"reason" value:"overloaded"] 1 0`,
		`roomlog_entries_total[name:"outcome" value:"committed"]`,
	} {
		if !strings.Contains(strings.ReplaceAll(b.String(), "  ", " "), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestOpenFails(t *testing.T) {
	r := openReplica(t, Config{})
	cfg := r.Partition.cfg
	r.close(t)
	cfg.Group.Dir = filepath.Join(r.dir, "stable.db") // a file
	if p, err := Open(cfg); err == nil {
		t.Errorf("opened in a file: %v", p)
	}
}

// stuckFS holds back syncs while it is stuck.
type stuckFS struct {
	vfs.FS
	stuck sync.RWMutex
}

type stuckFile struct {
	vfs.File
	fs *stuckFS
}

func (f *stuckFS) Open(name string) (vfs.File, error) { return f.file(f.FS.Open(name)) }

func (f *stuckFS) Create(name string) (vfs.File, error) { return f.file(f.FS.Create(name)) }

func (f *stuckFS) file(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return stuckFile{file, f}, nil
}

func (f stuckFile) Sync() error {
	f.fs.stuck.RLock()
	defer f.fs.stuck.RUnlock()
	return f.File.Sync()
}

// TestStaleWhileStalled: a node that hangs on its disk sends its readers away.
func TestStaleWhileStalled(t *testing.T) {
	disk := &stuckFS{FS: vfs.OS}
	r := openReplica(t, Config{Group: raftlog.Config{FS: disk}})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	disk.stuck.Lock()
	stale := r.Stale()
	pub.Publish(2, 2, nil, []byte("lobby"), []byte("x"))
	until(t, "the log stalls", func() bool { return r.group.Status().Stalled })
	r.checkStale()
	select {
	case <-stale:
	default:
		t.Error("not stale")
	}
	disk.stuck.Unlock()
	told.next(t) // perhaps before the disk has answered
	until(t, "it is not stale when the disk answers", func() bool {
		r.checkStale()
		select {
		case <-r.Stale():
			return false
		default:
			return true
		}
	})
}
