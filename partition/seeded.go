//go:build !controls

package partition

// Bugs that tests of the tests switch on, in a binary built for nothing else: see
// seeded_controls.go. Here they are constants, and what they guard is left out.
const (
	seededAckBeforeCommit   = false
	seededServeBeyondCommit = false
	seededForgetSessions    = false
	seededLeaderCounter     = false
	seededOwnHead           = false
)

// foresight is what a leader with one of these bugs expects.
type foresight struct{}

func newForesight(*Partition) *foresight { return nil }

func (*foresight) stamp(data []byte, _ []item) []byte          { return data }
func (*foresight) ack([]item, int64, bool)                     {}
func (*foresight) unacked(_ *batch, answers []Answer) []Answer { return answers }
func (*foresight) show([]byte, []item, int64, bool)            {}
func (*foresight) beyond(string, Seq) []Block                  { return nil }
func (*foresight) applied(*Block)                              {}

func (m *Machine) claim([]byte)                         {}
func claimedIn([]byte, string) Seq                      { return 0 }
func (m *Machine) unknown(sessionRef, Counter) *session { return nil }
