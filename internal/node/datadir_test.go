package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who votes is fixed with the members.
func TestDataDirOfOtherNonvoters(t *testing.T) {
	members := map[string]string{"n1": "a:1", "n2": "a:2"}
	dir := t.TempDir()
	for _, step := range []struct {
		nonvoters []string
		fault     string
	}{
		{[]string{"n2"}, ""},
		{[]string{"n2"}, ""},
		{nil, "with these nonvoters: n2; the configuration says: none"},
		{[]string{"n1"}, "with these nonvoters: n2; the configuration says: n1"},
	} {
		d, err := openDataDir(dir, identity{Node: "n1", Partitions: 2, Members: members, Nonvoters: step.nonvoters})
		if err == nil {
			d.close()
		}
		if step.fault == "" && err != nil || step.fault != "" && (err == nil || !strings.Contains(err.Error(), step.fault)) {
			t.Errorf("with %v: %v, want %q", step.nonvoters, err, step.fault)
		}
	}
}

// Nodes that do not agree on who votes do not talk to each other.
func TestFingerprint(t *testing.T) {
	members := map[string]string{"n1": "a:1", "n2": "a:2", "n3": "a:3", "n4": "a:4"}
	print := func(nonvoters ...string) string {
		return (&Node{cfg: Config{Partitions: 16, Members: members, Nonvoters: nonvoters}}).fingerprint()
	}
	if got := print(); got != "16/n1,n2,n3,n4" {
		t.Errorf("all vote: %s", got)
	}
	if got := print("n4", "n3"); got != "16/n1,n2/n3,n4" || got != print("n3", "n4") || got == print("n3") {
		t.Errorf("two vote: %s", got)
	}
}

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
