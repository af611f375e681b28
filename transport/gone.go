package transport

import (
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// When a node dies its clients come to the others, and the partitions that it led
// elect: telling of it must not cost what that needs. So only those are told who
// have asked for it, once each, and of a crowd some at a time. Who is told late
// may find out by itself before.
const (
	goneAtOnce = 64                   // clients
	gonePause  = 5 * time.Millisecond // then others may run; telling 64 takes about 2 ms
)

// TellGone tells the clients that watch that a node is gone, as long as still says so. It
// returns when all have been told, or the server closes.
func (s *Server) TellGone(node string, still func() bool) {
	frame := wire.Append(nil, &wire.Gone{Node: node})
	for i, c := range s.watching() {
		if i > 0 && i%goneAtOnce == 0 {
			pause(s.ctx, gonePause)
		}
		if i%goneAtOnce == 0 && !still() {
			return
		}
		c.control.putBytes(frame)
	}
}

func (s *Server) watching() (clients []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.watches.Load() {
			clients = append(clients, c)
		}
	}
	return clients
}
