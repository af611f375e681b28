package history

import (
	"errors"
	"fmt"
	"time"
)

// Run is the first line of a history: how it was made, and what it must hold
// to prove anything. Process "nemesis", type info.
type Run struct {
	Name       string   `json:"name,omitempty"` // of the scenario
	Seed       uint64   `json:"seed"`
	Version    string   `json:"version,omitempty"` // of the program under test
	Machine    string   `json:"machine,omitempty"` // in words
	Began      string   `json:"began,omitempty"`   // wall clock at time 0, RFC 3339
	Nodes      []string `json:"nodes,omitempty"`
	Partitions int      `json:"partitions,omitempty"`
	Nemeses    []string `json:"nemeses,omitempty"`   // every fault meant to be made
	Duration   float64  `json:"duration,omitempty"`  // seconds meant
	Untrimmed  bool     `json:"untrimmed,omitempty"` // retention keeps all: every gap is false
	Floors     Floors   `json:"floors,omitzero"`
}

// Floors are the least that a history must hold, else it is vacuous. Each of
// the run's nemeses must have taken effect once, whether it is named here or not.
type Floors struct {
	Ops    map[F]int64      `json:"ops,omitempty"`    // ok ops by f; of poll the messages
	Faults map[string]int64 `json:"faults,omitempty"` // effects by fault
}

// Publish of one message. The invocation and every answer hold room and id,
// ok the rest too. fail: not in the log, and never will be; info: maybe.
type Publish struct {
	Room      string `json:"room"`
	ID        string `json:"id"` // see ID
	Seq       uint64 `json:"seq,omitempty"`
	Stamp     int64  `json:"stamp,omitempty"` // the receipt's time, Unix ns
	Duplicate bool   `json:"duplicate,omitempty"`
}

// Subscribe begins a subscription, which is a process of its own, and its
// answer ends it: ok when the reader left, fail when it was refused (Head, if it
// was for a seq beyond the head), info when it ended otherwise. What the SDK does
// to carry on is not seen here; a reader that starts again behind its last
// message is a new subscription with After.
type Subscribe struct {
	Room   string  `json:"room"`
	After  *uint64 `json:"after,omitempty"`  // behind this seq, or else
	From   string  `json:"from,omitempty"`   // "start", "now", or a time (RFC 3339)
	Node   string  `json:"node,omitempty"`   // asked first, if one was chosen
	Client Process `json:"client,omitempty"` // whose it is: the process that publishes with the same client; 0: nobody else's
	Head   *uint64 `json:"head,omitempty"`   // of a refusal
}

// Poll (ok alone, no invocation) is what a subscription was handed: messages and gaps in
// the order of delivery. A reader may put what came within a few milliseconds
// into one poll.
type Poll struct {
	Room  string `json:"room"`
	Msgs  Events `json:"msgs"`
	Asked int64  `json:"asked,omitempty"` // when the reader asked for the first of it, ns since the run began
	Given int64  `json:"given,omitempty"` // when the last of it was handed over, if the line is later
}

// Head asks the leader for a room's first and last seq (1 and 0 if unused).
type Head struct {
	Room  string `json:"room"`
	First uint64 `json:"first,omitempty"`
	Last  uint64 `json:"last,omitempty"`
}

// Final is all of a room as one node gives it, once faults have been healed
// and every publish has its answer. The reader waits until it has the head. A long
// room may take several ok lines of the same process, all but the last with More.
type Final struct {
	Room  string `json:"room"`
	Node  string `json:"node"`
	First uint64 `json:"first,omitempty"` // the oldest message held, 1 in a room without any
	Last  uint64 `json:"last,omitempty"`
	Msgs  Events `json:"msgs,omitempty"`
	More  bool   `json:"more,omitempty"`
}

// Replica (ok) is the state of a replica at the end: a hash over everything it
// applied up to the index applied.
type Replica struct {
	Node      string `json:"node"`
	Partition int    `json:"partition"`
	Applied   uint64 `json:"applied"`
	Hash      string `json:"hash"`
}

// Leader (info) is what a node said about a partition when it was asked: the
// term, and who leads ("": it knows of none).
type Leader struct {
	Node      string `json:"node"`
	Partition int    `json:"partition"`
	Term      uint64 `json:"term"`
	Leader    string `json:"leader"`
}

// Verify (ok or fail) is the comparison of what two stopped nodes have on disk at
// the end, byte by byte; the op's error says how they differ.
type Verify struct {
	Node    string `json:"node"`
	Against string `json:"against"`
}

// Ready (ok or fail) tells whether all nodes served again when faults were over,
// within the time that they have for it; the op's error says who did not.
type Ready struct {
	After []string `json:"after"` // faults
}

// Exit is the end of a node's process: ok if it was asked to end, or rightly gave up
// because of a fault, else fail.
type Exit struct {
	Node  string `json:"node"`
	How   string `json:"how"` // "exit status 2", "signal: killed"
	Asked bool   `json:"asked,omitempty"`
}

// Phases of a fault. One that has no end, such as a restart, needs a stop all
// the same: when its harm is repaired.
const (
	Start = "start"
	Stop  = "stop"
)

// Fault (info) is a step of the nemesis; f is the fault's name. Count is how often
// it was seen to take effect since its last line: packets dropped,
// leaders killed. A fault that was injected and did nothing counts 0.
type Fault struct {
	Phase      string   `json:"phase"`
	Nodes      []string `json:"nodes,omitempty"`
	Count      int64    `json:"count,omitempty"`
	QuorumLost bool     `json:"quorum_lost,omitempty"` // at start: some partition cannot commit until the stop
	Detail     string   `json:"detail,omitempty"`
}

var errRoom = errors.New("room is missing")

func (v *Run) check(Type) error { return nil }

func (v *Publish) check(t Type) error {
	switch {
	case v.Room == "":
		return errRoom
	case v.ID == "":
		return errors.New("id is missing")
	case t == OK && v.Seq == 0:
		return errors.New("seq is missing: they count from 1")
	}
	return nil
}

func (v *Subscribe) check(t Type) error {
	switch {
	case v.Room == "":
		return errRoom
	case t != Invoke:
		return nil
	case (v.After == nil) == (v.From == ""):
		return errors.New("give either after or from")
	}
	if _, err := v.FromTime(); err != nil {
		return fmt.Errorf(`from %q: must be "start", "now" or a time (RFC 3339)`, v.From)
	}
	return nil
}

// FromTime is From as Unix ns, 0 if it is not a time.
func (v *Subscribe) FromTime() (int64, error) {
	if v.From == "" || v.From == "start" || v.From == "now" {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339Nano, v.From)
	if err != nil {
		return 0, err
	}
	return t.UnixNano(), nil
}

func (v *Poll) check(t Type) error {
	switch {
	case v.Room == "":
		return errRoom
	case t == OK && len(v.Msgs) == 0:
		return errors.New("msgs are missing")
	case v.Asked < 0 || v.Given < 0:
		return errors.New("asked and given must be from 0 on")
	}
	return nil
}

func (v *Head) check(Type) error {
	if v.Room == "" {
		return errRoom
	}
	return nil
}

func (v *Final) check(Type) error {
	switch {
	case v.Room == "":
		return errRoom
	case v.Node == "":
		return errors.New("node is missing")
	}
	return nil
}

func (v *Replica) check(Type) error {
	if v.Node == "" {
		return errors.New("node is missing")
	}
	return nil
}

func (v *Verify) check(Type) error {
	if v.Node == "" || v.Against == "" {
		return errors.New("node or against is missing")
	}
	return nil
}

func (v *Ready) check(Type) error { return nil }

func (v *Exit) check(Type) error {
	if v.Node == "" {
		return errors.New("node is missing")
	}
	return nil
}

func (v *Leader) check(Type) error {
	if v.Node == "" {
		return errors.New("node is missing")
	}
	return nil
}

func (v *Fault) check(Type) error {
	switch {
	case v.Phase != Start && v.Phase != Stop:
		return fmt.Errorf("phase %q: must be start or stop", v.Phase)
	case v.Count < 0:
		return errors.New("count must be from 0 on")
	}
	return nil
}
