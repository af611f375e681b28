package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata/golden")

// samples has one of every frame, and more where a frame has more than one face.
// The golden files are made of them.
var samples = []struct {
	name  string
	frame Frame
}{
	{"hello", &Hello{Version: 1, Token: "secret", Name: "anna"}},
	{"hello-bare", &Hello{Version: 1}},
	{"ping", &Ping{Nonce: 0x0123456789abcdef}},
	{"watch", &Watch{}},
	{"watch-leaders", &Watch{Leaders: true}},
	{"attach", &Attach{Partition: 3, Session: sampleSession}},
	{"attach-open", &Attach{Partition: 3, Session: sampleSession, Open: true}},
	{"publish", &Publish{Counter: 300, Behind: 2, Name: []byte("anna"), Room: []byte("lobby"), Payload: []byte("hello")}},
	{"publish-empty", &Publish{Counter: 1, Room: []byte("r")}},
	{"publish-two-byte-length", &Publish{Counter: 1, Room: []byte("r"), Payload: bytes.Repeat([]byte{'x'}, 122)}},
	{"detach", &Detach{Partition: 3}},
	{"subscribe", &Subscribe{Room: "lobby", Next: 42}},
	{"query", &Query{Room: "lobby", Time: 1700000000123456789}},

	{"welcome", &Welcome{Version: 1, Node: "n1", Limits: Limits{Payload: 1 << 20, Window: 8192, Subscriptions: 1024}, Map: sampleMap}},
	{"pong", &Pong{Nonce: 0x0123456789abcdef}},
	{"map", &sampleMap},
	{"map-empty", &Map{}},
	{"goaway", &GoAway{Delay: 1500}},
	{"gone", &Gone{Node: "n2"}},
	{"attached", &Attached{Partition: 3, Attach: 2}},
	{"acks", &Acks{Partition: 3, Time: 1700000000123456789, Runs: []AckRun{{7, 3, 1000}, {10, 1, 5}}}},
	{"acks-duplicate", &Acks{Partition: 0, Time: -1, Duplicate: true, Runs: []AckRun{{1, 8192, 1}}}},
	{"refused", &Refused{Partition: 3, Counter: 12, Code: CodeOverloaded, RetryAfter: 100, Reason: "queue is full"}},
	{"refused-maybe", &Refused{Partition: 3, Counter: 12, Code: CodeUnknownOutcome, Maybe: true}},
	{"refused-order", &Refused{Partition: 3, Counter: 12, Code: CodeOutOfOrder, Want: 9}},
	{"subscribed", &Subscribed{Next: 42}},
	{"deliver", &Deliver{First: 42, Time: 1700000000123456789, Skip: 1, Dropped: []uint32{0, 2, 300}, Block: sampleBlock}},
	{"deliver-plain", &Deliver{First: 1, Time: 1700000000123456789, Block: sampleBlock}},
	{"gap", &Gap{From: 1, To: 41, Reason: ReasonTrimmed}},
	{"redirect", &Redirect{Node: "n2", Reason: "this replica lags behind"}},
	{"info", &Info{Partition: 3, First: 1, Last: 42, At: 17}},
	{"error", &Error{Code: CodeBeyondHead, Head: 42, Reason: "room \"lobby\": seq 50 is beyond the head 42"}},
	{"error-retry", &Error{Code: CodeUnavailable, RetryAfter: 250}},
}

var (
	sampleSession = SessionID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	sampleMap     = Map{
		Epoch: 7,
		Nodes: []Node{
			{Name: "n1", Listen: "127.0.0.1:7400", HTTP: "127.0.0.1:7420", Alive: true},
			{Name: "n2"},
		},
		Partitions: []Placement{
			{Term: 5, Leader: 0, Replicas: []int{0, 1}},
			{Term: 6, Leader: -1, Replicas: []int{1}},
			{Leader: 1},
		},
	}
	sampleBlock = makeBlock([]string{"anna", ""}, rec{0, "hello"}, rec{1, ""}, rec{0, "bye"})
)

type rec struct {
	publisher uint64
	payload   string
}

// makeBlock builds a block by hand, as doc of Records describes it.
func makeBlock(publishers []string, records ...rec) []byte {
	b := uvarints(uint64(len(records)), uint64(len(publishers)))
	for _, p := range publishers {
		b = append(append(b, uvarints(uint64(len(p)))...), p...)
	}
	for _, r := range records {
		b = append(append(b, uvarints(r.publisher, uint64(len(r.payload)))...), r.payload...)
	}
	return b
}

func uvarints(vs ...uint64) (b []byte) {
	for _, v := range vs {
		for ; v >= 0x80; v >>= 7 {
			b = append(b, byte(v)|0x80)
		}
		b = append(b, byte(v))
	}
	return b
}

func (p *Publish) frameType() Type { return TypePublish }

// appendBody lets tests treat Publish, which has a function of its own, like
// the other frames.
func (p *Publish) appendBody(dst []byte) []byte {
	frame := AppendPublish(nil, p.Counter, p.Behind, string(p.Name), string(p.Room), p.Payload)
	_, body, _, _ := cutFrame(frame, math.MaxInt)
	return append(dst, body...)
}

// parse reads a frame of any type.
func parse(typ Type, body []byte) (Frame, error) {
	switch typ {
	case TypeHello:
		return parsed(ParseHello(body))
	case TypePing:
		nonce, err := ParsePing(typ, body)
		return &Ping{nonce}, err
	case TypeWatch:
		return parsed(ParseWatch(body))
	case TypeAttach:
		return parsed(ParseAttach(body))
	case TypePublish:
		return parsed(ParsePublish(body))
	case TypeDetach:
		return parsed(ParseDetach(body))
	case TypeSubscribe:
		return parsed(ParseSubscribe(body))
	case TypeQuery:
		return parsed(ParseQuery(body))
	case TypeWelcome:
		return parsed(ParseWelcome(body))
	case TypePong:
		nonce, err := ParsePing(typ, body)
		return &Pong{nonce}, err
	case TypeMap:
		return parsed(ParseMap(body))
	case TypeGoAway:
		return parsed(ParseGoAway(body))
	case TypeGone:
		return parsed(ParseGone(body))
	case TypeAttached:
		return parsed(ParseAttached(body))
	case TypeAcks:
		var a Acks
		return &a, ParseAcks(body, &a)
	case TypeRefused:
		return parsed(ParseRefused(body))
	case TypeSubscribed:
		return parsed(ParseSubscribed(body))
	case TypeDeliver:
		var d Deliver
		return &d, ParseDeliver(body, &d)
	case TypeGap:
		return parsed(ParseGap(body))
	case TypeRedirect:
		return parsed(ParseRedirect(body))
	case TypeInfo:
		return parsed(ParseInfo(body))
	case TypeError:
		return parsed(ParseError(body))
	}
	return nil, fmt.Errorf("%v is no frame", typ)
}

func parsed[T any, P interface {
	*T
	Frame
}](f T, err error) (Frame, error) {
	return P(&f), err
}

// reread appends f to a stream and reads it back from there.
func reread(t interface{ Fatalf(string, ...any) }, f Frame) Frame {
	stream := Append(nil, f)
	typ, body, err := NewReader(bytes.NewReader(stream), len(stream)).Next()
	if err != nil {
		t.Fatalf("read %+v: %v", f, err)
	}
	if typ != f.frameType() {
		t.Fatalf("%+v came as %v", f, typ)
	}
	got, err := parse(typ, body)
	if err != nil {
		t.Fatalf("parse %+v: %v", f, err)
	}
	return got
}

// alike compares frames; nil and empty slices are the same.
func alike(a, b Frame) bool {
	return fmt.Sprintf("%T %+v", a, a) == fmt.Sprintf("%T %+v", b, b)
}

// TestGolden holds every frame's bytes fast. go test -rewrite renews the files;
// a change of existing bytes is another protocol version.
func TestGolden(t *testing.T) {
	files := map[string]bool{}
	covered := map[Type]bool{}
	for _, s := range samples {
		covered[s.frame.frameType()] = true
		path := filepath.Join("testdata", "golden", s.name+".txt")
		files[path] = true
		t.Run(s.name, func(t *testing.T) {
			want := Append(nil, s.frame)
			text := fmt.Sprintf("%v\n%s\n\n%s", s.frame.frameType(), describe(s.frame), hex.Dump(want))
			if *rewrite {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != text {
				t.Errorf("%s has\n%s\nnow it is\n%s", path, got, text)
			}
			typ, body, err := NewReader(bytes.NewReader(undump(t, string(got))), MaxDeliverFrame).Next()
			if err != nil {
				t.Fatal(err)
			}
			if f, err := parse(typ, body); err != nil || !alike(f, s.frame) {
				t.Errorf("the bytes of %s are %+v, %v", path, f, err)
			}
		})
	}
	for typ := range typeNames {
		if !covered[typ] {
			t.Errorf("no sample of %v", typ)
		}
	}
	found, _ := filepath.Glob("testdata/golden/*")
	for _, path := range found {
		if !files[path] {
			t.Errorf("%s belongs to no sample", path)
		}
	}
}

// describe writes a frame as a Go literal, its bytes as text.
func describe(f Frame) string {
	var fields []string
	v := reflect.ValueOf(f).Elem()
	for i := range v.NumField() {
		switch field := v.Field(i); {
		case field.Type() == reflect.TypeFor[[]byte]():
			fields = append(fields, fmt.Sprintf("%s: %q", v.Type().Field(i).Name, field.Bytes()))
		case field.Kind() == reflect.String:
			fields = append(fields, fmt.Sprintf("%s: %q", v.Type().Field(i).Name, field))
		default:
			fields = append(fields, fmt.Sprintf("%s: %+v", v.Type().Field(i).Name, field))
		}
	}
	return strings.Join(fields, "\n")
}

var dumpLine = regexp.MustCompile(`(?m)^[0-9a-f]{8}  ((?:[0-9a-f]{2} +)+)\|`)

// undump takes the bytes from a file's hex dump.
func undump(t *testing.T, text string) (b []byte) {
	for _, line := range dumpLine.FindAllStringSubmatch(text, -1) {
		part, err := hex.DecodeString(strings.ReplaceAll(line[1], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, part...)
	}
	return b
}

// TestRoundTrip reads the edges of every field back as they were written.
func TestRoundTrip(t *testing.T) {
	long := strings.Repeat("é", 600)
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			if got := reread(t, s.frame); !alike(got, s.frame) {
				t.Errorf("got %+v, want %+v", got, s.frame)
			}
		})
	}
	for _, tt := range []struct {
		name string
		f    Frame
		want Frame // if another than f
	}{
		{name: "longest token and name", f: &Hello{Version: 1, Token: strings.Repeat("t", MaxToken), Name: strings.Repeat("n", MaxName)}},
		{name: "a later version's hello", f: &Hello{Version: 2, Token: "x"}, want: &Hello{Version: 2}},
		{name: "largest nonce", f: &Ping{math.MaxUint64}},
		{name: "largest partition", f: &Detach{maxPartitions}},
		{name: "largest counter", f: &Publish{Counter: math.MaxUint64, Behind: math.MaxUint64 - 1, Room: []byte("r")}},
		{name: "largest payload", f: &Publish{Counter: 1, Room: []byte("r"), Payload: make([]byte, MaxPayload)}},
		{name: "a room that is none", f: &Subscribe{Room: "\x00\xff", Next: math.MaxUint64}},
		{name: "times before 1970", f: &Query{Room: "r", Time: math.MinInt64}},
		{name: "acks of nothing", f: &Acks{Partition: 1, Time: math.MaxInt64}},
		{name: "a long reason is cut", f: &Redirect{Node: "n", Reason: long}, want: &Redirect{Node: "n", Reason: long[:maxReason]}},
		{name: "a long reason is cut in error", f: &Error{Code: 1, Reason: long}, want: &Error{Code: 1, Reason: long[:maxReason]}},
		{name: "a long reason is cut in refused", f: &Refused{Counter: 1, Reason: long}, want: &Refused{Counter: 1, Reason: long[:maxReason]}},
		{name: "last dropped position", f: &Deliver{First: math.MaxUint64, Dropped: []uint32{0, math.MaxUint32}}},
		{name: "gap of one", f: &Gap{From: math.MaxUint64, To: math.MaxUint64, Reason: 255}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == nil {
				want = tt.f
			}
			if got := reread(t, tt.f); !alike(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestParseRefuses has a body of each kind that no peer of ours writes.
func TestParseRefuses(t *testing.T) {
	id := string(sampleSession[:])
	time := strings.Repeat("\x00", 8)
	for _, tt := range []struct {
		name string
		typ  Type
		body string
		want string
	}{
		{"empty body", TypeHello, "", "hello: version is missing"},
		{"watch of neither", TypeWatch, "\x02", "watch: leaders is neither 0 nor 1"},
		{"gone with more", TypeGone, "\x02n2x", "gone: 1 bytes too many"},
		{"gone, cut short", TypeGone, "\x03n2", "gone: node is cut short"},
		{"token too long", TypeHello, "\x01\x81\x20", "hello: token has 4097 bytes, at most 4096 are allowed"},
		{"name too long", TypeHello, "\x01\x00\x41", "hello: name has 65 bytes, at most 64 are allowed"},
		{"name cut short", TypeHello, "\x01\x00\x05anna", "hello: name is cut short"},
		{"bytes behind the end", TypeHello, "\x01\x00\x00x", "hello: 1 bytes too many"},
		{"a number without end", TypeDetach, strings.Repeat("\xff", 10), "detach: partition is missing or no uvarint"},
		{"a number beyond 64 bits", TypeDetach, strings.Repeat("\xff", 9) + "\x02", "detach: partition is missing or no uvarint"},
		{"partition beyond the limit", TypeDetach, "\x81\x20", "detach: partition is 4097, at most 4096 is allowed"},
		{"ping of another size", TypePing, strings.Repeat("x", 63), "ping: not padded to 64 bytes"},
		{"pong of another size", TypePong, strings.Repeat("x", 65), "pong: not padded to 64 bytes"},
		{"session cut short", TypeAttach, "\x00" + id[:15], "attach: session is cut short"},
		{"a bool of 2", TypeAttach, "\x00" + id + "\x02", "attach: open is neither 0 nor 1"},
		{"counter 0", TypePublish, "\x00\x00\x00\x01r", "publish: counters run from 1"},
		{"behind reaches counter 0", TypePublish, "\x05\x05\x00\x01r", "publish: counters run from 1"},
		{"time cut short", TypeQuery, "\x01r" + time[:7], "query: time is cut short"},
		{"leader is no node", TypeMap, "\x00\x00\x01\x00\x01\x00", "map: leader is 1, at most 0 is allowed"},
		{"replica is no node", TypeMap, "\x00\x01\x01n\x00\x00\x01\x01\x00\x00\x01\x01", "map: replica is no node of the map"},
		{"more nodes than bytes", TypeMap, "\x00\xff\x01", "map: nodes is 255, at most 0 fit in what follows"},
		{"too many nodes", TypeMap, "\x00\x81\x02" + strings.Repeat("\x00\x00\x00\x00", 257) + "\x00", "map: too many nodes"},
		{"too many partitions", TypeMap, "\x00\x00\x81\x20" + strings.Repeat("\x00\x00\x00", 4097), "map: too many partitions"},
		{"more runs than bytes", TypeAcks, "\x00" + time + "\x00\x02\x01\x01\x01", "acks: runs is 2, at most 1 fit in what follows"},
		{"ack of counter 0", TypeAcks, "\x00" + time + "\x00\x01\x00\x01\x01", "acks: a run of no publishes"},
		{"ack of nothing", TypeAcks, "\x00" + time + "\x00\x01\x01\x00\x01", "acks: a run of no publishes"},
		{"ack with seq 0", TypeAcks, "\x00" + time + "\x00\x01\x01\x01\x00", "acks: a run of no publishes"},
		{"ack of more than a window", TypeAcks, "\x00" + time + "\x00\x01\x01\x81\x40\x01", "acks: a run of no publishes"},
		{"reason too long", TypeError, "\x01\x00\x00\x81\x08", "error: reason has 1025 bytes, at most 1024 are allowed"},
		{"subscribed to seq 0", TypeSubscribed, "\x00", "subscribed: seqs run from 1"},
		{"deliver from seq 0", TypeDeliver, "\x00" + time + "\x00\x00", "deliver: seqs run from 1"},
		{"dropped twice", TypeDeliver, "\x01" + time + "\x00\x02\x05\x00", "deliver: dropped positions must rise"},
		{"dropped beyond 32 bits", TypeDeliver, "\x01" + time + "\x00\x02\xff\xff\xff\xff\x0f\x01", "deliver: dropped positions must rise"},
		{"more dropped than bytes", TypeDeliver, "\x01" + time + "\x00\x03\x01\x01", "deliver: dropped is 3, at most 2 fit in what follows"},
		{"gap from 0", TypeGap, "\x00\x01\x01", "gap: from and to do not make a range"},
		{"gap backwards", TypeGap, "\x05\x04\x01", "gap: from and to do not make a range"},
		{"gap without reason", TypeGap, "\x05\x05", "gap: reason is cut short"},
		{"node name too long", TypeRedirect, "\x41", "redirect: node has 65 bytes, at most 64 are allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := parse(tt.typ, []byte(tt.body))
			if err == nil || !strings.Contains(err.Error(), "wire: malformed frame: "+tt.want) {
				t.Errorf("got %+v, %v, want %q", f, err, tt.want)
			}
		})
	}
}

// TestCutShort: no beginning of a frame's body is a frame of that type, but for
// the two that end in bytes of any number.
func TestCutShort(t *testing.T) {
	for _, s := range samples {
		typ := s.frame.frameType()
		body := s.frame.appendBody(nil)
		fixed := len(body)
		switch f := s.frame.(type) {
		case *Publish:
			fixed -= len(f.Payload)
		case *Deliver:
			fixed -= len(f.Block)
		}
		for n := range fixed {
			if f, err := parse(typ, body[:n]); err == nil {
				t.Errorf("%s: its first %d bytes of %d are %+v", s.name, n, len(body), f)
			}
		}
	}
}

// frames draws a frame with any content that can be written.
func frames() *rapid.Generator[Frame] {
	text := func(t *rapid.T, max int) string {
		return string(rapid.SliceOfN(rapid.Byte(), 0, max).Draw(t, "text"))
	}
	return rapid.Custom(func(t *rapid.T) Frame {
		num := func() uint64 { return rapid.Uint64().Draw(t, "number") }
		one := func() uint64 { return rapid.Uint64Min(1).Draw(t, "positive") }
		part := func() uint64 { return rapid.Uint64Max(maxPartitions).Draw(t, "partition") }
		yes := func() bool { return rapid.Bool().Draw(t, "bool") }
		when := func() int64 { return rapid.Int64().Draw(t, "time") }
		var session SessionID
		copy(session[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "session"))
		clusterMap := func() Map {
			m := Map{Epoch: num()}
			for range rapid.IntRange(0, 5).Draw(t, "nodes") {
				m.Nodes = append(m.Nodes, Node{Name: text(t, MaxName), Listen: text(t, 30), HTTP: text(t, 30), Alive: yes()})
			}
			for range rapid.IntRange(0, 5).Draw(t, "partitions") {
				p := Placement{Term: num(), Leader: rapid.IntRange(-1, len(m.Nodes)-1).Draw(t, "leader")}
				if n := len(m.Nodes); n > 0 {
					p.Replicas = rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 5).Draw(t, "replicas")
				}
				m.Partitions = append(m.Partitions, p)
			}
			return m
		}
		switch typ := rapid.SampledFrom(allTypes()).Draw(t, "type"); typ {
		case TypeHello:
			return &Hello{Version: Version, Token: text(t, 300), Name: text(t, MaxName)}
		case TypePing:
			return &Ping{num()}
		case TypeAttach:
			return &Attach{Partition: part(), Session: session, Open: yes()}
		case TypePublish:
			counter := one()
			return &Publish{
				Counter: counter, Behind: rapid.Uint64Max(counter-1).Draw(t, "behind"),
				Name: []byte(text(t, MaxName)), Room: []byte(text(t, 300)), Payload: []byte(text(t, 300)),
			}
		case TypeDetach:
			return &Detach{part()}
		case TypeSubscribe:
			return &Subscribe{Room: text(t, 300), Next: num()}
		case TypeQuery:
			return &Query{Room: text(t, 300), Time: when()}
		case TypeWelcome:
			return &Welcome{Version: num(), Node: text(t, MaxName), Limits: Limits{num(), num(), num()}, Map: clusterMap()}
		case TypePong:
			return &Pong{num()}
		case TypeMap:
			m := clusterMap()
			return &m
		case TypeGoAway:
			return &GoAway{num()}
		case TypeGone:
			return &Gone{text(t, MaxName)}
		case TypeWatch:
			return &Watch{yes()}
		case TypeAttached:
			return &Attached{part(), num()}
		case TypeAcks:
			a := &Acks{Partition: part(), Time: when(), Duplicate: yes()}
			for range rapid.IntRange(0, 9).Draw(t, "runs") {
				a.Runs = append(a.Runs, AckRun{one(), rapid.Uint64Range(1, MaxWindow).Draw(t, "count"), one()})
			}
			return a
		case TypeRefused:
			return &Refused{part(), num(), num(), Code(num()), yes(), num(), num(), text(t, 200)}
		case TypeSubscribed:
			return &Subscribed{one()}
		case TypeDeliver:
			d := &Deliver{First: one(), Time: when(), Skip: num(), Block: []byte(text(t, 300))}
			pos := uint64(rapid.Uint32().Draw(t, "dropped"))
			for range rapid.IntRange(0, 5).Draw(t, "more dropped") {
				if pos <= math.MaxUint32 {
					d.Dropped = append(d.Dropped, uint32(pos))
				}
				pos += rapid.Uint64Range(1, 1<<20).Draw(t, "apart")
			}
			return d
		case TypeGap:
			from := one()
			return &Gap{From: from, To: rapid.Uint64Min(from).Draw(t, "to"), Reason: Reason(rapid.Byte().Draw(t, "reason"))}
		case TypeRedirect:
			return &Redirect{Node: text(t, MaxName), Reason: text(t, 200)}
		case TypeInfo:
			return &Info{part(), num(), num(), num()}
		case TypeError:
			return &Error{Code(num()), num(), num(), text(t, 200)}
		default:
			t.Fatalf("no generator for %v", typ)
			return nil
		}
	})
}

func allTypes() (types []Type) {
	for t := range 256 {
		if _, ok := typeNames[Type(t)]; ok {
			types = append(types, Type(t))
		}
	}
	return types
}

func TestRoundTripAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := frames().Draw(t, "frame")
		if got := reread(t, f); !alike(got, f) {
			t.Fatalf("got %+v, want %+v", got, f)
		}
	})
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		TypeAcks.String():            "acks",
		Type(0x7f).String():          "type 0x7f",
		CodeNone.String():            "no error",
		CodeTooManySessions.String(): "too many sessions",
		Code(20).String():            "code 20",
		ReasonTrimmed.String():       "trimmed",
		Reason(9).String():           "reason 9",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if n := int(CodeTooManySessions) + 1; len(codeNames) != n {
		t.Errorf("%d names for %d codes", len(codeNames), n)
	}
}
