package faultnet

import "encoding/binary"

// mtu is that of all interfaces, as on an Ethernet.
const mtu = 1500

// Of IPv4.
const (
	minHeader   = 20
	protocolTCP = 6
	protocolUDP = 17
)

// header is what the switch looks at.
type header struct {
	protocol byte
	to       [4]byte
}

// parse reads a packet's header; ok is false for all but whole IPv4 packets.
func parse(packet []byte) (h header, ok bool) {
	if len(packet) < minHeader || packet[0]>>4 != 4 || headerLen(packet) < minHeader {
		return h, false
	}
	if total := int(binary.BigEndian.Uint16(packet[2:])); total > len(packet) || total < headerLen(packet) {
		return h, false
	}
	return header{packet[9], [4]byte(packet[16:20])}, true
}

func headerLen(packet []byte) int { return int(packet[0]&0xf) * 4 }

// payloadOf is what TCP or UDP carries in a packet that parse has taken; nil if it
// carries nothing or is something else.
func payloadOf(packet []byte) []byte {
	body := packet[headerLen(packet):binary.BigEndian.Uint16(packet[2:])]
	offset := len(body)
	switch {
	case binary.BigEndian.Uint16(packet[6:])&0x1fff != 0: // a later fragment
		offset = 0
	case packet[9] == protocolUDP:
		offset = 8
	case packet[9] == protocolTCP && len(body) >= 20:
		offset = int(body[12]>>4) * 4
	}
	return body[min(offset, len(body)):]
}
