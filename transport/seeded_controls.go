//go:build controls

package transport

import "os"

// seededOwnHead: a subscriber who asks for what this replica does not have is told
// that it does not exist. internal/chaos/controls says what that breaks.
var seededOwnHead = os.Getenv("ROOMLOG_CONTROL") == "own-head"

// Seed switches on the bug of that name, if it is here, and all others off. No
// server may run.
func Seed(control string) { seededOwnHead = control == "own-head" }
