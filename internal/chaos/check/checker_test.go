package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// simulated is a correct history of about so many steps.
func simulated(steps int) []history.Op {
	rng := rand.New(rand.NewPCG(1, 2))
	return newSim(rng.IntN, 50, 50).run(steps)
}

// BenchmarkCheck: the time for an op does not grow with the history.
func BenchmarkCheck(b *testing.B) {
	for _, size := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("steps=%d", size), func(b *testing.B) {
			list := simulated(size)
			b.ReportAllocs()
			for b.Loop() {
				c := New(Options{})
				for i := range list {
					if err := c.Add(&list[i]); err != nil {
						b.Fatal(err)
					}
				}
				if r := c.Result(); r.Outcome != Valid {
					b.Fatal(verdict(r))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(list)), "ns/op-of-history")
			b.ReportMetric(float64(len(list)), "ops-of-history")
		})
	}
}

// BenchmarkFile includes the reading of the lines.
func BenchmarkFile(b *testing.B) {
	list := simulated(1_000_000)
	path := filepath.Join(b.TempDir(), "history.jsonl")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	enc := json.NewEncoder(f)
	for i := range list {
		if err := enc.Encode(&list[i]); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportMetric(float64(len(list)), "ops-of-history")
	b.ReportAllocs()
	for b.Loop() {
		r, err := File(context.Background(), path, Options{})
		if err != nil || r.Outcome != Valid {
			b.Fatal(r, err)
		}
	}
}

func TestFileNamesWhatItRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.jsonl")
	if err := os.WriteFile(path, tell(t, "pub 1 a1\nok 1 a1 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := File(context.Background(), path, Options{})
	if err != nil || r.History != path {
		t.Errorf("File() = %+v, %v", r, err)
	}
	if len(r.Anomalies) != len(Anomalies()) {
		t.Errorf("%d rows of anomalies, want %d, zero rows too", len(r.Anomalies), len(Anomalies()))
	}
	if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := File(context.Background(), path, Options{}); err == nil {
		t.Error("a malformed file was judged")
	}
}

// FuzzCheck: whatever a history holds, there is a verdict or an error.
func FuzzCheck(f *testing.F) {
	stories, err := filepath.Glob("testdata/stories/*")
	if err != nil || len(stories) == 0 {
		f.Fatal("no stories: ", err)
	}
	for _, path := range stories {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range bytes.Split(text, []byte("\n\n")) {
			_, part, _ := bytes.Cut(part, []byte("check"))
			_, part, _ = bytes.Cut(part, []byte("\n"))
			part, _, _ = bytes.Cut(part, []byte("----"))
			f.Add(tell(f, string(part)))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Read(context.Background(), history.NewReader(bytes.NewReader(b)), Options{})
		if err != nil {
			return
		}
		var found int64
		for _, n := range r.Anomalies {
			found += n
		}
		if (found > 0) != (r.Outcome == Invalid) {
			t.Fatalf("%s with %d anomalies", r.Outcome, found)
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatal(err)
		}
	})
}
