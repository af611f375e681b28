package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
	"github.com/roomlog/roomlog/raftlog/vfs"
)

// until waits for something that is under way.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happens that %s", what)
		}
	}
}

// checkpoint makes one and waits for its snapshot.
func (r *replica) checkpoint(t *testing.T) raftlog.Index {
	t.Helper()
	r.mu.RLock()
	last := r.machine.chunks.last()
	r.mu.RUnlock()
	out, err := r.group.Propose(encodeCheckpoint(time.Now().UnixNano(), last)).Wait(deadline(t))
	if err != nil || !out.(Outcome).Checkpoint {
		t.Fatalf("%+v, %v", out, err)
	}
	index := r.Status().Checkpoint
	until(t, "the checkpoint is durable", func() bool {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.machine.view == nil && slices.Contains(r.group.Snapshots(), index)
	})
	return index
}

func (r *replica) trim(t *testing.T, floor raftlog.Index, prefixes ...prefixFloor) {
	t.Helper()
	out, err := r.group.Propose(encodeTrim(time.Now().UnixNano(), floor, prefixes)).Wait(deadline(t))
	if err != nil || !out.(Outcome).Trimmed {
		t.Fatalf("%+v, %v", out, err)
	}
}

func (r *replica) roomFiles(t *testing.T) (names []string) {
	t.Helper()
	names, err := vfs.OS.List(r.files.dir)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// publishAll publishes counters from..to to a, b and c in turns.
func publishAll(t *testing.T, pub *Publisher, told *events, from, to Counter) {
	t.Helper()
	for c := from; c <= to; c++ {
		send(t, pub, told, c, string(rune('a'+c%3)))
	}
}

// TestCheckpointLife: what is behind checkpoints is read from their files, also
// after a restart, which begins with the newest snapshot.
func TestCheckpointLife(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 1, Group: raftlog.Config{RingBytes: 1}})
	pub, told := r.session(t, "anna")
	var checkpoints []raftlog.Index
	for i := range Counter(4) {
		publishAll(t, pub, told, 1+10*i, 10+10*i)
		if i < 3 {
			checkpoints = append(checkpoints, r.checkpoint(t))
		}
	}
	want := r.checkRooms(t)
	if len(want) != 3 || len(want["a"])+len(want["b"])+len(want["c"]) != 40 {
		t.Fatalf("%v", want)
	}
	st := r.Status()
	if st.Chunks != 3 || st.Messages != 40 || st.Floor != 0 || st.Checkpoint != checkpoints[2] || len(r.roomFiles(t)) != 3 {
		t.Errorf("%+v", st)
	}
	r.reopen(t)
	if got := r.checkRooms(t); fmt.Sprint(got) != fmt.Sprint(want) || r.Status().Hash != st.Hash {
		t.Errorf("after a restart\n%v\nit was\n%v", got, want)
	}
	r.mu.RLock()
	spans := len(r.machine.rooms["a"].spans)
	r.mu.RUnlock()
	if spans != 3 {
		t.Errorf("room a has %d spans", spans)
	}
	back := newEvents()
	if acks := send(t, r.Attach(sessionID("anna"), back), back, 40, "b"); !acks[0].Duplicate {
		t.Errorf("a repeat after the restart: %+v", acks)
	}
	for i, at := range []Seq{2, 5, 9} {
		m := r.messageTime(t, "a", at)
		if _, _, got, err := r.Place(deadline(t), "a", m); err != nil || got > at || r.messageTime(t, "a", got) != m {
			t.Errorf("%d: at the time of seq %d it is %d, %v", i, at, got, err)
		}
	}
}

func (r *replica) messageTime(t *testing.T, room string, seq Seq) int64 {
	t.Helper()
	batch, err := r.Read(room, seq, 1)
	if err != nil || len(batch.Blocks) == 0 {
		t.Fatalf("%+v, %v", batch, err)
	}
	return batch.Blocks[0].Time
}

// TestTrimLife: what is trimmed is told as a gap, and goes from the disk.
func TestTrimLife(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 1, Group: raftlog.Config{RingBytes: 1}})
	pub, told := r.session(t, "anna")
	publishAll(t, pub, told, 1, 9)
	first := r.checkpoint(t)
	publishAll(t, pub, told, 10, 18)
	second := r.checkpoint(t)
	publishAll(t, pub, told, 19, 21)
	r.trim(t, first, prefixFloor{prefix: "b", index: second})
	check := func() {
		t.Helper()
		for room, head := range map[string]Seq{"a": 4, "b": 7, "c": 4} {
			batch, err := r.Read(room, 1, 1000)
			if err != nil || batch.Gap == nil || *batch.Gap != (Gap{1, head - 1}) || batch.Next != head {
				t.Errorf("room %s: %+v, %v", room, batch, err)
			}
			if got := r.readAll(t, room, head, 1); Seq(len(got)) != 8-head || got[0].seq != head {
				t.Errorf("room %s: %v", room, got)
			}
			if at, last := r.Head(room); at != head || last != 7 || r.Room(room).First != head {
				t.Errorf("room %s: %d to %d", room, at, last)
			}
			if _, _, at, err := r.Place(deadline(t), room, 0); err != nil || at != head {
				t.Errorf("room %s: the first place is %d, %v", room, at, err)
			}
		}
		until(t, "files and snapshots go", func() bool {
			return len(r.roomFiles(t)) == 1 && slices.Equal(r.group.Snapshots(), []raftlog.Index{first, second})
		})
	}
	check()
	r.reopen(t)
	check()
	r.trim(t, second)
	until(t, "all files go", func() bool { return len(r.roomFiles(t)) == 0 && len(r.group.Snapshots()) == 1 })
	r.reopen(t)
	for _, room := range []string{"a", "b", "c"} {
		if got := r.readAll(t, room, 7, 1000); len(got) != 1 {
			t.Errorf("room %s: %v", room, got)
		}
	}
}

// TestRoomFileLost: an index file that is missing or damaged is made again, at
// start or when somebody reads.
func TestRoomFileLost(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 1, Group: raftlog.Config{RingBytes: 1}})
	pub, told := r.session(t, "anna")
	publishAll(t, pub, told, 1, 9)
	first := r.checkpoint(t)
	publishAll(t, pub, told, 10, 18)
	second := r.checkpoint(t)
	want := r.checkRooms(t)
	var whole [][]byte
	paths := []string{r.files.path(first), r.files.path(second)}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole = append(whole, data)
	}
	back := func(when string) {
		t.Helper()
		for i, path := range paths {
			until(t, "the file is back", func() bool { data, _ := os.ReadFile(path); return bytes.Equal(data, whole[i]) })
		}
		if got := r.followAll(t); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\n%v\nit was\n%v", when, got, want)
		}
	}
	r.close(t)
	os.Remove(paths[0])
	os.WriteFile(paths[1], whole[1][:len(whole[1])-1], 0o600)
	r.open(t)
	back("made again at start")
	r.files.forget(first)
	r.files.forget(second)
	os.WriteFile(paths[0], flip(whole[0], roomFileHeader+10), 0o600)
	os.Remove(paths[1])
	if got := r.followAll(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("while it is read:\n%v\nit was\n%v", got, want)
	}
	back("made again when read")
}

// followAll reads all rooms, waiting when it is told to.
func (r *replica) followAll(t *testing.T) map[string][]got {
	t.Helper()
	rooms := map[string][]got{}
	for _, st := range r.Rooms() {
		for next := Seq(1); next <= st.Last; {
			batch, err := r.Read(st.Room, next, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range batch.Blocks {
				records, err := readBlock(b)
				if err != nil {
					t.Fatal(err)
				}
				rooms[st.Room] = append(rooms[st.Room], records...)
			}
			if next = batch.Next; batch.Wait != nil {
				receive(t, batch.Wait)
			}
		}
	}
	return rooms
}

// TestCheckpointsInOneBatch: Apply does not return between two checkpoints, and
// the log takes no snapshot before it has.
func TestCheckpointsInOneBatch(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	index := r.machine.index + 1000
	var entries []raftlog.Entry
	previous := raftlog.Index(0)
	for i := range raftlog.Index(5) {
		at := index + 2*i
		entries = append(entries,
			raftlog.Entry{Index: at, Data: packed(1, sent{session: "anna", counter: Counter(i) + 2, floor: 1, room: "lobby", payload: "x"})},
			raftlog.Entry{Index: at + 1, Data: encodeCheckpoint(1, previous)})
		previous = at + 1
	}
	done := make(chan []any)
	go func() { done <- applier{r.Partition}.Apply(entries) }()
	for i, result := range receive(t, done) {
		if out, ok := result.(Outcome); !ok || out.Checkpoint != (i%2 == 1) {
			t.Errorf("entry %d: %+v", i, result)
		}
	}
	until(t, "the last view is settled", func() bool {
		r.mu.RLock()
		defer r.mu.RUnlock()
		// Nothing hurries the last one, and its entry never returns here.
		return len(r.machine.rooms["lobby"].spans) >= 4
	})
	if len(r.group.Snapshots()) != 0 || len(r.fatal) != 0 {
		t.Errorf("snapshots %v of entries that the log does not have, %d faults", r.group.Snapshots(), len(r.fatal))
	}
}

// hookFS calls hook before a file is created.
type hookFS struct {
	vfs.FS
	mu   sync.Mutex
	hook func(name string) error
}

func (f *hookFS) set(hook func(name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *hookFS) Create(name string) (vfs.File, error) {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if hook != nil {
		if err := hook(name); err != nil {
			return nil, &fs.PathError{Op: "create", Path: name, Err: err}
		}
	}
	return f.FS.Create(name)
}

// TestCheckpointFails: a node that cannot write a checkpoint down ends, and
// numbers nothing behind it.
func TestCheckpointFails(t *testing.T) {
	disk := &hookFS{FS: vfs.OS}
	r := openReplica(t, Config{Group: raftlog.Config{FS: disk}})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	disk.set(func(name string) error {
		if strings.Contains(name, ".rooms") {
			return io.ErrShortWrite
		}
		return nil
	})
	if _, err := r.group.Propose(encodeCheckpoint(1, 0)).Wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, r.fatal); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("the node was ended for %v", err)
	}
	publishTo(pub, 2)
	if ev, ok := told.next(t).(Refusal); !ok || !ev.Maybe {
		t.Errorf("behind it: %+v", ev)
	}
	disk.set(nil)
	r.reopen(t)
	until(t, "the checkpoint is made up for", func() bool { return len(r.group.Snapshots()) == 1 })
	until(t, "the message is numbered", func() bool { return len(r.readAll(t, "lobby", 1, 1000))+len(r.readAll(t, "r", 1, 1000)) == 2 })
}

// TestCloseDuringCheckpoint: Close comes while a checkpoint is written and Apply
// waits for it. The node ends without complaint; the next life makes it up.
func TestCloseDuringCheckpoint(t *testing.T) {
	disk := &hookFS{FS: vfs.OS}
	r := openReplica(t, Config{Group: raftlog.Config{FS: disk}})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	began, goOn := make(chan struct{}, 9), make(chan struct{})
	disk.set(func(name string) error {
		if strings.Contains(name, ".rooms") {
			began <- struct{}{}
			<-goOn
		}
		return nil
	})
	first, err := r.group.Propose(encodeCheckpoint(1, 0)).Wait(deadline(t))
	if err != nil || !first.(Outcome).Checkpoint {
		t.Fatal(first, err)
	}
	receive(t, began)
	r.group.Propose(encodeCheckpoint(2, r.Status().Checkpoint))
	if batch, err := r.Read("lobby", 1, 100); err != nil || len(batch.Blocks) != 1 {
		t.Errorf("a reader is held up: %+v, %v", batch, err)
	}
	p, closed := r.Partition, make(chan struct{})
	go func() { r.close(t); close(closed) }()
	<-p.ctx.Done()
	close(goOn)
	receive(t, closed)
	if len(r.fatal) > 0 {
		t.Errorf("the node complained: %v", <-r.fatal)
	}
	r.open(t)
	until(t, "the checkpoints are made up for", func() bool { return len(r.group.Snapshots()) >= 1 })
	if got := r.readAll(t, "lobby", 1, 1000); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// TestRestoreLive: a snapshot replaces everything, also while a checkpoint is
// being written, and wakes who waits.
func TestRestoreLive(t *testing.T) {
	disk := &hookFS{FS: vfs.OS}
	r := openReplica(t, Config{Group: raftlog.Config{FS: disk}})
	pub, told := r.session(t, "anna")
	publishAll(t, pub, told, 1, 9)
	index := r.checkpoint(t)
	hash := r.Status().Hash
	publishAll(t, pub, told, 10, 12)
	began, goOn := make(chan struct{}, 9), make(chan struct{})
	disk.set(func(name string) error {
		if strings.Contains(name, ".rooms") {
			began <- struct{}{}
			<-goOn
		}
		return nil
	})
	if _, err := r.group.Propose(encodeCheckpoint(1, index)).Wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	receive(t, began)
	batch, _ := r.Read("nowhere", 1, 1)
	waiting := newWokenCursor()
	watch := r.Watch("nowhere", waiting)
	if !watch.Wait(1) {
		t.Fatal("a cursor does not wait for the first message")
	}
	body, err := r.group.OpenSnapshot(index)
	if err != nil {
		t.Fatal(err)
	}
	restored := make(chan error)
	r.mu.RLock()
	writing := r.job
	r.mu.RUnlock()
	go func() { restored <- applier{r.Partition}.Restore(index, body) }()
	receive(t, writing.ctx.Done()) // it is told to stop
	close(goOn)
	if err := receive(t, restored); err != nil {
		t.Fatal(err)
	}
	receive(t, batch.Wait)
	receive(t, waiting.woken)
	watch.Leave()
	if st := r.Status(); st.Hash != hash || st.HashIndex != index || st.Sessions != 1 || len(r.fatal) > 0 {
		t.Errorf("%+v", st)
	}
	for _, room := range []string{"a", "b", "c"} {
		if got := r.readAll(t, room, 1, 1); len(got) != 3 {
			t.Errorf("room %s: %v", room, got)
		}
	}
	applier{r.Partition}.Apply([]raftlog.Entry{{
		Index: index + 1000, Data: packed(1, sent{session: "anna", counter: 10, floor: 9, room: "b", payload: "another"}),
	}})
	if got := r.readAll(t, "b", 4, 1000); len(got) != 1 || got[0].payload != "another" {
		t.Errorf("of another life: %v", got)
	}
	hash = r.Status().Hash
	if err := (applier{r.Partition}).Restore(index, strings.NewReader("?")); err == nil || r.Status().Hash != hash {
		t.Errorf("a bad snapshot: %v", err)
	}
}

// TestRetain: the leader proposes what retention asks for, and readers who
// follow get every message or a gap in its place, while it goes on.
func TestRetain(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 500, Retention: Retention{Messages: 64}, Group: raftlog.Config{RingBytes: 1000}})
	const all = 600
	errs := make(chan error, 10)
	var running sync.WaitGroup
	stop := make(chan struct{})
	running.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				r.retain(time.Now(), false)
			}
		}
	})
	var readers sync.WaitGroup
	ctx := deadline(t)
	for i := range 3 {
		readers.Go(func() {
			for next := Seq(1); next <= all; {
				batch, err := r.Read("lobby", next, 1+100*i)
				if err != nil {
					errs <- err
					return
				}
				if batch.Gap != nil {
					if batch.Gap.From != next || batch.Gap.To < next || batch.Next != batch.Gap.To+1 {
						errs <- fmt.Errorf("at %d: %+v", next, batch.Gap)
						return
					}
				} else if err := checkLobby(batch.Blocks, next); err != nil {
					errs <- err
					return
				}
				next = batch.Next
				if batch.Wait != nil {
					select {
					case <-batch.Wait:
					case <-ctx.Done():
						errs <- fmt.Errorf("reader %d waits for seq %d for ever", i, next)
						return
					}
				}
				if i == 2 && next%50 == 0 { // a slow one is overtaken
					time.Sleep(2 * time.Millisecond)
				}
			}
		})
	}
	pub, told := r.session(t, "anna")
	for c := Counter(1); c <= all; c++ {
		send(t, pub, told, c, "lobby")
	}
	until(t, "it is trimmed", func() bool { st := r.Status(); return st.Floor > 0 && !r.writing() })
	until(t, "no more can be trimmed", func() bool { return r.Status().Messages <= 64+64 })
	readers.Wait()
	close(stop)
	running.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if first, last := r.Head("lobby"); last != all || first <= all-128 || first > all+1-64 {
		t.Errorf("it holds %d to %d", first, last)
	}
	r.group.Barrier(ctx)
	until(t, "it is settled", func() bool { return !r.writing() })
	before := r.Status().Checkpoint
	r.close(t)
	r.cfg.Retention = Retention{Age: time.Hour}
	r.open(t)
	again := newEvents()
	send(t, r.Attach(sessionID("anna"), again), again, all+1, "lobby")
	r.retain(time.Now(), false)
	r.group.Barrier(ctx)
	if got := r.Status().Checkpoint; got != before {
		t.Errorf("a checkpoint at %d, without need", got)
	}
	r.retain(time.Now().Add(time.Hour), true)
	r.group.Barrier(ctx)
	until(t, "it is settled", func() bool { return r.Status().Checkpoint > before && !r.writing() })
	r.retain(time.Now().Add(2*time.Hour), true)
	r.group.Barrier(ctx)
	if first, last := r.Head("lobby"); last != all+1 || first != all+2 {
		t.Errorf("it holds %d to %d", first, last)
	}
	p := r.Partition
	r.close(t)
	p.retain(time.Now().Add(9*time.Hour), true) // leads nothing any more
}

func (r *replica) writing() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.machine.view != nil
}

// checkLobby expects the messages that send publishes, from seq next on.
func checkLobby(blocks []Block, next Seq) error {
	for _, b := range blocks {
		records, err := readBlock(b)
		if err != nil {
			return err
		}
		for _, m := range records {
			if m.seq != next || m.payload != fmt.Sprint("m", next) {
				return fmt.Errorf("%+v in place of seq %d", m, next)
			}
			next++
		}
	}
	return nil
}

// TestMarked: marks are told in order, and the newest are kept.
func TestMarked(t *testing.T) {
	var told []Mark
	r := openReplica(t, Config{Marked: func(index raftlog.Index, hash uint64) { told = append(told, Mark{index, hash}) }})
	r.session(t, "anna")
	for i := range raftlog.Index(maxMarks + 5) {
		applier{r.Partition}.Apply([]raftlog.Entry{
			{Index: (i+1)*MarkEvery + 1, Data: encodeTick(int64(i), time.Minute)},
			{Index: (i+1)*MarkEvery + 2, Data: encodeTick(int64(i), time.Minute)},
		})
	}
	if len(told) != maxMarks+5 || told[0].Index != MarkEvery || told[1].Hash == told[2].Hash {
		t.Errorf("told of %d: %v", len(told), told[:3])
	}
	if got := r.Marks(); !slices.Equal(got, told[5:]) {
		t.Errorf("%d are kept, from %v on", len(got), got[0])
	}
}

// TestRoomsPaged: all rooms are told, though not at once.
func TestRoomsPaged(t *testing.T) {
	r := openReplica(t, Config{})
	if got := r.Rooms(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	pub, told := r.session(t, "anna")
	const rooms = 2*viewPage + 10
	var names []string
	for i := range rooms {
		names = append(names, fmt.Sprint("room-", i))
	}
	send(t, pub, told, 1, names...)
	for i, st := range r.Rooms() {
		if st.Room != names[i] || st.Last != 1 {
			t.Errorf("room %d: %+v", i, st)
		}
	}
	page, more := r.roomsPage(nil, time.Now())
	if len(page) != viewPage || !more || len(r.Rooms()) != rooms {
		t.Errorf("a page of %d rooms, all are %d", len(page), len(r.Rooms()))
	}
}

// TestReadCompacts: blocks that are a small part of what was read do not keep
// all of it in memory.
func TestReadCompacts(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 1})
	large := strings.Repeat("x", 50_000)
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	data := packed(1, sent{session: "anna", counter: 2, floor: 1, room: "other", payload: large}, sent{session: "anna", counter: 3, floor: 1, room: "lobby", payload: "m2"})
	if _, err := r.group.Propose(data).Wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	send(t, pub, told, 4, "other")
	batch, err := r.Read("lobby", 1, 1<<20)
	if err != nil || len(batch.Blocks) != 2 {
		t.Fatalf("%+v, %v", batch, err)
	}
	for i, b := range batch.Blocks {
		index := r.machine.rooms["lobby"].hot[0].index + raftlog.Index(i)
		entries, _, err := r.group.Read(index, 1)
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		data, _, _ := blockIn(entries[0].Data, "lobby")
		if &b.Data[0] == &data[0] || !bytes.Equal(b.Data, data) {
			t.Errorf("block %d lies in the entry: %x, %x", i, b.Data, data)
		}
	}
	if got := r.readAll(t, "lobby", 1, 1<<20); len(got) != 2 || got[1].payload != "m2" {
		t.Errorf("%v", got)
	}
}

// TestHeldIsNoState: what a replica that began with the floor snapshot lacks must
// not be seen in its snapshots, which others have to the byte.
func TestHeldIsNoState(t *testing.T) {
	l := newLedger()
	l.add(encodeOpen(1, time.Hour, sessionIDs("anna")))
	var checkpoints []raftlog.Index
	for c := Counter(1); c <= 6; c++ {
		l.add(packed(int64(c), sent{session: "anna", counter: c, floor: c, room: "a", payload: fmt.Sprint(c)}))
		l.add(encodeCheckpoint(int64(c), l.chunks.last()))
		checkpoints = append(checkpoints, l.last)
	}
	m, err := readSnapshot(checkpoints[1], bytes.NewReader(l.snaps[checkpoints[1]]))
	if err != nil {
		t.Fatal(err)
	}
	m.chunks.hold(checkpoints[1]) // its log begins behind the snapshot
	r := &ledger{Machine: m, last: checkpoints[1], entries: l.entries, files: map[raftlog.Index][]byte{}, snaps: map[raftlog.Index][]byte{}}
	for r.last < l.last {
		r.add(l.entries[r.last+1])
	}
	if first := r.Machine.first(r.rooms["a"]); first != 3 {
		t.Errorf("the replica has the room from seq %d on, want 3", first)
	}
	for _, at := range checkpoints[2:] {
		if !bytes.Equal(l.snaps[at], r.snaps[at]) || !bytes.Equal(l.files[at], r.files[at]) {
			t.Errorf("the replicas' files differ at checkpoint %d", at)
		}
	}
}

// TestIdleCheckpointWaitsForNobody: of two checkpoints under way the second does
// nothing, and does not wait for what the first is writing.
func TestIdleCheckpointWaitsForNobody(t *testing.T) {
	disk := &hookFS{FS: vfs.OS}
	r := openReplica(t, Config{Group: raftlog.Config{FS: disk}})
	pub, told := r.session(t, "anna")
	publishAll(t, pub, told, 1, 9)
	index := r.checkpoint(t)
	publishAll(t, pub, told, 10, 12)
	began, goOn := make(chan struct{}, 9), make(chan struct{})
	defer close(goOn)
	disk.set(func(name string) error {
		if strings.Contains(name, ".rooms") {
			began <- struct{}{}
			<-goOn
		}
		return nil
	})
	if _, err := r.group.Propose(encodeCheckpoint(1, index)).Wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	receive(t, began)
	if _, err := r.group.Propose(encodeCheckpoint(1, index)).Wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	publishAll(t, pub, told, 13, 14)
}
