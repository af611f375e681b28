// Package transport serves clients over QUIC. It turns frames into calls of
// package partition and back:
//
//	Server     the listener, the cluster map, who is connected
//	conn       one client: hello, control stream, what its streams are for
//	publish    a publish stream: lanes of sessions, acks coalesced
//	subscribe  a subscription begins: a cursor into a room, and nothing queued for it
//	delivery   a connection's cursors are served in one place
//	feed       a room's newest messages as frames, shared by its cursors
//	catchup    the lane of cursors that are behind
//	pace       how far apart flushes are
//	query      one question about a room
//
// A message is in the log, or in the shared tail of its room; a slow subscriber
// costs its stream and nobody else. What a client can make the server hold is
// bounded: the frame it sends, the partition's queue, the answers it does not
// read.
package transport
