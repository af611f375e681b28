package report

import (
	"cmp"
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Band is a fault, from one second of the run to another.
type Band struct {
	From, To float64
	Name     string
}

// pastels are the colours of bands.
var pastels = []color.RGBA{
	{R: 255, G: 224, B: 178, A: 255}, {R: 200, G: 226, B: 250, A: 255}, {R: 208, G: 236, B: 200, A: 255},
	{R: 250, G: 208, B: 216, A: 255}, {R: 226, G: 212, B: 246, A: 255}, {R: 250, G: 244, B: 176, A: 255},
	{R: 200, G: 238, B: 236, A: 255}, {R: 230, G: 222, B: 210, A: 255},
}

// bandColors gives each name a colour, in the order of the first bands.
func bandColors(bands []Band) map[string]color.RGBA {
	colors := map[string]color.RGBA{}
	for _, b := range bands {
		if _, ok := colors[b.Name]; !ok {
			colors[b.Name] = pastels[len(colors)%len(pastels)]
		}
	}
	return colors
}

// shades draws bands behind a panel's lines.
type shades struct {
	bands  []Band
	colors map[string]color.RGBA
}

// Plot implements plot.Plotter.
func (s shades) Plot(c draw.Canvas, p *plot.Plot) {
	const least = 2 // a moment is seen, too
	x, _ := p.Transforms(&c)
	for _, b := range s.bands {
		from := x(b.From)
		to := max(x(b.To), from+least)
		c.FillPolygon(s.colors[b.Name], []vg.Point{{X: from, Y: c.Min.Y}, {X: to, Y: c.Min.Y}, {X: to, Y: c.Max.Y}, {X: from, Y: c.Max.Y}})
	}
}

// label is a band's name above it.
type label struct {
	name     string
	at, from vg.Length // of the band and of the text, from the plot's left edge
	width    vg.Length // of the text and a little room
	row      int
}

// labels are the names of bands, in as many rows as it takes for none to lie
// on another.
type labels struct {
	all   []label
	ends  []vg.Length // of the rows, as far as they are full
	left  vg.Length   // of the plot's left edge from the panel's
	width vg.Length   // of the plot
}

const rowHeight = vg.Length(13)

var labelStyle = style(textSize-1, text.XLeft, text.YBottom)

func (l *labels) height() vg.Length { return vg.Length(len(l.ends))*rowHeight + margin/2 }

// place finds places above a panel.
func place(bands []Band, p *plot.Plot) *labels {
	data := p.DataCanvas(draw.NewCanvas(nil, panelWidth, panelHeight))
	x, _ := p.Transforms(&data)
	placed := &labels{left: data.Min.X, width: data.Max.X - data.Min.X}
	bands = slices.Clone(bands)
	slices.SortStableFunc(bands, func(a, b Band) int { return cmp.Compare(a.From, b.From) })
	for _, b := range bands {
		placed.add(b.Name, x(b.From)-data.Min.X)
	}
	return placed
}

// add puts a name at its band, or left of it at the right edge, in the topmost row that has
// room. So the mark from a name to its band crosses few other names.
func (l *labels) add(name string, at vg.Length) {
	width := labelStyle.Width(name)*roomy + margin
	from := max(0, min(at, l.width-width))
	row := slices.IndexFunc(l.ends, func(end vg.Length) bool { return end <= from })
	if row < 0 {
		row, l.ends = len(l.ends), append(l.ends, 0)
	}
	l.ends[row] = from + width
	l.all = append(l.all, label{name, at, from, width, row})
}

// draw draws the names in a strip above the panel, and a mark from each name
// down to its band.
func (l *labels) draw(strip draw.Canvas) {
	left := strip.Min.X + l.left
	line := draw.LineStyle{Color: grey(120), Width: 0.5}
	for _, b := range l.all {
		y := strip.Max.Y - vg.Length(b.row+1)*rowHeight
		top := y
		if b.from == b.at {
			top += 2 * rowHeight / 3 // beside the name
		}
		strip.StrokeLine2(line, left+b.at, strip.Min.Y, left+b.at, top)
		strip.FillText(labelStyle, vg.Point{X: left + b.from + 2, Y: y}, b.name)
	}
}
