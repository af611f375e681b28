package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "renew the golden files; look at the plots before committing them")

// golden compares what is written with a file in testdata.
func golden(t *testing.T, name string, write func(io.Writer) error) {
	t.Helper()
	var got, again bytes.Buffer
	if err := errors.Join(write(&got), write(&again)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), again.Bytes()) {
		t.Errorf("%s is not the same twice", name)
	}
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s differs: look at what -rewrite makes of it", name)
	}
}

// someLatency is two series of five minutes with faults of all shapes: long and
// short, close together, over one another, at the end, and two outages.
func someLatency() *Latency {
	l := &Latency{Title: "publish under kill, pause, partition, clock (seed 7)", Bands: []Band{
		{10, 40, "kill leader of lobby"}, {45, 45.01, "clock n1 +5 s"}, {47, 60, "clock n2 strobe ±3 s"}, {55, 75, "pause n3"},
		{100, 130, "kill leader of lobby"}, {150, 190, "partition n1 | n2 n3"}, {200, 230, "disk of n2 full"}, {290, 300, "all killed at once"},
	}}
	r := rand.New(rand.NewPCG(7, 7))
	for _, name := range []string{"hit", "bystanders"} {
		s := Series{Name: name}
		for second := range 301 {
			p := Point{Second: second, P50: 1 + 0.2*r.Float64(), P99: 3 + r.Float64(), Max: 5 + 5*r.ExpFloat64()}
			for _, b := range l.Bands {
				if name == "hit" && float64(second) >= b.From && float64(second) < b.From+3 {
					p.P50, p.P99, p.Max = 80, 400, 900+200*r.Float64()
				}
			}
			if name == "hit" && (second > 150 && second < 158 || second > 291 && second != 295) {
				continue
			}
			s.Points = append(s.Points, p)
		}
		l.Series = append(l.Series, s)
	}
	return l
}

func somePauses() *Pauses {
	r := rand.New(rand.NewPCG(7, 7))
	draw := func(n int, median, spread float64) (pauses []float64) {
		for range n {
			pauses = append(pauses, median*math.Exp(spread*r.NormFloat64()))
		}
		return pauses
	}
	return &Pauses{Title: "pauses of publishes by fault", Faults: []FaultPauses{
		{"kill leader", draw(100, 65, 0.2)}, {"pause leader", draw(40, 900, 0.3)}, {"transfer", draw(30, 12, 0.4)},
		{"clock skew", []float64{18.2, 15, 21}}, {"disk full", nil}, {"partition leader from majority", draw(25, 400, 0.5)}, {"one", []float64{7}},
	}}
}

func TestLatency(t *testing.T) {
	golden(t, "latency.svg", someLatency().SVG)
	golden(t, "latency-short.svg", (&Latency{Title: "one <second> & no fault", Series: []Series{{Name: "all", Points: []Point{{Second: 0, P50: 0, P99: 0.5, Max: 1}}}}}).SVG)
	golden(t, "latency-none.svg", (&Latency{Title: "nothing ended", Bands: []Band{{0, 5, "all killed"}}, Series: []Series{{Name: "all"}}}).SVG)
}

func TestPauses(t *testing.T) {
	golden(t, "pauses.svg", somePauses().SVG)
	golden(t, "pauses-none.svg", (&Pauses{Title: "no pause", Faults: []FaultPauses{{Name: "kill"}, {"clock", []float64{0}}}}).SVG)
}

func TestTable(t *testing.T) {
	golden(t, "table.md", func(w io.Writer) error {
		_, err := io.WriteString(w, Table([]Runs{
			{"append", "kill", 12, 1_234_567, 12, 345, 1000, "passed", nil},
			{"register | chat", "clock,\npause", 1, 999, 0, 0, 0, "failed", []string{"lost write", "G1a"}},
		}))
		return err
	})
}

// TestNothingToDraw: input without what the axes need is an error, and one of
// the writer is handed on.
func TestNothingToDraw(t *testing.T) {
	broken := errors.New("broken")
	for name, write := range map[string]func(io.Writer) error{
		"latency": (&Latency{Title: "x"}).SVG,
		"pauses":  (&Pauses{Title: "x"}).SVG,
	} {
		if err := write(io.Discard); err == nil || !strings.Contains(err.Error(), `draw "x": there is no`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, write := range map[string]func(io.Writer) error{"latency": someLatency().SVG, "pauses": somePauses().SVG} {
		if err := write(failing{broken}); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestReadableAnywhere: every plot is well-formed, has a white ground below all
// else, and text in a font that falls back to one without serifs.
func TestReadableAnywhere(t *testing.T) {
	for name, write := range map[string]func(io.Writer) error{"latency": someLatency().SVG, "pauses": somePauses().SVG} {
		var svg bytes.Buffer
		if err := write(&svg); err != nil {
			t.Fatal(err)
		}
		var texts, shapes int
		for d := xml.NewDecoder(bytes.NewReader(svg.Bytes())); ; {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			start, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			style := attr(start, "style")
			switch start.Name.Local {
			case "path":
				if shapes++; shapes == 1 && !strings.Contains(style, "fill:#FFFFFF") {
					t.Errorf("%s: the ground is %s", name, style)
				}
			case "text":
				if texts++; !strings.Contains(style, ",sans-serif;") {
					t.Errorf("%s: text in %s", name, style)
				}
			}
		}
		if texts < 10 || shapes < 10 {
			t.Errorf("%s: %d texts, %d shapes", name, texts, shapes)
		}
	}
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func TestLabelsDoNotOverlap(t *testing.T) {
	l := someLatency()
	for i := range 20 {
		l.Bands = append(l.Bands, Band{float64(280 + i), 300, strings.Repeat("long name ", 1+i%5)})
	}
	panels, err := l.panels()
	if err != nil {
		t.Fatal(err)
	}
	placed := place(l.Bands, panels[0])
	if len(placed.ends) < 2 || len(placed.all) != len(l.Bands) {
		t.Fatalf("%d labels in %d rows", len(placed.all), len(placed.ends))
	}
	for i, a := range placed.all {
		if a.from < 0 || a.from+a.width > placed.width {
			t.Errorf("%q lies from %v to %v of %v", a.name, a.from, a.from+a.width, placed.width)
		}
		for _, b := range placed.all[:i] {
			if a.row == b.row && a.from < b.from+b.width && b.from < a.from+a.width {
				t.Errorf("%q and %q lie on one another in row %d", a.name, b.name, a.row)
			}
		}
	}
}

func TestRuns(t *testing.T) {
	for _, tt := range []struct {
		seconds []int
		want    []int // lengths
	}{
		{nil, nil}, {[]int{4}, []int{1}}, {[]int{0, 1, 2}, []int{3}}, {[]int{0, 2, 3, 9}, []int{1, 2, 1}},
	} {
		var points []Point
		for _, s := range tt.seconds {
			points = append(points, Point{Second: s})
		}
		var got []int
		for _, run := range runs(points) {
			got = append(got, len(run))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: runs of %v, want %v", tt.seconds, got, tt.want)
		}
	}
}

func TestDecades(t *testing.T) {
	for _, tt := range []struct{ low, high, from, to float64 }{
		{1, 10, 1, 10}, {0.9, 11, 0.1, 100}, {5, 5, 1, 10}, {10, 10, 10, 100}, {0, 0, leastMs, 10 * leastMs}, {2000, 1, 1000, 10000},
	} {
		if from, to := decades(tt.low, tt.high); math.Abs(from/tt.from-1) > 1e-9 || math.Abs(to/tt.to-1) > 1e-9 {
			t.Errorf("decades(%v, %v) = %v, %v", tt.low, tt.high, from, to)
		}
	}
}

func TestFigures(t *testing.T) {
	for ms, want := range map[float64]string{0: "0.00", 9.994: "9.99", 12.34: "12.3", 99.94: "99.9", 1234.5: "1234"} {
		if got := figure(ms); got != want {
			t.Errorf("%v: %s, want %s", ms, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -100: "-100", -1000: "-1,000"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
