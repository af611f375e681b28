package crashfs

import (
	"math/rand/v2"
	"slices"
)

// choices yields which effects of the open operations are kept, one by one,
// until yield returns false; that is its result. The slice is reused.
func (t *tracker) choices(open []*waiting, total int, rng *rand.Rand, yield func([]bool) bool) bool {
	c := chooser{open: open, keep: make([]bool, total), yield: yield}
	switch {
	case !c.all(false) || !c.all(true):
		return false
	case t.brief:
		return true
	case total <= t.explore.Exhaustive:
		return every(total, func(mask uint) bool {
			return c.effects(func(i int) bool { return mask>>i&1 == 1 })
		})
	}
	return c.whole(t.explore.Exhaustive) && c.torn() && c.random(t.explore.Samples, rng)
}

// chooser yields variants; its methods return false once nobody wants more.
type chooser struct {
	open  []*waiting
	keep  []bool
	yield func([]bool) bool
}

func every(bits int, f func(mask uint) bool) bool {
	for mask := range uint(1) << bits {
		if !f(mask) {
			return false
		}
	}
	return true
}

func (c *chooser) effects(kept func(i int) bool) bool {
	for i := range c.keep {
		c.keep[i] = kept(i)
	}
	return c.yield(c.keep)
}

func (c *chooser) all(kept bool) bool {
	return c.effects(func(int) bool { return kept })
}

// ops keeps whole operations.
func (c *chooser) ops(kept func(i int) bool) bool {
	at := 0
	for i, w := range c.open {
		k := kept(i)
		for range w.effects {
			c.keep[at] = k
			at++
		}
	}
	return c.yield(c.keep)
}

// whole varies whole operations: every combination, or the extremes.
func (c *chooser) whole(exhaustive int) bool {
	n := len(c.open)
	if n <= exhaustive {
		return every(n, func(mask uint) bool {
			return c.ops(func(i int) bool { return mask>>i&1 == 1 })
		})
	}
	for at := n - 1; at >= max(0, n-limit); at-- {
		if !c.ops(func(i int) bool { return i == at }) || !c.ops(func(i int) bool { return i != at }) ||
			!c.ops(func(i int) bool { return i >= at }) || !c.ops(func(i int) bool { return i < at }) {
			return false
		}
	}
	return true
}

// torn keeps all older operations and varies the newest that has parts: up to a
// sector, from one on, one missing, one alone.
func (c *chooser) torn() bool {
	at := len(c.open) - 1
	for at >= 0 && len(c.open[at].effects) < 2 {
		at--
	}
	if at < 0 {
		return true
	}
	first := 0
	for _, w := range c.open[:at] {
		first += len(w.effects)
	}
	parts := len(c.open[at].effects)
	vary := func(kept func(part int) bool) bool {
		return c.effects(func(i int) bool { return i < first || i >= first+parts || kept(i-first) })
	}
	for _, cut := range spread(parts) {
		if !vary(func(i int) bool { return i <= cut }) || !vary(func(i int) bool { return i >= cut }) ||
			!vary(func(i int) bool { return i != cut }) || !vary(func(i int) bool { return i == cut }) {
			return false
		}
	}
	return true
}

// spread is up to limit of the numbers below n, both ends among them.
func spread(n int) []int {
	var all []int
	for i := range min(n, limit) {
		all = append(all, i*(n-1)/max(1, min(n, limit)-1))
	}
	return slices.Compact(all)
}

// random draws: few or many kept, by operation and by effect in turn.
func (c *chooser) random(samples int, rng *rand.Rand) bool {
	for n := range samples {
		odds := []float64{0.5, 0.85, 0.15}[rng.IntN(3)]
		draw := func(int) bool { return rng.Float64() < odds }
		by := c.effects
		if n%4 == 3 {
			by = c.ops
		}
		if !by(draw) {
			return false
		}
	}
	return true
}
