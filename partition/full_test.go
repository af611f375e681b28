package partition

import (
	"errors"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

// While the disk is nearly full publishes and new sessions are refused at once;
// what was taken before is answered, sessions can be closed, and a client that
// comes back later finds room.
func TestPublisherFullDisk(t *testing.T) {
	full := false
	p := fakePartition(1 << 20)
	p.cfg.Full = func() bool { return full }
	e := newEvents()
	pub := p.Attach(SessionID{1}, e)
	publishTo(pub, 1)
	full = true
	publishTo(pub, 2, 3)
	pub.Detach()
	e.expect(t)
	pub.answered(2, []Answer{{Counter: 1, Count: 1}}, nil)
	e.expect(t, "1+1 acked", "2 refused: partition: disk is nearly full")

	opening := p.Attach(SessionID{2}, e)
	opening.Open()
	e.expect(t, "0 refused: partition: disk is nearly full")
	if waiting := len(p.queue.items); waiting != 2 {
		t.Errorf("%d items wait, want the first publish and the end of its session", waiting)
	}
	full = false
	publishTo(p.Attach(SessionID{1}, e), 2)
	e.expect(t)
}

func TestRefusalForNoSpace(t *testing.T) {
	for _, err := range []error{diskFullError{}, errors.Join(errFirst, raftlog.ErrNoSpace)} {
		r := refusalFor(7, err)
		if r.Counter != 7 || r.Maybe || r.RetryAfter != time.Second || !errors.Is(r.Err, ErrOverloaded) || r.Err.Error() != "partition: disk is nearly full" {
			t.Errorf("%v: refused as %+v", err, r)
		}
	}
}
