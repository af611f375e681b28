package faultnet

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Traffic is what kind of packets a fault is for.
type Traffic uint

const (
	All Traffic = iota
	TCP
	UDP
)

// Fault is what shall happen to packets. A fault is for one direction: to cut a
// host off takes one from it and one to it.
type Fault struct {
	From, To  []string      // names of hosts; nil: any
	Match     Traffic       // all, unless it says otherwise
	Drop      float64       // share of the packets; 1: all
	Delay     time.Duration // of each packet
	Jitter    time.Duration // up to so much more, by chance: packets overtake each other, unless Ordered
	Ordered   bool          // no packet arrives before one sent earlier from the same host to the same host
	Duplicate float64       // share of the packets that arrive twice
	Corrupt   float64       // share of those with a payload a bit of which flips; checksums are left as they are, wrong
	Rate      int64         // bytes a second from each host to each; 0: no limit. At most 256 KiB wait, the rest is dropped.
	Seed      uint64
}

// rateQueue is how many bytes wait at most for a Fault's Rate.
const rateQueue = 256 << 10

// Injected is a Fault at work. Its methods may be called concurrently.
type Injected struct {
	Fault
	net *Net

	mu    sync.Mutex
	rng   *rand.Rand
	links map[link]*queue
	count int
}

// link is one direction between two hosts.
type link struct{ from, to *Host }

// queue is what a fault remembers of a link.
type queue struct {
	free time.Time // from when on the Rate is for the next packet
	last time.Time // when the latest packet arrives
}

func newInjected(n *Net, f Fault) *Injected {
	f.From, f.To = slices.Clone(f.From), slices.Clone(f.To)
	return &Injected{Fault: f, net: n, rng: rand.New(rand.NewPCG(f.Seed, 0)), links: map[link]*queue{}}
}

// Count is how many packets it took effect on.
func (i *Injected) Count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.count
}

// Off takes the fault away. Packets that it has delayed arrive nonetheless.
func (i *Injected) Off() { i.net.remove(i) }

// fate is what becomes of a packet.
type fate struct {
	due    time.Time // when it arrives
	copies int
	lost   bool
}

// matches tells whether the fault is for a packet.
func (i *Injected) matches(l link, protocol byte) bool {
	switch {
	case i.Match == TCP && protocol != protocolTCP, i.Match == UDP && protocol != protocolUDP:
		return false
	case i.From != nil && !slices.Contains(i.From, l.from.name):
		return false
	}
	return i.To == nil || slices.Contains(i.To, l.to.name)
}

// meet has the fault take effect on a packet, and may change it.
func (i *Injected) meet(l link, packet []byte, f *fate) {
	i.mu.Lock()
	defer i.mu.Unlock()
	effect := i.lose(f)
	if !f.lost {
		effect = i.flip(packet) || effect
		effect = i.duplicate(f) || effect
		effect = i.delay(l, len(packet), f) || effect
	}
	if effect {
		i.count++
	}
}

// by tells whether something that happens with a chance happens now.
func (i *Injected) by(chance float64) bool { return chance > 0 && i.rng.Float64() < chance }

func (i *Injected) lose(f *fate) bool {
	f.lost = i.by(i.Drop)
	return f.lost
}

func (i *Injected) flip(packet []byte) bool {
	payload := payloadOf(packet)
	if len(payload) == 0 || !i.by(i.Corrupt) {
		return false
	}
	bit := i.rng.IntN(8 * len(payload))
	payload[bit/8] ^= 1 << (bit % 8)
	return true
}

func (i *Injected) duplicate(f *fate) bool {
	if !i.by(i.Duplicate) {
		return false
	}
	f.copies++
	return true
}

// delay makes a packet wait for the Rate, if there is one, and then for Delay and Jitter.
func (i *Injected) delay(l link, size int, f *fate) bool {
	if i.Rate == 0 && i.Delay == 0 && i.Jitter == 0 {
		return false
	}
	q := i.links[l]
	if q == nil {
		q = &queue{}
		i.links[l] = q
	}
	if i.Rate > 0 {
		if q.free.Before(f.due) {
			q.free = f.due
		}
		waiting := q.free.Sub(f.due).Seconds() * float64(i.Rate)
		if waiting+float64(size) > rateQueue {
			f.lost = true
			return true
		}
		q.free = q.free.Add(time.Duration(float64(size) / float64(i.Rate) * float64(time.Second)))
		f.due = q.free
	}
	f.due = f.due.Add(i.Delay)
	if i.Jitter > 0 {
		f.due = f.due.Add(time.Duration(i.rng.Int64N(int64(i.Jitter))))
	}
	if i.Ordered && f.due.Before(q.last) {
		f.due = q.last
	}
	q.last = f.due
	return true
}
