//go:build controls

package raftlog

import (
	"testing"
	"time"
)

// A node without anything joins a group that has dropped its beginning: it gets the
// floor, again and again, and nothing behind it.
func TestControlNoBoundaryRecord(t *testing.T) {
	for _, control := range []string{"none", "no-boundary-record"} {
		t.Run(control, func(t *testing.T) {
			Seed(control)
			t.Cleanup(func() { Seed("") })
			c := newSmallCluster(t, 3, "n1", "n2")
			c.compact("a")
			n := c.open("n3")
			c.publish("last")
			late := !c.events.until(4*time.Second, func() bool { return n.machine.has("last") })
			if want := control != "none"; late != want {
				t.Errorf("the new node does not catch up: %v, want %v", late, want)
			}
			if late && len(n.machine.restores()) == 0 {
				t.Error("it did not get the floor either")
			}
		})
	}
}
