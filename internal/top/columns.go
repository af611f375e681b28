package top

import (
	"fmt"
	"strconv"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/roomlog/roomlog/transport/admin"
)

var (
	plain  = lipgloss.NewStyle()
	title  = lipgloss.NewStyle().Bold(true)
	bar    = lipgloss.NewStyle().Reverse(true) // a table's header
	faint  = lipgloss.NewStyle().Faint(true)
	wrong  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red)
	doubts = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
)

const (
	narrow = 4   // cells of a time or a rate in a table
	wide   = 100 // cells of a screen that has room for the whole names of stages
)

// ok tells whether nothing is wrong with a partition.
func (p Partition) ok() bool { return p.Led && p.InObjective && len(p.Trouble) == 0 }

// why says in some words what is wrong, what matters most first.
func (p Partition) why() string {
	var words []string
	switch {
	case p.Leader == "":
		words = append(words, "no leader")
	case !p.Led:
		words = append(words, p.Leader+" down")
	}
	if p.Cause != "" {
		cause := p.Cause
		if p.CauseNode != p.Leader {
			cause += " " + p.CauseNode
		}
		words = append(words, cause)
	}
	return clean(strings.Join(append(words, p.Trouble...), ", "))
}

// leader is followed by a question mark while it does not answer.
func (p Partition) leader() string {
	switch {
	case p.Leader == "":
		return "-"
	case !p.Led:
		return clean(p.Leader) + "?"
	}
	return clean(p.Leader)
}

func (p Partition) number() string {
	if p.ok() {
		return strconv.Itoa(p.Partition)
	}
	return "!" + strconv.Itoa(p.Partition)
}

// markStyle is that of a partition's number and of what is wrong with it.
func (p Partition) markStyle() lipgloss.Style {
	if p.ok() {
		return plain
	}
	return wrong
}

// partitionColumns are the columns for these partitions.
func partitionColumns(s Snapshot, width int) []column[Partition] {
	number, leader := 1, 1
	for _, p := range s.Partitions {
		number = max(number, len(strconv.Itoa(p.Partition)))
		leader = max(leader, min(len(p.leader()), 12))
	}
	leading := "LEAD"
	if leader = max(leader, len(leading)); leader >= len("LEADER") {
		leading = "LEADER"
	}
	columns := []column[Partition]{
		{title: "P", width: number + 1, rank: 100, cell: Partition.number, style: Partition.markStyle},
		{title: leading, width: leader, left: true, rank: 90, cell: Partition.leader},
		{title: "TERM", width: 5, rank: 5, cell: func(p Partition) string { return strconv.FormatUint(p.Term, 10) }},
		{title: "MSG/S", width: 5, rank: 60, cell: func(p Partition) string { return rate(p.MessagesPerS) }},
		{title: "DEL/S", width: 5, rank: 40, cell: func(p Partition) string { return rate(p.DeliveriesPerS) }},
		{title: "SUBS", width: narrow, rank: 30, cell: func(p Partition) string { return rate(float64(p.Subscribers)) }},
		{title: "P50", width: narrow, rank: 10, cell: func(p Partition) string { return short(p.P50Ms) }},
		{title: "P99", width: narrow, rank: 80, cell: func(p Partition) string { return short(p.P99Ms) }, style: s.delayStyle},
	}
	for _, st := range stages {
		title := st.short
		if width >= wide {
			title = strings.ToUpper(st.name)
		}
		columns = append(columns, column[Partition]{
			title: title, width: max(narrow, len(title)), rank: 50, cell: st.cell, style: st.style,
		})
	}
	return append(columns,
		column[Partition]{title: "BKLG", width: narrow, rank: 20, cell: func(p Partition) string { return short(p.BacklogMs) }},
		column[Partition]{title: "CAUSE", width: len("receive"), left: true, rank: 70, cell: Partition.why, style: Partition.markStyle},
	)
}

// delayStyle is that of a p99: beyond the objective, or more than half of it.
func (s Snapshot) delayStyle(p Partition) lipgloss.Style {
	switch {
	case !p.InObjective:
		return wrong
	case s.ObjectiveMs > 0 && p.P99Ms > s.ObjectiveMs/2:
		return doubts
	}
	return plain
}

// stage is one of a message's stages.
type stage struct {
	name, short string
	of          func(admin.StagesDrift) admin.StageDrift
}

var stages = []stage{
	{"receive", "RECV", func(s admin.StagesDrift) admin.StageDrift { return s.Receive }},
	{"propose", "PROP", func(s admin.StagesDrift) admin.StageDrift { return s.Propose }},
	{"append", "APND", func(s admin.StagesDrift) admin.StageDrift { return s.Append }},
	{"commit", "COMM", func(s admin.StagesDrift) admin.StageDrift { return s.Commit }},
	{"apply", "APLY", func(s admin.StagesDrift) admin.StageDrift { return s.Apply }},
	{"write", "WRIT", func(s admin.StagesDrift) admin.StageDrift { return s.Write }},
}

// cell is the stage's p99, or a dash where no message went through it of late.
func (st stage) cell(p Partition) string {
	d := st.of(p.Stages)
	if d.Count == 0 {
		return "-"
	}
	return short(d.P99Ms)
}

func (st stage) style(p Partition) lipgloss.Style {
	if p.Cause == st.name {
		return wrong
	}
	return plain
}

func roomColumns() []column[Room] {
	return []column[Room]{
		{title: "DRIFT", width: 5, rank: 90, cell: func(r Room) string { return short(r.Drift) }},
		{title: "SPREAD", width: 6, rank: 50, cell: func(r Room) string { return short(r.Spread) }},
		{title: "BKLG", width: narrow, rank: 40, cell: func(r Room) string { return short(r.BacklogMs) }},
		{title: "SUBS", width: narrow, rank: 60, cell: func(r Room) string { return rate(float64(r.Subscribers)) }},
		{title: "MSG/S", width: 5, rank: 70, cell: func(r Room) string { return rate(r.Rate) }},
		{title: "LAST", width: 10, rank: 10, cell: func(r Room) string { return strconv.FormatUint(r.Last, 10) }},
		{title: "P", width: 4, rank: 30, cell: func(r Room) string { return strconv.Itoa(r.Partition) }},
		// Last, so that no terminal's idea of how wide a rune is can move a figure.
		{title: "WORST ROOMS", width: 12, left: true, rank: 100, cell: func(r Room) string { return clean(r.Room) }},
	}
}

func cursorColumns() []column[Cursor] {
	return []column[Cursor]{
		{title: "AGE", width: 5, rank: 90, cell: func(c Cursor) string { return short(c.AgeMs) }},
		{title: "BEHIND", width: 6, rank: 80, cell: func(c Cursor) string { return rate(float64(c.Behind)) }},
		{title: "NEXT", width: 10, rank: 10, cell: func(c Cursor) string { return strconv.FormatUint(c.Next, 10) }},
		{title: "P", width: 4, rank: 30, cell: func(c Cursor) string { return strconv.Itoa(c.Partition) }},
		{title: "NODE", width: 6, left: true, rank: 40, cell: func(c Cursor) string { return clean(c.Node) }},
		{title: "CLIENT", width: 21, left: true, rank: 60, cell: func(c Cursor) string { return clean(c.Client) }},
		{title: "SLOW CURSORS", width: 12, left: true, rank: 100, cell: func(c Cursor) string { return clean(c.Room) }},
	}
}

// summary are the parts of the header's lines: how much, and how late.
func (s Snapshot) summary(paused bool) (load, delay []string) {
	load = []string{title.Render("roomlog")}
	if paused {
		load = append(load, title.Render("PAUSED"))
	}
	load = append(load,
		fmt.Sprintf("%d/%d nodes", s.Alive, len(s.Nodes)),
		rate(s.MessagesPerS)+" msg/s", rate(s.DeliveriesPerS)+" deliveries/s", rate(float64(s.Subscribers))+" subscribers",
		s.Time.Local().Format("15:04:05"),
	)
	if s.Worst != nil {
		delay = append(delay, fmt.Sprintf("worst p99 %s (partition %d)", withUnit(s.Worst.P99Ms), s.Worst.Partition))
	}
	if s.ObjectiveMs == 0 { // no node has answered
		return load, delay
	}
	out := fmt.Sprintf("%d of %d out of objective %s", s.OutOfObjective, len(s.Partitions), withUnit(s.ObjectiveMs))
	if s.OutOfObjective > 0 {
		out = wrong.Render("! " + out)
	}
	return load, append(delay, out, "clocks ±"+withUnit(s.OffsetErrorMs))
}
