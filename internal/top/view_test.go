package top

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/roomlog/roomlog/transport/admin"
)

// nasty are names that would break a table: wide, combining, long, and such as
// no server lets in.
var nasty = []string{
	"部屋🎉の名前", "e\u0301\u0301te\u0301", "\x1b[2J\x1b[Hgone", "two\nlines\r\tand tabs", "\u202eright to left", strings.Repeat("長い", 80), "👩‍👩‍👧🇩🇪🏳️‍🌈", "\xff\xfe",
}

// busy is a State of three nodes with so many partitions, and everything that a
// screen may have to show.
func busy(partitions int) *State {
	s := NewState([]string{"n1", "n2", "n3"}, noon)
	for i, node := range []string{"n1", "n2"} {
		a := Answer{Node: node, At: noon, Drift: admin.Drift{Node: node, ObjectiveMs: 100, OffsetErrorMs: 0.2}}
		for n := range partitions {
			leader := []string{"n1", "n2"}[n%2]
			a.Partitions = append(a.Partitions, admin.PartitionStatus{Partition: n, Leader: leader, Term: 2})
			stage := admin.StageDrift{P99Ms: float64(n) + 0.5, Count: 1}
			a.Drift.Partitions = append(a.Drift.Partitions, admin.PartitionDrift{
				Partition: n, Leader: leader, InObjective: n != 2, P50Ms: 1, P99Ms: float64(1 + (n*7)%5), MessagesPerS: float64(100 * (n % 3)), DeliveriesPerS: 50,
				Subscribers: 10, Stages: admin.StagesDrift{Receive: stage, Propose: stage, Append: stage, Commit: stage, Apply: stage, Write: stage},
			})
		}
		d := &a.Drift.Partitions[2]
		d.P99Ms, d.Cause = 1234, []string{"leader", "write"}[i]
		for r, name := range nasty {
			a.Drift.Rooms = append(a.Drift.Rooms, Room{RoomStatus: admin.RoomStatus{Room: name, Last: 1 << 60, Drift: float64(50 - r), Subscribers: 2, Rate: 3, Partition: r}})
			a.Drift.Cursors = append(a.Drift.Cursors, admin.CursorDrift{Client: "[2001:db8:1234:5678::1]:54321", Room: name, AgeMs: float64(5000 - r), Behind: 12})
		}
		s.Add(a)
	}
	s.Add(Answer{Node: "n3", At: noon, Err: errors.New("dial tcp 127.0.0.1:7422: \x1b[31mconnect: connection refused")})
	return s
}

// screenOf draws a State, and checks what holds for every screen.
func screenOf(t *testing.T, m tea.Model, width, height int) []string {
	t.Helper()
	m, _ = m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return drawn(t, m, width, height)
}

func drawn(t *testing.T, m tea.Model, width, height int) []string {
	t.Helper()
	lines := strings.Split(m.View().Content, "\n")
	if len(lines) != height {
		t.Errorf("%dx%d: %d lines", width, height, len(lines))
	}
	for i, l := range lines {
		lines[i] = ansi.Strip(l)
		if w := ansi.StringWidth(l); w > width {
			t.Errorf("%dx%d: line %d is %d wide: %q", width, height, i+1, w, l)
		}
	}
	return lines
}

func newTestModel(s *State) Model {
	return NewModel(s, ByPartition, func() time.Time { return noon.Add(time.Hour) })
}

// holds checks that lines hold texts, in their order.
func holds(t *testing.T, lines []string, texts ...string) {
	t.Helper()
	rest := strings.Join(lines, "\n")
	for _, text := range texts {
		_, after, ok := strings.Cut(rest, text)
		if !ok {
			t.Errorf("%q is missing or not in its place in\n%s", text, strings.Join(lines, "\n"))
			return
		}
		rest = after
	}
}

func TestScreen80x24(t *testing.T) {
	lines := screenOf(t, newTestModel(busy(16)), 80, 24)
	holds(t, lines,
		"roomlog  2/3 nodes  1.5k msg/s  1.6k deliveries/s  320 subscribers",
		"worst p99 1.2s (partition 2)  ! 1 of 16 out of objective 100 ms  clocks ±0.2 ms",
		"! n3 down since "+noon.Local().Format("15:04:05")+": dial tcp 127.0.0.1:7422: ·[31mconnect: connection re",
		"  P LEAD MSG/S DEL/S SUBS  P50  P99 RECV PROP APND COMM APLY WRIT BKLG CAUSE",
		"  1 n2     100   100   20  1.0  3.0  1.5  1.5  1.5  1.5  1.5  1.5    0",
		" !2 n1     200   100   20  1.0 1.2s  2.5  2.5  2.5  2.5  2.5  2.5    0 write n2",
		"DRIFT SPREAD BKLG SUBS MSG/S       LAST    P WORST ROOMS",
		"   50      0    0    4     3 115292150…    0 部屋🎉の名前", "SLOW CURSORS",
		"p d r sort  j k scroll  space pause  ? help  q quit", "of 16 by partition",
	)
}

func TestScreenWide(t *testing.T) {
	lines := screenOf(t, newTestModel(busy(16)), 120, 40)
	holds(t, lines, "TERM", "RECEIVE PROPOSE APPEND COMMIT APPLY WRITE", "write n2", " 15 n2 ",
		"部屋🎉の名前", "·[2J·[Hgone", "two·lines··and tabs", "1-16 of 16 by partition")
}

func TestScreenLow(t *testing.T) {
	lines := screenOf(t, newTestModel(busy(64)), 40, 10)
	holds(t, lines, "roomlog  2/3 nodes", "worst p99 1.2s (partition 2)", "! n3 down since", "P LEAD MSG/S", " !2 n1     200", "write n2", "? help  q quit", "of 64 by partition")
	if strings.Contains(strings.Join(lines, "\n"), "ROOMS") {
		t.Error("rooms take lines that partitions need")
	}
}

// No size, and nothing that nodes may say, breaks the screen.
func TestScreenOfAnySize(t *testing.T) {
	states := map[string]*State{"busy": busy(64), "new": NewState([]string{"n1"}, noon), "none": NewState(nil, noon)}
	down := NewState(nil, noon)
	for i := range 9 {
		name := fmt.Sprintf("node-with-a-long-name-%d", i)
		down.nodes = append(down.nodes, name)
		down.Add(Answer{Node: name, Err: errors.New("connection\nrefused"), At: noon})
	}
	states["down"] = down
	leaderless := NewState([]string{nasty[0]}, noon)
	leaderless.Add(Answer{Node: nasty[0], At: noon, Partitions: []admin.PartitionStatus{{Partition: -4095}, {Partition: 4095, Leader: nasty[2]}}})
	states["leaderless"] = leaderless
	for name, s := range states {
		t.Run(name, func(t *testing.T) {
			for _, width := range []int{1, 5, 20, 40, 79, 100} {
				for _, height := range []int{1, 3, 10, 16, 40} {
					var m tea.Model = newTestModel(s)
					screenOf(t, m, width, height)
					m = press(m, "?", "G")
					screenOf(t, m, width, height)
				}
			}
		})
	}
	holds(t, screenOf(t, newTestModel(down), 80, 24), "node-with-a-long-name-0 down", "node-with-a-long-name-1 down", "! and 7 more")
	holds(t, screenOf(t, newTestModel(leaderless), 80, 24), "!-4095", "-  ", "no lead", "!4095")
	holds(t, screenOf(t, newTestModel(states["new"]), 80, 24), "0/1 nodes", "n1 has not answered yet", "no room has subscribers", "no subscriber is behind", "0-0 of 0")
}

func TestText(t *testing.T) {
	text := busy(64).Snapshot(noon).Text(80)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if strings.Contains(text, "\x1b") || strings.Contains(text, " \n") {
		t.Errorf("text has escapes or ends of blanks: %q", text)
	}
	if want := 3 + 1 + 64 + 1 + len(nasty) + 1 + 2*len(nasty); len(lines) != want {
		t.Errorf("%d lines, want %d:\n%s", len(lines), want, text)
	}
	holds(t, lines, "! n3 down since", " 63 n2")
}
