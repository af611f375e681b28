//go:build controls

package main

import (
	"fmt"
	"os"

	"github.com/roomlog/roomlog/internal/chaos/controls"
)

// seededWarning says which seeded bug is at work.
func seededWarning() (warning string, err error) {
	name := os.Getenv(controls.Variable)
	if name == "" {
		return "this binary has seeded bugs, of which none is at work; it is for tests of tests alone", nil
	}
	c, ok := controls.Find(name)
	if !ok {
		return "", fmt.Errorf("%s: no seeded bug is called %q", controls.Variable, name)
	}
	return fmt.Sprintf("this binary has a seeded bug at work, %s: %s", c.Name, c.Bug), nil
}
