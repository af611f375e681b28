package bench

import (
	"testing"

	"github.com/roomlog/roomlog/client"
)

// TestAck: the acks of one client's messages to a room have rising seqs, with
// holes where other clients have published.
func TestAck(t *testing.T) {
	for _, tt := range []struct {
		name    string
		seqs    []uint64
		retried int
		want    Faults
	}{
		{"alone", []uint64{1, 2, 3}, 0, Faults{}},
		{"beside others", []uint64{2, 5, 9}, 1, Faults{}},
		{"one number twice", []uint64{1, 1, 2}, 0, Faults{Duplicates: 1}},
		{"one back", []uint64{2, 1, 3}, 0, Faults{Reordered: 1}},
	} {
		f := &feed{room: &room{}}
		for i, seq := range tt.seqs {
			f.ack(client.Receipt{Seq: seq, Duplicate: i < tt.retried})
		}
		if f.faults != tt.want || f.acked != int64(len(tt.seqs)) || f.retries != int64(tt.retried) {
			t.Errorf("%s: %d acked, %d by a retry, %+v; want %d, %d, %+v",
				tt.name, f.acked, f.retries, f.faults, len(tt.seqs), tt.retried, tt.want)
		}
	}
}

// TestShares: rooms belong to one client each, or a room to several.
func TestShares(t *testing.T) {
	for _, tt := range []struct {
		rooms, clients int
		want           [][]int // rooms of each client
	}{
		{1, 1, [][]int{{0}}},
		{5, 2, [][]int{{0, 2, 4}, {1, 3}}},
		{2, 3, [][]int{{0}, {1}, {0}}},
	} {
		l := &publishLoad{settings: Settings{Clients: tt.clients, InFlight: 64}}
		for i := range tt.rooms {
			l.rooms = append(l.rooms, &room{index: i, partition: i % 2})
		}
		for i, want := range tt.want {
			p := &publisher{load: l, index: i}
			p.share()
			if len(p.rooms) != len(want) {
				t.Fatalf("%d rooms, client %d has %d of them, want %v", tt.rooms, i, len(p.rooms), want)
			}
			byPartition := make(map[int]chan<- flight)
			for j, f := range p.rooms {
				if f.index != want[j] {
					t.Errorf("%d rooms, client %d has %d, want %v", tt.rooms, i, f.index, want)
				}
				if lane := byPartition[f.partition]; lane != nil && lane != f.lane {
					t.Errorf("partition %d has two lanes", f.partition)
				}
				byPartition[f.partition] = f.lane
			}
			if len(byPartition) != len(p.lanes) {
				t.Errorf("%d lanes for %d partitions", len(p.lanes), len(byPartition))
			}
		}
	}
}
