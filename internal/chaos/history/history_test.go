package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func ptr[T any](v T) *T { return &v }

// every is one op of each kind.
func every() []Op {
	return []Op{
		{Process: Nemesis, Type: Info, F: FRun, Value: &Run{Seed: 7, Nodes: []string{"n1"}, Nemeses: []string{"kill"}, Floors: Floors{Ops: map[F]int64{FPublish: 1}}}},
		{Process: 3, Type: Invoke, F: FPublish, Value: &Publish{Room: "lobby", ID: ID(3, 1)}},
		{Process: 3, Type: OK, F: FPublish, Value: &Publish{Room: "lobby", ID: ID(3, 1), Seq: 9, Stamp: 55, Duplicate: true}},
		{Process: 3, Type: Info, F: FPublish, Value: &Publish{Room: "<&>", ID: ID(3, 2)}, Error: "outcome unknown"},
		{Process: 4, Type: Invoke, F: FSubscribe, Value: &Subscribe{Room: "lobby", After: ptr(uint64(0)), Client: 3}},
		{Process: 4, Type: Fail, F: FSubscribe, Value: &Subscribe{Room: "lobby", Head: ptr(uint64(0))}, Error: "beyond the head"},
		{Process: 4, Type: OK, F: FPoll, Value: &Poll{Room: "lobby", Asked: 1, Given: 2, Msgs: Events{{Seq: 1, To: 3, Reason: "trimmed"}, {Seq: 4, ID: "p3-1"}, {Seq: 5, ID: "quo\"te\\ \u2028"}}}},
		{Process: 3, Type: OK, F: FHead, Value: &Head{Room: "lobby", First: 1, Last: 9}},
		{Process: 9, Type: OK, F: FFinal, Value: &Final{Room: "lobby", Node: "n1", First: 4, Last: 4, Msgs: Events{{Seq: 4, ID: "p3-1"}}, More: true}},
		{Process: 9, Type: OK, F: FReplica, Value: &Replica{Node: "n1", Partition: 2, Applied: 30, Hash: "ab"}},
		{Process: 8, Type: Info, F: FLeader, Value: &Leader{Node: "n1", Partition: 2, Term: 3, Leader: "n2"}},
		{Process: Nemesis, Type: Info, F: "leader-kill", Value: &Fault{Phase: Start, Nodes: []string{"n2"}, Count: 1, QuorumLost: true}},
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, name := range []string{"history.jsonl", "history.jsonl.gz"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			w, err := Create(path)
			if err != nil {
				t.Fatal(err)
			}
			var want []Op
			for _, op := range every() {
				want = append(want, w.Write(op))
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, path); !reflect.DeepEqual(got, want) {
				t.Errorf("read\n%+v\nwrote\n%+v", got, want)
			}
		})
	}
}

func readAll(t *testing.T, path string) []Op {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var ops []Op
	for {
		op, err := r.Next()
		if err == io.EOF {
			return ops
		}
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, *op)
	}
}

func TestWritersShareAHistory(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	var group sync.WaitGroup
	for p := range Process(4) {
		group.Go(func() {
			for n := range uint64(200) {
				w.Write(Op{Process: p + 1, Type: Invoke, F: FPublish, Value: &Publish{Room: "r", ID: ID(p+1, n+1)}})
			}
		})
	}
	group.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&buf) // demands that index and time grow
	for i := range int64(800) {
		op, err := r.Next()
		if err != nil || op.Index != i {
			t.Fatalf("op %d: %+v, %v", i, op, err)
		}
	}
}

type fullDisk struct{}

var errFull = errors.New("no space left")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestTheFirstErrorStays(t *testing.T) {
	w := NewWriter(fullDisk{})
	long := strings.Repeat("x", bufferBytes)
	for range 3 {
		w.Write(Op{Process: 1, Type: Invoke, F: FHead, Value: &Head{Room: long}})
	}
	if err := w.Close(); !errors.Is(err, errFull) {
		t.Errorf("Close() = %v, want %v", err, errFull)
	}
}

func TestAMalformedLineIsNamed(t *testing.T) {
	good := `{"index":0,"time":0,"process":1,"type":"invoke","f":"head","value":{"room":"a"}}`
	for _, tt := range []struct{ name, line, want string }{
		{"torn", good[:40], "unexpected end"},
		{"not an object", `7`, "cannot unmarshal"},
		{"no index", `{"time":0,"process":1,"type":"ok","f":"head","value":{"room":"a"}}`, "needs index"},
		{"no room", `{"index":1,"time":0,"process":1,"type":"ok","f":"head","value":{}}`, "room is missing"},
		{"unknown f", `{"index":1,"time":0,"process":1,"type":"ok","f":"txn","value":{}}`, `f "txn"`},
		{"unknown type", `{"index":1,"time":0,"process":1,"type":"done","f":"head","value":{"room":"a"}}`, `type "done"`},
		{"index does not grow", good, "comes after"},
		{"lines are missing", `{"index":2,"time":0,"process":1,"type":"ok","f":"head","value":{"room":"a"}}`, "index 2 comes after index 0: what was between is missing"},
		{"process 0", `{"index":1,"time":0,"process":0,"type":"ok","f":"head","value":{"room":"a"}}`, "process 0"},
		{"ack without seq", `{"index":1,"time":0,"process":1,"type":"ok","f":"publish","value":{"room":"a","id":"x"}}`, "seq is missing"},
		{"place twice", `{"index":1,"time":0,"process":1,"type":"invoke","f":"subscribe","value":{"room":"a","after":1,"from":"now"}}`, "either after or from"},
		{"place unknown", `{"index":1,"time":0,"process":1,"type":"invoke","f":"subscribe","value":{"room":"a","from":"noon"}}`, "RFC 3339"},
		{"seq 0", `{"index":1,"time":0,"process":1,"type":"ok","f":"poll","value":{"room":"a","msgs":[[0,"x"]]}}`, "msgs[0]"},
		{"gap backwards", `{"index":1,"time":0,"process":1,"type":"ok","f":"poll","value":{"room":"a","msgs":[[1,"x"],[5,4,"trimmed"]]}}`, "msgs[1]"},
		{"event too long", `{"index":1,"time":0,"process":1,"type":"ok","f":"poll","value":{"room":"a","msgs":[[1,"x",3]]}}`, "msgs[0]"},
		{"fault without phase", `{"index":1,"time":0,"process":"nemesis","type":"info","f":"kill","value":{}}`, "phase"},
		{"too long", `{"x":"` + strings.Repeat("x", MaxLine) + `"}`, "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReader(strings.NewReader(good + "\n\n" + tt.line + "\n"))
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
			_, err := r.Next()
			bad, ok := errors.AsType[*LineError](err)
			if !ok || bad.Line != 3 || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want line 3 and %q", err, tt.want)
			}
		})
	}
}

// FuzzReader: whatever the bytes, no panic; and what is read can be written and read again.
func FuzzReader(f *testing.F) {
	seed := func(ops ...Op) {
		var buf bytes.Buffer
		w := NewWriter(&buf)
		for _, op := range ops {
			w.Write(op)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes())
	}
	seed(every()...)
	for _, op := range every() {
		seed(op)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for r := NewReader(bytes.NewReader(b)); ; {
			op, err := r.Next()
			if err != nil {
				return
			}
			op.Index = 0 // it is to be the first of another history
			once, err := json.Marshal(op)
			if err != nil {
				t.Fatalf("write %+v: %v", op, err)
			}
			back, err := NewReader(bytes.NewReader(once)).Next()
			if err != nil {
				t.Fatalf("read %s again: %v", once, err)
			}
			if twice, err := json.Marshal(back); err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("wrote %s, then %s, %v", once, twice, err)
			}
		}
	})
}
