package raftlog

import (
	"slices"
	"sync"
)

// Raft's VerifyLeader asks every node of the group, and takes the answer of one that
// has no vote for one of the majority. Voters may have elected another leader
// meanwhile. So where there are such nodes, Confirm counts the voters' answers itself,
// those that come once it has begun to ask, as raft does.

// polls are those under way. The zero value is ready.
type polls struct {
	mu   sync.Mutex
	open []*poll
}

// poll waits for answers of some voters.
type poll struct {
	term    Term
	missing []string      // voters that have not answered; guarded by polls.mu
	need    int           // how many of them must; guarded by polls.mu
	done    chan struct{} // closed when they have
}

// begin asks for a majority of all voters, of whom the leader is one itself.
func (p *polls) begin(term Term, leader string, voters []string) *poll {
	q := &poll{term: term, need: len(voters) / 2, done: make(chan struct{})}
	q.missing = slices.DeleteFunc(slices.Clone(voters), func(v string) bool { return v == leader })
	if q.need == 0 {
		close(q.done)
		return q
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, q)
	return q
}

func (p *polls) end(q *poll) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = slices.DeleteFunc(p.open, func(o *poll) bool { return o == q })
}

// answered takes note that a node has accepted a request of this leader in term.
func (p *polls) answered(node string, term Term) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.open {
		i := slices.Index(q.missing, node)
		if q.term != term || i < 0 {
			continue
		}
		q.missing = slices.Delete(q.missing, i, i+1)
		if q.need--; q.need == 0 {
			close(q.done)
		}
	}
}
