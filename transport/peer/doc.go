// Package peer links the nodes of a cluster: mutual TLS 1.3 over TCP, one
// listener per node for all Raft groups.
//
//	Network ── one link to every other node: liveness, clock offset, its Info,
//	   │       marks (hashes of replicas), questions about a group
//	   └────── Streams(group): the raft.StreamLayer of that group
//
// Every connection begins with a handshake (handshake.go) that names the
// sender, the process it comes from and the cluster both believe to be in.
// What is kept by that:
//
//   - A stream reaches Raft only if it comes from the very process that holds
//     its node's link. A second process with the same node name is refused and
//     told so through Failed; it never reaches Raft.
//   - A stream never outlives the link that vouched for it, at either end.
//   - A link that has not answered for 1.5 s is down; one that is reset or
//     closed is down at once.
//
// A Network owns its goroutines and connections, also those handed out: Close
// ends them all. All methods may be called concurrently.
package peer
