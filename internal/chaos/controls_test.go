//go:build controls

package chaos_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roomlog/roomlog/internal/chaos"
	"github.com/roomlog/roomlog/internal/chaos/check"
	"github.com/roomlog/roomlog/internal/chaos/controls"
)

// seeds is how many runs a bug may take to be found.
const seeds = 6

// TestControls runs a binary with one bug after the other, each under the faults
// that show it, and expects the checker to call it by its name. It takes a minute or
// two for each; ROOMLOG_CONTROLS names some of them ("own-head,skip-fsync").
func TestControls(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "roomlog")
	out, err := exec.Command("go", "build", "-tags", "controls", "-o", binary, "github.com/roomlog/roomlog/cmd/roomlog").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	only := os.Getenv("ROOMLOG_CONTROLS")
	ran := 0
	for _, c := range controls.All {
		if only != "" && !slices.Contains(strings.Split(only, ","), c.Name) {
			continue
		}
		ran++
		t.Run(c.Name+" left out", func(t *testing.T) {
			if _, found := runControl(t, binary, c, "", 1); len(found) > 0 {
				t.Errorf("without a bug %v is found", found)
			}
		})
		t.Run(c.Name, func(t *testing.T) {
			for seed := range uint64(seeds) {
				if result, _ := runControl(t, binary, c, c.Name, seed+1); result.Anomalies[check.Name(c.Finds[0])] > 0 {
					return
				}
			}
			t.Errorf("no %s was found in %d runs", c.Finds[0], seeds)
		})
	}
	if ran == 0 {
		t.Fatalf("ROOMLOG_CONTROLS=%s names no control", only)
	}
}

// runControl judges a run with a bug, or with none, under the faults that show it. It
// returns also what was found.
func runControl(t *testing.T, binary string, c controls.Control, bug string, seed uint64) (*check.Result, []check.Name) {
	t.Helper()
	history := filepath.Join(t.TempDir(), "history.jsonl.gz")
	err := chaos.Run(t.Context(), chaos.Options{
		Binary: binary, History: history, Dir: t.TempDir(), Seed: seed,
		Duration: c.Recipe.Duration, Nemeses: c.Recipe.Nemeses, Rate: c.Recipe.Rate,
		Settings: c.Recipe.Settings, Forget: c.Recipe.Forget, Env: []string{controls.Variable + "=" + bug},
	})
	if err != nil {
		t.Fatal(err)
	}
	result, err := check.File(context.Background(), history, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var found []check.Name
	for _, f := range result.Findings {
		found = append(found, f.Name)
		t.Logf("seed %d: %s, %d times: %s", seed, f.Name, f.Count, f.Examples[0].Text)
	}
	t.Logf("seed %d: %s, %d ops, faults %v", seed, result.Outcome, result.Ops, result.Faults)
	return result, found
}
