package check

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestTheDocumentNamesEveryAnomaly: docs/chaos/HISTORY.md has the rows that reports have.
func TestTheDocumentNamesEveryAnomaly(t *testing.T) {
	text, err := os.ReadFile("../../../docs/chaos/HISTORY.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Anomalies() {
		if row := fmt.Sprintf("| `%s` | %s |\n", name, name.Meaning()); !strings.Contains(string(text), row) {
			t.Errorf("docs/chaos/HISTORY.md lacks the row\n%s", row)
		}
	}
}
