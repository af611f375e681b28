package transport

import (
	"testing"
	"testing/synctest"
)

// TestWorkersStay: flushes one after the other are done by one worker; those that
// come together each have their own, of which some stay; none is left after close.
func TestWorkersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workers{}
		flush := func(n int) []*delivery {
			all := make([]*delivery, n)
			for i := range all {
				d := &delivery{state: flushing}
				d.mu.Lock() // its flush waits
				d.tasks.Add(1)
				w.flush(d)
				all[i] = d
			}
			return all
		}
		finish := func(all []*delivery) {
			for _, d := range all {
				d.mu.Unlock()
			}
			for _, d := range all {
				d.tasks.Wait()
			}
			synctest.Wait()
		}
		for range 3 {
			finish(flush(1))
		}
		if n := len(w.free); n != 1 {
			t.Errorf("%d workers wait after flushes one by one, want 1", n)
		}
		finish(flush(maxFree + 5))
		if n := len(w.free); n != maxFree {
			t.Errorf("%d workers wait after many flushes at once, want %d", n, maxFree)
		}
		late := flush(1)
		go w.close()
		finish(late)
		w.close()
		if len(w.free) != 0 {
			t.Errorf("%d workers wait after close", len(w.free))
		}
	})
}
