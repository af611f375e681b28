package wire

import "fmt"

// Code says why something was refused or ended. It stands in Error and Refused
// frames and is the QUIC application error code of a closed stream or connection.
type Code uint64

// The codes, and what a client does about each.
const (
	CodeNone            Code = 0  // no error: an orderly end
	CodeProtocol        Code = 1  // a malformed or misplaced frame: a bug, give up
	CodeVersion         Code = 2  // another protocol version: upgrade
	CodeAuth            Code = 3  // no or a wrong token: give up
	CodeDenied          Code = 4  // the token lacks the right: give up
	CodeTooLarge        Code = 5  // payload beyond the limit: give up
	CodeBadRoom         Code = 6  // no valid room name: give up
	CodeNotLeader       Code = 7  // ask the leader
	CodeOverloaded      Code = 8  // come back after the time given
	CodeSessionExpired  Code = 9  // open a new session
	CodeOutOfOrder      Code = 10 // a counter was left out: resend from the one given
	CodeConflict        Code = 11 // a counter was used for another payload: a bug, give up
	CodeBeyondHead      Code = 12 // the room does not have that seq yet: give up
	CodeUnavailable     Code = 13 // this replica cannot serve now: try another
	CodeTooManyStreams  Code = 14 // too many subscriptions on the connection
	CodeGoingAway       Code = 15 // the server stops: reconnect elsewhere
	CodeInternal        Code = 16 // the server failed: try another
	CodeSlowConsumer    Code = 17 // the client does not read its answers
	CodeUnknownOutcome  Code = 18 // maybe in the log: resend with the same counter
	CodeTooManySessions Code = 19 // the partition's session table is full: retry later
)

var codeNames = [...]string{
	"no error", "protocol error", "unsupported version", "wrong token", "denied", "too large", "bad room name",
	"not the leader", "overloaded", "session expired", "out of order", "counter reused", "beyond the head",
	"unavailable", "too many subscriptions", "going away", "internal error", "slow consumer", "outcome unknown",
	"too many sessions",
}

func (c Code) String() string {
	if c < Code(len(codeNames)) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint64(c))
}

// Reason says why a subscriber cannot have a range of seqs.
type Reason uint8

// ReasonTrimmed: retention has removed the messages.
const ReasonTrimmed Reason = 1

func (r Reason) String() string {
	if r == ReasonTrimmed {
		return "trimmed"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}
