// Package wire is the protocol between clients and servers: frames, their
// limits, and the hash that maps a room onto its partition. It is shared by
// the server and the SDK and uses the standard library alone.
//
// A client opens every stream; all are bidirectional. The first frame says
// what a stream is for:
//
//	Hello      the control stream, once per connection and before any other:
//	           Welcome, then Ping/Pong, Watch, Map, GoAway and Gone
//	Attach     the publish stream: Publish in, Acks and Refused out
//	Subscribe  one subscription: Subscribed, then Deliver and Gap, for ever
//	Query      one question about a room, one Info
//
// A frame is
//
//	length  uvarint  bytes that follow: type and body
//	type    1 byte
//	body    length-1 bytes
//
// Integers in a body are unsigned LEB128 (encoding/binary's uvarint) unless a
// width is given; a string is a uvarint length and its bytes; a time is 8
// bytes, little endian, signed nanoseconds since 1970 UTC. docs/PROTOCOL.md
// has every frame byte by byte; testdata holds one of each.
//
// Functions of this package hold no state and may be called concurrently; a
// Reader belongs to one goroutine.
package wire

// ALPN is the protocol name in the TLS handshake, Version the number in Hello
// and Welcome. A server refuses a Hello of another version.
const (
	ALPN    = "roomlog/1"
	Version = 1
)

// Limits of the protocol. A server may tell smaller ones in Welcome.
const (
	MaxRoom    = 255     // bytes of a room name
	MaxName    = 64      // bytes of a publisher name
	MaxToken   = 4096    // bytes of a token
	MaxPayload = 1 << 20 // bytes of one message
	MaxWindow  = 8192    // publishes of one session without an answer

	// MaxSmallFrame bounds every frame that carries no payload,
	// MaxPublishFrame a Publish, MaxDeliverFrame a Deliver and a Map.
	MaxSmallFrame   = 8 << 10
	MaxPublishFrame = MaxPayload + 1<<10
	MaxDeliverFrame = 2 << 20

	// PingSize is the least size of a ping's padding: smaller packets get no
	// stateless reset from a server that has restarted.
	PingSize = 64
)
