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
}

// sessions is the session table, in the order of last activity.
type sessions struct {
	byID           map[SessionID]*session
	oldest, newest *session
	kept           int // answers, of all sessions
}

func (t *sessions) open(id SessionID, now time.Duration) *session {
	s := &session{id: id, floor: 1}
	t.byID[id] = s
	t.push(s, now)
	return s
}

func (t *sessions) touch(s *session, now time.Duration) {
	if t.newest != s {
		t.unlink(s)
		t.push(s, now)
	}
	s.active = now
}

func (t *sessions) close(s *session) {
	t.unlink(s)
	t.kept -= len(s.answers)
	delete(t.byID, s.id)
}

func (t *sessions) push(s *session, now time.Duration) {
	s.active, s.older, s.newer = now, t.newest, nil
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
