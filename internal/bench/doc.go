// Package bench measures a cluster under load, for "roomlog bench".
//
// Each benchmark takes a Target, which is a fresh cluster of real processes or one
// that runs already, and returns its figures as a struct that is one line of
// JSON. The way of a figure:
//
//	schedule (when a message is due) -> client -> cluster -> client -> checker (none lost, doubled or swapped)
//	                                                                -> recorder (how late it was)
//
// What holds for all figures:
//
//   - Where a rate is given, messages are due at fixed times, whatever became of
//     those before, and a latency counts from the time at which its message was
//     due: a server that stalls cannot hide what it has kept waiting.
//   - Nothing is counted in the first moments (Settings.WarmUp), but everything
//     is checked, from the first message to the last.
//   - CPU time is what the kernel has accounted to the processes, all threads,
//     user and system. It is read at both ends of the time measured.
//   - The load comes from this process, on the machine of the servers if these
//     are local: what it uses they do not have.
//
// A benchmark is called from one goroutine; all that it starts have ended when
// it returns.
package bench
