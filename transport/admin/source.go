package admin

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Source is the node behind the handler.
type Source interface {
	// Ready returns nil when the node serves, else why it does not yet.
	Ready() error
	Node() NodeStatus
	// Partitions returns this node's replicas.
	Partitions() []PartitionStatus
	// Room returns an error only if the name is not valid; of a room never
	// used First is 1 and Last 0.
	Room(name string) (RoomStatus, error)
	// Rooms returns at most limit rooms: by name, or with order "drift",
	// "rate" or "subscribers" those with the most first.
	Rooms(limit int, order string) []RoomStatus
	// Drift tells how late messages are, with at most limit rooms and cursors.
	Drift(limit int) Drift
	// Transfer hands leadership of a partition to a node and returns once
	// that node leads. Errors: *NotLeaderError, one that wraps ErrNotFound,
	// ctx's.
	Transfer(ctx context.Context, partition int, to string) error
	// Drain hands the node's leaderships over, sends its clients elsewhere, and keeps
	// both off until Undrain. It returns when the node leads nothing. Errors: one
	// that wraps ErrConflict if no other node can take over, ctx's.
	Drain(ctx context.Context) error
	// Undrain takes that back, unless the node stops: an error that wraps ErrConflict.
	Undrain() error
}

// ErrNotFound: there is no such partition or node; wrap it in an error that
// names it.
var ErrNotFound = errors.New("not found")

// ErrConflict: what was asked for is not possible as things are; wrap it in an error
// that says why.
var ErrConflict = errors.New("not possible now")

// NotLeaderError: nothing was done; ask Leader ("" while unknown).
type NotLeaderError struct{ Leader string }

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "this node does not lead the partition; no leader is known"
	}
	return fmt.Sprintf("this node does not lead the partition, %s does", e.Leader)
}

// NodeStatus is what a node says of itself.
type NodeStatus struct {
	Node     string       `json:"node"`
	Version  string       `json:"version"`
	Listen   string       `json:"listen"`
	Peer     string       `json:"peer"`
	HTTP     string       `json:"http"`
	Leaders  int          `json:"leaders"`  // partitions it leads
	Replicas int          `json:"replicas"` // partitions it holds
	Started  time.Time    `json:"started"`
	Draining bool         `json:"draining"` // it is to lead nothing and have no clients
	Peers    []PeerStatus `json:"peers"`
}

// PeerStatus is how a node sees another one.
type PeerStatus struct {
	Node     string  `json:"node"`
	Alive    bool    `json:"alive"`
	OffsetMs float64 `json:"offset_ms"` // its clock minus ours
	RTTMs    float64 `json:"rtt_ms"`
}

// PartitionStatus is one replica. Commit to Snapshot are indexes of its log.
type PartitionStatus struct {
	Partition  int      `json:"partition"`
	Leader     string   `json:"leader"` // "" while unknown
	Term       uint64   `json:"term"`
	Commit     uint64   `json:"commit"`
	Applied    uint64   `json:"applied"`
	First      uint64   `json:"first"`
	Last       uint64   `json:"last"`
	Snapshot   uint64   `json:"snapshot"` // of the newest one; 0: none
	Bytes      int64    `json:"bytes"`
	Rooms      int      `json:"rooms"`
	Voters     []string `json:"voters"`
	Nonvoters  []string `json:"nonvoters,omitempty"` // nodes that hold the partition and have no vote
	Voter      bool     `json:"voter"`               // whether this replica has one
	Hash       string   `json:"hash"`
	Sessions   int      `json:"sessions"`
	QueueBytes int64    `json:"queue_bytes"`

	Diverged   []string `json:"diverged,omitempty"`   // nodes whose replica has another hash at the same index
	Fenced     string   `json:"fenced,omitempty"`     // why this replica was stopped for good
	Stalled    bool     `json:"stalled,omitempty"`    // the disk keeps it waiting
	Rebuilding bool     `json:"rebuilding,omitempty"` // it does not vote until it has caught up
}

// RoomStatus is a room as this node's replica sees it. First and Last are
// seqs; Drift and Spread, in milliseconds, and Subscribers are of this node's
// subscribers alone.
type RoomStatus struct {
	Room        string  `json:"room"`
	First       uint64  `json:"first"`
	Last        uint64  `json:"last"`
	Partition   int     `json:"partition"`
	Drift       float64 `json:"drift"`
	Spread      float64 `json:"spread"`
	Subscribers int     `json:"subscribers"`
	Rate        float64 `json:"rate"` // messages per second
}

// Transferred answers a transfer.
type Transferred struct {
	Partition int    `json:"partition"`
	Leader    string `json:"leader"`
}

// Drained answers a drain, and one that is taken back.
type Drained struct {
	Node     string `json:"node"`
	Draining bool   `json:"draining"`
}

// Failure is the body of every error.
type Failure struct {
	Error  string `json:"error"`
	Leader string `json:"leader,omitempty"` // whom to ask instead
}

// Drift is how late messages are on this node. Rooms and Cursors are the worst
// first; all times are milliseconds.
type Drift struct {
	Node          string           `json:"node"`
	ObjectiveMs   float64          `json:"objective_ms"`    // for the p99 of each partition
	OffsetErrorMs float64          `json:"offset_error_ms"` // ages of messages of other nodes' partitions may be off by so much
	Partitions    []PartitionDrift `json:"partitions"`
	Rooms         []RoomDrift      `json:"rooms"`
	Cursors       []CursorDrift    `json:"cursors"`
}

// PartitionDrift is one replica. P50Ms and P99Ms are of the ages of messages
// when handed to connections here or, on the leader, from received to applied,
// whichever is worse, over the last 5 to 10 s.
type PartitionDrift struct {
	Partition      int         `json:"partition"`
	Leader         string      `json:"leader"` // "" while unknown
	Leading        bool        `json:"leading"`
	InObjective    bool        `json:"in_objective"`
	Cause          string      `json:"cause"` // a stage, "leader" for one of the leader's, "" in the objective
	P50Ms          float64     `json:"p50_ms"`
	P99Ms          float64     `json:"p99_ms"`
	MessagesPerS   float64     `json:"messages_per_s"`
	DeliveriesPerS float64     `json:"deliveries_per_s"`
	Subscribers    int         `json:"subscribers"`
	BacklogMs      float64     `json:"backlog_ms"` // age of the oldest message that a cursor lacks
	Stages         StagesDrift `json:"stages"`
}

// StagesDrift are a message's stages; package partition says where each begins.
// Receive, Propose and Commit are measured on the leader alone.
type StagesDrift struct {
	Receive StageDrift `json:"receive"`
	Propose StageDrift `json:"propose"`
	Append  StageDrift `json:"append"`
	Commit  StageDrift `json:"commit"`
	Apply   StageDrift `json:"apply"`
	Write   StageDrift `json:"write"`
}

// StageDrift is how long messages took in a stage, over the last 5 to 10 s.
type StageDrift struct {
	P50Ms float64 `json:"p50_ms"`
	P99Ms float64 `json:"p99_ms"`
	MaxMs float64 `json:"max_ms"`
	Count uint64  `json:"count"` // messages
}

// RoomDrift is a room with subscribers here.
type RoomDrift struct {
	RoomStatus
	BacklogMs float64 `json:"backlog_ms"`
}

// CursorDrift is a subscriber that lacks messages.
type CursorDrift struct {
	Client    string  `json:"client"` // its address
	Room      string  `json:"room"`
	Partition int     `json:"partition"`
	Next      uint64  `json:"next"`   // the first seq that it lacks
	Behind    uint64  `json:"behind"` // messages
	AgeMs     float64 `json:"age_ms"` // of the oldest of them
}
