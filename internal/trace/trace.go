// Package trace reads recordings of chat: when, in which room, by whom, and
// what or how much was said. A trace is read as a stream, line by line.
//
// A .jsonl file has an object a line, a .csv file a header that names its
// columns; either may be gzipped, with a further .gz. The fields are
//
//	t_ms    when, in milliseconds since any moment
//	room    where
//	author  by whom
//	text    what was said; or
//	bytes   how long it was: the payload is so much filler
//
// testdata/traces holds two.
package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roomlog/roomlog/transport/wire"
)

// Message is one line of a trace.
type Message struct {
	Line    int           // where it stands in the file, from 1
	At      time.Duration // t_ms
	Room    string
	Author  string
	Payload []byte // belongs to the caller
}

// ErrFormat: the file's name does not end as a trace's does.
var ErrFormat = errors.New("trace: the name must end in .jsonl or .csv, or in .gz behind one of them")

// maxLine bounds a line of JSON: a byte of text takes six at most.
const maxLine = 6*wire.MaxPayload + 4<<10

// Reader reads a trace. It belongs to one goroutine.
type Reader struct {
	next func() (Message, error)
}

// NewReader reads the trace r; name tells its format.
func NewReader(name string, r io.Reader) (*Reader, error) {
	format := filepath.Ext(name)
	zipped := format == ".gz"
	if zipped {
		format = filepath.Ext(strings.TrimSuffix(name, ".gz"))
	}
	if format != ".jsonl" && format != ".csv" {
		return nil, fmt.Errorf("%s: %w", name, ErrFormat)
	}
	if zipped {
		unzipped, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r = unzipped
	}
	if format == ".csv" {
		return newCSV(r)
	}
	return newJSON(r), nil
}

// Next returns the next message, then io.EOF. Other errors name the line.
func (r *Reader) Next() (Message, error) { return r.next() }

// record is a line as it stands in the file.
type record struct {
	TMs    *float64 `json:"t_ms"`
	Room   *string  `json:"room"`
	Author string   `json:"author"`
	Text   *string  `json:"text"`
	Bytes  *int     `json:"bytes"`
}

func (rec record) message(line int) (Message, error) {
	switch {
	case rec.TMs == nil:
		return Message{}, fmt.Errorf("line %d: t_ms is missing", line)
	case math.IsNaN(*rec.TMs) || math.Abs(*rec.TMs) > 1e12: // some thirty years
		return Message{}, fmt.Errorf("line %d: t_ms is %g: want milliseconds", line, *rec.TMs)
	case rec.Room == nil:
		return Message{}, fmt.Errorf("line %d: room is missing", line)
	case rec.Text == nil && rec.Bytes == nil:
		return Message{}, fmt.Errorf("line %d: text and bytes are both missing", line)
	}
	m := Message{Line: line, At: time.Duration(*rec.TMs * 1e6), Room: *rec.Room, Author: rec.Author}
	if rec.Text != nil {
		m.Payload = []byte(*rec.Text)
	} else if n := *rec.Bytes; n >= 0 && n <= wire.MaxPayload {
		m.Payload = filler(n)
	} else {
		return Message{}, fmt.Errorf("line %d: bytes is %d: want 0 to %d", line, n, wire.MaxPayload)
	}
	if len(m.Payload) > wire.MaxPayload {
		return Message{}, fmt.Errorf("line %d: the text has %d bytes, at most %d are allowed", line, len(m.Payload), wire.MaxPayload)
	}
	return m, nil
}

var fillerText = []byte("as long as the message was ")

func filler(n int) []byte {
	return bytes.Repeat(fillerText, n/len(fillerText)+1)[:n]
}

func newJSON(r io.Reader) *Reader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	n := 0
	return &Reader{next: func() (Message, error) {
		for lines.Scan() {
			n++
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			var rec record
			if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
				return Message{}, fmt.Errorf("line %d: %w", n, err)
			}
			return rec.message(n)
		}
		if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
			return Message{}, fmt.Errorf("line %d is longer than %d bytes, the most that a line may have", n+1, maxLine)
		} else if err != nil {
			return Message{}, fmt.Errorf("line %d: %w", n+1, err)
		}
		return Message{}, io.EOF
	}}
}

func newCSV(r io.Reader) (*Reader, error) {
	rows := csv.NewReader(r)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("line 1: the header is missing")
	}
	if err != nil {
		return nil, csvError(err)
	}
	column := make(map[string]int)
	for i, name := range header {
		column[strings.TrimSpace(name)] = i
	}
	return &Reader{next: func() (Message, error) {
		row, err := rows.Read()
		if err != nil {
			return Message{}, csvError(err)
		}
		line, _ := rows.FieldPos(0)
		rec, err := csvRecord(column, row)
		if err != nil {
			return Message{}, fmt.Errorf("line %d: %w", line, err)
		}
		return rec.message(line)
	}}, nil
}

// csvError leaves io.EOF as it is; a ParseError names its line already.
func csvError(err error) error {
	if errors.Is(err, io.EOF) || errors.As(err, new(*csv.ParseError)) {
		return err
	}
	return fmt.Errorf("read trace: %w", err)
}

func csvRecord(column map[string]int, row []string) (rec record, err error) {
	if i, ok := column["t_ms"]; ok {
		t, err := strconv.ParseFloat(row[i], 64)
		if err != nil {
			return rec, fmt.Errorf("t_ms %q is no number", row[i])
		}
		rec.TMs = &t
	}
	if i, ok := column["room"]; ok {
		room := row[i]
		rec.Room = &room
	}
	if i, ok := column["author"]; ok {
		rec.Author = row[i]
	}
	if i, ok := column["text"]; ok {
		rec.Text = &row[i]
	}
	if i, ok := column["bytes"]; ok && rec.Text == nil {
		n, err := strconv.Atoi(row[i])
		if err != nil {
			return rec, fmt.Errorf("bytes %q is no whole number", row[i])
		}
		rec.Bytes = &n
	}
	return rec, nil
}
