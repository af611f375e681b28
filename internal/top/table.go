package top

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// column is one column of a table. Where there is no room for all, those of the
// lowest rank go first.
type column[T any] struct {
	title string
	width int // cells; of the last column of a table the least, it takes what is left
	left  bool
	rank  int
	cell  func(T) string
	style func(T) lipgloss.Style // of the cell; nil: plain
}

// fitting returns the columns that have room in width, in their order. Those of
// one rank stay or go together; those of the highest stay in any case.
func fitting[T any](columns []column[T], width int) []column[T] {
	need := map[int]int{} // rank -> cells, with a space for each column
	for _, c := range columns {
		need[c.rank] += c.width + 1
	}
	left := width + 1 // there is no space before the first
	stays := map[int]bool{}
	for i, rank := range slices.Backward(slices.Sorted(maps.Keys(need))) {
		if i == len(need)-1 || need[rank] <= left {
			stays[rank], left = true, left-need[rank]
		}
	}
	return slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool { return !stays[c.rank] })
}

// header returns the titles, row a line below them; each is width cells at most.
func header[T any](columns []column[T], width int) string {
	return line(columns, width, func(c column[T]) (string, *lipgloss.Style) { return c.title, nil })
}

func row[T any](columns []column[T], width int, item T) string {
	return line(columns, width, func(c column[T]) (string, *lipgloss.Style) {
		if c.style == nil {
			return c.cell(item), nil
		}
		style := c.style(item)
		return c.cell(item), &style
	})
}

func line[T any](columns []column[T], width int, cell func(column[T]) (string, *lipgloss.Style)) string {
	var b strings.Builder
	used := 0
	for i, c := range columns {
		if i > 0 {
			b.WriteByte(' ')
			used++
		}
		w := c.width
		if i == len(columns)-1 {
			w = max(w, width-used)
		}
		text, style := cell(c)
		text = pad(text, w, c.left)
		if style != nil {
			text = style.Render(text)
		}
		b.WriteString(text)
		used += w
	}
	return ansi.Truncate(b.String(), width, "")
}

// pad makes text exactly width cells wide.
func pad(text string, width int, left bool) string {
	text = ansi.Truncate(text, width, "…")
	space := strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
	if left {
		return text + space
	}
	return space + text
}

// clean makes text that comes from elsewhere safe for a terminal: one line, no
// control and no invisible characters.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, text)
}

// short writes milliseconds in four cells at most: "<0.1", "1.2", "12", "1.2s", "3.4h".
func short(ms float64) string {
	switch {
	case !(ms > 0):
		return "0"
	case ms < 0.05:
		return "<0.1"
	case ms < 9.95:
		return fmt.Sprintf("%.1f", ms)
	case ms < 999.5:
		return fmt.Sprintf("%.0f", ms)
	}
	for _, u := range []struct {
		ms   float64
		name string
		most float64 // below it the next unit is not needed
	}{{1000, "s", 599.5}, {60_000, "m", 599.5}, {3_600_000, "h", 999.5}} {
		if v := ms / u.ms; v < u.most {
			return unit(v, u.name)
		}
	}
	return unit(min(ms/86_400_000, 999), "d")
}

// rate writes a rate or a number in four cells at most: "0.5", "12", "1.2k", "12M".
func rate(v float64) string {
	switch {
	case !(v > 0):
		return "0"
	case v < 0.05:
		return "<0.1"
	case v < 9.95 && v != float64(int(v)):
		return fmt.Sprintf("%.1f", v)
	case v < 999.5:
		return fmt.Sprintf("%.0f", v)
	}
	for _, name := range []string{"k", "M", "G"} {
		if v /= 1000; v < 999.5 {
			return unit(v, name)
		}
	}
	return unit(min(v/1000, 999), "T")
}

func unit(v float64, name string) string {
	if v < 9.95 {
		return fmt.Sprintf("%.1f%s", v, name)
	}
	return fmt.Sprintf("%.0f%s", v, name)
}

// withUnit writes milliseconds for running text.
func withUnit(ms float64) string {
	s := short(ms)
	if s[len(s)-1] <= '9' {
		s += " ms"
	}
	return s
}

// flow puts parts on as few lines as it can, two spaces between them.
func flow(parts []string, width int) []string {
	var lines []string
	for _, part := range parts {
		if n := len(lines); n > 0 && ansi.StringWidth(lines[n-1])+2+ansi.StringWidth(part) <= width {
			lines[n-1] += "  " + part
			continue
		}
		lines = append(lines, ansi.Truncate(part, width, "…"))
	}
	return lines
}

// plainText joins lines and drops what only a terminal can show.
func plainText(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(strings.TrimRight(ansi.Strip(l), " "))
		b.WriteByte('\n')
	}
	return b.String()
}
