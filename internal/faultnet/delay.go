package faultnet

import (
	"bytes"
	"container/heap"
	"sync"
	"time"
)

// maxDelayed is how many bytes of packets wait at most; later ones are dropped.
const maxDelayed = 64 << 20

// delayed is the queue of the packets that arrive later.
type delayed struct {
	earlier chan struct{} // of capacity 1: the next packet is due earlier than the one before was
	stop    chan struct{}

	mu    sync.Mutex
	heap  parcels
	bytes int
	most  int // of bytes
	seq   uint64
}

type parcel struct {
	due    time.Time
	seq    uint64 // packets due at the same time keep their order
	to     *Host
	packet []byte
}

type parcels []parcel

func (p parcels) Len() int      { return len(p) }
func (p parcels) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *parcels) Push(x any)   { *p = append(*p, x.(parcel)) }

func (p parcels) Less(i, j int) bool {
	if p[i].due.Equal(p[j].due) {
		return p[i].seq < p[j].seq
	}
	return p[i].due.Before(p[j].due)
}

func (p *parcels) Pop() any {
	last := len(*p) - 1
	x := (*p)[last]
	(*p)[last] = parcel{}
	*p = (*p)[:last]
	return x
}

func newDelayed() *delayed {
	return &delayed{earlier: make(chan struct{}, 1), stop: make(chan struct{}), most: maxDelayed}
}

// add queues a copy of a packet, if there is room.
func (d *delayed) add(due time.Time, to *Host, packet []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bytes+len(packet) > d.most {
		return
	}
	d.seq++
	d.bytes += len(packet)
	heap.Push(&d.heap, parcel{due, d.seq, to, bytes.Clone(packet)})
	if d.heap[0].seq == d.seq {
		select {
		case d.earlier <- struct{}{}:
		default:
		}
	}
}

// next takes the packet that is due, or says how long none is.
func (d *delayed) next(now time.Time) (p parcel, ok bool, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.heap) == 0 {
		return p, false, time.Hour
	}
	if wait := d.heap[0].due.Sub(now); wait > 0 {
		return p, false, wait
	}
	p = heap.Pop(&d.heap).(parcel)
	d.bytes -= len(p.packet)
	return p, true, 0
}

// run delivers packets when they are due, until stop is closed.
func (d *delayed) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p, ok, wait := d.next(time.Now())
		if ok {
			p.to.deliver(p.packet)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-d.earlier:
		case <-d.stop:
			return
		}
	}
}
