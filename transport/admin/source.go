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
	// Transfer hands leadership of a partition to a node and returns once
	// that node leads. Errors: *NotLeaderError, one that wraps ErrNotFound,
	// ctx's.
	Transfer(ctx context.Context, partition int, to string) error
}

// ErrNotFound: there is no such partition or node; wrap it in an error that
// names it.
var ErrNotFound = errors.New("not found")

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
	Voter      bool     `json:"voter"` // whether this replica is one
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

// Failure is the body of every error.
type Failure struct {
	Error  string `json:"error"`
	Leader string `json:"leader,omitempty"` // whom to ask instead
}
