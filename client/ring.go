package client

// ring is a queue of publishes that also gives access by position.
type ring struct {
	buf  []*Pending // its length is a power of two
	head int
	n    int
}

func (r *ring) at(i int) *Pending { return r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring) set(i int, p *Pending) { r.buf[(r.head+i)&(len(r.buf)-1)] = p }

func (r *ring) push(p *Pending) {
	if r.n == len(r.buf) {
		buf := make([]*Pending, max(16, 2*r.n))
		for i := range r.n {
			buf[i] = r.at(i)
		}
		r.buf, r.head = buf, 0
	}
	r.n++
	r.set(r.n-1, p)
}

// pop removes the first.
func (r *ring) pop() *Pending {
	p := r.at(0)
	r.set(0, nil)
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	return p
}

// keep removes those from position from on that f does not want to keep.
func (r *ring) keep(from int, f func(*Pending) bool) {
	kept := from
	for i := from; i < r.n; i++ {
		if p := r.at(i); f(p) {
			r.set(kept, p)
			kept++
		}
	}
	for i := kept; i < r.n; i++ {
		r.set(i, nil)
	}
	r.n = kept
}
