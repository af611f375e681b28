package partition

import (
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// Status is a partition's state as this replica knows it.
type Status struct {
	Partition int
	raftlog.Status
	Rooms      int
	Sessions   int
	QueueBytes int64
	Hash       uint64 // rolling hash after the entry HashIndex
	HashIndex  raftlog.Index
	Checkpoint raftlog.Index // newest, 0: none
	Floor      raftlog.Index // entries up to here are trimmed
	Chunks     int           // closed and not trimmed
	Messages   uint64        // not trimmed, of all rooms; those of policies count till their chunk goes
}

// Status returns the state of this replica.
func (p *Partition) Status() Status {
	st := Status{Partition: p.id, Status: p.group.Status(), QueueBytes: p.queue.size()}
	p.mu.RLock()
	defer p.mu.RUnlock()
	m := p.machine
	st.Rooms, st.Sessions = m.table.len(), len(m.sessions.byID)
	st.Hash, st.HashIndex = m.hash, m.index
	st.Checkpoint, st.Floor, st.Chunks = m.chunks.last(), m.chunks.floor, len(m.chunks.closed)
	st.Messages = m.chunks.open.messages
	for i := range m.chunks.closed {
		st.Messages += m.chunks.closed[i].messages
	}
	return st
}

// RoomStatus is a room's state on this node.
type RoomStatus struct {
	Room        string
	First, Last Seq
	Partition   int
	Drift       time.Duration // p99 age of messages when handed to a subscriber's connection, of those that came after it
	Spread      time.Duration // p99 − p50 of that age
	Subscribers int
	Rate        float64       // messages per second, over the last 10 s
	Backlog     time.Duration // age of the oldest message that a subscriber lacks; only Drift tells
}

const rateWindow = 10 * time.Second

// Room returns the state of one room; one never used has First 1, Last 0.
func (p *Partition) Room(name string) RoomStatus {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.roomStatus(name, time.Now())
}

// Rooms returns the state of all rooms, in no order that means anything. Each is
// as of some moment during the call.
func (p *Partition) Rooms() []RoomStatus {
	now := time.Now()
	var rooms []RoomStatus
	for more := true; more; {
		rooms, more = p.roomsPage(rooms, now)
	}
	return rooms
}

// roomsPage appends the state of up to viewPage rooms to rooms, which has that of
// those before.
func (p *Partition) roomsPage(rooms []RoomStatus, now time.Time) (all []RoomStatus, more bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	t := &p.machine.table
	for i := 0; i < viewPage && len(rooms) < t.len(); i++ {
		rooms = append(rooms, p.roomStatus(t.at(len(rooms)).name, now))
	}
	return rooms, len(rooms) < t.len()
}

func (p *Partition) roomStatus(name string, now time.Time) RoomStatus {
	st := RoomStatus{Room: name, First: 1, Partition: p.id}
	if r := p.machine.rooms[name]; r != nil {
		st.First, st.Last = p.machine.first(r), r.last
		st.Rate = r.rate.perSecond(now.UnixNano())
	}
	if w := p.watched[name]; w != nil {
		ages := w.ages.window(now)
		st.Subscribers = len(w.cursors)
		st.Drift = ages.quantile(0.99)
		st.Spread = st.Drift - ages.quantile(0.5)
	}
	return st
}
