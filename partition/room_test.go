package partition

import (
	"math"
	"testing"
)

func placesRoom() *room {
	return &room{name: "r", first: 1, last: 12, time: 300, places: []place{
		{first: 1, index: 10, time: 100},
		{first: 4, index: 11, time: 200},
		{first: 5, index: 20, time: 200},
		{first: 9, index: 30, time: 300},
	}}
}

func TestRoomFind(t *testing.T) {
	one := &room{first: 1, last: 1, places: []place{{first: 1, index: 10}}}
	for _, tt := range []struct {
		name  string
		room  *room
		seq   Seq
		index int
		last  Seq
	}{
		{"the only one", one, 1, 10, 1},
		{"first of the first place", placesRoom(), 1, 10, 3},
		{"last of the first place", placesRoom(), 3, 10, 3},
		{"a place of one", placesRoom(), 4, 11, 4},
		{"first of a later place", placesRoom(), 5, 20, 8},
		{"last of a later place", placesRoom(), 8, 20, 8},
		{"first of the last place", placesRoom(), 9, 30, 12},
		{"the last of all", placesRoom(), 12, 30, 12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, last := tt.room.find(tt.seq)
			if int(p.index) != tt.index || last != tt.last {
				t.Errorf("seq %d is in entry %d up to %d, want entry %d up to %d", tt.seq, p.index, last, tt.index, tt.last)
			}
		})
	}
}

func TestRoomAt(t *testing.T) {
	trimmed := placesRoom()
	trimmed.first = 6
	for _, tt := range []struct {
		name  string
		room  *room
		time  int64
		at    Seq
		since int
	}{
		{"long before", placesRoom(), math.MinInt64, 1, 12},
		{"just before the first", placesRoom(), 99, 1, 12},
		{"at the first", placesRoom(), 100, 1, 12},
		{"just behind the first", placesRoom(), 101, 4, 9},
		{"two places of one time", placesRoom(), 200, 4, 9},
		{"just behind them", placesRoom(), 201, 9, 4},
		{"at the last", placesRoom(), 300, 9, 4},
		{"just behind the last", placesRoom(), 301, 13, 0},
		{"far behind", placesRoom(), math.MaxInt64, 13, 0},
		{"before what is held", trimmed, 100, 6, 7},
		{"in what is partly held", trimmed, 200, 6, 7},
		{"behind that", trimmed, 201, 9, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if at, since := tt.room.at(tt.time), tt.room.since(tt.time); at != tt.at || since != tt.since {
				t.Errorf("seq %d with %d messages, want %d with %d", at, since, tt.at, tt.since)
			}
		})
	}
}
