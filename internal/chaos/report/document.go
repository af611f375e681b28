package report

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/roomlog/roomlog/internal/chaos/check"
	"github.com/roomlog/roomlog/internal/chaos/history"
)

// Document is a report over runs, of which there is one at least.
type Document struct {
	Command string // that makes it again; "": not known
	Notes   string // Markdown: what was found and mended, what is not tested
	Runs    []*check.Result
}

// Made tells when, with what and where the runs were made, by their first lines.
func (d *Document) Made() string {
	var all []string
	for _, r := range d.Runs {
		date, _, _ := strings.Cut(r.Run.Began, "T")
		all = append(all, fmt.Sprintf("on %s with roomlog %s, on %s", date, r.Run.Version, r.Run.Machine))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "; ")
}

// faults are the windows of a run, but for those that nobody made.
func faults(r *check.Result) []check.Window {
	return slices.DeleteFunc(slices.Clone(r.Figures.Windows), func(w check.Window) bool { return w.Fault == string(history.Starved) })
}

//go:embed document.md.tmpl
var source string

var tmpl = template.Must(template.New("report").Parse(source))

// Names of the files that a report is made of.
const (
	DocumentFile = "REPORT.md"
	NotesFile    = "NOTES.md"
	pausesFile   = "pauses.svg"
	latencyFile  = "latency.svg"
)

// Write writes the report and its plots into a directory.
func (d *Document) Write(dir string) error {
	course, run, err := d.course()
	if err != nil {
		return err
	}
	latency := &Latency{
		Title:  fmt.Sprintf("latency through faults, %d nodes, seed %d", len(run.Run.Nodes), run.Run.Seed),
		Bands:  course.Bands,
		Series: []Series{{"publish", course.Acks}, {"deliver", course.Deliveries}},
	}
	pauses := &Pauses{Title: "how long a room with open publishes waited for a commit", Faults: d.pauses()}
	if len(pauses.Faults) == 0 {
		return errors.New("there were no faults in these runs")
	}
	if err := writeFile(dir, latencyFile, latency.SVG); err != nil {
		return err
	}
	if err := writeFile(dir, pausesFile, pauses.SVG); err != nil {
		return err
	}
	return writeFile(dir, DocumentFile, func(w io.Writer) error { return tmpl.Execute(w, d) })
}

func writeFile(dir, name string, write func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// course measures the run with the most kinds of faults.
func (d *Document) course() (*Course, *check.Result, error) {
	if len(d.Runs) == 0 {
		return nil, nil, fmt.Errorf("there are no runs to report on")
	}
	most := slices.MaxFunc(d.Runs, func(a, b *check.Result) int { return len(a.Faults) - len(b.Faults) })
	course, err := Measure(most.History)
	return course, most, err
}

// pauses are the waits of all windows, by fault.
func (d *Document) pauses() (all []FaultPauses) {
	by := map[string][]float64{}
	for _, r := range d.Runs {
		for _, w := range faults(r) {
			by[w.Fault] = append(by[w.Fault], w.Unavailable)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		all = append(all, FaultPauses{Name: name, Pauses: by[name]})
	}
	return all
}

// Table is the runs, those of the same kind in one row.
func (d *Document) Table() string {
	var rows []Runs
	for _, r := range d.Runs {
		row := rowOf(r)
		i := slices.IndexFunc(rows, func(other Runs) bool {
			return other.Workload == row.Workload && other.Nemesis == row.Nemesis && other.Outcome == row.Outcome
		})
		if i < 0 {
			rows = append(rows, row)
			continue
		}
		same := &rows[i]
		same.Runs += row.Runs
		same.OK, same.Fail, same.Info, same.Faults = same.OK+row.OK, same.Fail+row.Fail, same.Info+row.Info, same.Faults+row.Faults
		same.Anomalies = slices.Compact(slices.Sorted(slices.Values(append(same.Anomalies, row.Anomalies...))))
	}
	return Table(rows)
}

func rowOf(r *check.Result) Runs {
	row := Runs{
		Workload: fmt.Sprintf("%d rooms, %d nodes", r.Figures.Rooms, len(r.Run.Nodes)),
		Nemesis:  strings.Join(r.Run.Nemeses, ", "),
		Runs:     1,
		Outcome:  string(r.Outcome),
	}
	if len(r.Run.Nemeses) > 1 {
		row.Nemesis = fmt.Sprintf("mix of %d", len(r.Run.Nemeses))
	}
	for _, n := range r.Counts {
		row.OK, row.Fail, row.Info = row.OK+int(n.OK), row.Fail+int(n.Fail), row.Info+int(n.Info)
	}
	for name, n := range r.Faults {
		if name != string(history.Starved) {
			row.Faults += int(n)
		}
	}
	for name, n := range r.Anomalies {
		if n > 0 {
			row.Anomalies = append(row.Anomalies, string(name))
		}
	}
	slices.Sort(row.Anomalies)
	return row
}

// Liveness is a table of how fast commits come again, by fault.
func (d *Document) Liveness() string {
	type times struct{ wait, after []float64 }
	by := map[string]*times{}
	for _, r := range d.Runs {
		for _, w := range faults(r) {
			t := by[w.Fault]
			if t == nil {
				t = &times{}
				by[w.Fault] = t
			}
			t.wait = append(t.wait, w.Unavailable)
			if w.AfterStop != nil {
				t.after = append(t.after, *w.AfterStop)
			}
		}
	}
	var b strings.Builder
	b.WriteString("| fault | times | longest wait of a room for a commit, p50 / max ms | first commit after its end, p50 / max ms |\n")
	b.WriteString("| --- | ---: | ---: | ---: |\n")
	for _, name := range slices.Sorted(maps.Keys(by)) {
		t := by[name]
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", name, len(t.wait), middleAndMost(t.wait), middleAndMost(t.after))
	}
	return b.String()
}

func middleAndMost(all []float64) string {
	if len(all) == 0 {
		return "–"
	}
	slices.Sort(all)
	return fmt.Sprintf("%.0f / %.0f", median(all), all[len(all)-1])
}

// median is that of sorted figures, as boxes are drawn: between two it is their mean.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Anomalies is a table of all that was looked for, zero rows too.
func (d *Document) Anomalies() string {
	var b strings.Builder
	b.WriteString("| anomaly | found | meaning |\n| --- | ---: | --- |\n")
	for _, name := range check.Anomalies() {
		var n int64
		for _, r := range d.Runs {
			n += r.Anomalies[name]
		}
		fmt.Fprintf(&b, "| %s | %d | %s |\n", name, n, name.Meaning())
	}
	return b.String()
}

// Total is a sum over the runs.
type Total struct {
	Runs, Messages, Ops, Effects int64
	Minutes                      float64
	Judged                       float64 // minutes in which every election was judged
	Outcomes                     string
	Unknown                      int64 // publishes whose outcome nobody knows
	Slices, Unchecked            int64 // given to Porcupine, and not decided
}

// Total adds the runs up.
func (d *Document) Total() Total {
	t := Total{Runs: int64(len(d.Runs))}
	outcomes := map[check.Outcome]int{}
	for _, r := range d.Runs {
		t.Messages += r.Figures.Messages
		t.Ops += r.Ops
		t.Minutes += r.Figures.Duration / 60
		t.Judged += r.Figures.Judged / 60
		t.Slices += int64(r.Figures.Linear.Slices)
		t.Unchecked += int64(r.Figures.Linear.Unknown)
		if n := r.Counts[history.FPublish]; n != nil {
			t.Unknown += n.Info
		}
		for name, n := range r.Faults {
			if name != string(history.Starved) {
				t.Effects += n
			}
		}
		outcomes[r.Outcome]++
	}
	for _, o := range []check.Outcome{check.Valid, check.Invalid, check.Vacuous} {
		t.Outcomes += fmt.Sprintf(", %d %s", outcomes[o], o)
	}
	t.Outcomes = strings.TrimPrefix(t.Outcomes, ", ")
	return t
}
