package node

import (
	"testing"

	"github.com/roomlog/roomlog/transport/peer"
)

func TestClockMajority(t *testing.T) {
	other := func(name string, offset float64) peer.PeerStatus {
		return peer.PeerStatus{Node: name, Alive: true, OffsetMs: offset, RTTMs: 0.2}
	}
	down := peer.PeerStatus{Node: "n3", OffsetMs: 5000, RTTMs: 0.2}
	unmeasured := peer.PeerStatus{Node: "n3", Alive: true, OffsetMs: 5000}
	for _, tt := range []struct {
		name    string
		others  []peer.PeerStatus
		members int
		off     bool
	}{
		{"alone", nil, 1, false},
		{"all agree", []peer.PeerStatus{other("n2", 3), other("n3", -2)}, 3, false},
		{"both others are ahead", []peer.PeerStatus{other("n2", 5000), other("n3", 5100)}, 3, true},
		{"both others are behind", []peer.PeerStatus{other("n2", -1001), other("n3", -1500)}, 3, true},
		{"at the limit", []peer.PeerStatus{other("n2", 1000), other("n3", 1000)}, 3, false},
		{"one other is off", []peer.PeerStatus{other("n2", 5000), other("n3", 0)}, 3, false},
		{"nobody agrees with anybody", []peer.PeerStatus{other("n2", 5000), other("n3", -5000)}, 3, false},
		{"one of the others is down", []peer.PeerStatus{other("n2", 5000), down}, 3, false},
		{"one of the others is not measured", []peer.PeerStatus{other("n2", 5000), unmeasured}, 3, false},
		{"two of four others agree", []peer.PeerStatus{other("n2", 5000), other("n3", 5000), other("n4", 0), other("n5", 1)}, 5, false},
		{"three of four others agree", []peer.PeerStatus{other("n2", 5000), other("n3", 5000), other("n4", 5900), other("n5", 1)}, 5, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node, offset, off := clockMajority(tt.others, tt.members)
			if off != tt.off || off && (node == "" || offset == 0) {
				t.Errorf("clockMajority = %q, %v, %v, want %v", node, offset, off, tt.off)
			}
		})
	}
}
