//go:build race

package partition

// underRace: every memory access costs ten times as much.
const underRace = true
