package report

import (
	"fmt"
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Latency is what a run measured second by second, and the faults in it.
type Latency struct {
	Title  string
	Bands  []Band
	Series []Series // drawn below one another, on the same scales
}

// Series is one kind of operations: those that the faults hit, or bystanders.
type Series struct {
	Name   string
	Points []Point // by second; one in which nothing ended is left out
}

// Point is one second of a series: latencies in ms of what ended in it.
type Point struct {
	Second        int
	P50, P99, Max float64
}

// quantiles are the lines of a series, the first one at the bottom.
var quantiles = []struct {
	name string
	of   func(Point) float64
	line draw.LineStyle
}{
	{"max", func(p Point) float64 { return p.Max }, draw.LineStyle{Color: grey(140), Width: 1}},
	{"p99", func(p Point) float64 { return p.P99 }, draw.LineStyle{Color: color.RGBA{R: 205, G: 80, B: 20, A: 255}, Width: 1.4}},
	{"p50", func(p Point) float64 { return p.P50 }, draw.LineStyle{Color: color.RGBA{R: 20, G: 95, B: 180, A: 255}, Width: 1.4}},
}

const (
	panelHeight = vg.Length(160)
	labelHeight = vg.Length(20)
	panelWidth  = sheetWidth - 3*margin - labelHeight
	leastMs     = 0.01 // a logarithmic scale has no 0
)

// SVG draws the series, with the faults as bands of colour and their names above.
func (l *Latency) SVG(w io.Writer) error {
	panels, err := l.panels()
	if err != nil {
		return fmt.Errorf("draw %q: %w", l.Title, err)
	}
	labels := place(l.Bands, panels[0])
	s := newSheet(l.Title, labels.height()+vg.Length(len(panels))*panelHeight+2*labelHeight)
	legend(s.take(labelHeight))
	names := s.takeLeft(labelHeight)
	labels.draw(s.take(labels.height()))
	for i, p := range panels {
		part := s.take(panelHeight)
		if i == len(panels)-1 {
			part.Min.Y -= labelHeight // of the x axis
		}
		p.Draw(part)
		data := p.DataCanvas(part)
		names.FillText(upright(), vg.Point{X: names.Min.X, Y: data.Center().Y}, l.Series[i].Name+": latency, ms")
	}
	return s.write(w)
}

// upright is the style of a vertical axis's name. The library would place it
// for an axis that is not logarithmic.
func upright() text.Style {
	sty := style(textSize, text.XCenter, text.YTop)
	sty.Rotation = math.Pi / 2
	return sty
}

// panels are the plots of the series.
func (l *Latency) panels() (panels []*plot.Plot, err error) {
	if len(l.Series) == 0 {
		return nil, fmt.Errorf("there is no series")
	}
	width, low, high := l.ranges()
	colors := bandColors(l.Bands)
	for i, series := range l.Series {
		p := newPanel()
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, width, low, high
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		if i == len(l.Series)-1 {
			p.X.Label.Text = "time since the run began, s"
		}
		p.Add(shades{l.Bands, colors}, grid())
		if err := addLines(p, series.Points); err != nil {
			return nil, err
		}
		panels = append(panels, p)
	}
	return panels, nil
}

func grid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = pale, pale
	return g
}

// ranges are the width of the plot in seconds, and the decades of its heights.
func (l *Latency) ranges() (width, low, high float64) {
	low, high = math.Inf(1), leastMs
	for _, b := range l.Bands {
		width = max(width, b.To)
	}
	for _, s := range l.Series {
		for _, p := range s.Points {
			width = max(width, float64(p.Second))
			low, high = min(low, p.P50), max(high, p.Max)
		}
	}
	low, high = decades(min(low, high), high)
	return max(width, 1), low, high
}

// decades are the powers of ten round a range, at least one decade.
func decades(low, high float64) (from, to float64) {
	from = math.Pow10(int(math.Floor(math.Log10(max(low, leastMs)))))
	return from, max(10*from, math.Pow10(int(math.Ceil(math.Log10(max(high, leastMs))))))
}

// addLines draws the quantiles. A line ends where a second is missing.
func addLines(p *plot.Plot, points []Point) error {
	for _, q := range quantiles {
		for _, run := range runs(points) {
			xys := make(plotter.XYs, len(run))
			for i, point := range run {
				xys[i] = plotter.XY{X: float64(point.Second), Y: max(q.of(point), leastMs)}
			}
			line, dots, err := plotter.NewLinePoints(xys)
			if err != nil {
				return err
			}
			line.LineStyle = q.line
			dots.GlyphStyle = draw.GlyphStyle{Color: q.line.Color, Radius: 1.2, Shape: draw.CircleGlyph{}}
			p.Add(line)
			if len(run) == 1 { // no line to be seen
				p.Add(dots)
			}
		}
	}
	return nil
}

// runs are the points in pieces without a missing second.
func runs(points []Point) (all [][]Point) {
	from := 0
	for i := range points {
		if i+1 == len(points) || points[i+1].Second != points[i].Second+1 {
			all = append(all, points[from:i+1])
			from = i + 1
		}
	}
	return all
}

// legend draws the names of the lines in a row, from the right.
func legend(c draw.Canvas) {
	const sample, gap = 18, 4
	sty := style(textSize, text.XRight, text.YCenter)
	x, y := c.Max.X, c.Center().Y
	for i := range quantiles {
		q := quantiles[len(quantiles)-1-i]
		c.FillText(sty, vg.Point{X: x, Y: y}, q.name)
		x -= sty.Width(q.name) + gap
		c.StrokeLine2(q.line, x-sample, y, x, y)
		x -= sample + 3*gap
	}
}
