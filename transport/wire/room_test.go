package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCheckRoom(t *testing.T) {
	for _, tt := range []struct{ name, room, want string }{
		{"empty", "", "room name is empty"},
		{"one byte", "r", ""},
		{"one short of the limit", strings.Repeat("r", 254), ""},
		{"at the limit", strings.Repeat("r", 255), ""},
		{"beyond the limit", strings.Repeat("r", 256), "room name has 256 bytes, at most 255 are allowed"},
		{"at the limit in bytes, not in letters", strings.Repeat("é", 127) + "r", ""},
		{"beyond the limit in bytes, not in letters", strings.Repeat("é", 128), "room name has 256 bytes"},
		{"ASCII from space to tilde", " ~", ""},
		{"NUL", "a\x00b", `room name "a\x00b" holds a control character at byte 1`},
		{"newline", "a\n", "holds a control character at byte 1"},
		{"last of C0", "\x1f", "holds a control character at byte 0"},
		{"DEL", "a\x7f", "holds a control character at byte 1"},
		{"DEL behind a letter", "é\x7f", "holds a control character at byte 2"},
		{"NUL behind a letter", "é\x00", "holds a control character at byte 2"},
		{"first of C1", "é\u0080", "holds a control character at byte 2"},
		{"last of C1", "ab\u009f", "holds a control character at byte 2"},
		{"behind C1", "\u00a0", ""},
		{"letters of all widths", "aé語🦊", ""},
		{"replacement character", "\ufffd", ""},
		{"largest rune", "\U0010ffff", ""},
		{"a byte that is no UTF-8", "a\xffb", "is not valid UTF-8"},
		{"a letter cut short", "a\xc3", "is not valid UTF-8"},
		{"an overlong slash", "\xc0\xaf", "is not valid UTF-8"},
		{"a surrogate", "\xed\xa0\x80", "is not valid UTF-8"},
		{"beyond the largest rune", "\xf4\x90\x80\x80", "is not valid UTF-8"},
		{"C1 as a bare byte", "\x85", "is not valid UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkText := func(err error) {
				t.Helper()
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			}
			checkText(CheckRoom(tt.room))
			checkText(CheckRoom([]byte(tt.room)))
		})
	}
}

func TestCheckName(t *testing.T) {
	for _, tt := range []struct{ name, publisher, want string }{
		{"empty", "", ""},
		{"one byte", "a", ""},
		{"at the limit", strings.Repeat("a", 64), ""},
		{"beyond the limit", strings.Repeat("a", 65), "publisher name has 65 bytes, at most 64 are allowed"},
		{"newline", "a\n", "holds a control character at byte 1"},
		{"C1", "\u0085", "holds a control character at byte 0"},
		{"no UTF-8", "\xff", "is not valid UTF-8"},
		{"letters", "Ünal 語", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, err := range []error{CheckName(tt.publisher), CheckName([]byte(tt.publisher))} {
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			}
		})
	}
}

// theRooms are the names that the golden file places.
func theRooms() []string {
	names := []string{"a", "b", "lobby", "Lobby", "room-0", "room-1", "match/2024/final", " ", "é", "語", "🦊", strings.Repeat("r", 255)}
	for i := range 20 {
		names = append(names, fmt.Sprintf("match-%d", i*i*i))
	}
	return append(names, traceRooms()...)
}

// traceRooms are the rooms of testdata/traces/irc-ubuntu.jsonl.gz.
func traceRooms() []string {
	text, err := os.ReadFile(filepath.Join("testdata", "rooms.txt"))
	if err != nil {
		panic(err)
	}
	return strings.Fields(string(text))
}

// TestPartitionOfGolden: a room's messages lie where PartitionOf points, so it
// must never point elsewhere.
func TestPartitionOfGolden(t *testing.T) {
	var b strings.Builder
	b.WriteString("room, and its partition of 1, 8, 16, 64\n")
	for _, room := range theRooms() {
		fmt.Fprintf(&b, "%.20q", room)
		for _, n := range []int{1, 8, 16, 64} {
			fmt.Fprintf(&b, " %d", PartitionOf(room, n))
			if p := PartitionOf([]byte(room), n); p != PartitionOf(room, n) {
				t.Errorf("%q: %d as bytes, %d as a string", room, p, PartitionOf(room, n))
			}
		}
		b.WriteByte('\n')
	}
	path := filepath.Join("testdata", "partitions.txt")
	if *rewrite {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s has\n%s\nnow it is\n%s", path, want, b.String())
	}
}

// TestPartitionOfEven: the fullest partition has little more than its share,
// for few rooms as much as chance makes likely.
func TestPartitionOfEven(t *testing.T) {
	made := func(format string) (names []string) {
		for i := range 100_000 {
			names = append(names, fmt.Sprintf(format, i))
		}
		return names
	}
	for _, tt := range []struct {
		rooms      string
		names      []string
		partitions int
		most       int
	}{
		{"real", traceRooms(), 8, 11},
		{"real", traceRooms(), 16, 8},
		{"numbered", made("room-%d"), 8, 12_900},
		{"numbered", made("room-%d"), 64, 1_720},
		{"deep", made("match/%d/chat"), 16, 6_600},
		{"hexadecimal", made("%08x"), 64, 1_720},
		{"bare numbers", made("%d"), 64, 1_720},
	} {
		t.Run(fmt.Sprintf("%s on %d", tt.rooms, tt.partitions), func(t *testing.T) {
			count := make([]int, tt.partitions)
			for _, name := range tt.names {
				count[PartitionOf(name, tt.partitions)]++
			}
			if fullest := slices.Max(count); fullest > tt.most {
				t.Errorf("%d of %d rooms fall on one of %d partitions, want at most %d", fullest, len(tt.names), tt.partitions, tt.most)
			}
		})
	}
}
