package trace

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func readAll(t *testing.T, r *Reader) ([]Message, error) {
	t.Helper()
	var all []Message
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

func show(all []Message) string {
	var b strings.Builder
	for _, m := range all {
		fmt.Fprintf(&b, "%d %v %s %s %q\n", m.Line, m.At, m.Room, m.Author, m.Payload)
	}
	return b.String()
}

func TestFormats(t *testing.T) {
	const jsonl = `{"t_ms": 0, "room": "a", "author": "u1", "text": "grüße"}

{"t_ms": 1500.5, "room": "b", "author": "u2", "bytes": 5}
{"t_ms": 1600, "room": "b", "text": ""}`
	const csv = "t_ms,room,author,bytes\n0,a,u1,0\n1500.5,b,u2,30\n"
	for _, tt := range []struct{ name, file, text, want string }{
		{"lines of JSON", "x.jsonl", jsonl, "1 0s a u1 \"grüße\"\n3 1.5005s b u2 \"as lo\"\n4 1.6s b  \"\"\n"},
		{"columns", "x.csv", csv, "2 0s a u1 \"\"\n3 1.5005s b u2 \"as long as the message was as \"\n"},
		{"columns in another order, with text", "x.csv", "text,room,t_ms\n\"a, b\",r,7\n\"two\nlines\",r,8\nc,r,9\n",
			"2 7ms r  \"a, b\"\n3 8ms r  \"two\\nlines\"\n5 9ms r  \"c\"\n"},
		{"no messages", "x.jsonl", "", ""},
		{"a header alone", "x.csv", "t_ms,room\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var zipped bytes.Buffer
			w := gzip.NewWriter(&zipped)
			if _, err := io.WriteString(w, tt.text); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for name, input := range map[string]io.Reader{tt.file: strings.NewReader(tt.text), tt.file + ".gz": &zipped} {
				r, err := NewReader(name, input)
				if err != nil {
					t.Fatal(err)
				}
				all, err := readAll(t, r)
				if err != nil || show(all) != tt.want {
					t.Errorf("%s: got\n%s%v, want\n%s", name, show(all), err, tt.want)
				}
			}
		})
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	const ok = `{"t_ms": 0, "room": "a", "text": "x"}` + "\n"
	for _, tt := range []struct{ name, file, text, want string }{
		{"no JSON", "x.jsonl", ok + "hello\n", "line 2: invalid character"},
		{"no time", "x.jsonl", ok + ok + `{"room": "a", "text": "x"}`, "line 3: t_ms is missing"},
		{"no room", "x.jsonl", `{"t_ms": 0, "text": "x"}`, "line 1: room is missing"},
		{"no payload", "x.jsonl", `{"t_ms": 0, "room": "a"}`, "line 1: text and bytes are both missing"},
		{"bytes below 0", "x.jsonl", `{"t_ms": 0, "room": "a", "bytes": -1}`, "line 1: bytes is -1"},
		{"bytes at the limit and beyond", "x.jsonl", `{"t_ms": 0, "room": "a", "bytes": 1048576}` + "\n" +
			`{"t_ms": 0, "room": "a", "bytes": 1048577}`, "line 2: bytes is 1048577"},
		{"text beyond the limit", "x.jsonl", `{"t_ms": 0, "room": "a", "text": "` + strings.Repeat("x", 1<<20+1) + `"}`,
			"line 1: the text has 1048577 bytes"},
		{"an endless line", "x.jsonl", ok + strings.Repeat("x", 7<<20), "line 2 is longer than"},
		{"a time beyond all bounds", "x.jsonl", `{"t_ms": 1e300, "room": "a", "text": ""}`, "line 1: t_ms is 1e+300"},
		{"a column's time", "x.csv", "t_ms,room,bytes\n0,a,1\nx,a,1\n", `line 3: t_ms "x"`},
		{"a column's length", "x.csv", "t_ms,room,bytes\n0,a,much\n", `line 2: bytes "much"`},
		{"a column too few", "x.csv", "t_ms,room,bytes\n0,a\n", "line 2: wrong number of fields"},
		{"no column for the room", "x.csv", "t_ms,bytes\n0,1\n", "line 2: room is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := NewReader(tt.file, strings.NewReader(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(t, r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestNewReaderRefuses(t *testing.T) {
	for _, name := range []string{"x", "x.txt", "x.json.gz", "x.gz", "jsonl"} {
		if _, err := NewReader(name, strings.NewReader("")); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewReader("x.jsonl.gz", strings.NewReader("not zipped at all")); err == nil {
		t.Error("took plain text for gzip")
	}
	if _, err := NewReader("x.csv", strings.NewReader("")); err == nil {
		t.Error("took a CSV file without a header")
	}
}

// TestTheTracesAtHand reads what testdata holds and compares it with its README.
func TestTheTracesAtHand(t *testing.T) {
	for _, tt := range []struct {
		file            string
		messages, rooms int
		last            time.Duration
	}{
		{"irc-ubuntu.jsonl.gz", 61621, 48, 20850 * time.Second},
		{"live-stream.csv.gz", 26323, 1, 3*time.Hour + 8*time.Minute},
	} {
		t.Run(tt.file, func(t *testing.T) {
			f, err := os.Open(filepath.Join("..", "..", "testdata", "traces", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r, err := NewReader(tt.file, f)
			if err != nil {
				t.Fatal(err)
			}
			all, err := readAll(t, r)
			if err != nil {
				t.Fatal(err)
			}
			rooms := make(map[string]bool)
			for i, m := range all {
				rooms[m.Room] = true
				if i > 0 && m.At < all[i-1].At {
					t.Fatalf("line %d is older than the one before", m.Line)
				}
			}
			last := all[len(all)-1].At
			if len(all) != tt.messages || len(rooms) != tt.rooms || (last-tt.last).Abs() > time.Minute {
				t.Errorf("%d messages, %d rooms, %v", len(all), len(rooms), last)
			}
		})
	}
}
