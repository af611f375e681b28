package transport

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/roomlog/roomlog/partition"
	"github.com/roomlog/roomlog/transport/wire"
)

// catchUp is the lane of cursors that are behind: what they want is older than
// their room's feed, or too large for it. A few workers serve them, a connection at
// a time and each for a turn, so that however many they are they hold little
// memory, keep few reads of the disk under way, and get equal shares. A worker
// ends when nobody is behind.
type catchUp struct {
	tasks sync.WaitGroup // the workers

	mu      sync.Mutex
	queue   []*delivery // with something in toCatch, and each once
	workers int
}

const (
	maxWorkers = 4
	readBytes  = 256 << 10 // are read from the log at once
	turnBytes  = 1 << 20   // are sent in a turn

	maxLook = 64 * time.Millisecond // between looks for what is not there yet
)

// add queues d. It needs d.mu.
func (l *catchUp) add(d *delivery) {
	if d.catching || d.closed {
		return
	}
	d.catching = true
	d.tasks.Add(1) // until a worker has done with it
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, d)
	if l.workers < maxWorkers {
		l.workers++
		l.tasks.Go(l.work)
	}
}

// next returns who is served next; nil if the worker is not needed any more.
func (l *catchUp) next() *delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.workers--
		l.queue = nil
		return nil
	}
	d := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return d
}

// work serves turns until there are none.
func (l *catchUp) work() {
	buf := make([]byte, 0, writeBytes+maxHead)
	for d := l.next(); d != nil; d = l.next() {
		buf = d.catchTurn(buf)
		runtime.Gosched() // those at the head come first
	}
}

// catchTurn serves the cursor that has waited longest, and queues d again if
// others are behind.
func (d *delivery) catchTurn(buf []byte) []byte {
	defer d.tasks.Done()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.catching = false
	if len(d.toCatch) == 0 {
		return buf
	}
	c := d.toCatch[0]
	d.toCatch[0] = nil
	d.toCatch = d.toCatch[1:]
	switch c.state {
	case gone:
		c.hold(-c.unproven)
	case behind:
		d.mu.Unlock()
		var result outcome
		result, buf = c.catchUp(buf)
		d.mu.Lock()
		if d.served(c, result) {
			d.push(c)
		}
	}
	if len(d.toCatch) > 0 {
		d.catchUp.add(d)
	}
	return buf
}

// catchUp is a cursor's turn in the lane.
func (c *cursor) catchUp(buf []byte) (outcome, []byte) {
	for sent := 0; sent < turnBytes; {
		batch, err := c.source.Read(c.room, c.next, c.toRead())
		if err == nil && batch.Gap != nil && c.sent > 0 {
			err = errTrimmed
		}
		switch {
		case err != nil && c.sent > 0: // in the middle of a frame
			c.stream.CancelWrite(quic.StreamErrorCode(wire.CodeInternal))
			return ended, buf
		case err != nil:
			c.finish(&wire.Error{Code: wire.CodeInternal, Reason: err.Error()})
			return ended, buf
		case batch.Gap != nil:
			if result, ok := c.sendGap(batch.Gap); !ok {
				return result, buf
			}
			if c.next > c.watch.Head() {
				return hasMore, buf // all before it was trimmed
			}
			continue
		case len(batch.Blocks) == 0: // it is about to be there, or an index is being made
			c.pause = min(max(2*c.pause, minRetry), maxLook)
			return stalls, buf
		}
		var n int
		var result outcome
		n, result, buf = c.sendBlocks(batch.Blocks, buf)
		c.took = n
		if sent += n; result != hasMore {
			return result, buf
		}
		if last := c.watch.Head(); c.next > last || c.sent == 0 && len(c.feed.from(c.next, last, 1).ends) > 0 {
			return hasMore, buf // at the head, or nearly
		}
	}
	return isBehind, buf
}

// toRead is how much is read: little for a client that took little, for what it
// does not take is read again.
func (c *cursor) toRead() int {
	if c.retry > 0 {
		return onePacket
	}
	return min(max(2*c.took, writeBytes), readBytes)
}

var errTrimmed = errors.New("what was being sent has been trimmed")

// sendGap sends a gap whole or not at all.
func (c *cursor) sendGap(g *partition.Gap) (outcome, bool) {
	frame := wire.Append(nil, &wire.Gap{From: uint64(g.From), To: uint64(g.To), Reason: wire.ReasonTrimmed})
	if _, err := c.try(frame); err == errStalled {
		return stalls, false
	} else if err != nil {
		return ended, false
	}
	c.setNext(g.To + 1)
	return hasMore, true
}

// sendBlocks sends blocks, as many small ones in a write as fit in, and large ones
// in pieces. The result is hasMore if all are sent.
func (c *cursor) sendBlocks(blocks []partition.Block, buf []byte) (sent int, result outcome, scratch []byte) {
	for len(blocks) > 0 {
		var f frames
		if f, buf = c.pack(blocks, buf); len(f.ends) == 0 {
			return sent, ended, buf
		}
		n, err := c.write(f.bytes, lanePatience)
		if n > 0 {
			sent, c.pause = sent+n, 0
			blocks = blocks[c.moved(n, f):]
		}
		switch {
		case err == errStalled:
			return sent, stalls, buf
		case err != nil:
			return sent, ended, buf
		case n < len(f.bytes): // others have their turn
			c.pause = minRetry
			return sent, stalls, buf
		}
	}
	return sent, hasMore, buf
}

// pack makes the frames of some blocks in buf, or a piece of the first one. What
// is sent of that is left out of the bytes; the frame is the same whenever it is
// made.
func (c *cursor) pack(blocks []partition.Block, buf []byte) (f frames, scratch []byte) {
	buf = head(buf[:0], &blocks[0])
	before := len(buf)
	if size := before + len(blocks[0].Data); size > writeBytes || c.sent > 0 {
		f.ends, f.blocks = []int{size}, blocks[:1]
		if c.sent < before {
			buf = append(buf, blocks[0].Data[:min(len(blocks[0].Data), writeBytes)]...)
			f.bytes = buf[c.sent:]
		} else {
			from := c.sent - before
			f.bytes = blocks[0].Data[from:min(len(blocks[0].Data), from+writeBytes)]
		}
		return f, buf
	}
	for i := range blocks {
		if i > 0 && len(buf)+maxHead+5*len(blocks[i].Dropped)+len(blocks[i].Data) > writeBytes {
			break
		}
		if i > 0 {
			buf = head(buf, &blocks[i])
		}
		buf = append(buf, blocks[i].Data...)
		f.ends, f.blocks = append(f.ends, len(buf)), blocks[:i+1]
	}
	f.bytes = buf
	return f, buf
}
