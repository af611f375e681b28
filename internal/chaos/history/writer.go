package history

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// bufferBytes is what a Writer and a Reader hold of a file.
const bufferBytes = 256 << 10

// Writer writes a history. It may be shared by goroutines: lines are whole,
// and index and time grow from line to line. Its memory is one buffer; who writes
// waits for the disk when that is full. The first error stays: nothing is written
// after it, and Close tells it.
type Writer struct {
	began time.Time

	mu    sync.Mutex
	err   error
	next  int64 // index
	enc   *json.Encoder
	buf   *bufio.Writer
	under []io.Closer // from the top to the file
}

// Create makes a history file, gzipped if the name ends in .gz. Time 0 is now.
func Create(path string) (*Writer, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create history: %w", err)
	}
	if !strings.HasSuffix(path, ".gz") {
		return newWriter(f, f), nil
	}
	zip, _ := gzip.NewWriterLevel(f, gzip.BestSpeed) // the level exists
	return newWriter(zip, zip, f), nil
}

// NewWriter writes a history to w. Time 0 is now.
func NewWriter(w io.Writer) *Writer { return newWriter(w) }

func newWriter(w io.Writer, under ...io.Closer) *Writer {
	buf := bufio.NewWriterSize(w, bufferBytes)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	return &Writer{began: time.Now(), enc: enc, buf: buf, under: under}
}

// Now is the time in the history: nanoseconds since it began.
func (w *Writer) Now() int64 { return int64(time.Since(w.began)) }

// Began is the wall clock at time 0.
func (w *Writer) Began() time.Time { return w.began }

// Write appends an op and returns it with the index and time it was given. The op's
// value must not be changed afterwards by another goroutine while Write runs.
func (w *Writer) Write(op Op) Op {
	w.mu.Lock()
	defer w.mu.Unlock()
	op.Index, op.Time = w.next, w.Now()
	w.next++
	if w.err == nil {
		w.err = w.enc.Encode(&op)
	}
	return op
}

// Close writes what is buffered and tells the first error there was.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.buf.Flush()
	}
	err := w.err
	for _, c := range w.under {
		err = errors.Join(err, c.Close())
	}
	w.under = nil
	if w.err == nil {
		w.err = errors.New("history is closed")
	}
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}
