package partition

import "time"

// answer is what a publish got.
type answer struct {
	seq  Seq
	time int64
	hash uint64 // of room and payload: a retry must be the same message
}

// session is a publisher's memory: the answers to the counters floor to last.
type session struct {
	id      SessionID
	last    Counter
	floor   Counter
	answers []answer // answers[i] is that of counter floor+i
	active  time.Duration

	older, newer *session // by last activity
	turn         uint64   // rises from older to newer
	slot         int
	epoch        uint32
}

// sessions is the session table, in the order of last activity.
type sessions struct {
	byID           map[SessionID]*session
	oldest, newest *session
	kept           int // answers, of all sessions
	turns          uint64

	// For views: all sessions in slots, so that they can be walked while they
	// change, and what those that have changed were when epoch began.
	slots  []*session
	free   []int
	epoch  uint32
	frozen bool
	saved  []sessionImage
}

// sessionImage is a session as it was when a view was frozen. Answers are
// shared with it: they are only ever added behind and taken from the front.
type sessionImage struct {
	id          SessionID
	last, floor Counter
	active      time.Duration
	turn        uint64
	answers     []answer
}

func (s *session) image() sessionImage {
	return sessionImage{id: s.id, last: s.last, floor: s.floor, active: s.active, turn: s.turn, answers: s.answers}
}

// freeze begins an epoch: from now on sessions are saved before they change.
func (t *sessions) freeze() {
	t.epoch++
	t.frozen, t.saved = true, nil
}

func (t *sessions) thaw() { t.frozen, t.saved = false, nil }

func (t *sessions) save(s *session) {
	if s.epoch == t.epoch {
		return
	}
	if s.epoch = t.epoch; t.frozen {
		t.saved = append(t.saved, s.image())
	}
}

// unchanged appends to into what has not changed since the freeze, of n slots
// from slot on.
func (t *sessions) unchanged(slot, n int, into []sessionImage) []sessionImage {
	for _, s := range t.slots[min(slot, len(t.slots)):min(slot+n, len(t.slots))] {
		if s != nil && s.epoch != t.epoch {
			into = append(into, s.image())
		}
	}
	return into
}

func (t *sessions) open(id SessionID, now time.Duration) *session {
	s := &session{id: id, floor: 1, epoch: t.epoch}
	if n := len(t.free); n > 0 {
		s.slot, t.free = t.free[n-1], t.free[:n-1]
		t.slots[s.slot] = s
	} else {
		s.slot = len(t.slots)
		t.slots = append(t.slots, s)
	}
	t.byID[id] = s
	t.push(s, now)
	return s
}

// touch notes that s is used. It comes before every change.
func (t *sessions) touch(s *session, now time.Duration) {
	t.save(s)
	if t.newest != s {
		t.unlink(s)
		t.push(s, now)
	}
	s.active = now
}

func (t *sessions) close(s *session) {
	t.save(s)
	t.slots[s.slot] = nil
	t.free = append(t.free, s.slot)
	t.unlink(s)
	t.kept -= len(s.answers)
	delete(t.byID, s.id)
}

func (t *sessions) push(s *session, now time.Duration) {
	t.turns++
	s.active, s.older, s.newer, s.turn = now, t.newest, nil, t.turns
	if t.newest != nil {
		t.newest.newer = s
	} else {
		t.oldest = s
	}
	t.newest = s
}

func (t *sessions) unlink(s *session) {
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		t.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		t.newest = s.older
	}
	s.older, s.newer = nil, nil
}

// keep adds the answer to the session's next counter.
func (t *sessions) keep(s *session, a answer) {
	s.last++
	s.answers = append(s.answers, a)
	t.kept++
}

// forget drops the answers below floor.
func (t *sessions) forget(s *session, floor Counter) {
	if floor <= s.floor {
		return
	}
	n := min(floor-s.floor, Counter(len(s.answers))) // a client may send any floor
	s.floor += n
	t.kept -= int(n)
	if s.answers = s.answers[n:]; len(s.answers) == 0 {
		s.answers = nil
	}
}
