package history

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// MaxLine is the longest line that a Reader takes, in bytes: longer final
// reads are split (Final.More).
const MaxLine = 16 << 20

// LineError says which line of a history is wrong, and how.
type LineError struct {
	Line int64 // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("history line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// Reader reads a history line by line; it holds one line at a time.
type Reader struct {
	buf   *bufio.Reader
	long  []byte // of a line longer than the buffer
	line  int64
	index int64 // of the last op
	time  int64
	under []io.Closer
}

// Open opens a history file, gzipped if the name ends in .gz.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	if !strings.HasSuffix(path, ".gz") {
		return newReader(f, f), nil
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open history %s: %w", path, err), f.Close())
	}
	return newReader(zip, zip, f), nil
}

// NewReader reads a history from r.
func NewReader(r io.Reader) *Reader { return newReader(r) }

func newReader(r io.Reader, under ...io.Closer) *Reader {
	return &Reader{buf: bufio.NewReaderSize(r, bufferBytes), index: -1, under: under}
}

// Next returns the next op, io.EOF behind the last, and a *LineError for a
// line that is none, or behind which lines are missing: index must count them, and time
// not go back.
func (r *Reader) Next() (*Op, error) {
	for {
		line, err := r.readLine()
		if err == io.EOF {
			return nil, io.EOF
		}
		if err != nil {
			return nil, &LineError{r.line, err}
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		op := new(Op)
		if err := json.Unmarshal(line, op); err != nil {
			return nil, &LineError{r.line, err}
		}
		if op.Index > r.index+1 {
			return nil, &LineError{r.line, fmt.Errorf("index %d comes after index %d: what was between is missing", op.Index, r.index)}
		}
		if op.Index <= r.index || op.Time < r.time {
			return nil, &LineError{r.line, fmt.Errorf("index %d at time %d comes after index %d at time %d", op.Index, op.Time, r.index, r.time)}
		}
		r.index, r.time = op.Index, op.Time
		return op, nil
	}
}

// readLine returns the next line, valid until the next call.
func (r *Reader) readLine() ([]byte, error) {
	r.line++
	r.long = r.long[:0]
	for {
		part, err := r.buf.ReadSlice('\n')
		switch {
		case len(r.long)+len(part) > MaxLine:
			return nil, fmt.Errorf("longer than %d bytes", MaxLine)
		case err == nil && len(r.long) == 0:
			return part, nil
		case err == io.EOF && len(r.long)+len(part) == 0:
			return nil, io.EOF
		}
		r.long = append(r.long, part...)
		switch err {
		case nil, io.EOF:
			return r.long, nil
		case bufio.ErrBufferFull:
		default:
			return nil, err
		}
	}
}

// Close closes the file.
func (r *Reader) Close() error {
	var err error
	for _, c := range r.under {
		err = errors.Join(err, c.Close())
	}
	r.under = nil
	return err
}
