package transport

import "sync"

// workers flush deliveries that cannot be flushed where they became due. A
// goroutine that is new would have to grow its stack for nearly each flush, which is
// a tenth of what that costs; so some stay for the next one.
type workers struct {
	tasks sync.WaitGroup

	mu     sync.Mutex
	free   []chan *delivery // of those that wait, the last one first
	closed bool
}

// maxFree is how many goroutines may wait for a delivery.
const maxFree = 16

// flush flushes d in another goroutine. It never blocks.
func (w *workers) flush(d *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.free); n > 0 {
		w.free[n-1] <- d
		w.free = w.free[:n-1]
		return
	}
	w.tasks.Go(func() { w.work(d) })
}

func (w *workers) work(d *delivery) {
	next := make(chan *delivery, 1)
	for ok := true; ok; {
		d.flush()
		d.tasks.Done()
		if !w.wait(next) {
			return
		}
		d, ok = <-next
	}
}

// wait has next told of a delivery. It returns false if there are enough who wait.
func (w *workers) wait(next chan *delivery) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.free) >= maxFree {
		return false
	}
	w.free = append(w.free, next)
	return true
}

// close ends those who wait, when there is nothing more to flush, and returns when
// the last has ended.
func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	for _, next := range w.free {
		close(next)
	}
	w.free = nil
	w.mu.Unlock()
	w.tasks.Wait()
}
