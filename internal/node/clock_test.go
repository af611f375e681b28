package node

import (
	"testing"

	"github.com/roomlog/roomlog/transport/peer"
)

func TestClockMajority(t *testing.T) {
	other := func(name string, offset float64) peer.PeerStatus {
		return peer.PeerStatus{Node: name, Alive: true, OffsetMs: offset, RTTMs: 0.2}
	}
	drained := func(name string) peer.PeerStatus {
		p := other(name, 5000)
		p.Drained = true
		return p
	}
	down := peer.PeerStatus{Node: "n3", OffsetMs: 5000, RTTMs: 0.2}
	unmeasured := peer.PeerStatus{Node: "n3", Alive: true, OffsetMs: 5000}
	for _, tt := range []struct {
		name    string
		others  []peer.PeerStatus
		members int
		to      string // "" if the clock is not off
	}{
		{"alone", nil, 1, ""},
		{"all agree", []peer.PeerStatus{other("n2", 3), other("n3", -2)}, 3, ""},
		{"both others are ahead", []peer.PeerStatus{other("n2", 5000), other("n3", 5100)}, 3, "n2"},
		{"both others are behind", []peer.PeerStatus{other("n2", -1001), other("n3", -1500)}, 3, "n2"},
		{"at the limit", []peer.PeerStatus{other("n2", 1000), other("n3", 1000)}, 3, ""},
		{"one other is off", []peer.PeerStatus{other("n2", 5000), other("n3", 0)}, 3, ""},
		{"nobody agrees with anybody", []peer.PeerStatus{other("n2", 5000), other("n3", -5000)}, 3, ""},
		{"one of the others is down", []peer.PeerStatus{other("n2", 5000), down}, 3, ""},
		{"one of the others is not measured", []peer.PeerStatus{other("n2", 5000), unmeasured}, 3, ""},
		{"two of four others agree", []peer.PeerStatus{other("n2", 5000), other("n3", 5000), other("n4", 0), other("n5", 1)}, 5, ""},
		{"a drained one would give it back", []peer.PeerStatus{drained("n2"), other("n3", 5000), drained("n4"), other("n5", 0)}, 5, "n3"},
		{"all others are drained", []peer.PeerStatus{drained("n2")}, 1, "n2"},
		{"three of four others agree", []peer.PeerStatus{other("n2", 5000), other("n3", 5000), other("n4", 5900), other("n5", 1)}, 5, "n2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node, offset, off := clockMajority(tt.others, tt.members)
			if node != tt.to || off != (tt.to != "") || off != (offset != 0) {
				t.Errorf("clockMajority = %q, %v, %v, want %q", node, offset, off, tt.to)
			}
		})
	}
}
