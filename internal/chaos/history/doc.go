// Package history is the record of a chaos run: what clients asked and were
// told, what the nemesis did, and what the nodes hold at the end. It has
// Jepsen's shape, one op a line of JSON, so that others can check it too:
//
//	{"index":7,"time":1200345,"process":3,"type":"invoke","f":"publish","value":{"room":"lobby","id":"p3-17"}}
//
// An op is an invocation or the answer to one: ok (it happened), fail (it
// certainly did not and never will), info (it may have, or may yet). Index and
// time, nanoseconds since the run began, only grow from line to line.
//
//	workload -> Writer -> file -> Reader -> check
//
// What each f means and what its value holds is said at the types below.
//
// An invocation is written before the call is made and an answer after it
// has come: then the times enclose what happened, and no verdict rests on luck.
//
// A Writer may be shared by goroutines; a Reader belongs to one.
package history
