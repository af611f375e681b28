// Package controls lists the seeded bugs: what a binary built with
//
//	go build -tags controls ./cmd/roomlog
//
// does wrong when ROOMLOG_CONTROL names one of them, and the campaign of faults that
// must find it. A checker that has never found anything proves little, so each bug
// breaks one promise in a way that developers of logs have broken it before, and is
// to be found under its proper name. The binary that is shipped has none of them: the
// hooks are constants there.
package controls

import (
	"slices"
	"time"
)

// Variable is what the environment names a bug in.
const Variable = "ROOMLOG_CONTROL"

// Control is a seeded bug and how it is found.
type Control struct {
	Name    string
	Bug     string   // what is wrong
	Promise string   // what is broken thereby
	Finds   []string // anomalies, any of which shows it; the first is its proper name
	Recipe  Recipe
}

// Recipe is a campaign against three nodes. What is left empty is as in any other.
type Recipe struct {
	Nemeses  []string
	Settings map[string]string // of the nodes
	Rate     float64           // messages a second, all publishers together
	Forget   bool              // a power cut leaves nothing of what was not synced
	Duration time.Duration
	Needs    string // of faults and load, beyond the names
}

// All are the controls there are.
var All = []Control{
	{
		Name:    "skip-fsync",
		Bug:     "a file of the log is synced once a second at most, not by each write",
		Promise: "an acked message outlives a power cut of all nodes",
		Finds:   []string{"lost-write", "unseen", "inconsistent-offsets", "stale-fence", "split-ack", "replica-divergence"},
		Recipe: Recipe{
			Nemeses:  []string{"power-cut"},
			Settings: map[string]string{"segment-bytes": "64MiB", "retention-bytes": "0"},
			Forget:   true, // a part of it left behind is mostly found as damage, and the node stays away
			Duration: 45 * time.Second,
			Needs:    "cuts of a majority or all nodes at the same moment",
		},
	},
	{
		Name:    "ack-before-commit",
		Bug:     "the leader acks what it has proposed, with the seq that it expects",
		Promise: "an acked message is in the log of a majority, at its seq",
		Finds:   []string{"lost-write", "stale-fence", "split-ack", "inconsistent-offsets", "unseen"},
		Recipe: Recipe{
			Nemeses:  []string{"partition", "pause-kill", "leader-kill"},
			Rate:     1000,
			Duration: 45 * time.Second,
			Needs:    "a leader cut off from the others while publishers still reach it",
		},
	},
	{
		Name:    "serve-beyond-commit",
		Bug:     "readers at the leader are handed what it has proposed",
		Promise: "what a reader is handed stays in the log",
		Finds:   []string{"precommitted-read", "inconsistent-offsets"},
		Recipe: Recipe{
			Nemeses:  []string{"partition"},
			Rate:     1000,
			Duration: 45 * time.Second,
			Needs:    "a leader cut off from the others while publishers and readers still reach it",
		},
	},
	{
		Name:    "forget-sessions",
		Bug:     "a checkpoint forgets the sessions, and one that is not known begins anew with the counter that comes",
		Promise: "a retry gets the seq of its first attempt",
		Finds:   []string{"dedup-miss", "duplicate"},
		Recipe: Recipe{
			Nemeses: []string{"pause", "leader-kill", "udp-blackhole", "packet"},
			// A policy that fits no room has every partition make a checkpoint a second.
			Settings: map[string]string{"retention-policy": "no such room=8s"},
			Rate:     2000,
			Duration: 60 * time.Second,
			Needs:    "acks that get lost, and come to be asked for only after a second or more",
		},
	},
	{
		Name:    "leader-counter",
		Bug:     "the leader numbers what it proposes; a number is used up whatever becomes of the message",
		Promise: "a room's seqs have no hole",
		Finds:   []string{"seq-hole", "poll-skip"},
		Recipe: Recipe{
			Nemeses:  []string{"leader-kill", "pause", "partition"},
			Settings: map[string]string{"segment-bytes": "64MiB", "retention-bytes": "0"}, // no checkpoints
			Rate:     1000,
			Duration: 45 * time.Second,
			Needs:    "readers of frames: the SDK refuses to go on behind a hole",
		},
	},
	{
		Name:    "no-boundary-record",
		Bug:     "the leader's log does not know the entry at the floor, which the first one behind it follows on",
		Promise: "a replica that was away catches up",
		Finds:   []string{"stuck-replica", "stuck-room", "replica-divergence"},
		Recipe: Recipe{
			Nemeses:  []string{"left-behind"},
			Settings: map[string]string{"segment-bytes": "1MiB", "retention-bytes": "1MiB"},
			Duration: 20 * time.Second,
			Needs:    "one node dead until the others have dropped what it lacks, and leaders that live on",
		},
	},
	{
		Name:    "own-head",
		Bug:     "a replica answers from its own head, without asking whether it leads",
		Promise: "what a client was acked it finds, whichever node it asks",
		Finds:   []string{"read-your-writes", "monotonic-reads", "nonlinearizable", "resume-regression"},
		Recipe: Recipe{
			Nemeses:  []string{"partition", "slow-follower", "pause"},
			Rate:     1000,
			Duration: 45 * time.Second,
			Needs: "subscriptions After an acked seq at other nodes, at once, of which each that is told that the seq is beyond " +
				"the head counts as read-your-writes; heads asked of a leader that was cut off",
		},
	},
	{
		Name:    "stale-records",
		Bug:     "a log whose records have no salt, chain and index takes what a file held in an earlier life for what was just written",
		Promise: "after a crash a log holds what was written, and replicas agree",
		Finds:   []string{"inconsistent-offsets", "replica-divergence", "lost-write", "stuck-replica"},
		Recipe: Recipe{
			Nemeses:  []string{"kill"},
			Settings: map[string]string{"segment-bytes": "1MiB", "retention-bytes": "1MiB"},
			Rate:     2000,
			Duration: 60 * time.Second,
			Needs:    "followers killed some 10 s or more after a partition's last election, while others go on",
		},
	},
}

// Find returns the control of that name.
func Find(name string) (Control, bool) {
	i := slices.IndexFunc(All, func(c Control) bool { return c.Name == name })
	if i < 0 {
		return Control{}, false
	}
	return All[i], true
}
