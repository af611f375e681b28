package peer

import (
	"bufio"
	"net"
	"sync"
)

// records lies beneath a stream's TLS. TLS cuts what is written into records of
// 16 KiB and writes each by itself; an entry of 256 KiB would be sixteen system
// calls here, and as many awakenings of the other end. So what is written
// between hold and flush goes out at once, and more than a record is read at a time.
// Reading and writing may go on at the same time.
type records struct {
	net.Conn
	in *bufio.Reader

	mu   sync.Mutex
	held *[]byte // nil: nothing is held back
}

// readAhead is how much is read at once. A stream has it for good.
const readAhead = 32 << 10

func newRecords(raw net.Conn) *records {
	return &records{Conn: raw, in: bufio.NewReaderSize(raw, readAhead)}
}

func (r *records) Read(b []byte) (int, error) { return r.in.Read(b) }

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == nil {
		return r.Conn.Write(b)
	}
	*r.held = append(*r.held, b...)
	return len(b), nil
}

// heldBuffers are shared by all streams: few write at the same time.
var heldBuffers = sync.Pool{New: func() any { return new([]byte) }}

func (r *records) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = heldBuffers.Get().(*[]byte)
}

func (r *records) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.held
	r.held = nil
	_, err := r.Conn.Write(*held)
	*held = (*held)[:0]
	heldBuffers.Put(held)
	return err
}
