package check

import (
	"fmt"
	"slices"
)

// Name is an anomaly's.
type Name string

const (
	LostWrite           Name = "lost-write"
	Unseen              Name = "unseen"
	Duplicate           Name = "duplicate"
	InconsistentOffsets Name = "inconsistent-offsets"
	PollSkip            Name = "poll-skip"
	IntPollSkip         Name = "int-poll-skip"
	NonmonotonicPoll    Name = "nonmonotonic-poll"
	IntNonmonotonicPoll Name = "int-nonmonotonic-poll"
	NonmonotonicSend    Name = "nonmonotonic-send"
	IntNonmonotonicSend Name = "int-nonmonotonic-send"
	G1a                 Name = "G1a"
	PrecommittedRead    Name = "precommitted-read"
	RealtimeLag         Name = "realtime-lag"
	NonLinearizable     Name = "nonlinearizable"

	SeqHole           Name = "seq-hole"
	FalseGap          Name = "false-gap"
	ResumeRegression  Name = "resume-regression"
	DedupMiss         Name = "dedup-miss"
	DedupGhost        Name = "dedup-ghost"
	ReplicaDivergence Name = "replica-divergence"
	StaleFence        Name = "stale-fence"
	SplitAck          Name = "split-ack"
	SplitLeader       Name = "split-leader"
	StuckRoom         Name = "stuck-room"
	StuckReplica      Name = "stuck-replica"
	UnexpectedExit    Name = "unexpected-exit"
	PhantomElection   Name = "phantom-election"
	Unpublished       Name = "unpublished"

	MonotonicReads    Name = "monotonic-reads"
	MonotonicWrites   Name = "monotonic-writes"
	ReadYourWrites    Name = "read-your-writes"
	WritesFollowReads Name = "writes-follow-reads"
)

// meanings of all anomalies, in the order of reports. Where one finding implies
// another it is said here.
var meanings = []struct {
	name    Name
	meaning string
}{
	{LostWrite, "a message was acked, the log goes on beyond its seq and does not hold it"},
	{Unseen, "a message was acked and nobody had read it by the end of the final reads"},
	{Duplicate, "a message lies at more than one seq"},
	{InconsistentOffsets, "one seq of a room was shown or acked with two messages of the log"},
	{PollSkip, "a subscription went past a seq without a gap"},
	{IntPollSkip, "the same within one poll"},
	{NonmonotonicPoll, "a subscription went back or repeated a seq"},
	{IntNonmonotonicPoll, "the same within one poll"},
	{NonmonotonicSend, "a publisher's later publish, made after the ack of an earlier one, got a lower seq (so nonlinearizable too)"},
	{IntNonmonotonicSend, "the same of publishes that were open together"},
	{G1a, "a publish that was reported failed was read"},
	{PrecommittedRead, "a subscription was handed a message that the log does not hold in the end, or has elsewhere and got only later"},
	{RealtimeLag, "a message came later after its ack than the bound given (without a bound only a figure)"},
	{NonLinearizable, "appends and head reads of a room fit no order that agrees with real time"},
	{SeqHole, "the log itself lacks a seq"},
	{FalseGap, "a gap covered a seq that was to be had, then or later"},
	{ResumeRegression, "a subscription after a seq began at or before it"},
	{DedupMiss, "a retry made a second copy: a message lies at two seqs and the later one was acked"},
	{DedupGhost, "a retry was acked with a seq that holds another message"},
	{ReplicaDivergence, "two replicas differ, in what they serve or on disk, or one lacks in its final read what had been acked before"},
	{StaleFence, "an acked seq was overwritten by another message: a deposed leader acked (so lost-write too)"},
	{SplitAck, "one seq of a room was acked for two messages (so one may be a lost-write too)"},
	{SplitLeader, "two nodes claimed to lead a partition in one term, twice each"},
	{StuckRoom, "publishes to a room were open and none was acked for longer than the bound, with a quorum there"},
	{StuckReplica, "a node did not serve again, did not catch up or did not give a room when all faults were long over"},
	{UnexpectedExit, "a node's process ended though nobody had asked it to, and no fault explains it"},
	{PhantomElection, "a partition's term rose though no fault was on or just over"},
	{Unpublished, "a message was read that nobody had published to that room"},
	{MonotonicReads, "a client was told of a head below what it had read"},
	{MonotonicWrites, "a publisher's messages lie in the log against its order, seen only by reading as one was not acked"},
	{ReadYourWrites, "a client was told of a head below what it had been acked"},
	{WritesFollowReads, "a client's publish got a seq at or below what it had read before (so nonlinearizable too)"},
}

// Anomalies are the names of all that is looked for, in the order of reports.
func Anomalies() []Name {
	names := make([]Name, len(meanings))
	for i, m := range meanings {
		names[i] = m.name
	}
	return names
}

// Meaning says in a line what an anomaly is.
func (n Name) Meaning() string {
	for _, m := range meanings {
		if m.name == n {
			return m.meaning
		}
	}
	return ""
}

// Finding is an anomaly that was found.
type Finding struct {
	Name     Name      `json:"name"`
	Meaning  string    `json:"meaning"`
	Count    int64     `json:"count"`
	Examples []Example `json:"examples"`
}

// Example is one case of an anomaly.
type Example struct {
	Ops  []int64 `json:"ops"` // indexes in the history
	Text string  `json:"text"`
}

// tally counts findings and keeps the first few of each.
type tally struct {
	keep  int
	found map[Name]*Finding
}

// ops are indexes of ops.
type ops []int64

func (t *tally) add(name Name, at ops, format string, args ...any) {
	f := t.found[name]
	if f == nil {
		f = &Finding{Name: name, Meaning: name.Meaning()}
		t.found[name] = f
	}
	f.Count++
	if len(f.Examples) < t.keep {
		at = slices.DeleteFunc(at, func(i int64) bool { return i < 0 })
		f.Examples = append(f.Examples, Example{at, fmt.Sprintf(format, args...)})
	}
}

// counts has a row for every anomaly, zero rows too.
func (t *tally) counts() map[Name]int64 {
	counts := make(map[Name]int64, len(meanings))
	for _, m := range meanings {
		counts[m.name] = 0
		if f := t.found[m.name]; f != nil {
			counts[m.name] = f.Count
		}
	}
	return counts
}

func (t *tally) findings() []Finding {
	list := []Finding{}
	for _, m := range meanings {
		if f := t.found[m.name]; f != nil {
			list = append(list, *f)
		}
	}
	return list
}
