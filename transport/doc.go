// Package transport serves clients over QUIC. It turns frames into calls of
// package partition and back:
//
//	Server   the listener, the cluster map, who is connected
//	conn     one client: hello, control stream, one goroutine a stream
//	publish  a publish stream: lanes of sessions, acks coalesced
//	follow   a subscription: a cursor into a room, and nothing queued for it
//	query    one question about a room
//
// A message is in the log, or in the shared tail of its room; a slow subscriber
// costs its stream and nobody else. What a client can make the server hold is
// bounded: the frame it sends, the partition's queue, the answers it does not
// read.
package transport
