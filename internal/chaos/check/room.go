package check

import (
	"slices"
	"sort"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// state of a publish.
type state uint8

const (
	unborn state = iota // read before it was published, if it ever is
	open
	acked
	failed
	unknown
)

// message is a publish and what became of it.
type message struct {
	id      string
	room    *room
	process history.Process
	state   state
	retried bool // the receipt says duplicate
	void    bool // its seq is in doubt: found out, and no base for more
	copied  bool // counted as such

	invoked, answered     int64 // times
	invokedOp, answeredOp int64
	seq                   uint64 // acked
	stamp                 int64
	floor                 uint64 // what its client had read of the room when it was invoked

	at       uint64 // seq at which a subscription first had it
	seenOp   int64
	seen     int64  // when
	logged   uint64 // its seq in a final read
	loggedOp int64

	firstLive, lastLive int64 // when the first and last live subscription had it
	lives               int32 // how many had
}

// slot is what is known of a seq of a room.
type slot struct {
	read     ref // what a subscription had first
	final    ref // what final reads have
	acked    ref // the first message acked with it
	diverged bool
	split    bool // acked for two
}

// room is all that is known of a room.
type room struct {
	name  string
	slots map[uint64]*slot

	clash  []clash // reads that differ from the first of their seq
	copies []copied
	jumps  []jump
	gaps   []gapSeen
	places []timePlace
	finals []*final
	heads  []headRead
	acks   uint64 // highest acked
	maxGap int    // index+1 in gaps of the gap that goes highest

	open   int   // publishes
	since  int64 // when open rose above 0 or an answer came
	waited int64 // before that, with publishes open and nothing committed
	from   int64 // when that waiting began
	fromOp int64
	stuck  bool // counted

	asked  bool // a final read was begun
	unread bool // acked messages can be neither seen nor unseen: none was begun
	bounds held // once all is read
}

type clash struct {
	op  int64
	seq uint64
	m   ref
}

// copied is a message read at two seqs.
type copied struct {
	op   int64
	m    ref
	seqs [2]uint64
}

// jump is a range of seqs that a reader went past.
type jump struct {
	op       int64
	who      string
	from, to uint64
	name     Name // what it is if the seqs exist
	final    bool // of a final read
}

type gapSeen struct {
	op       int64
	given    int64
	from, to uint64
	false    bool // counted
	start    bool // not told: what a subscription from the start left out
}

// timePlace is where a subscription from a time began.
type timePlace struct {
	op    int64
	from  int64 // Unix ns
	first uint64
}

func (c *Checker) room(name string) *room {
	r := c.rooms[name]
	if r == nil {
		r = &room{name: name, slots: make(map[uint64]*slot)}
		c.rooms[name] = r
		c.inOrder = append(c.inOrder, r)
	}
	return r
}

func (r *room) slot(seq uint64) *slot {
	s := r.slots[seq]
	if s == nil {
		s = new(slot)
		r.slots[seq] = s
	}
	return s
}

// message finds the message of an id, which may be unborn.
func (c *Checker) message(id string) (ref, *message) {
	m, ok := c.ids[id]
	if !ok {
		m = ref(len(c.messages))
		c.ids[id] = m
		c.messages = append(c.messages, message{id: id, invokedOp: -1, answeredOp: -1, seenOp: -1, loggedOp: -1})
	}
	return m, &c.messages[m]
}

// shown tells whether any reader was given a seq from from to to; seqs are the
// room's, sorted.
func (r *room) shown(seqs []uint64, from, to uint64) bool {
	for i := sort.Search(len(seqs), func(i int) bool { return seqs[i] >= from }); i < len(seqs) && seqs[i] <= to; i++ {
		if s := r.slots[seqs[i]]; s.read != 0 || s.final != 0 {
			return true
		}
	}
	return false
}

// seqs are those with a slot, sorted.
func (r *room) seqs() []uint64 {
	list := make([]uint64, 0, len(r.slots))
	for s := range r.slots {
		list = append(list, s)
	}
	slices.Sort(list)
	return list
}

// clientRoom is a client in a room, client what it knows of that.
type clientRoom struct {
	process history.Process
	room    *room
}

type client struct {
	acked, read uint64
	sent        ref // of its messages so far, the one with the highest seq
}

func (c *Checker) client(p history.Process, r *room) *client {
	key := clientRoom{p, r}
	k := c.clients[key]
	if k == nil {
		k = new(client)
		c.clients[key] = k
	}
	return k
}
