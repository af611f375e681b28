package segment_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/roomlog/roomlog/raftlog/segment"
	"github.com/roomlog/roomlog/raftlog/vfs/crashfs"
)

// image is what a log holds on disk.
type image struct {
	boundary, term uint64 // of the entry before the first
	entries        []*raft.Log
}

func (m image) last() uint64 { return m.boundary + uint64(len(m.entries)) }

// with is the image and these entries behind it.
func (m image) with(entries []*raft.Log) image {
	m.entries = slices.Concat(m.entries, entries)
	return m
}

// through is the image up to and including an index.
func (m image) through(index uint64) image {
	m.entries = m.entries[:index-m.boundary]
	return m
}

// after is the image behind an index that it holds.
func (m image) after(index uint64) image {
	if index == m.boundary {
		return m
	}
	n := index - m.boundary
	return image{index, m.entries[n-1].Term, m.entries[n:]}
}

// holds tells whether the entry is held with that term; the boundary counts.
func (m image) holds(index, term uint64) bool {
	switch {
	case index == m.boundary:
		return term == m.term
	case index < m.boundary || index > m.last():
		return false
	}
	return m.entries[index-m.boundary-1].Term == term
}

func (m image) String() string {
	var terms strings.Builder
	for _, e := range m.entries {
		fmt.Fprintf(&terms, " %d/%d", e.Index, e.Term)
	}
	return fmt.Sprintf("{boundary %d/%d, entries%s}", m.boundary, m.term, terms.String())
}

// difference tells what differs, "" if nothing does.
func (m image) difference(want image) string {
	if m.boundary != want.boundary || m.term != want.term || len(m.entries) != len(want.entries) {
		return fmt.Sprintf("%v is not %v", m, want)
	}
	for i, e := range m.entries {
		w := want.entries[i]
		if e.Index != w.Index || e.Term != w.Term || e.Type != w.Type || !e.AppendedAt.Equal(w.AppendedAt) ||
			!bytes.Equal(e.Data, w.Data) || !bytes.Equal(e.Extensions, w.Extensions) {
			return fmt.Sprintf("entry %d is not what was stored", w.Index)
		}
	}
	return ""
}

// among tells what is wrong if the image is none of those allowed.
func (m image) among(allowed []image) error {
	var all []string
	for _, a := range allowed {
		d := m.difference(a)
		if d == "" {
			return nil
		}
		all = append(all, d)
	}
	return errors.New(strings.Join(all, ", and "))
}

// observe reads all that an open log holds.
func observe(l *segment.Log) (image, error) {
	var m image
	m.boundary, m.term = l.Boundary()
	first, err := l.FirstIndex()
	if err != nil {
		return m, err
	}
	last, err := l.LastIndex()
	if err != nil {
		return m, err
	}
	if m.boundary > 0 {
		var e raft.Log
		if err := l.GetLog(m.boundary, &e); err != nil || e.Index != m.boundary || e.Term != m.term {
			return m, fmt.Errorf("boundary %d/%d is answered by %d/%d, %v", m.boundary, m.term, e.Index, e.Term, err)
		}
	}
	if last <= m.boundary {
		return m, nil
	}
	if first != m.boundary+1 {
		return m, fmt.Errorf("first index %d behind boundary %d", first, m.boundary)
	}
	err = l.Read(first, last, func(e *raft.Log) bool {
		own := *e
		m.entries = append(m.entries, &own)
		return true
	})
	for i, e := range m.entries {
		if e.Index != first+uint64(i) {
			return m, fmt.Errorf("entry %d where %d is due", e.Index, first+uint64(i))
		}
	}
	if err == nil && m.last() != last {
		err = fmt.Errorf("read up to %d of %d", m.last(), last)
	}
	var one raft.Log
	for _, index := range []uint64{first, last} {
		if err == nil {
			err = l.GetLog(index, &one)
		}
		if err == nil && (one.Index != index || one.Term != m.entries[index-first].Term) {
			err = fmt.Errorf("entry %d/%d was got for %d", one.Index, one.Term, index)
		}
	}
	return m, err
}

// call is one call to the log: between the operations begin and end it was
// under way.
type call struct {
	text       string
	begin, end int
	during     []image // what a crash may leave while it is under way
	after      image   // and must leave once it has returned
}

// run is a log in use, and what it has promised at each moment.
type run struct {
	disk   *crashfs.FS
	log    *segment.Log
	start  []image // what may be found at first
	from   int     // operations made before this run
	closed bool    // what is found was closed in order
	calls  []call
	now    image
	term   uint64
	life   uint64 // counts the entries made, so that no two have the same bytes
}

func options(disk *crashfs.FS) segment.Options {
	return segment.Options{FS: disk, Dir: "/log", Group: 7, SegmentBytes: segmentBytes, FillBelow: 8000}
}

// newRun goes on from a file system on which one of the images is to be found.
func newRun(disk *crashfs.FS, start []image) *run {
	return &run{disk: disk, start: start, from: disk.Ops(), term: 1}
}

// do makes a call; during and after are asked for once it has returned.
func (r *run) do(text string, f func() error, outcome func() (during []image, after image, err error)) error {
	c := call{text: text, begin: r.disk.Ops()}
	err := f()
	if err == nil {
		c.during, c.after, err = outcome()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	c.end = r.disk.Ops()
	r.calls, r.now = append(r.calls, c), c.after
	return nil
}

// open opens the log; what it shows is a promise from then on.
func (r *run) open() error {
	allowed := r.start
	if len(r.calls) > 0 {
		allowed = []image{r.now}
	}
	return r.do("open", func() (err error) {
		r.log, err = segment.Open(options(r.disk))
		return err
	}, func() ([]image, image, error) {
		found, err := observe(r.log)
		if err == nil {
			err = found.among(allowed)
		}
		return allowed, found, err
	})
}

func (r *run) store(entries ...*raft.Log) error {
	text := fmt.Sprintf("store %d to %d", entries[0].Index, entries[len(entries)-1].Index)
	return r.do(text, func() error { return r.log.StoreLogs(entries) }, func() ([]image, image, error) {
		var during []image
		for n := range len(entries) + 1 {
			during = append(during, r.now.with(entries[:n]))
		}
		return during, during[len(entries)], nil
	})
}

// cut deletes the last entries.
func (r *run) cut(n uint64) error {
	last := r.now.last()
	return r.do(fmt.Sprintf("cut from %d", last-n+1), func() error {
		return r.log.DeleteRange(last-n+1, last)
	}, func() ([]image, image, error) {
		after := r.now.through(last - n)
		return []image{r.now, after}, after, nil
	})
}

func (r *run) drop(through uint64) error {
	return r.do(fmt.Sprintf("drop through %d", through), func() error {
		return r.log.DropThrough(through)
	}, func() ([]image, image, error) {
		boundary, _ := r.log.Boundary()
		if boundary < r.now.boundary || boundary > through {
			return nil, image{}, fmt.Errorf("boundary %d", boundary)
		}
		var during []image
		for index := r.now.boundary; index <= boundary; index++ {
			during = append(during, r.now.after(index))
		}
		return during, during[len(during)-1], nil
	})
}

func (r *run) reset(index, term uint64) error {
	return r.do(fmt.Sprintf("reset to %d/%d", index, term), func() error {
		return r.log.Reset(index, term)
	}, func() ([]image, image, error) {
		after := image{boundary: index, term: term}
		if r.now.holds(index, term) {
			after = r.now
		}
		return []image{r.now, after}, after, nil
	})
}

// ghost deletes the tail that a reset left readable.
func (r *run) ghost(from, to uint64) error {
	return r.do(fmt.Sprintf("delete the tail %d to %d", from, to), func() error {
		if last, err := r.log.LastIndex(); err != nil || last != to {
			return fmt.Errorf("last index %d, %v", last, err)
		}
		return r.log.DeleteRange(from, to)
	}, func() ([]image, image, error) { return []image{r.now}, r.now, nil })
}

// stop closes the log, or abandons it as a process that is killed does.
func (r *run) stop(cleanly bool) error {
	stop, text := r.log.Abandon, "abandon"
	if cleanly {
		stop, text = r.log.Close, "close"
	}
	return r.do(text, stop, func() ([]image, image, error) { return []image{r.now}, r.now, nil })
}

// entries makes the next entries to store, of all kinds.
func (r *run) entries(n, size int) []*raft.Log {
	var all []*raft.Log
	r.term = max(r.term, r.now.term)
	if n := len(r.now.entries); n > 0 {
		r.term = max(r.term, r.now.entries[n-1].Term)
	}
	for i := range n {
		r.life++
		e := &raft.Log{Index: r.now.last() + 1 + uint64(i), Term: r.term, Data: make([]byte, size)}
		e.Type = []raft.LogType{raft.LogCommand, raft.LogNoop, raft.LogCommand, raft.LogConfiguration}[e.Index%4]
		rng := rand.NewChaCha8([32]byte{byte(r.life), byte(r.life >> 8)})
		if e.Index%5 > 0 { // else zeros, as a disk has them before
			rng.Read(e.Data)
		}
		if e.Index%3 == 0 {
			e.Extensions = make([]byte, e.Index%200)
			rng.Read(e.Extensions)
		}
		if e.Index%7 > 0 {
			e.AppendedAt = time.Unix(1_700_000_000, int64(r.life))
		}
		all = append(all, e)
	}
	return all
}

// play runs lines such as "open", "store 3x2000" (entries of so many bytes),
// "term" (the next one begins), "cut 4" (the last 4 go), "drop 12" (through an
// index), "reset 20/3", "ghost 21/25" (what the reset left goes), "close", "abandon".
func (r *run) play(script string) error {
	for line := range strings.Lines(script) {
		var verb string
		var a, b int
		fmt.Sscan(line, &verb)
		args := strings.NewReplacer("x", " ", "/", " ").Replace(strings.TrimPrefix(strings.TrimSpace(line), verb))
		fmt.Sscan(args, &a, &b)
		var err error
		switch verb {
		case "", "#":
		case "open":
			err = r.open()
		case "store":
			err = r.store(r.entries(a, b)...)
		case "term":
			r.term++
		case "cut":
			err = r.cut(uint64(a))
		case "drop":
			err = r.drop(uint64(a))
		case "reset":
			err = r.reset(uint64(a), uint64(b))
		case "ghost":
			err = r.ghost(uint64(a), uint64(b))
		case "close", "abandon":
			err = r.stop(verb == "close")
		default:
			err = errors.New("no such line")
		}
		if err != nil {
			return fmt.Errorf("line %q: %w", strings.TrimSpace(line), err)
		}
	}
	return nil
}

// promise is what a crash after so many operations may leave, and the number
// of the call that it falls into or behind. Everything is as before between two
// numbers that are the same.
func (r *run) promise(ops int) (allowed []image, moment int) {
	allowed = r.start
	for i, c := range r.calls {
		switch {
		case ops >= c.end:
			allowed, moment = []image{c.after}, 2*i+2
		case ops > c.begin:
			return c.during, 2*i + 1
		}
	}
	return allowed, moment
}

// under names the call that a crash falls into.
func (r *run) under(moment int) string {
	switch {
	case moment == 0:
		return "before the first call"
	case moment%2 == 1:
		return "during " + r.calls[moment/2].text
	}
	return "after " + r.calls[moment/2-1].text
}
