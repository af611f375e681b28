package crashfs

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Explore says which crashes to look at. The zero value looks at a crash after
// every operation, some 30 states of each at most.
type Explore struct {
	// From and To are the fewest and the most operations made before the crash.
	// A To of 0 stands for all of them.
	From, To int
	// Ignore tells of a sync that it is as if it had not been called.
	Ignore func(Sync) bool
	// Exhaustive is the number of effects not yet durable (sectors, sizes, names)
	// up to which every combination of them is tried; 4 if it is 0. Above it are
	// tried: none, all, every combination of up to so many whole operations or
	// else each one alone, each one missing, all from one on and all up to one;
	// then the newest operation torn at each sector; then Samples drawn from Seed.
	Exhaustive int
	Samples    int // 8 if it is 0
	Seed       uint64
	// Budget bounds the time, if it is not 0: once it is spent, crashes show
	// only their two extremes, nothing and everything that was not yet durable.
	Budget time.Duration
}

// limit bounds each list of variants above, for one crash.
const limit = 16

// Crash is one state that a power cut may leave.
type Crash struct {
	After int // operations made
	state *image
	fs    *FS
	what  string // the operation made last
	lost  []string
	kept  []string
}

// FS is the file system that is found afterwards. It remembers only what is
// done on it from then on; each call returns another one.
func (c Crash) FS() *FS {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	return newFS(c.state.clone(), maps.Clone(c.fs.dirs), c.fs.files)
}

// Sum tells states apart: the same names and bytes, the same sum. It is another
// in every run of the process.
func (c Crash) Sum() uint64 { return c.state.sum() }

func (c Crash) String() string {
	return fmt.Sprintf("after %d operations (%s), lost: %s; kept though not synced: %s",
		c.After, c.what, list(c.lost), list(c.kept))
}

func list(parts []string) string {
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Crashes goes through what power cuts may leave, of the operations made so far.
// No two states after the same number of operations are the same.
func (f *FS) Crashes(e Explore) iter.Seq[Crash] {
	f.mu.Lock()
	ops, base := slices.Clone(f.ops), f.start.clone()
	f.mu.Unlock()
	if e.To == 0 || e.To > len(ops) {
		e.To = len(ops)
	}
	if e.Exhaustive == 0 {
		e.Exhaustive = 4
	}
	if e.Samples == 0 {
		e.Samples = 8
	}
	return func(yield func(Crash) bool) {
		began := time.Now()
		t := &tracker{explore: e, durable: base.clone()}
		for n := 0; n <= e.To; n++ {
			what := "none"
			if n > 0 {
				what = ops[n-1].text
				t.add(ops[n-1])
			}
			if n < e.From {
				continue
			}
			if e.Budget > 0 && time.Since(began) > e.Budget {
				t.brief = true
			}
			if !t.crashes(n, func(c Crash) bool {
				c.fs, c.what = f, what
				return yield(c)
			}) {
				return
			}
		}
	}
}

// tracker follows what is durable and what is not while operations are made.
type tracker struct {
	explore Explore
	durable *image
	pending []*waiting
	brief   bool
}

// waiting is an operation that is not durable yet.
type waiting struct {
	*op
	dirs []string // not yet synced
}

func (t *tracker) add(o *op) {
	if o.sync == nil {
		t.pending = append(t.pending, &waiting{o, o.dirs})
		return
	}
	if t.explore.Ignore != nil && t.explore.Ignore(*o.sync) {
		return
	}
	t.pending = slices.DeleteFunc(t.pending, func(w *waiting) bool {
		if o.sync.Dir != (len(w.dirs) > 0) {
			return false
		}
		if o.sync.Dir {
			w.dirs = slices.DeleteFunc(slices.Clone(w.dirs), func(dir string) bool { return dir == o.sync.Path })
			if len(w.dirs) > 0 {
				return false
			}
		} else if len(w.effects) > 0 && w.effects[0].file != o.file {
			return false
		}
		for i := range w.effects {
			t.durable.apply(&w.effects[i])
		}
		return true
	})
}

// open are the operations that make a difference: those on files that have or
// may have a name.
func (t *tracker) open() []*waiting {
	named := map[int]bool{}
	for _, file := range t.durable.names {
		named[file] = true
	}
	for _, w := range t.pending {
		if len(w.dirs) > 0 && w.effects[0].name != "" {
			named[w.effects[0].file] = true
		}
	}
	var open []*waiting
	for _, w := range t.pending {
		if len(w.effects) > 0 && (len(w.dirs) > 0 || named[w.effects[0].file]) {
			open = append(open, w)
		}
	}
	return open
}

func (t *tracker) crashes(n int, yield func(Crash) bool) bool {
	open := t.open()
	total := 0
	for _, w := range open {
		total += len(w.effects)
	}
	seen := map[uint64]bool{}
	rng := rand.New(rand.NewPCG(t.explore.Seed, uint64(n)))
	return t.choices(open, total, rng, func(keep []bool) bool {
		c := t.crash(open, keep)
		c.After = n
		if sum := c.Sum(); !seen[sum] {
			seen[sum] = true
			return yield(c)
		}
		return true
	})
}

// crash makes the state in which the effects marked in keep are there.
func (t *tracker) crash(open []*waiting, keep []bool) Crash {
	c := Crash{state: t.durable.clone()}
	for _, w := range open {
		kept := 0
		for i := range w.effects {
			if keep[i] {
				c.state.apply(&w.effects[i])
				kept++
			}
		}
		switch {
		case kept == len(w.effects):
			c.kept = append(c.kept, w.text)
		case kept == 0:
			c.lost = append(c.lost, w.text)
		default:
			c.kept = append(c.kept, w.part(keep))
		}
		keep = keep[len(w.effects):]
	}
	c.state.settle()
	return c
}

// part tells which sectors of an operation are kept.
func (w *waiting) part(keep []bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in part (", w.text)
	for i, e := range w.effects {
		switch {
		case !keep[i]:
		case e.what == sizes:
			fmt.Fprintf(&b, " size")
		default:
			fmt.Fprintf(&b, " %d", e.at*Sector)
		}
	}
	return b.String() + " )"
}
