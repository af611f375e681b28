package report

import (
	"fmt"
	"image/color"
	"io"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Pauses is how long operations paused for each kind of fault.
type Pauses struct {
	Title  string
	Faults []FaultPauses // drawn from the top down
}

// FaultPauses are the pauses of one kind of fault in ms, in any order.
type FaultPauses struct {
	Name   string
	Pauses []float64
}

const (
	faultHeight = vg.Length(38)
	boxHeight   = vg.Length(14)
)

// SVG draws every pause as a dot, in a row for each kind of fault, and over the
// dots a box from the first quartile to the third with the median in it.
func (p *Pauses) SVG(w io.Writer) error {
	rows, err := p.rows()
	if err != nil {
		return fmt.Errorf("draw %q: %w", p.Title, err)
	}
	s := newSheet(p.Title, vg.Length(len(p.Faults))*faultHeight+2*labelHeight)
	sty := style(textSize, text.XLeft, text.YCenter)
	names := s.takeLeft(p.captionWidth(sty))
	rows.Draw(s.Canvas)
	data := rows.DataCanvas(s.Canvas)
	_, y := rows.Transforms(&data)
	for i, f := range p.Faults {
		names.FillText(sty, vg.Point{X: names.Min.X, Y: y(p.at(i))}, f.caption())
	}
	return s.write(w)
}

// at is where a fault's row lies.
func (p *Pauses) at(i int) float64 { return float64(len(p.Faults) - 1 - i) }

func (p *Pauses) captionWidth(sty text.Style) (width vg.Length) {
	for _, f := range p.Faults {
		width = max(width, sty.Width(f.caption())*roomy+margin)
	}
	return width
}

func (p *Pauses) rows() (*plot.Plot, error) {
	if len(p.Faults) == 0 {
		return nil, fmt.Errorf("there is no fault")
	}
	out := newPanel()
	out.X.Label.Text = "pause, ms"
	out.Add(grid())
	var all []float64
	for i, f := range p.Faults {
		pauses := f.sorted()
		if err := addRow(out, p.at(i), pauses); err != nil {
			return nil, err
		}
		all = append(all, pauses...)
	}
	out.HideY()
	out.Y.Min, out.Y.Max = p.at(len(p.Faults))+0.5, p.at(0)+0.5
	if len(all) == 0 {
		all = []float64{1}
	}
	out.X.Min, out.X.Max = decades(slices.Min(all), slices.Max(all))
	out.X.Scale, out.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	return out, nil
}

// addRow draws the pauses of a fault, which are in order.
func addRow(p *plot.Plot, at float64, pauses []float64) error {
	if len(pauses) == 0 {
		return nil
	}
	dots := make(plotter.XYs, len(pauses))
	for i, pause := range pauses {
		dots[i] = plotter.XY{X: pause, Y: at}
	}
	scatter, err := plotter.NewScatter(dots)
	if err != nil {
		return err
	}
	scatter.GlyphStyle = draw.GlyphStyle{Color: color.NRGBA{R: 20, G: 95, B: 180, A: 110}, Radius: 2, Shape: draw.CircleGlyph{}}
	box, err := plotter.NewBoxPlot(boxHeight, at, plotter.Values(pauses))
	if err != nil {
		return err
	}
	box.Horizontal = true
	box.BoxStyle.Color, box.MedianStyle.Color, box.WhiskerStyle.Color = dark, color.RGBA{R: 205, G: 80, B: 20, A: 255}, dark
	box.MedianStyle.Width, box.WhiskerStyle.Dashes = 2, nil
	box.GlyphStyle.Radius = 0 // the dots are there
	p.Add(scatter, box)
	return nil
}

// sorted are the pauses in order, none too short for a logarithmic scale.
func (f FaultPauses) sorted() []float64 {
	pauses := slices.Sorted(slices.Values(f.Pauses))
	for i := range pauses {
		pauses[i] = max(pauses[i], leastMs)
	}
	return pauses
}

// caption names the fault and says in figures what is drawn.
func (f FaultPauses) caption() string {
	pauses := slices.Sorted(slices.Values(f.Pauses))
	if len(pauses) == 0 {
		return f.Name + "\nnone"
	}
	return fmt.Sprintf("%s\n%d: p50 %s, max %s ms", f.Name, len(pauses), figure(median(pauses)), figure(pauses[len(pauses)-1]))
}

// figure has three digits, or all before the point.
func figure(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}
