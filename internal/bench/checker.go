package bench

// checker follows one subscriber's messages of one room, which are numbered 0,
// 1, 2, … by their publisher. It belongs to the subscriber's goroutine.
type checker struct {
	next   uint64              // the number due
	absent map[uint64]struct{} // numbers below next that have not come
	Faults
}

// Faults are what a subscriber must never see.
type Faults struct {
	Missing    int64 `json:"missing"`    // published and acked, but never received
	Duplicates int64 `json:"duplicates"` // received again
	Reordered  int64 `json:"reordered"`  // received behind a younger one
}

func (f *Faults) add(g Faults) {
	f.Missing += g.Missing
	f.Duplicates += g.Duplicates
	f.Reordered += g.Reordered
}

// see takes the next message that the subscriber got.
func (c *checker) see(number uint64) {
	switch _, awaited := c.absent[number]; {
	case number >= c.next:
		c.skip(number)
		c.next = number + 1
	case awaited:
		delete(c.absent, number)
		c.Reordered++
	default:
		c.Duplicates++
	}
}

// skip takes note that all numbers before number are still to come.
func (c *checker) skip(number uint64) {
	if c.absent == nil && number > c.next {
		c.absent = make(map[uint64]struct{})
	}
	for n := c.next; n < number; n++ {
		c.absent[n] = struct{}{}
	}
}

// end tells what was wrong when the numbers below published should have come.
func (c *checker) end(published uint64) Faults {
	f := c.Faults
	f.Missing = int64(len(c.absent))
	if published > c.next {
		f.Missing += int64(published - c.next)
	}
	return f
}
