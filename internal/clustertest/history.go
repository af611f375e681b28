package clustertest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/roomlog/roomlog/client"
)

// History is what publishers were told: every ack, by room. Payloads are
// unique within a test; of long ones it keeps the digest. Safe for concurrent use.
type History struct {
	mu    sync.Mutex
	acks  map[string]map[uint64]string // room, seq, payload
	tried map[string][]string          // publisher and room, payloads in the order of the calls
}

// digest is a short payload itself, or how a long one begins and its checksum.
func digest(payload string) string {
	if len(payload) <= 64 {
		return payload
	}
	sum := sha256.Sum256([]byte(payload))
	return fmt.Sprintf("%s… %x", payload[:24], sum[:16])
}

// Tried records a publish before its call, Acked its receipt.
func (h *History) Tried(publisher, room, payload string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tried == nil {
		h.tried = map[string][]string{}
		h.acks = map[string]map[uint64]string{}
	}
	key := publisher + "\x00" + room
	h.tried[key] = append(h.tried[key], digest(payload))
}

// Acked records a receipt; it fails if the seq was given to another message.
func (h *History) Acked(r client.Receipt, payload string) error {
	payload = digest(payload)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.acks[r.Room] == nil {
		h.acks[r.Room] = map[uint64]string{}
	}
	if other, ok := h.acks[r.Room][r.Seq]; ok && other != payload {
		return fmt.Errorf("room %s: seq %d was acked for %q and for %q", r.Room, r.Seq, other, payload)
	}
	h.acks[r.Room][r.Seq] = payload
	return nil
}

// check compares what a reader got of a room from its first message on with
// what publishers were told: no seq left out, no message twice, every ack
// there with its number, every publisher's messages in the order of its calls.
func (h *History) check(room string, got []client.Message) error {
	return h.checkFrom(room, 1, got)
}

// checkFrom is check of a room that holds nothing before first.
func (h *History) checkFrom(room string, first uint64, got []client.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	seqOf := map[string]uint64{}
	for i, m := range got {
		if m.Gap != nil {
			return fmt.Errorf("room %s: gap %d to %d", room, m.Gap.From, m.Gap.To)
		}
		if m.Seq != first+uint64(i) {
			return fmt.Errorf("room %s: message %d from seq %d on has seq %d", room, i+1, first, m.Seq)
		}
		payload := digest(string(m.Payload))
		if other, ok := seqOf[payload]; ok {
			return fmt.Errorf("room %s: %q has seq %d and %d", room, payload, other, m.Seq)
		}
		seqOf[payload] = m.Seq
	}
	for seq, payload := range h.acks[room] {
		if seq >= first && seqOf[payload] != seq {
			return fmt.Errorf("room %s: %q was acked with seq %d, readers have it at %d", room, payload, seq, seqOf[payload])
		}
	}
	for key, payloads := range h.tried {
		last := uint64(0)
		for _, payload := range payloads {
			seq, ok := seqOf[payload]
			if !ok || key[len(key)-len(room)-1:] != "\x00"+room {
				continue // not in this room, or never acked
			}
			if seq < last {
				return fmt.Errorf("room %s: %q has seq %d, but was published behind seq %d", room, payload, seq, last)
			}
			last = seq
		}
	}
	return nil
}

// ReadRoom returns room's messages 1 to last from the client's node; what is trimmed
// of them comes as a gap.
func ReadRoom(ctx context.Context, c *client.Client, room string, last uint64) ([]client.Message, error) {
	var got []client.Message
	if last == 0 {
		return nil, nil
	}
	for m, err := range c.Subscribe(ctx, room, client.After(0)) {
		if err != nil {
			return got, err
		}
		if got = append(got, m); m.Seq >= last {
			break
		}
	}
	return got, nil
}

// CheckRoom reads a whole room on every running node and compares it with the
// history, and the replicas with each other. It returns the room's last seq.
func (c *Cluster) CheckRoom(room string) uint64 {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last := uint64(0)
	for _, name := range c.names {
		if c.Node(name) == nil {
			continue
		}
		cl := c.Client("", name)
		info, err := cl.Room(ctx, room)
		c.must(err)
		got, err := ReadRoom(ctx, cl, room, info.Last)
		if err != nil {
			c.tb.Fatalf("read %s on %s: %v", room, name, err)
		}
		if err := c.History.check(room, got); err != nil {
			c.tb.Fatalf("on %s: %v", name, err)
		}
		last = info.Last
		cl.Close()
	}
	c.checkReplicas()
	return last
}

// checkReplicas waits until the running replicas have applied the same and
// compares their hashes.
func (c *Cluster) checkReplicas() {
	c.tb.Helper()
	for id := range c.parts {
		c.Until(fmt.Sprintf("the replicas of partition %d agree", id), func() bool {
			hashes := map[string]bool{}
			applied := map[uint64]bool{}
			for _, name := range c.names {
				if n := c.Node(name); n != nil {
					st := n.Partitions()[id]
					hashes[st.Hash], applied[st.Applied] = true, true
				}
			}
			if len(applied) == 1 && len(hashes) > 1 {
				c.tb.Fatalf("partition %d: the replicas differ: %v", id, hashes)
			}
			return len(hashes) == 1
		})
	}
}
