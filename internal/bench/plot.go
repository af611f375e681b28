package bench

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Draw writes the course to a PNG file: p50, p99 and the maximum of each tenth of
// a second, on a logarithmic scale.
func (c *Course) Draw(title, file string) error {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = "s", c.What+", ms"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	for _, l := range []struct {
		name  string
		of    func(Point) float64
		color color.Color
	}{
		{"max", func(p Point) float64 { return p.Max }, color.RGBA{R: 200, G: 200, B: 200, A: 255}},
		{"p99", func(p Point) float64 { return p.P99 }, color.RGBA{R: 214, G: 96, B: 39, A: 255}},
		{"p50", func(p Point) float64 { return p.P50 }, color.RGBA{R: 31, G: 119, B: 180, A: 255}},
	} {
		line, err := plotter.NewLine(c.points(l.of))
		if err != nil {
			return fmt.Errorf("draw %s: %w", file, err)
		}
		line.Color, line.Width = l.color, vg.Points(1.2)
		p.Add(line)
		p.Legend.Add(l.name, line)
	}
	p.Y.Min, p.Y.Max = decades(p.Y.Min, p.Y.Max)
	canvas := vgimg.PngCanvas{Canvas: vgimg.New(24*vg.Centimeter, 12*vg.Centimeter)}
	p.Draw(draw.New(canvas))
	return writeFile(file, func(f *os.File) error {
		_, err := canvas.WriteTo(f)
		return err
	})
}

// points are those of one line. A logarithmic scale has no 0: what is less than
// a microsecond is drawn as that.
func (c *Course) points(of func(Point) float64) plotter.XYs {
	points := slices.Clone(c.Points)
	if len(points) == 0 {
		points = []Point{{}}
	}
	line := make(plotter.XYs, len(points))
	for i, p := range points {
		line[i] = plotter.XY{X: p.At, Y: max(of(p), 0.001)}
	}
	return line
}

// decades are the powers of ten round a range.
func decades(low, high float64) (from, to float64) {
	from = math.Pow(10, math.Floor(math.Log10(low)))
	return from, max(10*from, math.Pow(10, math.Ceil(math.Log10(high))))
}

func writeFile(name string, write func(*os.File) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
