package peer

// SetDrained tells all nodes, and each that links later, whether this one is to lead
// nothing and to serve no clients, so that they send neither here. It never blocks.
func (n *Network) SetDrained(drained bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.drained == drained {
		return
	}
	n.drained = drained
	for _, p := range n.peers {
		if p.out != nil {
			p.out.tellDrained()
		}
	}
}

// tellDrained has talk send what is the case then.
func (s *session) tellDrained() {
	select {
	case s.drained <- struct{}{}:
	default:
	}
}

func (s *session) sendDrained() {
	s.net.mu.Lock()
	drained := s.net.drained
	s.net.mu.Unlock()
	s.send(frame{typ: frameDrained, known: drained})
}

// peerDrained takes what the node at the other end says of itself.
func (s *session) peerDrained(drained bool) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.peer.in == s && s.peer.drained != drained {
		s.peer.drained = drained
		s.net.announce()
	}
}
