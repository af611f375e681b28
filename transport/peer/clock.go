package peer

import "time"

// sample is one measurement of another node's clock.
type sample struct {
	rtt    time.Duration
	offset time.Duration // their clock minus ours
}

// measure makes a sample from a ping sent and answered at our times sent and
// arrived, which the other node received and answered at its own. A reading
// that cannot be (a clock was set in between) is no sample.
func measure(sent, arrived time.Time, theirReceived, theirSent int64) (sample, bool) {
	elapsed := arrived.Sub(sent)
	held := time.Duration(theirSent - theirReceived)
	if held < 0 || held > elapsed {
		return sample{}, false
	}
	rtt := elapsed - held
	offset := time.Duration(theirReceived-sent.UnixNano()) - rtt/2
	return sample{rtt: rtt, offset: offset}, true
}

// clock keeps the last samples of one node. The one with the least round trip
// has the least error: half of it at most.
type clock struct {
	samples [8]sample
	count   int // ever added
}

func (c *clock) add(s sample) {
	c.samples[c.count%len(c.samples)] = s
	c.count++
}

// best is the zero sample while there is none.
func (c *clock) best() sample {
	var best sample
	for i, s := range c.samples[:min(c.count, len(c.samples))] {
		if i == 0 || s.rtt < best.rtt {
			best = s
		}
	}
	return best
}
