package top

import (
	"math"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
)

func TestShort(t *testing.T) {
	for _, tt := range []struct {
		ms         float64
		want, unit string
	}{
		{0, "0", "0 ms"}, {-3, "0", "0 ms"}, {math.NaN(), "0", "0 ms"}, {0.04, "<0.1", "<0.1 ms"}, {0.05, "0.1", "0.1 ms"},
		{9.94, "9.9", "9.9 ms"}, {9.96, "10", "10 ms"}, {999.4, "999", "999 ms"}, {999.6, "1.0s", "1.0s"},
		{9_949, "9.9s", "9.9s"}, {9_960, "10s", "10s"}, {599_000, "599s", "599s"}, {600_000, "10m", "10m"},
		{36_000_000, "10h", "10h"}, {1e9, "278h", "278h"}, {4e9, "46d", "46d"}, {1e30, "999d", "999d"}, {math.Inf(1), "999d", "999d"},
	} {
		if got := short(tt.ms); got != tt.want || withUnit(tt.ms) != tt.unit {
			t.Errorf("%v ms = %q, %q, want %q, %q", tt.ms, got, withUnit(tt.ms), tt.want, tt.unit)
		}
	}
}

func TestRate(t *testing.T) {
	for _, tt := range []struct {
		v    float64
		want string
	}{
		{0, "0"}, {-1, "0"}, {math.NaN(), "0"}, {0.04, "<0.1"}, {0.5, "0.5"}, {3, "3"}, {9.94, "9.9"}, {12, "12"}, {999.4, "999"},
		{999.5, "1.0k"}, {9_940, "9.9k"}, {9_960, "10k"}, {999_400, "999k"}, {1e6, "1.0M"}, {12e9, "12G"}, {3e12, "3.0T"}, {1e30, "999T"},
	} {
		if got := rate(tt.v); got != tt.want {
			t.Errorf("rate(%v) = %q, want %q", tt.v, got, tt.want)
		}
	}
}

func TestClean(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"игра 部屋🎉", "игра 部屋🎉"},
		{"a\nb\tc\rd\x1b[31m\x00\u009b", "a·b·c·d·[31m··"},
		{"right\u202eleft\u200bzero\u2028line", "right·left·zero·line"},
		{"bad\xff", "bad\ufffd"},
	} {
		if got := clean(tt.text); got != tt.want {
			t.Errorf("clean(%q) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestPad(t *testing.T) {
	for _, tt := range []struct {
		text  string
		width int
		left  bool
		want  string
	}{
		{"ab", 4, false, "  ab"}, {"ab", 4, true, "ab  "}, {"abcd", 4, true, "abcd"}, {"abcde", 4, true, "abc…"},
		{"部屋部屋", 4, true, "部… "}, {"ab", 0, true, ""}, {"", 2, true, "  "},
	} {
		if got := pad(tt.text, tt.width, tt.left); got != tt.want {
			t.Errorf("pad(%q, %d) = %q, want %q", tt.text, tt.width, got, tt.want)
		}
	}
}

func TestFittingColumns(t *testing.T) {
	cell := func(string) string { return "x" }
	columns := []column[string]{
		{title: "AA", width: 2, rank: 9, cell: cell}, {title: "BBBB", width: 4, rank: 1, cell: cell},
		{title: "C", width: 1, rank: 5, cell: cell}, {title: "D", width: 1, rank: 5, cell: cell}, {title: "EE", width: 2, left: true, rank: 7, cell: cell},
	}
	for _, tt := range []struct {
		width int
		want  string
	}{
		{14, "AA BBBB C D EE"}, {13, "AA C D EE"}, {9, "AA C D EE"}, {8, "AA EE"}, {5, "AA EE"}, {4, "  AA"}, {1, "A"},
		{20, "AA BBBB C D EE"},
	} {
		if got := header(fitting(columns, tt.width), tt.width); strings.TrimRight(got, " ") != tt.want {
			t.Errorf("width %d: %q, want %q", tt.width, got, tt.want)
		}
	}
}

func TestFlow(t *testing.T) {
	parts := []string{"one", "two", "three", "much too long"}
	if got, want := strings.Join(flow(parts, 8), "|"), "one  two|three|much to…"; got != want {
		t.Errorf("flow = %q, want %q", got, want)
	}
}

// FuzzCell finds text that would break a line or move what stands right of it.
func FuzzCell(f *testing.F) {
	for _, s := range []string{"lobby", "部屋🎉", "a\x1b[2Jb\n", "\u202e\u200d👩‍👩‍👧", "e\u0301", "\xff\xfe", "🇩🇪🏳️‍🌈"} {
		f.Add(s, uint8(12))
	}
	f.Fuzz(func(t *testing.T, text string, width uint8) {
		got := pad(clean(text), int(width), true)
		if w := ansi.StringWidth(got); w != int(width) || strings.ContainsAny(got, "\n\r\t\x1b\x00\u009b") {
			t.Errorf("%q in %d cells = %q, %d wide", text, width, got, w)
		}
	})
}
