// Package check judges a history of a chaos run: did the cluster keep its
// promises while it was being broken?
//
//	history.Reader -> Checker.Add (one op at a time) -> Checker.Result
//
// Every promise has anomalies that would show it broken, in the spelling of
// Jepsen where Jepsen has a name (see Anomalies). A room's messages are unique
// and its seqs have no gaps, so each is found in time that grows with the history's
// length alone; only linearizability is also given to Porcupine, in slices.
// Memory grows with the number of messages.
//
// What a history of this kind cannot show has no row: epoch-mix, as a room has
// one incarnation (after a restore from a backup the same shows as
// inconsistent-offsets); an uncommitted message that was read and then committed
// all the same (precommitted-read is found when it was not); who acked a message,
// so that stale-fence is told by the overwritten seq; missing-gap is poll-skip.
//
// A Checker is plain data and belongs to one goroutine.
package check
