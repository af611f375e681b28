package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/admin"
	"github.com/roomlog/roomlog/transport/peer"
)

// A planned stop gives leadership away before anything else ends. Clients are told
// earlier, so that who publishes here is connected elsewhere by then: in half of the
// time that they have to leave, and headStart. A
// partition pauses while its own leadership moves, so few move at a time: all at
// once they would wait for each other's handshakes and disk writes.
const (
	handOver   = time.Second            // for all leaderships of a node
	leaveLimit = 2 * time.Second        // for all that a node gives away before it stops
	keepEvery  = time.Second            // a drained node tries again to give away what it leads
	headStart  = 60 * time.Millisecond  // for the last client's handshakes
	leave      = 200 * time.Millisecond // within which few clients go by themselves

	handsAtOnce  = 2                      // partitions that move, or a sixteenth of them if that is more
	successorAsk = 50 * time.Millisecond  // for a voter to say how far its log goes
	prepareLimit = 100 * time.Millisecond // for an heir to get ready
	maxBehind    = 256                    // entries that a successor's log may lack
)

// handOver gives every leadership of this node to other voters, until ctx ends. If no
// other will do, those are taken that are being drained, but only if the node is to stop.
func (n *Node) handOver(ctx context.Context, stops bool) {
	n.handing.Lock()
	defer n.handing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	led := n.led()
	heirs := n.heirs()
	slots := make(chan struct{}, max(handsAtOnce, len(led)/16))
	var moving sync.WaitGroup
	defer moving.Wait()
	for _, p := range led {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		to := heirs.choose(ctx, n, p, stops)
		if to == "" {
			<-slots
			continue
		}
		moving.Go(func() {
			defer func() { <-slots }()
			if err := n.handPartitionOver(ctx, p, to, stops); err != nil {
				n.log.Info("leadership was not handed over", "partition", p.ID(), "to", to, "err", err)
			}
		})
	}
}

// handPartitionOver hands a partition over when the heir is ready. If that fails and
// the node is to stop it tries again with whoever raft finds, drained or not.
func (n *Node) handPartitionOver(ctx context.Context, p *partition.Partition, to string, stops bool) error {
	n.prepare(ctx, to, p.ID())
	err := p.HandOver(ctx, to)
	if err != nil && stops && p.Group().Leading() && ctx.Err() == nil {
		err = p.HandOver(ctx, "")
	}
	return err
}

// prepare has another node get ready to lead a partition, so that it does not pause
// for that. It does not matter if that fails.
func (n *Node) prepare(ctx context.Context, node string, id int) {
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	_, _ = n.network.AskHeir(ctx, node, uint32(id))
}

// heir is the other end of prepare.
func (n *Node) heir(ctx context.Context, group uint32) {
	if !n.opened.Load() || int64(group) >= int64(len(n.partitions)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	n.partitions[group].Group().Prepare(ctx)
}

// led are the partitions that this node leads.
func (n *Node) led() (led []*partition.Partition) {
	for _, p := range n.partitions {
		if p.Group().Leading() {
			led = append(led, p)
		}
	}
	return led
}

// heirs are the voters that may take leaderships, with how many they have.
type heirs map[string]int

func (n *Node) heirs() heirs {
	h := heirs{}
	voters := n.cfg.Voters()
	for _, p := range n.network.Status() {
		if p.Alive && slices.Contains(voters, p.Node) {
			h[p.Node] = 0
		}
	}
	for _, p := range n.partitions {
		if leader, _ := p.Group().Leader(); leader != "" {
			if _, ok := h[leader]; ok {
				h[leader]++
			}
		}
	}
	return h
}

// choose returns who is to lead p: whoever leads least of those that answer, lack
// little, and are not drained themselves, or if need be are. "" if there is none.
func (h heirs) choose(ctx context.Context, n *Node, p *partition.Partition, drained bool) string {
	mine, err := p.Group().PeerState()
	if err != nil {
		return ""
	}
	var best, spare string
	for name := range h {
		st, err := n.askState(ctx, name, p.ID())
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			delete(h, name) // it would keep the other partitions waiting, too
		case err != nil || st.Last+maxBehind < uint64(mine.Last):
		case st.Draining:
			spare = name
		case best == "" || h[name] < h[best]:
			best = name
		}
	}
	if best == "" && drained {
		best = spare
	}
	if best != "" {
		h[best]++
	}
	return best
}

func (n *Node) askState(ctx context.Context, name string, id int) (peer.State, error) {
	ctx, cancel := context.WithTimeout(ctx, successorAsk)
	defer cancel()
	return n.network.Ask(ctx, name, uint32(id))
}

// anotherVoter tells whether another voter is alive that could lead, and anotherNode
// whether another node is that could serve clients: who is drained does neither.
func (n *Node) anotherVoter() bool {
	voters := n.cfg.Voters()
	return n.another(func(p peer.PeerStatus) bool { return !p.Drained && slices.Contains(voters, p.Node) })
}

func (n *Node) anotherNode() bool {
	return n.another(func(p peer.PeerStatus) bool { return !p.Drained })
}

// another tells whether another node is alive that is such a one.
func (n *Node) another(such func(peer.PeerStatus) bool) bool {
	return slices.ContainsFunc(n.network.Status(), func(p peer.PeerStatus) bool { return p.Alive && such(p) })
}

// errStops: what was asked for is no longer possible.
var errStops = fmt.Errorf("%w: the node stops", admin.ErrConflict)

// setDraining has the node keep clients and leaderships off, or not, unless it stops.
// It returns when clients are ready for leaderships to move.
func (n *Node) setDraining(draining bool) (ready <-chan time.Time, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.staying.Err() != nil {
		return nil, errStops
	}
	if n.draining.Swap(draining) != draining {
		n.log.Info("the node is to have no leaderships and no clients", "draining", draining)
	}
	n.network.SetDrained(draining)
	leaveIn := n.clients.SetAway(draining && n.anotherNode())
	return time.After(leaveIn/2 + headStart), nil
}

// Drain hands the node's leaderships over and sends its clients elsewhere; until
// Undrain it keeps both off as long as another node can serve them. It returns when
// the node leads nothing, or ctx's error with what it still leads.
func (n *Node) Drain(ctx context.Context) error {
	if !n.anotherVoter() {
		return fmt.Errorf("%w: no other voter is alive and not drained that could take over from %s", admin.ErrConflict, n.cfg.Name)
	}
	again, err := n.setDraining(true)
	if err != nil {
		return err
	}
	for {
		select {
		case <-again:
		case <-ctx.Done():
			return fmt.Errorf("%s still leads %d partitions and goes on handing them over: %w", n.cfg.Name, len(n.led()), ctx.Err())
		case <-n.staying.Done():
			return errStops
		}
		if n.handOver(n.staying, false); len(n.led()) == 0 {
			return nil
		}
		again = time.After(headStart)
	}
}

// Undrain takes Drain back. Leaderships do not come back by themselves.
func (n *Node) Undrain() error {
	_, err := n.setDraining(false)
	return err
}

// keepDrained does for a drained node what is due when a leader or a link has changed,
// and from time to time.
func (n *Node) keepDrained() {
	n.mu.Lock()
	draining := n.draining.Load() && n.staying.Err() == nil
	if draining {
		n.clients.SetAway(n.anotherNode())
	}
	n.mu.Unlock()
	if !draining || len(n.led()) == 0 || !n.anotherVoter() || !n.keeping.CompareAndSwap(false, true) {
		return
	}
	n.tasks.Go(func() {
		defer n.keeping.Store(false)
		n.handOver(n.staying, false)
	})
}

// drainedAgain returns what tells that it is time to look again whether a drained node
// leads something: nothing need change when a hand-over fails. nil: there is no need.
func (n *Node) drainedAgain() <-chan time.Time {
	if !n.draining.Load() || len(n.led()) == 0 {
		return nil
	}
	return time.After(keepEvery)
}

// leave gives away what other nodes can take: leaderships and clients. It ends all
// that a drain has begun.
func (n *Node) leave() {
	n.mu.Lock()
	n.stay()
	n.draining.Store(true) // the others give us nothing
	n.network.SetDrained(true)
	n.mu.Unlock()
	leaveIn := n.clients.Drain()
	ready, gone := time.After(leaveIn/2+headStart), time.After(leaveIn+leaveIn/2)
	ctx, cancel := context.WithTimeout(n.ctx, leaveLimit)
	defer cancel()
	if len(n.heirs()) > 0 {
		n.pause(ready)
		n.handOver(ctx, true)
	}
	if n.another(func(peer.PeerStatus) bool { return true }) { // one that is drained takes clients now
		n.pause(gone)
	}
	n.handOver(ctx, true) // what has come to this node meanwhile
}
