package partition

// diskFullError: nothing was proposed, the disk is nearly full; come back later.
// To callers it is ErrOverloaded, in other words.
type diskFullError struct{}

func (diskFullError) Error() string        { return "partition: disk is nearly full" }
func (diskFullError) Is(target error) bool { return target == ErrOverloaded }

// diskFull tells whether publishes and new sessions are to be refused for want
// of room. Closing a session is not: it lets the log be forgotten.
func (p *Partition) diskFull(it item) bool {
	return it.kind != kindClose && p.cfg.Full != nil && p.cfg.Full()
}
