package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/internal/trace"
	"github.com/roomlog/roomlog/transport/wire"
)

func newReplay(a *app) *cobra.Command {
	var speed, prefix string
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Publish a recorded trace of chat",
		Long: `Publish the messages of a trace, keeping the gaps between them, and print a
summary. FILE ends in .jsonl or .csv, or in .gz behind one of them; the fields are
t_ms, room, author, and text or bytes (so many bytes of filler). Each author is
the publisher name of its messages.`,
		Example: `  roomlog replay testdata/traces/irc-ubuntu.jsonl.gz --speed max
  roomlog replay testdata/traces/live-stream.csv.gz --speed 60 --rooms-prefix trial/`,
		Args: oneArg("FILE"),
	}
	cmd.Flags().StringVar(&speed, "speed", "1", "how many times faster than recorded, or max: as fast as can be")
	cmd.Flags().StringVar(&prefix, "rooms-prefix", "", "put this before each room's name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		factor, err := parseSpeed(speed)
		if err != nil {
			return err
		}
		f, err := openTrace(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		c, err := a.dial(cmd.Context())
		if err != nil {
			return err
		}
		defer c.Close()
		r := replay{app: a, file: args[0], trace: f.trace, speed: factor, prefix: prefix, send: sendWith(c)}
		bar := newBar(a.stderr, f.size)
		return r.run(cmd.Context(), func(messages int) { bar.show(f.read.Load(), messages) }, bar.clear)
	}
	return cmd
}

// parseSpeed gives 0 for max.
func parseSpeed(speed string) (float64, error) {
	if speed == "max" {
		return 0, nil
	}
	factor, err := strconv.ParseFloat(speed, 64)
	if err != nil || !(factor > 0) || math.IsInf(factor, 0) {
		return 0, usagef("--speed %q: use a number above 0, or max", speed)
	}
	return factor, nil
}

// traceFile is a trace that is being read, and how far.
type traceFile struct {
	*os.File
	trace *trace.Reader
	size  int64
	read  atomic.Int64 // bytes of the file
}

func openTrace(path string) (*traceFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usageError{err}
	}
	t := &traceFile{File: f}
	if info, err := f.Stat(); err == nil {
		t.size = info.Size()
	}
	t.trace, err = trace.NewReader(path, countingReader{f, &t.read})
	if errors.Is(err, trace.ErrFormat) {
		err = usageError{err}
	} else if err != nil && !strings.HasPrefix(err.Error(), path) {
		err = fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// replay publishes a trace.
type replay struct {
	app    *app
	file   string // for errors
	trace  interface{ Next() (trace.Message, error) }
	speed  float64 // 0: as fast as can be
	prefix string
	send   sendFunc
}

// summaryLine is what replay prints in JSON.
type summaryLine struct {
	Messages int     `json:"messages"`
	Acked    int     `json:"acked"`
	Rooms    int     `json:"rooms"`
	Seconds  float64 `json:"seconds"`
	Retries  int     `json:"retries"` // acks that a retry brought
}

// run publishes until the trace ends and prints the summary, also after an
// error: it then tells how far the replay came.
func (r *replay) run(ctx context.Context, progress func(messages int), done func()) error {
	var sum summaryLine
	rooms := make(map[string]bool)
	began := time.Now()
	next, stop := prefetch(r.next)
	defer stop()
	s := sending{
		send:     r.send,
		inflight: wire.MaxWindow,
		timeout:  r.app.timeout,
		next:     r.pace(next, began),
		sent: func(m message) {
			sum.Messages++
			rooms[m.room] = true
			progress(sum.Messages)
		},
		acked: func(receipt client.Receipt) error {
			sum.Acked++
			if receipt.Duplicate {
				sum.Retries++
			}
			return nil
		},
		quiet: func() error { return nil },
	}
	err := s.run(ctx)
	done()
	if errors.Is(err, errInterrupted) {
		err = fmt.Errorf("%w before the end of the trace", err)
	}
	sum.Rooms, sum.Seconds = len(rooms), time.Since(began).Seconds()
	return errors.Join(err, r.app.printSummary(sum))
}

// timed is a message and when it was published first.
type timed struct {
	message
	at time.Duration
}

func (r *replay) next() (timed, error) {
	m, err := r.trace.Next()
	if errors.Is(err, io.EOF) {
		return timed{}, io.EOF
	}
	if err != nil {
		return timed{}, fmt.Errorf("%s: %w", r.file, brokenLine(err))
	}
	t := timed{message: message{line: m.Line, room: r.prefix + m.Room, author: m.Author, payload: m.Payload}, at: m.At}
	if err := wire.CheckRoom(t.room); err != nil {
		return timed{}, fmt.Errorf("%s: line %d: %w", r.file, m.Line, err)
	}
	if err := wire.CheckName(t.author); err != nil {
		return timed{}, fmt.Errorf("%s: line %d: author: %w", r.file, m.Line, err)
	}
	return t, nil
}

// brokenLine tells what a line of a .jsonl file should have been. The error
// begins with the line's number.
func brokenLine(err error) error {
	_, noJSON := errors.AsType[*json.SyntaxError](err)
	wrong, otherType := errors.AsType[*json.UnmarshalTypeError](err)
	line, why, _ := strings.Cut(err.Error(), ": ")
	switch {
	case noJSON:
	case otherType && wrong.Field != "":
		why = fmt.Sprintf("%s is of type %s", wrong.Field, wrong.Value)
	case otherType:
		why = "the line is of type " + wrong.Value
	default:
		return err
	}
	return fmt.Errorf(`%s: want a JSON object such as {"t_ms": 0, "room": "lobby", "text": "hello"}: %s`, line, why)
}

// pace hands each message on when it is due: as long after the first one as in
// the trace, divided by the speed.
func (r *replay) pace(next func(context.Context) (timed, error), began time.Time) func(context.Context) (message, error) {
	first, started := time.Duration(0), false
	return func(ctx context.Context) (message, error) {
		m, err := next(ctx)
		if err != nil || r.speed == 0 {
			return m.message, err
		}
		if !started {
			first, started = m.at, true
		}
		due := began.Add(time.Duration(float64(m.at-first) / r.speed))
		return m.message, waitUntil(ctx, due)
	}
}

func waitUntil(ctx context.Context, due time.Time) error {
	wait := time.Until(due)
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *app) printSummary(s summaryLine) error {
	return a.emit(s, func(w io.Writer) {
		fmt.Fprintf(w, "%s to %s in %.1f s: %d acked, %d of them by a retry (%.0f a second)\n",
			plural(s.Messages, "message"), plural(s.Rooms, "room"), s.Seconds, s.Acked, s.Retries, float64(s.Acked)/s.Seconds)
	})
}

// bar shows on a terminal how much of a file has been dealt with.
type bar struct {
	*progressbar.ProgressBar
}

func newBar(w io.Writer, size int64) bar {
	return bar{progressBar(w, size)}
}

func (b bar) show(bytes int64, messages int) {
	if b.ProgressBar == nil {
		return
	}
	b.Describe(plural(messages, "message"))
	_ = b.Set64(bytes) // a bar that cannot be drawn must not stop the replay
}

func (b bar) clear() {
	if b.ProgressBar != nil {
		_ = b.Clear()
	}
}
