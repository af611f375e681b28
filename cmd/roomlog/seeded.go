//go:build !controls

package main

// seededWarning is what a binary with seeded bugs says of them: see seeded_controls.go.
func seededWarning() (warning string, err error) { return "", nil }
