package partition

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roomlog/roomlog/raftlog"
)

func TestRetentionCheck(t *testing.T) {
	many := make([]Policy, MaxPolicies+1)
	for i := range many {
		many[i] = Policy{fmt.Sprint(i), time.Hour}
	}
	for _, tt := range []struct {
		name string
		r    Retention
		bad  string
	}{
		{"none", Retention{}, ""},
		{"all", Retention{Age: time.Hour, Bytes: 1, Messages: 1, Policies: []Policy{{"a", time.Hour}, {"", time.Minute}}}, ""},
		{"policies alone", Retention{Policies: many[1:]}, ""},
		{"negative", Retention{Bytes: -1}, "negative"},
		{"too many policies", Retention{Policies: many}, "at most 256"},
		{"longer than the rest", Retention{Age: time.Hour, Policies: []Policy{{"a", time.Hour + 1}}}, "longer"},
		{"no age", Retention{Policies: []Policy{{"a", 0}}}, "positive"},
		{"twice", Retention{Policies: []Policy{{"a", 1}, {"a", 2}}}, "two policies"},
		{"no such name", Retention{Policies: []Policy{{strings.Repeat("a", 256), 1}}}, "255"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.r.Check()
			if (err == nil) != (tt.bad == "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("got %v, want %q", err, tt.bad)
			}
		})
	}
}

func TestRetentionFull(t *testing.T) {
	hour := int64(time.Hour)
	for _, tt := range []struct {
		name string
		r    Retention
		open openChunk
		now  int64
		want bool
	}{
		{"empty", Retention{Age: time.Hour, Messages: 1}, openChunk{}, hour, false},
		{"one byte short", Retention{}, openChunk{bytes: 64<<20 - 1, messages: 9}, hour, false},
		{"full", Retention{}, openChunk{bytes: 64 << 20}, 0, true},
		{"a sixteenth of all bytes", Retention{Bytes: 64 << 20}, openChunk{bytes: 4 << 20}, 0, true},
		{"less", Retention{Bytes: 64 << 20}, openChunk{bytes: 4<<20 - 1}, 0, false},
		{"bytes for very few", Retention{Bytes: 1}, openChunk{bytes: 1<<20 - 1, messages: 1}, 0, false},
		{"bytes for very many", Retention{Bytes: 1 << 40}, openChunk{bytes: 64 << 20}, 0, true},
		{"a sixteenth of all messages", Retention{Messages: 160}, openChunk{messages: 10}, 0, true},
		{"fewer", Retention{Messages: 160}, openChunk{messages: 9}, 0, false},
		{"a message at a time", Retention{Messages: 1}, openChunk{messages: 1}, 0, true},
		{"a sixteenth of the age", Retention{Age: 16 * time.Hour}, openChunk{messages: 1, began: 5}, hour + 5, true},
		{"younger", Retention{Age: 16 * time.Hour}, openChunk{messages: 1, began: 5}, hour + 4, false},
		{"a policy's age", Retention{Age: 32 * time.Hour, Policies: []Policy{{"a", 16 * time.Hour}, {"b", 17 * time.Hour}}}, openChunk{messages: 1}, hour, true},
		{"a policy's age alone", Retention{Policies: []Policy{{"a", 16 * time.Hour}}}, openChunk{messages: 1}, hour, true},
		{"ticks alone have no age", Retention{Age: 16 * time.Hour}, openChunk{bytes: 1000}, hour, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.r.full(&tt.open, tt.now, defaultChunkBytes); got != tt.want {
				t.Errorf("full: %v", got)
			}
		})
	}
}

func TestRetentionFloors(t *testing.T) {
	const now = 1000
	stock := func() *chunks {
		return &chunks{
			floor: 5,
			closed: []chunk{
				{to: 10, time: 100, bytes: 1000, messages: 10},
				{to: 20, time: 0, bytes: 1000, messages: 0}, // nothing in it
				{to: 30, time: 300, bytes: 1000, messages: 10},
				{to: 40, time: 250, bytes: 1000, messages: 10}, // a leader's clock was behind
			},
			open: openChunk{bytes: 500, messages: 5, time: 400},
		}
	}
	for _, tt := range []struct {
		name  string
		r     Retention
		floor raftlog.Index
		rest  string
	}{
		{"without limit", Retention{}, 5, ""},
		{"none is old enough", Retention{Age: 900}, 5, ""},
		{"one is, and the empty one behind it", Retention{Age: 899}, 20, ""},
		{"an older one behind a younger stays", Retention{Age: 720}, 20, ""},
		{"all are", Retention{Age: 600}, 40, ""},
		{"bytes for all", Retention{Bytes: 4500}, 5, ""},
		{"a byte more than is left", Retention{Bytes: 3501}, 5, ""},
		{"bytes without the first", Retention{Bytes: 3500}, 10, ""},
		{"bytes for the open chunk", Retention{Bytes: 500}, 40, ""},
		{"messages for all", Retention{Messages: 26}, 5, ""},
		{"messages without the first, and the empty one behind it", Retention{Messages: 25}, 20, ""},
		{"messages for the open chunk", Retention{Messages: 5}, 40, ""},
		{"more than the open chunk", Retention{Messages: 6}, 30, ""},
		{"the strictest counts", Retention{Age: 999, Bytes: 2500, Messages: 26}, 20, ""},
		{"a policy", Retention{Age: 899, Policies: []Policy{{"a", 650}, {"b", 600}, {"c", 899}}}, 20, "a 40 b 40 "},
		{"a policy alone", Retention{Policies: []Policy{{"a", 750}}}, 5, "a 20 "},
		{"a policy that is known", Retention{Policies: []Policy{{"known", 650}}}, 5, "known 40 "},
		{"a policy that is known as far", Retention{Policies: []Policy{{"known", 800}}}, 5, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := stock()
			c.prefixes = []prefixFloor{{prefix: "known", index: 20}}
			floor, prefixes, news := tt.r.floors(c, now)
			rest := ""
			for _, p := range prefixes {
				rest += fmt.Sprint(p.prefix, " ", p.index, " ")
			}
			if floor != tt.floor || rest != tt.rest || news != (floor > 5 || rest != "") {
				t.Errorf("floor %d, %q, %v, want %d, %q", floor, rest, news, tt.floor, tt.rest)
			}
		})
	}
}
