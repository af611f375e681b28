package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/client"
)

func newSubscribe(a *app) *cobra.Command {
	var after, count uint64
	var from string
	var idle time.Duration
	cmd := &cobra.Command{
		Use:   "subscribe ROOM",
		Short: "Print a room's messages as they come",
		Long: `Print the messages of ROOM, those that it holds already and then each as it
comes, until Ctrl-C. It carries on behind the last message when a node dies.

A message that the room no longer holds is told as a gap.

With --from now or a time the leader of the room's partition must answer; the
time of --idle-exit begins with its answer or with the first message. If neither
comes within --timeout the command fails.`,
		Example: `  roomlog subscribe lobby
  roomlog subscribe lobby --after 41 --count 1
  roomlog subscribe lobby --from 2026-11-23T18:00:00Z --idle-exit 2s -o json`,
		Args: oneArg("ROOM"),
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "start behind this seq")
	cmd.Flags().StringVar(&from, "from", "start", "start at: start, now, or a time such as 2026-11-23T18:00:00Z")
	cmd.Flags().Uint64Var(&count, "count", 0, "end after so many messages (default: never)")
	cmd.Flags().DurationVar(&idle, "idle-exit", 0, "end when no message has come for so long (default: never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		room, flags := args[0], cmd.Flags()
		if err := checkRoomArg(room); err != nil {
			return err
		}
		if flags.Changed("count") && count == 0 {
			return usagef("--count 0: give a number above 0")
		}
		if flags.Changed("idle-exit") && idle <= 0 {
			return usagef("--idle-exit %v: give a duration above 0, such as 2s", idle)
		}
		if flags.Changed("after") && flags.Changed("from") {
			return usagef("--after and --from both say where to start: give one of them")
		}
		start := start{option: client.After(after)}
		if !flags.Changed("after") {
			var err error
			if start, err = parseFrom(from); err != nil {
				return err
			}
		}
		ctx, stop := untilClosed(cmd.Context(), a.stdout)
		defer stop()
		err := a.subscribe(ctx, room, start, subscription{app: a, count: count, idle: idle})
		if errors.Is(err, syscall.EPIPE) {
			return nil // whoever read has what he wanted
		}
		return ended(ctx, err)
	}
	return cmd
}

// subscribe follows a room through the SDK.
func (a *app) subscribe(ctx context.Context, room string, start start, s subscription) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	leader := func(ctx context.Context) (client.RoomInfo, error) { return c.Room(ctx, room) }
	switch {
	case start.ask:
		if err := start.find(ctx, a.timeout, leader); err != nil {
			return err
		}
	case s.idle > 0:
		s.place = func(ctx context.Context) error { return start.find(ctx, a.timeout, leader) }
	}
	s.messages = func(ctx context.Context) iter.Seq2[client.Message, error] {
		return c.Subscribe(ctx, room, start.option)
	}
	s.reach = func(ctx context.Context) error {
		if connected(ctx, c) {
			return nil // perhaps to a node that we were not told of
		}
		again, err := a.dial(ctx)
		if err != nil {
			return err
		}
		return again.Close()
	}
	return s.run(ctx)
}

// connected tells whether the SDK has a node to talk to, or finds one at once.
func connected(ctx context.Context, c *client.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, reachPause)
	defer cancel()
	_, err := c.Nodes(ctx)
	return err == nil
}

// ended makes a Ctrl-C a good end: a subscription has no other.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// start is where a subscription begins.
type start struct {
	option client.SubscribeOption
	ask    bool // only the leader can tell the place
	now    bool
}

func parseFrom(from string) (start, error) {
	switch from {
	case "start":
		return start{option: client.FromStart()}, nil
	case "now":
		return start{ask: true, now: true}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, from)
	if err != nil {
		return start{}, usagef("--from %q: use start, now, or a time such as 2026-11-23T18:00:00Z", from)
	}
	return start{option: client.FromTime(t), ask: true}, nil
}

var errNoLeader = errors.New("no leader of the room's partition answered")

// find waits for the leader's word, for at most the timeout: the SDK would wait
// for ever. What now means is settled by it.
func (s *start) find(ctx context.Context, timeout time.Duration, leader func(context.Context) (client.RoomInfo, error)) error {
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	info, err := leader(within)
	switch {
	case err != nil && ctx.Err() == nil && within.Err() != nil:
		return fmt.Errorf("%w for %v; most of its nodes must run (see \"roomlog node list\")", errNoLeader, timeout)
	case err != nil:
		return err
	case s.now:
		s.option = client.After(info.Last)
	}
	return nil
}

// subscription prints what a room has until one of its limits is reached.
type subscription struct {
	app   *app
	count uint64        // 0: no limit
	idle  time.Duration // 0: no limit

	messages func(ctx context.Context) iter.Seq2[client.Message, error]
	// place returns once it is known where the subscription stands, or an error
	// if that does not come to be known; nil: it is known.
	place func(ctx context.Context) error
	// reach tells whether any server can be reached. The SDK looks for servers
	// in silence for as long as its caller likes; a silent room looks the same.
	reach func(ctx context.Context) error
}

type delivered struct {
	client.Message
	err error
}

func (s *subscription) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	incoming := make(chan delivered, 256)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		defer close(incoming)
		for m, err := range s.messages(ctx) {
			select {
			case incoming <- delivered{m, err}:
			case <-ctx.Done():
				return
			}
		}
	})
	defer func() { cancel(); tasks.Wait() }()
	silence := newSilence(s.app.timeout, s.idle, s.reach)
	defer silence.stop()
	if s.place != nil {
		placed := make(chan error, 1)
		silence.placed = placed
		tasks.Go(func() { placed <- s.place(ctx) })
	}

	flush := s.app.bufferOutput()
	err := s.print(ctx, incoming, silence, flush)
	return errors.Join(err, flush())
}

// print prints what comes in, flushing whenever there is nothing more.
func (s *subscription) print(ctx context.Context, incoming <-chan delivered, silence *silence, flush func() error) error {
	for seen := uint64(0); ; {
		var d delivered
		var more bool
		select {
		case d, more = <-incoming:
		default:
			if err := flush(); err != nil {
				return err
			}
			var err error
			if d, more, err = silence.wait(ctx, incoming); err != nil {
				return orNil(err, errIdle)
			}
		}
		if !more {
			return ctx.Err()
		}
		if d.err != nil {
			return d.err
		}
		silence.placed = nil // a message tells the place, too
		if err := s.app.printMessage(d.Message); err != nil {
			return err
		}
		if d.Gap == nil {
			seen++
		}
		if s.count > 0 && seen >= s.count {
			return nil
		}
	}
}

func orNil(err, good error) error {
	if errors.Is(err, good) {
		return nil
	}
	return err
}

var errIdle = errors.New("no message within --idle-exit")

// silence judges how long nothing has come. While a server can be reached that
// is no trouble, but the end of a command with --idle-exit.
type silence struct {
	timeout, idle time.Duration
	reach         func(ctx context.Context) error
	timer         *time.Timer
	placed        <-chan error // tells when the idle time begins; nil: it has
}

func newSilence(timeout, idle time.Duration, reach func(ctx context.Context) error) *silence {
	s := &silence{timeout: timeout, idle: idle, reach: reach, timer: time.NewTimer(0)}
	s.timer.Stop()
	return s
}

func (s *silence) stop() { s.timer.Stop() }

// wait returns what comes next. It ends with errIdle, or when no server could
// be reached for the timeout, or when the place cannot be known.
func (s *silence) wait(ctx context.Context, incoming <-chan delivered) (d delivered, more bool, err error) {
	if s.placed != nil {
		select {
		case d, more = <-incoming:
			return d, more, nil
		case err := <-s.placed:
			if s.placed = nil; err != nil {
				return d, false, err
			}
		}
	}
	quiet := time.Now()
	for {
		check := s.timeout / 2
		if s.idle > 0 {
			check = min(check, time.Until(quiet.Add(s.idle)))
		}
		s.timer.Reset(check)
		select {
		case d, more = <-incoming:
			s.timer.Stop()
			return d, more, nil
		case <-ctx.Done():
			return d, false, ctx.Err()
		case <-s.timer.C:
		}
		d, more, came, err := s.look(ctx, incoming)
		switch {
		case came:
			return d, more, nil
		case err != nil:
			return d, false, err
		case s.idle > 0 && time.Since(quiet) >= s.idle:
			return d, false, errIdle
		}
	}
}

// look tries to reach a server while it goes on listening to the subscription.
func (s *silence) look(ctx context.Context, incoming <-chan delivered) (d delivered, more, came bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout-s.timeout/2)
	defer cancel()
	reached := make(chan error, 1)
	go func() { reached <- s.untilReached(ctx) }()
	select {
	case d, more = <-incoming:
		cancel()
		<-reached
		return d, more, true, nil
	case err := <-reached:
		return d, false, false, err
	}
}

const reachPause = 250 * time.Millisecond

// untilReached tries until a server is reached or ctx ends.
func (s *silence) untilReached(ctx context.Context) error {
	pause := time.NewTicker(reachPause)
	defer pause.Stop()
	for {
		err := s.reach(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no server reached for %v: %w", s.timeout, err)
		case <-pause.C:
		}
	}
}

// messageLine is what subscribe prints in JSON: a message or a gap.
type messageLine struct {
	Room       string   `json:"room"`
	Seq        uint64   `json:"seq,omitempty"`
	Time       string   `json:"time,omitempty"`
	Publisher  *string  `json:"publisher,omitempty"`
	Payload    *string  `json:"payload,omitempty"`
	PayloadB64 *string  `json:"payload_b64,omitempty"` // where the payload is no UTF-8
	Gap        *gapLine `json:"gap,omitempty"`
}

type gapLine struct {
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Reason string `json:"reason"`
}

func (a *app) printMessage(m client.Message) error {
	if g := m.Gap; g != nil {
		line := messageLine{Room: m.Room, Gap: &gapLine{From: g.From, To: g.To, Reason: g.Reason.String()}}
		return a.emit(line, func(w io.Writer) {
			fmt.Fprintf(w, "%s  gap: %d to %d (%s)\n", m.Room, g.From, g.To, g.Reason)
		})
	}
	line := messageLine{Room: m.Room, Seq: m.Seq, Time: formatTime(m.Time), Publisher: &m.Publisher}
	if text := string(m.Payload); utf8.ValidString(text) {
		line.Payload = &text
	} else {
		b64 := base64.StdEncoding.EncodeToString(m.Payload)
		line.PayloadB64 = &b64
	}
	return a.emit(line, func(w io.Writer) {
		who := ""
		if m.Publisher != "" {
			who = "<" + m.Publisher + "> "
		}
		fmt.Fprintf(w, "%s  %d  %s  %s%s\n", m.Room, m.Seq, line.Time, who, printable(m.Payload))
	})
}

// printable writes a payload so that it stays on its line and cannot steer a
// terminal.
func printable(payload []byte) string {
	text := string(payload)
	if strings.IndexFunc(text, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return text
	}
	quoted := strconv.Quote(text)
	// A quote or a backslash is harmless; only what is not printable matters.
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(quoted[1 : len(quoted)-1])
}
