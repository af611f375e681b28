package history

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Type says what an op tells of.
type Type string

const (
	Invoke Type = "invoke" // a call is about to be made
	OK     Type = "ok"     // it happened
	Fail   Type = "fail"   // it did not happen and never will
	Info   Type = "info"   // it may have happened; also what the nemesis does
)

// F is the function of an op. Ops of the nemesis have the fault's name.
type F string

const (
	FRun       F = "run"
	FPublish   F = "publish"
	FSubscribe F = "subscribe"
	FPoll      F = "poll"
	FHead      F = "head"
	FFinal     F = "final"
	FReplica   F = "replica"
	FVerify    F = "verify"
	FReady     F = "ready"
	FExit      F = "exit"
	FLeader    F = "leader"
)

// Starved is a fault that nobody made: the machine had no time for the run itself. What
// the nodes do then, such as elect, is not their doing.
const Starved F = "starved"

// Process is who acts, from 1 on: one client, or one subscription of a client. A client
// may have many publishes open, which are told apart by their ids, but one op
// of each other f.
type Process int64

// Nemesis is the process that makes the faults; "nemesis" in JSON.
const Nemesis Process = -1

func (p Process) MarshalJSON() ([]byte, error) {
	if p == Nemesis {
		return []byte(`"nemesis"`), nil
	}
	return strconv.AppendInt(nil, int64(p), 10), nil
}

func (p *Process) UnmarshalJSON(b []byte) error {
	if string(b) == `"nemesis"` {
		*p = Nemesis
		return nil
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || n < int64(Nemesis) || n == 0 {
		return fmt.Errorf(`process %s: must be a number from 1 on or "nemesis"`, b)
	}
	*p = Process(n)
	return nil
}

// Op is one line of a history. The Writer gives Index and Time.
type Op struct {
	Index   int64   `json:"index"`
	Time    int64   `json:"time"` // ns since the run began
	Process Process `json:"process"`
	Type    Type    `json:"type"`
	F       F       `json:"f"`
	Value   Value   `json:"value"`
	Error   string  `json:"error,omitempty"` // why it is fail or info
}

// Value is what an op is about: *Run, *Publish, *Subscribe, *Poll, *Head,
// *Final, *Replica, *Verify, *Ready, *Exit, *Leader, or *Fault for every other f of the
// nemesis.
type Value interface{ check(t Type) error }

// ID names the nth publish of a process: "p3-17". n counts 1, 2, 3, … in the
// order of the calls, over all rooms together; so an id is unique in a history, and
// in each room a publisher's ids grow in its order. It is the message's payload,
// or the payload's beginning up to the first space.
func ID(p Process, n uint64) string {
	b := append(make([]byte, 0, 24), 'p')
	b = strconv.AppendInt(b, int64(p), 10)
	return string(strconv.AppendUint(append(b, '-'), n, 10))
}

// shape is an op whose value is still to be decoded.
type shape struct {
	Index   *int64          `json:"index"`
	Time    *int64          `json:"time"`
	Process *Process        `json:"process"`
	Type    Type            `json:"type"`
	F       F               `json:"f"`
	Value   json.RawMessage `json:"value"`
	Error   string          `json:"error"`
}

// UnmarshalJSON decodes an op and checks that it holds what its f and type need.
func (o *Op) UnmarshalJSON(b []byte) error {
	var s shape
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	switch {
	case s.Index == nil || s.Time == nil || s.Process == nil:
		return fmt.Errorf("an op needs index, time and process")
	case *s.Index < 0 || *s.Time < 0:
		return fmt.Errorf("index %d and time %d: must be from 0 on", *s.Index, *s.Time)
	case s.Type != Invoke && s.Type != OK && s.Type != Fail && s.Type != Info:
		return fmt.Errorf("type %q: must be invoke, ok, fail or info", s.Type)
	}
	v, err := valueOf(s.F, *s.Process)
	if err != nil {
		return err
	}
	if len(s.Value) > 0 {
		if err := json.Unmarshal(s.Value, v); err != nil {
			return fmt.Errorf("value of %s: %w", s.F, err)
		}
	}
	if err := v.check(s.Type); err != nil {
		return fmt.Errorf("value of %s %s: %w", s.Type, s.F, err)
	}
	*o = Op{Index: *s.Index, Time: *s.Time, Process: *s.Process, Type: s.Type, F: s.F, Value: v, Error: s.Error}
	return nil
}

// valueOf makes an empty value for an op of f.
func valueOf(f F, p Process) (Value, error) {
	switch f {
	case FRun:
		return new(Run), nil
	case FPublish:
		return new(Publish), nil
	case FSubscribe:
		return new(Subscribe), nil
	case FPoll:
		return new(Poll), nil
	case FHead:
		return new(Head), nil
	case FFinal:
		return new(Final), nil
	case FReplica:
		return new(Replica), nil
	case FVerify:
		return new(Verify), nil
	case FReady:
		return new(Ready), nil
	case FExit:
		return new(Exit), nil
	case FLeader:
		return new(Leader), nil
	}
	if p != Nemesis || f == "" {
		return nil, fmt.Errorf("f %q: process %d can have publish, subscribe, poll, head, final, replica, verify, ready, exit, leader", f, p)
	}
	return new(Fault), nil
}
