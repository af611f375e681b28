package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Order is how partitions are sorted.
type Order string

const (
	ByPartition Order = "partition"
	ByDrift     Order = "drift" // the worst p99 first
	ByRate      Order = "rate"  // the most messages first
)

const (
	low      = 16 // lines of a screen whose header must be short
	maxDown  = 3  // lines for nodes that are down
	minLower = 3  // lines that rooms or cursors need
)

// screen is what of a Snapshot is shown, and how.
type screen struct {
	width, height int // cells; a height of 0 shows all
	order         Order
	offset        int // partitions above the first one shown
	paused, help  bool
}

// sorted returns the partitions in an order.
func (s Snapshot) sorted(order Order) []Partition {
	out := slices.Clone(s.Partitions) // by number
	slices.SortStableFunc(out, func(a, b Partition) int {
		switch order {
		case ByDrift:
			return cmp.Compare(b.P99Ms, a.P99Ms)
		case ByRate:
			return cmp.Or(cmp.Compare(b.MessagesPerS, a.MessagesPerS), cmp.Compare(b.DeliveriesPerS, a.DeliveriesPerS))
		}
		return 0
	})
	return out
}

// plan is how many lines each part of the screen gets.
type plan struct{ partitions, rooms, cursors int }

// plan shares out the lines that the rest leaves. A third is for rooms and cursors,
// and what the partitions do not need; on a low screen partitions have all.
func (sc screen) plan(rest int, s Snapshot) plan {
	rooms, cursors := 1+len(s.Rooms), 1+len(s.Cursors) // with their headers
	if sc.height == 0 {
		return plan{len(s.Partitions), rooms, cursors}
	}
	lower := max(rest*2/5, rest-len(s.Partitions))
	if lower < 2*minLower {
		return plan{partitions: max(0, rest)}
	}
	p := plan{rooms: min(rooms, max(lower-cursors, (lower+1)/2))}
	p.cursors = min(cursors, lower-p.rooms)
	p.partitions = rest - p.rooms - p.cursors
	return p
}

// page is how many partitions the screen shows at once.
func (sc screen) page(s Snapshot) int {
	return sc.plan(sc.height-len(sc.head(s))-1-len(sc.foot(s, 0)), s).partitions
}

// lines are the screen: none wider than it, and as many as it is high.
func (sc screen) lines(s Snapshot) []string {
	out := sc.head(s)
	p := sc.plan(sc.height-len(out)-1-len(sc.foot(s, 0)), s)
	partitions := fitting(partitionColumns(s, sc.width), sc.width)
	out = append(out, bar.Render(header(partitions, sc.width)))
	all := s.sorted(sc.order)
	first := min(max(0, sc.offset), max(0, len(all)-p.partitions))
	last := min(first+p.partitions, len(all))
	for _, item := range all[first:last] {
		out = append(out, row(partitions, sc.width, item))
	}
	out = append(out, part(fitting(roomColumns(), sc.width), sc.width, p.rooms, s.Rooms, "no room has subscribers")...)
	out = append(out, part(fitting(cursorColumns(), sc.width), sc.width, p.cursors, s.Cursors, "no subscriber is behind")...)
	if sc.height == 0 {
		return out
	}
	foot := sc.foot(s, p.partitions)
	for len(out)+len(foot) < sc.height {
		out = append(out, "")
	}
	out = append(out, foot...)
	return out[:min(len(out), sc.height)]
}

// part is a table of at most so many lines, with its header; or none says that
// there is nothing.
func part[T any](columns []column[T], width, lines int, items []T, none string) []string {
	switch {
	case lines == 0:
		return nil
	case len(items) == 0:
		return []string{bar.Render(pad(none, width, true))}
	}
	out := []string{bar.Render(header(columns, width))}
	for _, item := range items[:min(len(items), lines-1)] {
		out = append(out, row(columns, width, item))
	}
	return out
}

// head says how the cluster is, and which nodes are down since when.
func (sc screen) head(s Snapshot) []string {
	load, delay := s.summary(sc.paused)
	out, late := flow(load, sc.width), flow(delay, sc.width)
	if sc.height > 0 && sc.height < low {
		out, late = out[:1], late[:min(1, len(late))]
	}
	out = append(out, late...)
	var down []string
	for _, n := range s.Nodes {
		switch {
		case n.Alive:
		case n.Error == "":
			down = append(down, fmt.Sprintf("%s has not answered yet", clean(n.Node)))
		default:
			down = append(down, fmt.Sprintf("! %s down since %s: %s", clean(n.Node), n.Since.Local().Format("15:04:05"), clean(n.Error)))
		}
	}
	if more := len(down) - maxDown; more > 0 && sc.height > 0 {
		down = append(down[:maxDown-1], fmt.Sprintf("! and %d more", more+1))
	}
	for _, text := range down {
		out = append(out, wrong.Render(ansi.Truncate(text, sc.width, "…")))
	}
	return out
}

// foot tells the keys, and where one is; with help, what the columns are.
func (sc screen) foot(s Snapshot, page int) []string {
	first := min(max(0, sc.offset), max(0, len(s.Partitions)-page))
	place := fmt.Sprintf("%d-%d of %d by %s", min(first+1, len(s.Partitions)), min(first+page, len(s.Partitions)), len(s.Partitions), sc.order)
	keys := "? help  q quit"
	if all := "p d r sort  j k scroll  space pause  " + keys; len(all)+2+len(place) <= sc.width {
		keys = all
	}
	space := strings.Repeat(" ", max(2, sc.width-len(keys)-len(place)))
	last := faint.Render(ansi.Truncate(keys+space+place, sc.width, ""))
	if !sc.help {
		return []string{last}
	}
	lines := flow(strings.Split(helpText, "\n"), sc.width)
	return append(lines[:min(len(lines), sc.height/2)], last)
}

// helpText is put together as the width allows.
const helpText = `Keys: p d r sort by partition, drift, rate
arrows or j k, PgUp PgDn, g G scroll
space pauses
? closes this
q or Ctrl-C quits
Times are ms of the last 5 to 10 s, or as they say (s, m, h).
P50 P99: age of messages when handed to subscribers or, if worse, received to applied
RECV to APLY: p99 of receive, propose, append, commit, apply on the leader
WRIT: p99 of write, the worst node's
-: no message of late
BKLG: age of the oldest message a subscriber lacks
!: out of objective or in trouble; CAUSE says why
n1?: the leader does not answer`
