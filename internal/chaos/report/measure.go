package report

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/roomlog/roomlog/internal/chaos/history"
)

// Course is how long messages took in a run, second by second.
type Course struct {
	Acks       []Point // from the call to the ack
	Deliveries []Point // from the call to subscriptions that were there before
	Bands      []Band
}

// Measure reads a history. Its memory is one number for each message and delivery.
func Measure(path string) (c *Course, err error) {
	r, err := history.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	m := &measure{called: map[string]int64{}, since: map[history.Process]int64{}, open: map[history.F]int64{}}
	for {
		op, err := r.Next()
		switch {
		case err == io.EOF:
			return &Course{m.acks.points(), m.deliveries.points(), m.bands}, nil
		case err != nil:
			return nil, err
		}
		m.take(op)
	}
}

// measure is what is known of a history so far; times are nanoseconds.
type measure struct {
	called           map[string]int64          // when a message's publish was called
	since            map[history.Process]int64 // when a subscription began
	acks, deliveries bySecond
	open             map[history.F]int64 // when a fault began
	bands            []Band
}

func (m *measure) take(op *history.Op) {
	switch v := op.Value.(type) {
	case *history.Publish:
		switch op.Type {
		case history.Invoke:
			m.called[v.ID] = op.Time
		case history.OK:
			m.acks.add(op.Time, op.Time-m.called[v.ID])
		}
	case *history.Subscribe:
		if op.Type == history.Invoke {
			m.since[op.Process] = op.Time
		}
	case *history.Poll:
		at := op.Time
		if v.Given > 0 {
			at = v.Given
		}
		for _, e := range v.Msgs {
			if called, known := m.called[e.ID]; known && called > m.since[op.Process] {
				m.deliveries.add(at, at-called)
			}
		}
	case *history.Fault:
		if op.F != history.Starved {
			m.fault(op, v)
		}
	}
}

func (m *measure) fault(op *history.Op, v *history.Fault) {
	began, on := m.open[op.F]
	switch {
	case v.Phase == history.Start && !on:
		m.open[op.F] = op.Time
	case v.Phase == history.Stop && on:
		delete(m.open, op.F)
		m.bands = append(m.bands, Band{From: seconds(began), To: seconds(op.Time), Name: string(op.F)})
	}
}

func seconds(ns int64) float64 { return float64(ns) / float64(time.Second) }

// bySecond is latencies by the second in which they ended.
type bySecond [][]int64

func (b *bySecond) add(at, took int64) {
	second := int(at / int64(time.Second))
	for len(*b) <= second {
		*b = append(*b, nil)
	}
	(*b)[second] = append((*b)[second], took)
}

func (b bySecond) points() (points []Point) {
	for second, all := range b {
		if len(all) == 0 {
			continue
		}
		slices.Sort(all)
		at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))]) / 1e6 }
		points = append(points, Point{Second: second, P50: at(0.5), P99: at(0.99), Max: at(1)})
	}
	return points
}
