package report

import (
	"fmt"
	"strconv"
	"strings"
)

// Runs sums up the runs of a workload under a nemesis.
type Runs struct {
	Workload, Nemesis string
	Runs              int
	OK, Fail, Info    int // operations: done, certainly not done, nobody knows
	Faults            int
	Outcome           string
	Anomalies         []string // by name
}

// Table is a table of runs for a Markdown document.
func Table(rows []Runs) string {
	var b strings.Builder
	b.WriteString("| workload | nemesis | runs | ok | fail | info | faults | outcome | anomalies |\n")
	b.WriteString("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |\n")
	for _, r := range rows {
		anomalies := "none"
		if len(r.Anomalies) > 0 {
			anomalies = cell(strings.Join(r.Anomalies, ", "))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", cell(r.Workload), cell(r.Nemesis),
			thousands(r.Runs), thousands(r.OK), thousands(r.Fail), thousands(r.Info), thousands(r.Faults), cell(r.Outcome), anomalies)
	}
	return b.String()
}

// cell keeps a text within its cell.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
