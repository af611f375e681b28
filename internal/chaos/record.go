package chaos

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/chaos/history"
	"github.com/roomlog/roomlog/internal/devcluster"
	"github.com/roomlog/roomlog/transport/admin"
)

// recorder writes down what clients ask and are told. Its methods may be called
// concurrently.
type recorder struct {
	w        *history.Writer
	operator history.Process // asks nodes over HTTP

	mu      sync.Mutex
	process history.Process // the last that was given
	acks    map[string]ack  // with the highest seq, by room
	counts  map[string]int  // acked publishes, and other ends of them
	subs    map[*sub]bool   // that have not ended
}

func newRecorder(w *history.Writer) *recorder {
	r := &recorder{w: w, acks: map[string]ack{}, counts: map[string]int{}, subs: map[*sub]bool{}}
	r.operator = r.newProcess()
	return r
}

// ack is an acked publish, and whose.
type ack struct {
	seq     uint64
	process history.Process
}

// newProcess gives a process its number, from 1.
func (r *recorder) newProcess() history.Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process++
	return r.process
}

func (r *recorder) publishing(p history.Process, room, id string) {
	r.w.Write(history.Op{Process: p, Type: history.Invoke, F: history.FPublish, Value: &history.Publish{Room: room, ID: id}})
}

// published takes the end of a publish: after Fail the message is not in the log and
// never will be, after Info nobody knows.
func (r *recorder) published(p history.Process, room, id string, receipt client.Receipt, err error) {
	op := history.Op{Process: p, Type: history.OK, F: history.FPublish, Value: &history.Publish{Room: room, ID: id}}
	switch {
	case err == nil:
		op.Value = &history.Publish{Room: room, ID: id, Seq: receipt.Seq, Stamp: receipt.Time.UnixNano(), Duplicate: receipt.Duplicate}
	case errors.Is(err, client.ErrOutcomeUnknown):
		op.Type, op.Error = history.Info, err.Error()
	default:
		op.Type, op.Error = history.Fail, err.Error()
	}
	r.w.Write(op)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[string(op.Type)]++
	if err == nil && receipt.Seq > r.acks[room].seq {
		r.acks[room] = ack{receipt.Seq, p}
	}
}

// acked is the ack with the highest seq of a room.
func (r *recorder) acked(room string) ack {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acks[room]
}

// progress is how many publishes were acked so far.
func (r *recorder) progress() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[string(history.OK)]
}

func (r *recorder) asking(p history.Process, room string) {
	r.w.Write(history.Op{Process: p, Type: history.Invoke, F: history.FHead, Value: &history.Head{Room: room}})
}

func (r *recorder) told(p history.Process, room string, info client.RoomInfo, err error) {
	op := history.Op{Process: p, Type: history.OK, F: history.FHead, Value: &history.Head{Room: room, First: info.First, Last: info.Last}}
	if err != nil {
		op.Type, op.Error, op.Value = history.Info, err.Error(), &history.Head{Room: room}
	}
	r.w.Write(op)
}

// notWhole tells that a node has not given a room.
func (r *recorder) notWhole(p history.Process, room, node string, err error) {
	r.w.Write(history.Op{Process: p, Type: history.Info, F: history.FFinal, Value: &history.Final{Room: room, Node: node}, Error: err.Error()})
}

// nemesis takes a step of a nemesis.
func (r *recorder) nemesis(name string, v history.Fault) {
	r.w.Write(history.Op{Process: history.Nemesis, Type: history.Info, F: history.F(name), Value: &v})
}

func (r *recorder) leads(node string, replica admin.PartitionStatus) {
	r.w.Write(history.Op{Process: r.operator, Type: history.Info, F: history.FLeader, Value: &history.Leader{
		Node: node, Partition: replica.Partition, Term: replica.Term, Leader: replica.Leader,
	}})
}

func (r *recorder) holds(node string, replica admin.PartitionStatus) {
	r.w.Write(history.Op{Process: r.operator, Type: history.OK, F: history.FReplica, Value: &history.Replica{
		Node: node, Partition: replica.Partition, Applied: replica.Applied, Hash: replica.Hash,
	}})
}

// ready takes whether all nodes served again after faults.
func (r *recorder) ready(after []string, err error) {
	op := history.Op{Process: r.operator, Type: history.OK, F: history.FReady, Value: &history.Ready{After: after}}
	if err != nil {
		op.Type, op.Error = history.Fail, err.Error()
	}
	r.w.Write(op)
}

// exited takes the end of a process. One that was not asked to end has crashed,
// unless its disk has failed it.
func (r *recorder) exited(e devcluster.Exit, mayEnd bool) {
	op := history.Op{Process: r.operator, Type: history.OK, F: history.FExit, Value: &history.Exit{Node: e.Node, How: e.How, Asked: e.Asked}}
	asked := e.Asked && (e.How == "signal: killed" || e.How == "exit status 0" || e.How == "exit status 1")
	if gaveUp := mayEnd && e.How == "exit status 1"; !asked && !gaveUp {
		op.Type = history.Fail
	}
	r.w.Write(op)
}

// compared takes what "roomlog verify" said of two nodes.
func (r *recorder) compared(node, against string, said []byte, err error) {
	op := history.Op{Process: r.operator, Type: history.OK, F: history.FVerify, Value: &history.Verify{Node: node, Against: against}}
	if err != nil {
		op.Type, op.Error = history.Fail, err.Error()+": "+strings.TrimSpace(string(said))
	}
	r.w.Write(op)
}

// finalLine is how many messages of a whole room a line holds.
const finalLine = 10_000

// askingWhole is told before a room is read whole from a node, whole what the node
// gave.
func (r *recorder) askingWhole(room, node string) history.Process {
	p := r.newProcess()
	r.w.Write(history.Op{Process: p, Type: history.Invoke, F: history.FFinal, Value: &history.Final{Room: room, Node: node}})
	return p
}

func (r *recorder) whole(p history.Process, room, node string, all []client.Message) {
	first, last := uint64(1), uint64(0)
	if len(all) > 0 {
		if last = all[len(all)-1].Seq; all[0].Gap != nil { // what is no longer held
			first = all[0].Gap.To + 1
		}
	}
	for {
		n := min(finalLine, len(all))
		line := history.Final{Room: room, Node: node, First: first, Last: last, Msgs: eventsOf(all[:n]), More: n < len(all)}
		r.w.Write(history.Op{Process: p, Type: history.OK, F: history.FFinal, Value: &line})
		if all = all[n:]; !line.More {
			return
		}
	}
}

func eventsOf(messages []client.Message) history.Events {
	events := make(history.Events, len(messages))
	for i, m := range messages {
		events[i] = eventOf(m)
	}
	return events
}

func eventOf(m client.Message) history.Event {
	if m.Gap != nil {
		return history.Event{Seq: m.Gap.From, To: m.Gap.To, Reason: m.Gap.Reason.String()}
	}
	return history.Event{Seq: m.Seq, ID: idOf(m.Payload)}
}

// place is where a subscription begins.
type place struct {
	after uint64
	now   bool
	whose history.Process // the publisher who looks for its own; 0: nobody
}

// sub is a subscription in the history, a process of its own. What comes in quick
// succession makes one poll.
type sub struct {
	rec     *recorder
	process history.Process
	room    string

	mu     sync.Mutex
	ended  bool
	asked  int64 // when the first of events was
	given  int64 // when the last was
	events history.Events
}

const (
	pollTime   = 20 * time.Millisecond
	pollEvents = 256
)

func (r *recorder) subscribing(room, node string, at place) *sub {
	s := &sub{rec: r, process: r.newProcess(), room: room}
	v := &history.Subscribe{Room: room, Node: node, From: "now", Client: at.whose}
	if !at.now {
		v.From, v.After = "", &at.after
	}
	s.asked = r.w.Write(history.Op{Process: s.process, Type: history.Invoke, F: history.FSubscribe, Value: v}).Time
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[s] = true
	return s
}

func (s *sub) got(m client.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, eventOf(m))
	if s.given = s.rec.w.Now(); len(s.events) >= pollEvents {
		s.write()
	}
}

// write writes what has come; mu is held.
func (s *sub) write() {
	if len(s.events) == 0 {
		return
	}
	s.rec.w.Write(history.Op{Process: s.process, Type: history.OK, F: history.FPoll, Value: &history.Poll{
		Room: s.room, Msgs: s.events, Asked: s.asked, Given: s.given,
	}})
	s.asked, s.events = s.given, nil
}

// end writes how the subscription ended: nil, and an end of the reader's context,
// mean that the reader left. Only the first call counts.
func (s *sub) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	s.write()
	v := history.Subscribe{Room: s.room}
	op := history.Op{Process: s.process, Type: history.OK, F: history.FSubscribe, Value: &v}
	var beyond *client.BeyondHeadError
	switch {
	case errors.As(err, &beyond):
		op.Type, op.Error, v.Head = history.Fail, err.Error(), &beyond.Head
	case err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		op.Type, op.Error = history.Info, err.Error()
	}
	s.rec.w.Write(op)
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	delete(s.rec.subs, s)
}

// flush writes what has come to all subscriptions, every now and then until ctx
// ends.
func (r *recorder) flush(ctx context.Context) {
	for wait(ctx, pollTime) == nil {
		r.mu.Lock()
		subs := make([]*sub, 0, len(r.subs))
		for s := range r.subs {
			subs = append(subs, s)
		}
		r.mu.Unlock()
		for _, s := range subs {
			s.mu.Lock()
			s.write()
			s.mu.Unlock()
		}
	}
}
