package top

import (
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/roomlog/roomlog/transport/admin"
)

// press sends keys, named as bubbletea names them.
func press(m tea.Model, keys ...string) tea.Model {
	for _, k := range keys {
		m, _ = m.Update(keyOf(k))
	}
	return m
}

func keyOf(name string) tea.KeyPressMsg {
	special := map[string]tea.KeyPressMsg{
		"ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "space": {Code: tea.KeySpace, Text: " "}, "esc": {Code: tea.KeyEscape},
		"up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown}, "pgup": {Code: tea.KeyPgUp}, "pgdown": {Code: tea.KeyPgDown},
		"home": {Code: tea.KeyHome}, "end": {Code: tea.KeyEnd},
	}
	if k, ok := special[name]; ok {
		return k
	}
	return tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
}

// numbers are the partitions that a screen shows, in their order.
func numbers(lines []string) string {
	var out []string
	for _, l := range lines {
		if f := strings.Fields(l); len(f) > 2 && (f[1] == "n1" || f[1] == "n2") {
			out = append(out, strings.TrimPrefix(f[0], "!"))
		}
	}
	return strings.Join(out, " ")
}

func TestScrolling(t *testing.T) {
	m, _ := newTestModel(busy(64)).Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	from := func(n int) string {
		var out []string
		for i := range 12 {
			out = append(out, fmt.Sprint(n+i))
		}
		return strings.Join(out, " ")
	}
	for _, tt := range []struct {
		keys  []string
		first int
	}{
		{nil, 0}, {[]string{"up", "k"}, 0}, {[]string{"down", "j", "j"}, 3}, {[]string{"k", "up"}, 1},
		{[]string{"pgdown"}, 13}, {[]string{"pgup"}, 1}, {[]string{"end"}, 52}, {[]string{"j", "pgdown"}, 52}, {[]string{"home"}, 0},
		{[]string{"G", "k"}, 51}, {[]string{"g"}, 0},
	} {
		m = press(m, tt.keys...)
		lines := drawn(t, m, 80, 24)
		if got := numbers(lines); got != from(tt.first) {
			t.Errorf("after %v: partitions %s, want %s", tt.keys, got, from(tt.first))
		}
		holds(t, lines, fmt.Sprintf("%d-%d of 64", tt.first+1, tt.first+12))
	}
	m = press(m, "end")
	if got := numbers(screenOf(t, m, 80, 100)); !strings.HasPrefix(got, "0 1 2") {
		t.Errorf("a screen that grew starts with %s", got)
	}
}

func TestSorting(t *testing.T) {
	m, _ := newTestModel(busy(8)).Update(tea.WindowSizeMsg{Width: 80, Height: 40})
	for _, tt := range []struct{ key, want, by string }{
		{"d", "2 7 4 1 6 3 0 5", "drift"},
		{"r", "2 5 1 4 7 0 3 6", "rate"},
		{"p", "0 1 2 3 4 5 6 7", "partition"},
	} {
		m = press(m, tt.key)
		lines := drawn(t, m, 80, 40)
		if got := numbers(lines); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.key, got, tt.want)
		}
		holds(t, lines, "by "+tt.by)
	}
}

func TestPause(t *testing.T) {
	m := press(newTestModel(busy(4)), "space")
	m, _ = m.Update(Answer{Node: "n3", At: noon, Status: admin.NodeStatus{Node: "n3"}})
	holds(t, drawn(t, m, 80, 24), "PAUSED", "2/3 nodes", "! n3 down")
	m = press(m, "space")
	lines := drawn(t, m, 80, 24)
	holds(t, lines, "roomlog  3/3 nodes")
	if text := strings.Join(lines, "\n"); strings.Contains(text, "down since") || strings.Contains(text, "PAUSED") {
		t.Errorf("not paused any more:\n%s", text)
	}
}

func TestAnswersAreShown(t *testing.T) {
	var m tea.Model = newTestModel(busy(4))
	m, _ = m.Update(Answer{Node: "n1", At: noon.Add(time.Second), Err: errGone})
	holds(t, drawn(t, m, 80, 24), "1/3 nodes", "! n1 down since", "connection refused", "!0 n1?", "n1 down", "1 n2 ")
}

func TestHelp(t *testing.T) {
	m := press(newTestModel(busy(64)), "?")
	holds(t, drawn(t, m, 80, 24), "PgUp PgDn", "Ctrl-C quits", "BKLG", "CAUSE says why", "? help  q quit")
	for _, closes := range []string{"?", "esc"} {
		if text := strings.Join(drawn(t, press(m, closes), 80, 24), "\n"); strings.Contains(text, "PgUp") {
			t.Errorf("%s does not close the help", closes)
		}
	}
}

func TestQuit(t *testing.T) {
	for _, k := range []string{"q", "ctrl+c"} {
		_, cmd := newTestModel(busy(4)).Update(keyOf(k))
		if cmd == nil || cmd() != tea.Quit() {
			t.Errorf("%s does not quit", k)
		}
	}
	if _, cmd := newTestModel(busy(4)).Update(keyOf("x")); cmd != nil {
		t.Error("x does something")
	}
}
