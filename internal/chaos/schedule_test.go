package chaos

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A plan depends on its seed alone, lasts about as long as told, has each nemesis
// once before one comes again, and never two at once that act on the same.
func TestPlan(t *testing.T) {
	all := Nemeses()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		duration := time.Duration(rapid.IntRange(1, 300).Draw(t, "seconds")) * time.Second
		mix := rapid.Bool().Draw(t, "mix")
		nemeses := all[:rapid.IntRange(1, len(all)).Draw(t, "nemeses")]
		strikes := plan(seed, duration, nemeses, mix)
		if again := plan(seed, duration, nemeses, mix); !slices.EqualFunc(strikes, again, sameStrike) {
			t.Fatal("the same seed gives another plan")
		}
		lasts := time.Duration(0)
		counts := map[string]int{}
		for i, s := range strikes {
			if lasts >= duration {
				t.Fatalf("strike %d comes after %v", i, lasts)
			}
			lasts += s.calm + s.hold + recovers
			for _, n := range s.nemeses {
				counts[n.Name]++
			}
			switch {
			case len(s.nemeses) > 1 && !mix:
				t.Fatal("two strike at once")
			case len(s.nemeses) > 1 && s.nemeses[0].kind == s.nemeses[1].kind:
				t.Fatalf("%s and %s at once", s.nemeses[0].Name, s.nemeses[1].Name)
			}
		}
		if lasts < duration {
			t.Fatalf("all is over after %v of %v", lasts, duration)
		}
		least, most := counts[nemeses[0].Name], 0
		for _, n := range nemeses {
			least, most = min(least, counts[n.Name]), max(most, counts[n.Name])
		}
		if most-least > 1 {
			t.Fatalf("not in rounds: %v", counts)
		}
	})
}

func sameStrike(a, b strike) bool {
	return a.calm == b.calm && a.hold == b.hold && a.seed == b.seed &&
		slices.EqualFunc(a.nemeses, b.nemeses, func(x, y Nemesis) bool { return x.Name == y.Name })
}

func TestFind(t *testing.T) {
	if _, err := find([]string{"kill", "gremlins"}); err == nil {
		t.Error("an unknown nemesis is found")
	}
	some, err := find([]string{"pause", "kill"})
	if err != nil || len(some) != 2 || some[0].Name != "pause" {
		t.Errorf("found %v, %v", some, err)
	}
	for _, names := range [][]string{nil, {Mix}} {
		if all, err := find(names); err != nil || len(all) != len(Nemeses()) {
			t.Errorf("%v finds %d, %v", names, len(all), err)
		}
	}
}
