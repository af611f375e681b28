package partition

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testCursor is a Cursor.
type testCursor struct {
	next atomic.Uint64
	name string
}

func cursorAt(next Seq, name string) *testCursor {
	c := &testCursor{name: name}
	c.next.Store(uint64(next))
	return c
}

func (c *testCursor) Next() Seq    { return Seq(c.next.Load()) }
func (c *testCursor) Name() string { return c.name }
func (c *testCursor) Wake()        {}

// TestLag: a cursor's lag is that of the first message that it lacks, wherever
// that lies: in the tail, among the newest places, or in a chunk that is closed.
func TestLag(t *testing.T) {
	r := openReplica(t, Config{TailBytes: 1000})
	pub, told := r.session(t, "anna")
	c := Counter(1)
	publish := func(n int, room string) {
		for range n {
			send(t, pub, told, c, room)
			c++
		}
	}
	publish(20, "lobby")
	r.checkpoint(t)
	until(t, "the chunk is settled", func() bool { return !r.writing() })
	publish(20, "lobby")
	r.mu.RLock()
	lobby := r.machine.rooms["lobby"]
	inTail, hot, spans := r.tail.rooms["lobby"][0].First, lobby.hot[0].first, lobby.spans
	r.mu.RUnlock()
	if len(spans) != 1 || hot != 21 || inTail <= hot+1 {
		t.Fatalf("%d spans, places from %d on, the tail from %d on", len(spans), hot, inTail)
	}
	now := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		name   string
		next   Seq
		behind uint64
		exact  bool // the age, else it can be that of an earlier message
	}{
		{"has everything", 41, 0, true},
		{"lacks the last", 40, 1, true},
		{"at the tail's begin", inTail, uint64(41 - inTail), true},
		{"before the tail", inTail - 1, uint64(42 - inTail), false},
		{"at the first place", hot, 20, true},
		{"in the closed chunk", hot - 1, 21, false},
		{"at the begin", 1, 40, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := r.Watch("lobby", cursorAt(tt.next, "anna's"))
			defer w.Leave()
			var lags []lag
			r.eachLag(now, func(l lag) { lags = append(lags, l) })
			if tt.behind == 0 {
				if len(lags) != 0 {
					t.Errorf("%+v", lags)
				}
				return
			}
			age := time.Duration(now.UnixNano() - r.messageTime(t, "lobby", tt.next))
			if len(lags) != 1 || lags[0].next != tt.next || lags[0].behind != tt.behind || lags[0].age < age || tt.exact && lags[0].age != age {
				t.Errorf("%+v, want %d behind by %v", lags, tt.behind, age)
			}
			if waited := lags[0].waited; tt.next >= inTail && (waited > age || waited < age-time.Minute) || tt.next < inTail && waited != lags[0].age {
				t.Errorf("it has waited %v of %v", waited, age)
			}
		})
	}
}

// TestLagOfTrimmed: what is trimmed no cursor lacks.
func TestLagOfTrimmed(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby", "lobby")
	floor := r.checkpoint(t)
	until(t, "the chunk is settled", func() bool { return !r.writing() })
	r.trim(t, floor)
	w := r.Watch("lobby", cursorAt(1, ""))
	defer w.Leave()
	if _, _, cursors := r.Drift(10); len(cursors) != 0 {
		t.Errorf("it lacks what is trimmed: %+v", cursors)
	}
	send(t, pub, told, 3, "lobby")
	if _, _, cursors := r.Drift(10); len(cursors) != 1 || cursors[0].Next != 3 || cursors[0].Behind != 1 {
		t.Errorf("%+v, want one that lacks seq 3", cursors)
	}
}

// TestDriftOfMany: with more rooms and cursors than a page has, all are counted,
// the worst are told, and who leaves is forgotten.
func TestDriftOfMany(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	const rooms = viewPage + 50
	var names []string
	for i := range rooms {
		names = append(names, fmt.Sprintf("room-%03d", i))
	}
	send(t, pub, told, 1, names...)
	var watches []*Watch
	for _, name := range names {
		watches = append(watches, r.Watch(name, cursorAt(2, "")))
	}
	for i := range 2*viewPage + 7 {
		watches = append(watches, r.Watch("room-007", cursorAt(1, fmt.Sprintf("client-%03d", i))))
	}
	watches[40].Delivered(time.Now(), []Block{{First: 2, Last: 2, Time: time.Now().Add(-time.Minute).UnixNano()}})
	watches[50].Delivered(time.Now(), []Block{{First: 2, Last: 2, Time: time.Now().Add(-time.Second).UnixNano()}})

	st, worst, cursors := r.Drift(3)
	if st.Subscribers != len(watches) || st.Backlog <= 0 || st.Partition != 3 || !st.Leading || st.Leader != "n1" || !st.InObjective {
		t.Errorf("%+v", st)
	}
	if len(worst) != 3 || worst[0].Room != "room-040" || worst[1].Room != "room-050" || worst[2].Room != "room-007" {
		t.Fatalf("worst are %+v", worst)
	}
	if worst[2].Subscribers != 2*viewPage+8 || worst[2].Backlog <= 0 || worst[0].Backlog != 0 {
		t.Errorf("%+v", worst)
	}
	if len(cursors) != 3 || cursors[0].Client != "client-000" || cursors[2].Client != "client-002" || cursors[0].Behind != 1 || cursors[0].Room != "room-007" {
		t.Errorf("slowest are %+v", cursors)
	}
	if _, _, cursors := r.Drift(1000); len(cursors) != 2*viewPage+7 {
		t.Errorf("%d cursors lack something", len(cursors))
	}

	for i, w := range watches {
		if i%2 == 0 {
			w.Leave()
		}
	}
	if st, _, _ := r.Drift(3); st.Subscribers != len(watches)/2 {
		t.Errorf("%d are left, want %d", st.Subscribers, len(watches)/2)
	}
	for i, w := range watches {
		if i%2 == 1 {
			w.Leave()
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.watches) != 0 || len(r.watched) != 0 {
		t.Errorf("%d and %d rooms are left", len(r.watches), len(r.watched))
	}
}

// TestLeavesWhileLooked: to look at cursors while they come and go is safe.
func TestLeavesWhileLooked(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	send(t, pub, told, 1, "lobby")
	var coming sync.WaitGroup
	for i := range 4 {
		coming.Go(func() {
			for n := range 200 {
				w := r.Watch(fmt.Sprint("room-", (i+n)%3), cursorAt(1, ""))
				other := r.Watch("lobby", cursorAt(1, ""))
				w.Leave()
				other.Leave()
			}
		})
	}
	for range 50 {
		r.Drift(2)
	}
	coming.Wait()
	if st, rooms, cursors := r.Drift(2); st.Subscribers != 0 || len(rooms) != 0 || len(cursors) != 0 {
		t.Errorf("%+v, %v, %v", st, rooms, cursors)
	}
}

// TestCountLag: a connection that takes nothing counts, each message once and
// the oldest at every look; one that is only a moment behind, or reads what was
// there before it came, does not.
func TestCountLag(t *testing.T) {
	r := openReplica(t, Config{})
	pub, told := r.session(t, "anna")
	c := Counter(1)
	publish := func(n int) {
		for range n {
			send(t, pub, told, c, "lobby")
			c++
		}
	}
	publish(5)
	history, stuck := r.Watch("lobby", cursorAt(1, "")), r.Watch("lobby", cursorAt(6, ""))
	defer history.Leave()
	defer stuck.Leave()
	now := time.Now()
	look := func(after time.Duration) (counted uint64) {
		now = now.Add(after)
		before := r.stages.of[Write].whole()
		r.eachLag(now, func(l lag) { l.count(now) })
		after2 := r.stages.of[Write].whole()
		for i := range after2.counts {
			counted += after2.counts[i] - before.counts[i]
		}
		return counted
	}
	for i, tt := range []struct {
		publish int
		after   time.Duration
		want    uint64
	}{
		{3, 0, 0},               // 6, 7 and 8 have just come
		{0, time.Minute, 3},     // 6 is the oldest, 7 and 8 were there
		{4, time.Second, 1},     // 6 alone
		{2, time.Second, 1 + 4}, // 9 to 12 were there
		{0, time.Second, 1 + 2}, // 13 and 14
		{0, time.Second, 1},
	} {
		publish(tt.publish)
		if got := look(tt.after); got != tt.want {
			t.Errorf("look %d counts %d, want %d", i, got, tt.want)
		}
	}
	stuck.cursor.(*testCursor).next.Store(15)
	if got := look(time.Second); got != 0 {
		t.Errorf("with everything handed %d are counted", got)
	}
}

// TestWriteWithoutWork: Write has no part in the time in which the machine works.
func TestWriteWithoutWork(t *testing.T) {
	var work workClock
	at := func(d time.Duration) time.Time { return began.Add(d) }
	work.began.Store(int64(at(0).Sub(epoch)) + 1)
	first := work.end(at(3 * time.Second))
	if got := first.since(at(5*time.Second), &work); got.Round(ms) != 2*time.Second {
		t.Errorf("without later work it has waited %v", got)
	}
	work.began.Store(int64(at(4*time.Second).Sub(epoch)) + 1)
	if got := first.since(at(8*time.Second), &work); got.Round(ms) != time.Second {
		t.Errorf("while the machine works it has waited %v", got)
	}
	second := work.end(at(9 * time.Second))
	if got := first.since(at(10*time.Second), &work); got.Round(ms) != 2*time.Second {
		t.Errorf("after the work it has waited %v", got)
	}
	if got := second.since(at(10*time.Second), &work); got.Round(ms) != time.Second {
		t.Errorf("the second one has waited %v", got)
	}
}

// TestLagCounts: of a reader that takes nothing the p99 grows with what it lacks, also
// where thousands of messages come a second.
func TestLagCounts(t *testing.T) {
	r := openReplica(t, Config{})
	r.cancel() // nobody else looks
	r.tasks.Wait()
	w := r.Watch("lobby", &testCursor{})
	defer w.Leave()
	now := time.Now()
	l := lag{Watch: w, next: 1}
	for second := range 10 {
		now = now.Add(driftLook)
		l.last += 2000
		l.age = time.Duration(second+1) * driftLook
		l.waited = l.age
		l.count(now)
	}
	if p99 := r.driftStatus(now).P99; p99 < 8*time.Second {
		t.Errorf("a reader that lacks everything of 10 s has a p99 of %v", p99)
	}
}

// TestObjectiveIsLogged: leaving names the stage, with what each takes; a return
// says for how long.
func TestObjectiveIsLogged(t *testing.T) {
	r := openReplica(t, Config{})
	r.cancel() // nobody else judges
	r.tasks.Wait()
	var out bytes.Buffer
	r.log = slog.New(slog.NewTextHandler(&out, nil))
	j := &judge{objective: DefaultObjective}
	now := time.Now()
	look := func(commit time.Duration) {
		now = now.Add(driftLook)
		for s, took := range map[Stage]time.Duration{Receive: ms, Propose: ms, Append: 2 * ms, Commit: commit, Apply: ms} {
			r.stages.of[s].add(took, 100, now)
		}
		r.stages.publish.add(5*ms+commit, 100, now)
		r.lookAtDrift(j, now)
	}
	for range 3 {
		look(ms)
	}
	if st := r.driftStatus(now); out.Len() > 0 || !st.InObjective || st.Cause != "" {
		t.Errorf("all is well, and it says %s: %+v", out.String(), st)
	}
	look(150 * ms)
	if st := r.driftStatus(now); st.InObjective || st.Cause != "commit" || st.P99 < 150*ms || st.Stages[Commit].P99 < 150*ms || st.Stages[Append].P50 < 2*ms {
		t.Errorf("%+v", st)
	}
	for range 20 {
		look(ms)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("it says\n%s", out.String())
	}
	for i, words := range [][]string{
		{"level=WARN", "left its drift objective", "cause=commit", "p99=155ms", "objective=100ms", "receive=1ms", "append=2ms", "commit=150ms", "apply=1ms"},
		{"level=INFO", "within its drift objective again", "worst_p99=155ms", "after="},
	} {
		for _, word := range words {
			if !strings.Contains(lines[i], word) {
				t.Errorf("%q is not in %s", word, lines[i])
			}
		}
	}
	if strings.Contains(lines[0], "write=") {
		t.Errorf("nobody was written to, and it says %s", lines[0])
	}
	if st := r.driftStatus(now); !st.InObjective {
		t.Errorf("after the return: %+v", st)
	}
}

// TestRateMeter: the rate is that of the last five seconds.
func TestRateMeter(t *testing.T) {
	var m rateMeter
	for i, want := range []float64{0, 100, 100, 100, 100, 100, 100, 260, 420} {
		count := uint64(100 * i)
		if i >= 7 {
			count += 800 * uint64(i-6)
		}
		m.read(count, began.Add(time.Duration(i)*time.Second))
		if got := m.perSecond(); got != want {
			t.Errorf("after %d readings it is %v, want %v", i+1, got, want)
		}
	}
}

func BenchmarkDelivered(b *testing.B) {
	p := fakePartition(1)
	p.stages, p.machine, p.watched = newStages(), NewMachine(), map[string]*watchedRoom{}
	w := p.Watch("lobby", cursorAt(1, ""))
	now := time.Now()
	blocks := []Block{{First: 1, Last: 3, Time: now.UnixNano(), applied: &applied{at: now}}}
	b.ReportAllocs()
	for b.Loop() {
		w.Delivered(now, blocks)
	}
}

// TestDriftByTheLeadersClock: a message's time is its leader's, whose clock is
// ahead of this one's or behind it.
func TestDriftByTheLeadersClock(t *testing.T) {
	for _, ahead := range []time.Duration{time.Minute, -time.Minute} {
		r := openReplica(t, Config{Ahead: func(node string) time.Duration { return map[string]time.Duration{"n1": ahead}[node] }})
		pub, told := r.session(t, "anna")
		send(t, pub, told, 1, "lobby")
		until(t, "the clocks are compared", func() bool { return r.ahead.Load() != 0 })
		w := r.Watch("lobby", cursorAt(1, ""))
		now := time.Now()
		published := now.Add(ahead - time.Second).UnixNano() // by the leader's clock, a second ago
		w.Delivered(now, []Block{{First: 2, Last: 2, Time: published}})
		if st := r.Room("lobby"); st.Drift < 900*ms || st.Drift > 1200*ms {
			t.Errorf("ahead by %v: drift is %v", ahead, st.Drift)
		}
		var got lag
		at := time.Unix(0, r.messageTime(t, "lobby", 1)).Add(5*time.Second - ahead)
		r.eachLag(at, func(l lag) { got = l })
		if got.age != 5*time.Second {
			t.Errorf("ahead by %v: the lag is %v", ahead, got.age)
		}
		w.Leave()
	}
}
