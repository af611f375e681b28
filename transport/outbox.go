package transport

import (
	"io"
	"sync"

	"github.com/roomlog/roomlog/transport/wire"
)

// outbox collects frames for a stream and writes all that has come since the
// last write at once, in a goroutine that lives while there is something to
// write. Putting never blocks; a client that lets more than maxUnread bytes pile
// up loses its connection.
type outbox struct {
	to    io.Writer
	fail  func(error)
	tasks sync.WaitGroup // the goroutine

	mu      sync.Mutex
	buf     []byte
	spare   []byte
	writing bool
	closed  bool
}

const (
	maxUnread = 1 << 20
	maxSpare  = 64 << 10
)

func newOutbox(to io.Writer, fail func(error)) *outbox { return &outbox{to: to, fail: fail} }

func (o *outbox) put(f wire.Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.buf = wire.Append(o.buf, f)
		o.added()
	}
}

// putBytes puts a frame that is encoded already.
func (o *outbox) putBytes(frame []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.buf = append(o.buf, frame...)
		o.added()
	}
}

// added needs o.mu.
func (o *outbox) added() {
	if len(o.buf) > maxUnread {
		o.closed = true
		o.fail(refuse(wire.CodeSlowConsumer, "more than %d bytes of answers were not read", maxUnread))
	}
	if !o.writing {
		o.writing = true
		o.tasks.Go(o.write)
	}
}

// write writes until there is nothing left or the stream fails.
func (o *outbox) write() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) > 0 {
		buf := o.buf
		o.buf, o.spare = o.spare[:0], nil
		o.mu.Unlock()
		_, err := o.to.Write(buf)
		o.mu.Lock()
		if err != nil {
			o.closed, o.buf = true, nil
		} else if cap(buf) <= maxSpare {
			o.spare = buf
		}
	}
	o.writing = false
}

// close takes nothing more and returns when what was put is written, or cannot be.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.tasks.Wait()
}
