//go:build race

package segment_test

func init() { underRace = true }
