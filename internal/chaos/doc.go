// Package chaos makes faults in clusters of real processes while publishers and
// readers are at work, records what they were told, and has it judged:
//
//	Run   nodes on a network and disks of their own -> workload -> nemeses, one
//	      episode after the other -> everything heals -> whole rooms are read
//	      from every node -> internal/chaos/check
//
// Faults are made from outside: signals, packets (internal/faultnet), disks
// (internal/faultfs), clocks (internal/faultclock). The processes run the
// roomlog binary as it is shipped. Each fault counts how often it took effect: a
// run in which too few did is vacuous, not valid.
//
// A seed decides which faults come when, to whom and for how long; what the
// processes make of it depends on timing as well. The history is a file that can
// be judged again alone.
//
// Linux, root, /dev/fuse and /dev/net/tun are needed.
package chaos
