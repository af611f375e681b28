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
// a moment earlier, so that who publishes here is connected elsewhere by then. A
// partition pauses while its own leadership moves, so few move at a time: all at
// once they would wait for each other's handshakes and disk writes.
const (
	handOver  = time.Second            // for all leaderships of a node
	headStart = 60 * time.Millisecond  // clients know of the stop before leadership moves
	leave     = 200 * time.Millisecond // within which clients go by themselves
	leaveAll  = leave + leave/2        // within which the last one has gone

	handsAtOnce  = 2                      // partitions that move, or a sixteenth of them if that is more
	successorAsk = 50 * time.Millisecond  // for a voter to say how far its log goes
	prepareLimit = 100 * time.Millisecond // for an heir to get ready
	maxBehind    = 256                    // entries that a successor's log may lack
)

// handOver gives every leadership of this node to other voters. If no other will do,
// those are taken that are being drained, but only if the node is to stop.
func (n *Node) handOver(stops bool) {
	n.handing.Lock()
	defer n.handing.Unlock()
	ctx, cancel := context.WithTimeout(n.ctx, handOver)
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
			if err := n.handPartitionOver(ctx, p, to); err != nil {
				n.log.Info("leadership was not handed over", "partition", p.ID(), "to", to, "err", err)
			}
		})
	}
}

// handPartitionOver hands a partition over when the heir is ready. If that fails it
// tries again with whoever raft finds.
func (n *Node) handPartitionOver(ctx context.Context, p *partition.Partition, to string) error {
	n.prepare(ctx, to, p.ID())
	err := p.HandOver(ctx, to)
	if err != nil && p.Group().Leading() && ctx.Err() == nil {
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
// whether another node is that could serve clients.
func (n *Node) anotherVoter() bool { return len(n.heirs()) > 0 }

func (n *Node) anotherNode() bool {
	return slices.ContainsFunc(n.network.Status(), func(p peer.PeerStatus) bool { return p.Alive })
}

// Drain hands the node's leaderships over and sends its clients elsewhere; until
// Undrain it keeps both off as long as another node can serve them. It returns when
// the node leads nothing, or ctx's error with what it still leads.
func (n *Node) Drain(ctx context.Context) error {
	if !n.anotherVoter() {
		return fmt.Errorf("%w: no other voter is alive that could take over from %s", admin.ErrConflict, n.cfg.Name)
	}
	if !n.draining.Swap(true) {
		n.log.Info("draining: leaderships and clients go to other nodes")
	}
	again := time.NewTicker(headStart)
	defer again.Stop()
	n.clients.SetAway(n.anotherNode())
	for {
		select {
		case <-again.C: // the first one, too: clients have a head start
		case <-ctx.Done():
			return fmt.Errorf("%s still leads %d partitions and goes on handing them over: %w", n.cfg.Name, len(n.led()), ctx.Err())
		case <-n.ctx.Done():
			return errors.New("the node stops")
		}
		if n.handOver(false); len(n.led()) == 0 {
			return nil
		}
	}
}

// Undrain takes Drain back. Leaderships do not come back by themselves.
func (n *Node) Undrain() {
	if n.draining.Swap(false) {
		n.log.Info("no longer draining")
	}
	n.clients.SetAway(false)
}

// keepDrained does for a drained node what is due when a leader or a link has changed.
func (n *Node) keepDrained() {
	if !n.draining.Load() {
		return
	}
	n.clients.SetAway(n.anotherNode())
	if len(n.led()) == 0 || !n.anotherVoter() || !n.keeping.CompareAndSwap(false, true) {
		return
	}
	n.tasks.Go(func() {
		defer n.keeping.Store(false)
		n.handOver(false)
	})
}
