package bench

import (
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

func TestDraw(t *testing.T) {
	for name, c := range map[string]*Course{
		"some": {What: "due to received", Points: []Point{{At: 0, P50: 1, P99: 2, Max: 9}, {At: 0.1, P50: 0, P99: 300, Max: 301}}},
		"none": {What: "publish to ack"},
	} {
		file := filepath.Join(t.TempDir(), "x.png")
		if err := c.Draw("title", file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 500 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (&Course{}).Draw("title", filepath.Join(t.TempDir(), "missing", "x.png")); err == nil {
		t.Error("drawn into a directory that is not there")
	}
}
