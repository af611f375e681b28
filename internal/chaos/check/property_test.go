package check

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// simulate draws a correct history.
func simulate(t *rapid.T) []history.Op {
	seed := rapid.Uint64().Draw(t, "seed")
	rng := rand.New(rand.NewPCG(seed, 0))
	s := newSim(rng.IntN, rapid.IntRange(1, 3).Draw(t, "rooms"), rapid.IntRange(1, 4).Draw(t, "clients"))
	return s.run(rapid.IntRange(50, 400).Draw(t, "steps"))
}

func judge(t rapid.TB, list []history.Op) *Result {
	c := New(Options{Slices: 1 << 30})
	for i := range list {
		list[i].Index = int64(i)
		if err := c.Add(&list[i]); err != nil {
			t.Fatal(err)
		}
	}
	return c.Result()
}

// TestACorrectLogIsValid: whatever clients do, a server that keeps its promises
// is not accused; and Porcupine agrees with the order of seqs, slice by slice.
func TestACorrectLogIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := judge(t, simulate(t))
		if r.Outcome == Invalid {
			t.Fatal(verdict(r))
		}
		if l := r.Figures.Linear; l.Linearizable != l.Slices {
			t.Fatalf("Porcupine: %+v", l)
		}
	})
}

// TestAMutationIsFound breaks one promise in one place.
func TestAMutationIsFound(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(mutations)) {
		t.Run(name, func(t *testing.T) {
			applied := 0
			rapid.Check(t, func(t *rapid.T) {
				m := mutant{t: t, ops: simulate(t)}
				want := mutations[name](&m)
				if want == nil {
					return // nothing here to break in this way
				}
				applied++
				r := judge(t, m.ops)
				if !slices.ContainsFunc(want, func(n Name) bool { return r.Anomalies[n] > 0 }) {
					t.Fatalf("%s: none of %v in\n%s", m.did, want, verdict(r))
				}
			})
			if applied < 20 {
				t.Errorf("applied %d times only", applied)
			}
		})
	}
}

// TestFileEqualsOps: through the file's lines comes the same verdict.
func TestFileEqualsOps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := simulate(t)
		want := judge(t, list)
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		for i := range list {
			if err := enc.Encode(&list[i]); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Read(context.Background(), history.NewReader(&buf), Options{Slices: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(got)
		if b, _ := json.Marshal(want); !bytes.Equal(a, b) {
			t.Fatalf("from lines\n%s\nfrom ops\n%s", a, b)
		}
	})
}
