package transport

import (
	"bytes"
	"context"
	"runtime"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// Each change of the cluster's map is news for every client, and telling it to one
// costs as much as a flush. Elections on a busy machine change it again and again:
// if each change went out at once, telling would keep the machine busy, and that
// would bring the next elections. So all changes that come during a round are told
// in the next one, and on a busy machine rounds keep apart: but those who publish
// may wait for the news, and are told at once.
const (
	toldAtOnce = 64                     // clients, before others may run
	tellCost   = 500 * time.Microsecond // on a busy machine between rounds, for each client: 20 times what it takes
	maxTell    = 2 * time.Second        // between rounds at most
	tellLook   = 20 * time.Millisecond  // how often the machine is looked at meanwhile
)

// SetMap tells all clients where the partitions are. It does not wait for them.
func (s *Server) SetMap(m wire.Map) {
	frame := wire.Append(nil, &m)
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(frame, s.mapFrame) {
		return
	}
	s.clusterMap, s.mapFrame = m, frame
	s.mapVersion++
	s.changed()
}

// currentMap returns the newest map and its version.
func (s *Server) currentMap() (wire.Map, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clusterMap, s.mapVersion
}

// tellMaps tells clients the newest map until the server closes.
func (s *Server) tellMaps() {
	for {
		select {
		case <-s.mapChanged:
		case <-s.ctx.Done():
			return
		}
		told := s.tell(s.clients(true)) + s.tell(s.clients(false))
		for since := time.Now(); s.fanout.pace.busy.Load() && time.Since(since) < min(time.Duration(told)*tellCost, maxTell); {
			select {
			case <-s.mapChanged:
				s.tell(s.clients(true))
				s.changed() // the others' turn is to come
				pause(s.ctx, tellLook)
			case <-time.After(tellLook):
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// changed has the map told.
func (s *Server) changed() {
	select {
	case s.mapChanged <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// tell tells those clients the map who do not know it, and returns how many they were.
func (s *Server) tell(clients []*conn) (told int) {
	for len(clients) > 0 {
		n := min(toldAtOnce, len(clients))
		s.mu.Lock()
		for _, c := range clients[:n] {
			if s.tellMap(c) {
				told++
			}
		}
		s.mu.Unlock()
		clients = clients[n:]
		runtime.Gosched()
	}
	return told
}

// clients returns those that wait for news or may do so, or all others.
func (s *Server) clients(waiting bool) (clients []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.mayWait() == waiting {
			clients = append(clients, c)
		}
	}
	return clients
}

// mayWait: a client that publishes here or has asked for leaders, or one that does not
// even read here: it may have published to a leader that is gone, unless it only watches.
func (c *conn) mayWait() bool {
	return c.publishing.Load() || c.leaders.Load() || c.subscriptions.Load() == 0 && !c.watches.Load()
}

// tellMap tells a client the map unless it knows it, or has left. It needs s.mu.
func (s *Server) tellMap(c *conn) bool {
	if _, here := s.conns[c]; !here || c.mapVersion == s.mapVersion {
		return false
	}
	c.control.putBytes(s.mapFrame)
	c.mapVersion = s.mapVersion
	return true
}
