package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Event is a message, [seq, "id"] in JSON, or if To is set a gap,
// [from, to, "reason"].
type Event struct {
	Seq    uint64 // of a gap: its first
	ID     string
	To     uint64 // the gap's last seq; 0: it is a message
	Reason string
}

// IsGap tells whether e is a gap.
func (e Event) IsGap() bool { return e.To > 0 }

// End is the last seq that e deals with.
func (e Event) End() uint64 { return max(e.Seq, e.To) }

// Events are messages and gaps in the order of delivery.
type Events []Event

func (es Events) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 2+20*len(es)), '[')
	for i, e := range es {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(append(b, '['), e.Seq, 10)
		text := e.ID
		if e.IsGap() {
			b = strconv.AppendUint(append(b, ','), e.To, 10)
			text = e.Reason
		}
		b = append(appendString(append(b, ','), text), ']')
	}
	return append(b, ']'), nil
}

// appendString appends s as JSON, fast when nothing needs an escape.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(s) // a string never fails
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// UnmarshalJSON decodes the events; b is valid JSON, as encoding/json promises.
func (es *Events) UnmarshalJSON(b []byte) error {
	r := eventReader{rest: b}
	list := make(Events, 0, bytes.Count(b, []byte("[")))
	if !r.take('[') {
		return fmt.Errorf("msgs: want a list, not %.40s", b)
	}
	for !r.take(']') {
		if len(list) > 0 {
			r.take(',')
		}
		e, err := r.event()
		if err != nil {
			return fmt.Errorf("msgs[%d]: %w", len(list), err)
		}
		list = append(list, e)
	}
	*es = list
	return nil
}

// eventReader walks over valid JSON.
type eventReader struct{ rest []byte }

var errEvent = fmt.Errorf(`want [seq,"id"] or [from,to,"reason"], seqs from 1 on`)

func (r *eventReader) event() (Event, error) {
	var e Event
	if !r.take('[') {
		return e, errEvent
	}
	e.Seq = r.number()
	if !r.take(',') || e.Seq == 0 {
		return e, errEvent
	}
	text, ok := r.text()
	if ok {
		e.ID = text
	} else {
		e.To = r.number()
		if !r.take(',') || e.To < e.Seq {
			return e, errEvent
		}
		if e.Reason, ok = r.text(); !ok {
			return e, errEvent
		}
	}
	if !r.take(']') {
		return e, errEvent
	}
	return e, nil
}

// take skips white space and then c, if that is next.
func (r *eventReader) take(c byte) bool {
	r.rest = bytes.TrimLeft(r.rest, " \t\r\n")
	if len(r.rest) == 0 || r.rest[0] != c {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

// number reads a whole number above 0; 0 if none is next.
func (r *eventReader) number() uint64 {
	r.take(' ')
	var n uint64
	for len(r.rest) > 0 && '0' <= r.rest[0] && r.rest[0] <= '9' {
		d := uint64(r.rest[0] - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0
		}
		n, r.rest = n*10+d, r.rest[1:]
	}
	return n
}

func (r *eventReader) text() (string, bool) {
	if !r.take('"') {
		return "", false
	}
	end := 0
	for escaped := false; end < len(r.rest) && (escaped || r.rest[end] != '"'); end++ {
		escaped = !escaped && r.rest[end] == '\\'
	}
	if end == len(r.rest) {
		return "", false
	}
	raw := r.rest[:end]
	r.rest = r.rest[end+1:]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw), true
	}
	var s string
	err := json.Unmarshal(append(append([]byte{'"'}, raw...), '"'), &s)
	return s, err == nil
}
