package report

import (
	"bytes"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	sheetWidth = vg.Length(640)
	margin     = vg.Length(8)
	roomy      = 1.15 // how much wider a reader's font may be
	titleSize  = 13
	textSize   = 10
)

var (
	dark = grey(40)
	pale = grey(225) // of grids
)

func grey(v uint8) color.RGBA { return color.RGBA{R: v, G: v, B: v, A: 255} }

// style is dark text in a font that every reader has, or one as wide.
func style(size font.Length, x text.XAlignment, y text.YAlignment) text.Style {
	return text.Style{
		Color: dark, Font: font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size),
		XAlign: x, YAlign: y, Handler: plot.DefaultTextHandler,
	}
}

// sheet is a white image with a title. What is drawn takes its part from the
// top of the free room, draw.Canvas.
type sheet struct {
	svg *vgsvg.Canvas
	draw.Canvas
}

func newSheet(title string, height vg.Length) *sheet {
	heading := style(titleSize, text.XLeft, text.YTop)
	height += heading.Height(title) + 3*margin
	s := &sheet{svg: vgsvg.New(sheetWidth, height)}
	s.Canvas = draw.New(s.svg)
	s.SetColor(color.White)
	s.Fill(s.Rectangle.Path())
	s.Canvas = draw.Crop(s.Canvas, margin, -2*margin, margin, -margin)
	row := s.take(heading.Height(title) + margin)
	row.FillText(heading, vg.Point{X: row.Min.X, Y: row.Max.Y}, title)
	return s
}

// take cuts a part from the top of the free room.
func (s *sheet) take(height vg.Length) draw.Canvas {
	part := s.Canvas
	part.Min.Y = part.Max.Y - height
	s.Max.Y = part.Min.Y
	return part
}

// takeLeft cuts a part from the left of the free room.
func (s *sheet) takeLeft(width vg.Length) draw.Canvas {
	part := s.Canvas
	part.Max.X = part.Min.X + width
	s.Min.X = part.Max.X
	return part
}

// write writes the image. A reader without the font gets one as wide, not a
// default with serifs.
func (s *sheet) write(w io.Writer) error {
	var svg bytes.Buffer
	if _, err := s.svg.WriteTo(&svg); err != nil {
		return err
	}
	_, err := w.Write(bytes.ReplaceAll(svg.Bytes(),
		[]byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;")))
	return err
}

// newPanel is a plot in the sheet's style.
func newPanel() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil // the sheet's
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font = style(textSize, 0, 0).Font
		axis.Tick.Label.Font = style(textSize, 0, 0).Font
		axis.Label.TextStyle.Color, axis.Tick.Label.Color = dark, dark
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = dark, dark
		axis.Padding = 0
	}
	return p
}
