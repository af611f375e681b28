package raftlog

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	c := newSmallCluster(t, 1)
	n := c.leader()
	floor := c.compact("a")
	want := n.machine.seen()
	snapshots, first, last := n.group.Snapshots(), n.group.First(), n.group.Status().Last
	c.kill("n1")

	var got []string
	var bodies []int
	v := Verification{
		Dir: n.dir, ID: 7,
		Entry: func(e Entry) error { got = append(got, string(e.Data)); return nil },
		Snapshot: func(index Index, body io.Reader) error {
			var all []Entry
			err := gob.NewDecoder(body).Decode(&all)
			if len(all) > 0 && all[len(all)-1].Index > index {
				t.Errorf("the snapshot at %d has entry %d", index, all[len(all)-1].Index)
			}
			bodies = append(bodies, len(all))
			return err
		},
	}
	found, err := Verify(v)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found.Snapshots, snapshots) || Index(found.Log.First) != first || Index(found.Log.Last) != last ||
		Index(found.Log.BoundaryIndex) != first-1 || found.Fenced != "" || found.Rebuilding || found.Received != 0 {
		t.Errorf("found %+v", found)
	}
	if len(got) < 10 || !slices.Equal(got, want[len(want)-len(got):]) || len(bodies) != len(snapshots) {
		t.Errorf("it visited %d entries of %d, and %d snapshots", len(got), len(want), len(bodies))
	}

	stop := errors.New("stop")
	for name, v := range map[string]Verification{
		"entry":    {Dir: n.dir, ID: 7, Entry: func(Entry) error { return stop }},
		"snapshot": {Dir: n.dir, ID: 7, Snapshot: func(Index, io.Reader) error { return stop }},
	} {
		if _, err := Verify(v); !errors.Is(err, stop) {
			t.Errorf("an error about a %s gives %v", name, err)
		}
	}

	file := func(index Index, suffix string) string {
		return filepath.Join(n.dir, "snapshots", fmt.Sprintf("%020d%s", index, suffix))
	}
	newest := snapshots[len(snapshots)-1]
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T)
		path   string
		want   string
	}{
		{name: "a changed snapshot", path: file(floor, ".snap"), want: "checksum", damage: func(t *testing.T) {
			rewrite(t, file(floor, ".snap"), func(b []byte) []byte { return changed(b, len(b)/2) })
		}},
		{name: "none that the log reaches", path: filepath.Join(n.dir, "snapshots"), want: "no snapshot", damage: func(t *testing.T) {
			remove(t, file(floor, ".snap"))
			remove(t, file(newest, ".snap"))
		}},
		{name: "one beyond the log", path: file(last+9, ".snap"), want: "the log ends", damage: func(t *testing.T) {
			write(t, file(last+9, ".snap"), snapshotBytes(t, snapshotHead{group: 7, index: uint64(last) + 9, term: 9}, nil))
		}},
		{name: "one of another term", path: file(floor, ".snap"), want: "of term 9", damage: func(t *testing.T) {
			write(t, file(floor, ".snap"), snapshotBytes(t, snapshotHead{group: 7, index: uint64(floor), term: 9}, nil))
		}},
		{name: "a strange name", path: filepath.Join(n.dir, "snapshots", "notes"), want: "no snapshot has such a name", damage: func(t *testing.T) {
			write(t, filepath.Join(n.dir, "snapshots", "notes"), nil)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			restore := keepFiles(t, filepath.Join(n.dir, "snapshots"))
			defer restore()
			tt.damage(t)
			_, err := Verify(Verification{Dir: n.dir, ID: 7})
			damage, ok := errors.AsType[*DamageError](err)
			if !ok || damage.Path != tt.path || !strings.Contains(damage.Reason, tt.want) {
				t.Errorf("found: %v", err)
			}
		})
	}

	// What Open completes is no damage, and neither is what it removes.
	restore := keepFiles(t, filepath.Join(n.dir, "snapshots"))
	write(t, file(last+9, ".recv"), snapshotBytes(t, snapshotHead{group: 7, index: uint64(last) + 9, term: 9}, nil))
	write(t, file(last+20, ".snap.tmp"), []byte("half"))
	if found, err := Verify(Verification{Dir: n.dir, ID: 7}); err != nil || found.Received != last+9 {
		t.Errorf("%+v, %v", found, err)
	}
	restore()
	write(t, filepath.Join(n.dir, "FENCED"), []byte("because\n"))
	if found, err := Verify(Verification{Dir: n.dir, ID: 7}); err != nil || found.Fenced != "because" {
		t.Errorf("%+v, %v", found, err)
	}
	write(t, filepath.Join(n.dir, "REBUILD"), []byte("{}"))
	remove(t, file(floor, ".snap"))
	remove(t, file(newest, ".snap"))
	if found, err := Verify(Verification{Dir: n.dir, ID: 7}); err != nil || !found.Rebuilding {
		t.Errorf("%+v, %v", found, err)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func rewrite(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, f(b))
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// keepFiles returns what puts a folder's files back as they are now.
func keepFiles(t *testing.T, dir string) (restore func()) {
	t.Helper()
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(kept))); err != nil {
			t.Fatal(err)
		}
	}
}
