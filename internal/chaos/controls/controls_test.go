package controls

import "testing"

func TestControls(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range All {
		switch {
		case seen[c.Name]:
			t.Errorf("%s is there twice", c.Name)
		case c.Name == "" || c.Bug == "" || c.Promise == "" || len(c.Finds) == 0:
			t.Errorf("%s lacks something: %+v", c.Name, c)
		case len(c.Recipe.Nemeses) == 0 || c.Recipe.Duration == 0:
			t.Errorf("%s lacks a recipe: %+v", c.Name, c.Recipe)
		}
		seen[c.Name] = true
		if found, ok := Find(c.Name); !ok || found.Name != c.Name {
			t.Errorf("Find(%s) = %s, %v", c.Name, found.Name, ok)
		}
	}
	if _, ok := Find("no such control"); ok {
		t.Error("what is not there is found")
	}
}
