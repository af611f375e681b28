package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// What Options say if they say nothing.
const (
	StuckAfter    = 30 * time.Second
	ElectionGrace = 5 * time.Second
	Examples      = 5
	Slices        = 1000
	SliceTime     = time.Second
)

// Options say what is asked of a history beyond its own header.
type Options struct {
	Floors        history.Floors // the higher of these and the header's count
	StuckAfter    time.Duration  // bound of stuck-room
	MaxLag        time.Duration  // bound of realtime-lag; none if 0
	ElectionGrace time.Duration  // how long after a fault elections are its doing
	Examples      int            // kept of each anomaly
	Slices        int            // given to Porcupine at most
	SliceTime     time.Duration  // for each
}

func (o Options) withDefaults() Options {
	o.StuckAfter = cmp.Or(o.StuckAfter, StuckAfter)
	o.ElectionGrace = cmp.Or(o.ElectionGrace, ElectionGrace)
	o.Examples = cmp.Or(o.Examples, Examples)
	o.Slices = cmp.Or(o.Slices, Slices)
	o.SliceTime = cmp.Or(o.SliceTime, SliceTime)
	return o
}

// Checker takes a history op by op. A zero message or slot index means none.
type Checker struct {
	options Options
	tally   tally
	run     *history.Run
	counts  map[history.F]*Counts
	now     int64 // time of the op at hand

	ids      map[string]ref
	messages []message // [0] is no message
	rooms    map[string]*room
	inOrder  []*room // as first named
	subs     map[history.Process]*subscription
	heads    map[history.Process]*headRead
	finals   map[history.Process]*final
	clients  map[clientRoom]*client
	replicas map[replicaAt]*history.Replica
	terms    map[int]*terms
	faults   faults
	timing   timing
}

// ref is an index into Checker.messages.
type ref int32

// New makes a checker.
func New(o Options) *Checker {
	o = o.withDefaults()
	return &Checker{
		options:  o,
		tally:    tally{keep: o.Examples, found: make(map[Name]*Finding)},
		counts:   make(map[history.F]*Counts),
		ids:      make(map[string]ref),
		messages: make([]message, 1),
		rooms:    make(map[string]*room),
		subs:     make(map[history.Process]*subscription),
		heads:    make(map[history.Process]*headRead),
		finals:   make(map[history.Process]*final),
		clients:  make(map[clientRoom]*client),
		replicas: make(map[replicaAt]*history.Replica),
		terms:    make(map[int]*terms),
		faults:   faults{effects: make(map[string]int64)},
		timing:   newTiming(),
	}
}

// File checks a history file, unless ctx ends first.
func File(ctx context.Context, path string, o Options) (_ *Result, err error) {
	r, err := history.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	result, err := Read(ctx, r, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	result.History = path
	if result.Run == nil {
		result.miss("run: the first line does not say what was done, and what is enough")
	}
	return result, nil
}

// Read checks what r holds, unless ctx ends first.
func Read(ctx context.Context, r *history.Reader, o Options) (*Result, error) {
	c := New(o)
	for {
		op, err := r.Next()
		if err == io.EOF {
			return c.Result(), nil
		}
		if err == nil {
			err = c.Add(op)
		}
		err = cmp.Or(err, ctx.Err())
		if err != nil {
			return nil, err
		}
	}
}

// errOrder: an answer without its invocation, or an invocation twice: no verdict
// can be had from such a history.
var errOrder = errors.New("does not fit what came before")

func misfit(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errOrder)
}

// Add takes the next op. An error means that the history is malformed, and
// that there can be no result.
func (c *Checker) Add(op *history.Op) error {
	c.now = op.Time
	c.count(op)
	if err := c.take(op); err != nil {
		return fmt.Errorf("op %d, %s %s of process %d: %w", op.Index, op.Type, op.F, op.Process, err)
	}
	return nil
}

func (c *Checker) take(op *history.Op) error {
	switch v := op.Value.(type) {
	case *history.Run:
		if op.Index != 0 {
			return misfit("a header that is not the first line")
		}
		c.run = v
	case *history.Publish:
		return c.publish(op, v)
	case *history.Subscribe:
		return c.subscribe(op, v)
	case *history.Poll:
		return c.poll(op, v)
	case *history.Head:
		return c.head(op, v)
	case *history.Final:
		return c.final(op, v)
	case *history.Replica:
		c.replica(op, v)
	case *history.Verify:
		c.verify(op, v)
	case *history.Ready:
		c.ready(op, v)
	case *history.Exit:
		c.exit(op, v)
	case *history.Leader:
		c.leader(op, v)
	case *history.Fault:
		c.fault(op, v)
	}
	return nil
}

// Counts are a function's ops by type.
type Counts struct {
	Invoke   int64 `json:"invoke"`
	OK       int64 `json:"ok"`
	Fail     int64 `json:"fail"`
	Info     int64 `json:"info"`
	Messages int64 `json:"messages,omitempty"` // read
}

func (c *Checker) count(op *history.Op) {
	f := op.F
	switch op.Value.(type) {
	case *history.Fault, *history.Run:
		return
	}
	n := c.counts[f]
	if n == nil {
		n = new(Counts)
		c.counts[f] = n
	}
	switch op.Type {
	case history.Invoke:
		n.Invoke++
	case history.OK:
		n.OK++
	case history.Fail:
		n.Fail++
	case history.Info:
		n.Info++
	}
}
