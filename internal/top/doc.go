// Package top shows operators how a cluster fares, for "roomlog top": its
// partitions, how late messages are and in which stage, the rooms that are
// worst off, the subscribers that are slowest. The way of a figure:
//
//	Poller (asks each node) -> State (what each said last) -> Snapshot (merged) -> lines of text
//	                                                                          -> one line of JSON
//
// State, Snapshot and the lines are plain data and pure functions of it: no
// goroutine, no network. Watch shows them on a terminal, Follow hands the
// Snapshots to its caller. What they start has ended when they return.
package top
