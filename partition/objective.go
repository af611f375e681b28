package partition

import "time"

// DefaultObjective is that of Config.Objective.
const DefaultObjective = 100 * time.Millisecond

// causeLeader is the cause where readers get messages late and nothing that this
// replica does explains it: the leader knows the stage.
const causeLeader = "leader"

// reading is how long messages take, as of one moment.
type reading struct {
	leading bool
	p99     time.Duration // of what is judged: the worse of publishing and of delivering
	late    uint64        // messages that took longer than the objective
	stages  [Stages]time.Duration
	counts  [Stages]uint64 // of what stages was taken from
}

// judge tells whether a partition keeps its objective, which is a p99, and which
// stage is to blame if not. It is shown a reading about once a second and belongs
// to one goroutine.
//
// A partition leaves its objective when the p99 is beyond it and at least
// leaveLate messages were. It returns when the p99 was clearly within it, by a
// tenth, or there were no messages, backLooks times in a row.
//
// To blame is the stage whose p99 has grown most against what it was while all
// was well. Receive counts for a part only: as a rule messages wait in the queue
// because entries take long further down, and with two entries under way one can
// wait for both. Another stage takes the blame over when it has been the one
// changeLooks times in a row.
type judge struct {
	objective time.Duration
	quiet     [Stages]time.Duration // the p99s while all is well

	out    bool
	cause  string
	since  time.Time
	worst  time.Duration
	good   int    // readings in a row that were within
	other  string // the cause that may take over,
	others int    // and for how many readings it has been it
}

const (
	leaveLate   = 3
	backLooks   = 3
	changeLooks = 3
	queueShare  = 4 // Receive's growth counts for a fourth
)

// verdict is what a reading has changed.
type verdict int

const (
	nothing  verdict = iota
	left             // the objective, for cause
	changed          // the cause
	returned         // after since, worst being the worst p99
)

func (j *judge) look(r *reading, now time.Time) verdict {
	beyond := r.p99 > j.objective && r.late >= leaveLate
	switch {
	case !j.out && beyond:
		*j = judge{objective: j.objective, quiet: j.quiet, out: true, cause: j.blame(r), since: now, worst: r.p99}
		return left
	case !j.out:
		j.learn(r)
		return nothing
	}
	j.worst = max(j.worst, r.p99)
	if r.p99 <= j.objective-j.objective/10 {
		if j.good++; j.good >= backLooks {
			j.out, j.cause = false, ""
			return returned
		}
		return nothing
	}
	if j.good = 0; !beyond {
		return nothing
	}
	return j.again(j.blame(r))
}

// again decides whether the cause has changed.
func (j *judge) again(cause string) verdict {
	if cause == j.cause {
		j.others = 0
		return nothing
	}
	if cause != j.other {
		j.other, j.others = cause, 0
	}
	if j.others++; j.others < changeLooks {
		return nothing
	}
	j.cause, j.others = cause, 0
	return changed
}

// learn follows what is usual: down fast, up slowly.
func (j *judge) learn(r *reading) {
	for s := range r.stages {
		switch d := r.stages[s] - j.quiet[s]; {
		case r.counts[s] == 0:
		case d < 0 || j.quiet[s] == 0:
			j.quiet[s] += d
		default:
			j.quiet[s] += d / 64
		}
	}
}

// blame names the stage that has grown most, by share of the excess. On a
// replica that does not lead, messages come late from elsewhere unless its own
// stages have at least a fourth of that.
func (j *judge) blame(r *reading) string {
	worst, most := Write, time.Duration(0)
	for s := range Stages {
		grown := r.stages[s] - j.quiet[s]
		if s == Receive {
			grown /= queueShare
		}
		if grown > most && (r.leading || s == Append || s == Apply || s == Write) {
			worst, most = s, grown
		}
	}
	if !r.leading && most < r.p99/4 {
		return causeLeader
	}
	return worst.String()
}
