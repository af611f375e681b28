package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDataDirOfAnotherFormat(t *testing.T) {
	want := identity{Node: "n1", Partitions: 2, Members: map[string]string{"n1": "a:1"}}
	for format, words := range map[int][]string{
		1: {"has format 1", "a version before this one", "cannot convert", "stop all nodes", "not one alone"},
		3: {"has format 3", "reads and writes format 2", "or a later one"},
	} {
		dir := t.TempDir()
		d, err := openDataDir(dir, want)
		if err != nil {
			t.Fatal(err)
		}
		d.close()
		name := filepath.Join(dir, "node.json")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		other := strings.Replace(string(data), `"format": 2`, fmt.Sprintf(`"format": %d`, format), 1)
		if other == string(data) {
			t.Fatalf("no format 2 in %s", data)
		}
		if err := os.WriteFile(name, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = openDataDir(dir, want)
		for _, w := range append(words, dir) {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("format %d: %v, want %q in it", format, err, w)
			}
		}
		if now, _ := os.ReadFile(name); string(now) != other {
			t.Errorf("format %d: node.json was changed", format)
		}
	}
}
