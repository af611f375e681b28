//go:build !controls

package transport

// seededOwnHead is a bug that tests of the tests switch on, in a binary built for
// nothing else: see seeded_controls.go.
const seededOwnHead = false
