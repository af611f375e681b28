package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// TestStories: testdata/stories holds a small history for every anomaly, and
// the verdict. A line is an op, a millisecond after the one before; see story.op.
// All happens in the room "r" unless a line ends in "@room".
func TestStories(t *testing.T) {
	told := make(map[Name]bool)
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			options := Options{}
			for _, arg := range d.CmdArgs {
				if arg.Key == "max-lag" {
					options.MaxLag, _ = time.ParseDuration(arg.Vals[0])
				}
			}
			r, err := Read(context.Background(), history.NewReader(bytes.NewReader(tell(t, d.Input))), options)
			if err != nil {
				return "error: " + err.Error()
			}
			for _, f := range r.Findings {
				told[f.Name] = true
			}
			return verdict(r)
		})
	})
	for _, name := range Anomalies() {
		if !told[name] {
			t.Errorf("no story shows %s", name)
		}
		if name.Meaning() == "" {
			t.Errorf("%s has no meaning", name)
		}
	}
}

func verdict(r *Result) string {
	var b strings.Builder
	fmt.Fprintln(&b, r.Outcome)
	for _, m := range r.Missed {
		fmt.Fprintln(&b, "missed", m)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %d\n", f.Name, f.Count)
		for _, e := range f.Examples {
			fmt.Fprintf(&b, "  %d %s\n", e.Ops, e.Text)
		}
	}
	return b.String()
}

// tell makes a history of a story.
func tell(t testing.TB, text string) []byte {
	var buf bytes.Buffer
	s := story{}
	enc := json.NewEncoder(&buf)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		op, err := s.op(words)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if op == nil {
			continue
		}
		op.Index, op.Time = s.index, s.now
		s.index++
		s.now += int64(time.Millisecond)
		if err := enc.Encode(op); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// story tells ops one by one.
type story struct {
	index, now int64
	room       string
}

func (s *story) op(words []string) (*history.Op, error) {
	s.room = "r"
	if last := words[len(words)-1]; last[0] == '@' {
		s.room, words = last[1:], words[:len(words)-1]
	}
	if words[0] == "wait" {
		d, err := time.ParseDuration(words[1])
		s.now += int64(d)
		return nil, err
	}
	verb, args := words[0], words[1:]
	switch verb {
	case "run":
		v := &history.Run{}
		return &history.Op{Process: history.Nemesis, Type: history.Info, F: history.FRun, Value: v}, json.Unmarshal([]byte(strings.Join(args, "")), v)
	case "fault":
		return s.fault(args)
	case "replica":
		v := &history.Replica{Node: args[0], Partition: number[int](args[1]), Applied: number[uint64](args[2]), Hash: args[3]}
		return &history.Op{Process: 99, Type: history.OK, F: history.FReplica, Value: v}, nil
	case "differ": // NODE AGAINST
		return &history.Op{Process: 97, Type: history.Fail, F: history.FVerify, Value: &history.Verify{Node: args[0], Against: args[1]}, Error: "index 7"}, nil
	case "away": // FAULT
		return &history.Op{Process: 97, Type: history.Fail, F: history.FReady, Value: &history.Ready{After: args}, Error: "n2 does not answer"}, nil
	case "exit": // NODE HOW
		return &history.Op{Process: 97, Type: history.Fail, F: history.FExit, Value: &history.Exit{Node: args[0], How: args[1]}}, nil
	case "leader":
		v := &history.Leader{Node: args[0], Partition: number[int](args[1]), Term: number[uint64](args[2])}
		if len(args) > 3 {
			v.Leader = args[3]
		}
		return &history.Op{Process: 98, Type: history.Info, F: history.FLeader, Value: v}, nil
	}
	op := &history.Op{Process: number[history.Process](args[0])}
	return op, s.call(op, verb, args[1:])
}

// call fills in an op of a client or subscription: VERB PROCESS ARGS.
func (s *story) call(op *history.Op, verb string, args []string) error {
	types := map[string]history.Type{"ok": history.OK, "fail": history.Fail, "info": history.Info, "end": history.OK, "refused": history.Fail, "lost": history.Info}
	op.Type = history.Invoke
	if typ, ok := types[verb]; ok {
		op.Type = typ
	}
	switch verb {
	case "pub", "ok", "fail", "info": // ID, then of ok SEQ [dup] [STAMP]
		v := &history.Publish{Room: s.room, ID: args[0]}
		op.F, op.Value = history.FPublish, v
		for i, a := range args[1:] {
			switch {
			case i == 0:
				v.Seq = number[uint64](a)
			case a == "dup":
				v.Duplicate = true
			default:
				v.Stamp = number[int64](a)
			}
		}
	case "sub", "end", "refused", "lost": // of sub after=N or FROM, and client=P; of refused HEAD
		return s.subscribe(op, verb, args)
	case "poll": // SEQ:ID or FROM-TO:REASON ...
		op.Type, op.F, op.Value = history.OK, history.FPoll, &history.Poll{Room: s.room, Msgs: events(args)}
	case "head?":
		op.F, op.Value = history.FHead, &history.Head{Room: s.room}
	case "head": // FIRST LAST
		op.Type, op.F, op.Value = history.OK, history.FHead, &history.Head{Room: s.room, First: number[uint64](args[0]), Last: number[uint64](args[1])}
	case "final?": // NODE
		op.F, op.Value = history.FFinal, &history.Final{Room: s.room, Node: args[0]}
	case "nofinal": // NODE
		op.Type, op.F, op.Value, op.Error = history.Info, history.FFinal, &history.Final{Room: s.room, Node: args[0]}, "no answer"
	case "final", "part": // NODE FIRST LAST SEQ:ID ...
		v := &history.Final{Room: s.room, Node: args[0], First: number[uint64](args[1]), Last: number[uint64](args[2]), Msgs: events(args[3:]), More: verb == "part"}
		op.Type, op.F, op.Value = history.OK, history.FFinal, v
	default:
		return errors.New("unknown verb")
	}
	return nil
}

func (s *story) subscribe(op *history.Op, verb string, args []string) error {
	v := &history.Subscribe{Room: s.room}
	op.F, op.Value = history.FSubscribe, v
	for _, a := range args {
		switch key, value, _ := strings.Cut(a, "="); {
		case verb == "refused":
			n := number[uint64](a)
			v.Head = &n
		case key == "after":
			n := number[uint64](value)
			v.After = &n
		case key == "client":
			v.Client = number[history.Process](value)
		default:
			v.From = a
		}
	}
	return nil
}

// fault NAME PHASE [COUNT] [quorum-lost]
func (s *story) fault(args []string) (*history.Op, error) {
	v := &history.Fault{Phase: args[1]}
	for _, a := range args[2:] {
		if a == "quorum-lost" {
			v.QuorumLost = true
		} else {
			v.Count = number[int64](a)
		}
	}
	return &history.Op{Process: history.Nemesis, Type: history.Info, F: history.F(args[0]), Value: v}, nil
}

func events(args []string) history.Events {
	var list history.Events
	for _, a := range args {
		place, text, _ := strings.Cut(a, ":")
		if from, to, gap := strings.Cut(place, "-"); gap {
			list = append(list, history.Event{Seq: number[uint64](from), To: number[uint64](to), Reason: text})
		} else {
			list = append(list, history.Event{Seq: number[uint64](place), ID: text})
		}
	}
	return list
}

func number[T ~int | ~int64 | ~uint64](s string) T {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return T(n)
}
