package node

import (
	"testing"
	"time"
)

// A node that dies again and again is acted upon some times at once, and then now
// and then; another one's deaths are its own.
func TestDeathsAreLimited(t *testing.T) {
	d, now := newDeaths(), time.Unix(0, 0)
	for i := range deathBurst {
		if !d.allows("n1", now) {
			t.Fatalf("death %d is one too many", i+1)
		}
	}
	for range 100 {
		if d.allows("n1", now) {
			t.Fatal("there is no bound")
		}
	}
	if !d.allows("n2", now) {
		t.Error("n2 pays for n1")
	}
	if d.allows("n1", now.Add(deathPause-1)) || !d.allows("n1", now.Add(deathPause)) || d.allows("n1", now.Add(deathPause)) {
		t.Error("then it is not one in each pause")
	}
	later := now.Add(time.Hour)
	for i := range deathBurst {
		if !d.allows("n1", later) {
			t.Errorf("death %d an hour later is one too many", i+1)
		}
	}
	if d.allows("n1", later) {
		t.Error("an hour without deaths is worth more than the burst")
	}
}
