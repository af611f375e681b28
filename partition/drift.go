package partition

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// DriftStatus is how late messages are on this replica, of late: those of the
// last stagePeriod to twice that.
type DriftStatus struct {
	Partition   int
	Leader      string // "" while unknown
	Leading     bool
	InObjective bool
	Cause       string // the stage to blame, or "leader"; "" while in the objective

	// Of the ages of messages when handed to connections here or, where that is
	// worse, from received to applied of those published here.
	P50, P99 time.Duration

	MessagesPerSecond   float64 // applied here, over some seconds
	DeliveriesPerSecond float64
	Subscribers         int
	Backlog             time.Duration // the worst age of a message that a cursor lacks
	Stages              [Stages]StageStatus
}

// StageStatus is how long messages take in a stage.
type StageStatus struct {
	P50, P99, Max time.Duration
	Count         uint64 // messages
}

// CursorStatus is a cursor that lacks something.
type CursorStatus struct {
	Client    string
	Room      string
	Partition int
	Next      Seq
	Behind    uint64        // messages
	Age       time.Duration // of the oldest of them
}

// Drift returns how late messages are here, and of the rooms with subscribers
// and of the cursors that lack something the worst, at most limit of each.
func (p *Partition) Drift(limit int) (st DriftStatus, rooms []RoomStatus, cursors []CursorStatus) {
	now := time.Now()
	st = p.driftStatus(now)
	backlog := map[string]time.Duration{}
	p.eachLag(now, func(l lag) {
		st.Backlog = max(st.Backlog, l.age)
		backlog[l.room.name] = max(backlog[l.room.name], l.age)
		if cursors = append(cursors, l.status()); len(cursors) > 2*limit+viewPage {
			cursors = SlowestCursors(cursors, limit)
		}
	})
	for at, more := 0, true; more; at += viewPage {
		rooms, more = p.watchedPage(now, at, rooms, &st.Subscribers)
		for i := max(0, len(rooms)-viewPage); i < len(rooms); i++ {
			rooms[i].Backlog = max(rooms[i].Backlog, backlog[rooms[i].Room])
		}
		if len(rooms) > 2*limit+viewPage {
			rooms = WorstRooms(rooms, limit)
		}
	}
	return st, WorstRooms(rooms, limit), SlowestCursors(cursors, limit)
}

func (l *lag) status() CursorStatus {
	return CursorStatus{
		Client: l.cursor.Name(), Room: l.room.name, Partition: l.partition.id, Next: l.next, Behind: l.behind, Age: l.age,
	}
}

// WorstRooms returns the at most limit rooms with the most drift, the worst first,
// in the memory of rooms.
func WorstRooms(rooms []RoomStatus, limit int) []RoomStatus {
	slices.SortFunc(rooms, func(a, b RoomStatus) int {
		return cmp.Or(cmp.Compare(b.Drift, a.Drift), cmp.Compare(b.Backlog, a.Backlog), cmp.Compare(a.Room, b.Room))
	})
	return rooms[:min(limit, len(rooms))]
}

// SlowestCursors returns the at most limit cursors that are behind most, the
// slowest first, in the memory of cursors.
func SlowestCursors(cursors []CursorStatus, limit int) []CursorStatus {
	slices.SortFunc(cursors, func(a, b CursorStatus) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(b.Behind, a.Behind), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Room, b.Room))
	})
	return cursors[:min(limit, len(cursors))]
}

// watchedPage appends the state of up to viewPage rooms with subscribers.
func (p *Partition) watchedPage(now time.Time, at int, rooms []RoomStatus, subscribers *int) (all []RoomStatus, more bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for i := at; i < min(at+viewPage, len(p.watches)); i++ {
		rooms = append(rooms, p.roomStatus(p.watches[i].name, now))
		*subscribers += len(p.watches[i].cursors)
	}
	return rooms, at+viewPage < len(p.watches)
}

// driftStatus returns what costs little: no room and no cursor is looked at.
func (p *Partition) driftStatus(now time.Time) DriftStatus {
	st := DriftStatus{Partition: p.id}
	st.Leader, _ = p.group.Leader()
	st.Leading = p.group.Leading()
	for s := range Stages {
		w := p.stages.of[s].window(now)
		st.Stages[s] = StageStatus{P50: w.quantile(0.5), P99: w.quantile(0.99), Max: w.max, Count: w.total}
	}
	judged := p.judged(now)
	st.P50, st.P99 = judged.quantile(0.5), judged.quantile(0.99)
	st.MessagesPerSecond, st.DeliveriesPerSecond, st.Cause = p.standing.get()
	st.InObjective = st.Cause == ""
	return st
}

// judged returns what the objective is for.
func (p *Partition) judged(now time.Time) window {
	worse := p.stages.drift.window(now)
	if p.group.Leading() {
		if w := p.stages.publish.window(now); w.quantile(0.99) > worse.quantile(0.99) {
			worse = w
		}
	}
	return worse
}

// standing is what watchDrift has found last.
type standing struct {
	mu         sync.Mutex
	messages   rateMeter
	deliveries rateMeter
	cause      string // "": the partition is in its objective
}

func (s *standing) get() (messages, deliveries float64, cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages.perSecond(), s.deliveries.perSecond(), s.cause
}

// rateMeter makes a rate of the last readings of a counter.
type rateMeter struct {
	readings [6]struct {
		at    time.Time
		count uint64
	}
	n int // readings ever
}

func (r *rateMeter) read(count uint64, now time.Time) {
	at := &r.readings[r.n%len(r.readings)]
	at.at, at.count = now, count
	r.n++
}

func (r *rateMeter) perSecond() float64 {
	if r.n < 2 {
		return 0
	}
	newest, oldest := r.readings[(r.n-1)%len(r.readings)], r.readings[max(0, r.n-len(r.readings))%len(r.readings)]
	return float64(newest.count-oldest.count) / newest.at.Sub(oldest.at).Seconds()
}

// driftLook is how often the objective is judged.
const driftLook = time.Second

// watchDrift judges the partition's objective until ctx ends.
func (p *Partition) watchDrift(ctx context.Context) {
	every := time.NewTicker(raftlog.UntilNext(driftLook))
	defer every.Stop()
	j := &judge{objective: p.cfg.Objective}
	for {
		select {
		case <-every.C:
			every.Reset(raftlog.UntilNext(driftLook))
			p.lookAtDrift(j, time.Now())
		case <-ctx.Done():
			return
		}
	}
}

func (p *Partition) lookAtDrift(j *judge, now time.Time) {
	p.ahead.Store(int64(p.leaderAhead()))
	p.eachLag(now, func(l lag) { l.count(now) })
	r := p.reading(j.objective, now)
	switch j.look(&r, now) {
	case left:
		p.log.Warn("the partition has left its drift objective", p.driftArgs(j, &r)...)
	case changed:
		p.log.Warn("the partition is out of its drift objective for another cause", p.driftArgs(j, &r)...)
	case returned:
		p.log.Info("the partition is within its drift objective again",
			"after", now.Sub(j.since).Round(time.Second), "worst_p99", readable(j.worst), "p99", readable(r.p99), "objective", j.objective)
	}
	s := &p.standing
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages.read(p.messages.Load(), now)
	s.deliveries.read(p.deliveries.Load(), now)
	s.cause = j.cause
}

// count counts what a cursor lacks, at each look: a connection that takes nothing
// would otherwise not count at all. The oldest message counts with its age, every
// time; another one once, when it was there at the look before, with the same age:
// it cannot come before the oldest.
func (l *lag) count(now time.Time) {
	if l.age >= driftLook && l.next >= l.since {
		l.late(l.age, l.waited, 1, now)
		if counted := max(l.next, l.counted); l.looked > counted {
			l.late(l.age, l.waited, int(l.looked-counted), now)
			l.counted = l.looked
		}
	}
	l.looked = l.last
}

func (p *Partition) leaderAhead() time.Duration {
	leader, _ := p.group.Leader()
	if p.cfg.Ahead == nil || leader == "" {
		return 0
	}
	return p.cfg.Ahead(leader)
}

func (p *Partition) reading(objective time.Duration, now time.Time) reading {
	judged := p.judged(now)
	r := reading{leading: p.group.Leading(), p99: judged.quantile(0.99), late: judged.over(objective)}
	for s := range Stages {
		w := p.stages.of[s].window(now)
		r.stages[s], r.counts[s] = w.quantile(0.99), w.total
	}
	return r
}

// driftArgs says what is wrong: the stage, and of each what it takes and took.
func (p *Partition) driftArgs(j *judge, r *reading) []any {
	args := []any{"cause", j.cause, "p99", readable(r.p99), "objective", j.objective}
	if j.cause == causeLeader {
		leader, _ := p.group.Leader()
		return append(args, "leader", leader)
	}
	for s := range Stages {
		if r.counts[s] > 0 {
			args = append(args, s.String(), readable(r.stages[s]))
		}
	}
	return args
}

// readable drops digits that nobody reads.
func readable(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
