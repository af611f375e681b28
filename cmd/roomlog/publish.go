package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/wire"
)

func newPublish(a *app) *cobra.Command {
	var file, name string
	var inflight int
	cmd := &cobra.Command{
		Use:   "publish ROOM",
		Short: "Publish each line of the input as a message",
		Long: `Publish each line of the input to ROOM, an empty line as an empty message, and
print a line per ack, in the order of the input. A line may have up to 1 MiB. It
ends at the line feed, which is no part of the message; of a Windows line end the
carriage return stays in it.

After an error nothing more is sent; what was sent before is acked and printed.`,
		Example: `  echo hello | roomlog publish lobby
  roomlog publish lobby --file lines.txt -o json`,
		Args: oneArg("ROOM"),
	}
	cmd.Flags().StringVar(&file, "file", "", "read this file instead of the standard input")
	cmd.Flags().IntVar(&inflight, "inflight", 1024, "how many publishes may wait for their acks")
	cmd.Flags().StringVar(&name, "name", "", "publisher name to store with each message")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		room := args[0]
		if err := checkRoomArg(room); err != nil {
			return err
		}
		if err := wire.CheckName(name); err != nil {
			return usagef("--name: %w", err)
		}
		if inflight < 1 || inflight > wire.MaxWindow {
			return usagef("--inflight %d: give a number from 1 to %d", inflight, wire.MaxWindow)
		}
		in := a.stdin
		if file != "" {
			f, err := os.Open(file)
			if err != nil {
				return usagef("--file: %w", err)
			}
			defer f.Close()
			in = f
		}
		c, err := a.dial(cmd.Context(), client.WithName(name))
		if err != nil {
			return err
		}
		defer c.Close()
		return a.publishLines(cmd.Context(), room, in, inflight, sendWith(c))
	}
	return cmd
}

// ackLine is what publish prints in JSON.
type ackLine struct {
	Room      string `json:"room"`
	Seq       uint64 `json:"seq"`
	Time      string `json:"time"`
	Duplicate bool   `json:"duplicate"`
}

// publishLines publishes the lines of in to room and prints the acks.
func (a *app) publishLines(ctx context.Context, room string, in io.Reader, inflight int, send sendFunc) error {
	lines := newLineReader(in, wire.MaxPayload)
	next, stop := prefetch(func() (message, error) {
		payload, err := lines.next()
		return message{line: lines.n, room: room, payload: payload}, err
	})
	defer stop()
	flush := a.bufferOutput()
	sent := 0
	s := sending{
		send:     send,
		inflight: inflight,
		timeout:  a.timeout,
		next:     next,
		sent:     func(message) { sent++ },
		acked:    a.printAck,
		quiet:    flush,
	}
	err := s.run(ctx)
	if errors.Is(err, errInterrupted) {
		err = fmt.Errorf("%w after %s; all that was sent is acked", err, plural(sent, "line"))
	}
	return errors.Join(err, flush())
}

func (a *app) printAck(r client.Receipt) error {
	line := ackLine{Room: r.Room, Seq: r.Seq, Time: formatTime(r.Time), Duplicate: r.Duplicate}
	return a.emit(line, func(w io.Writer) {
		again := ""
		if r.Duplicate {
			again = "  duplicate"
		}
		fmt.Fprintf(w, "%s  %d  %s%s\n", r.Room, r.Seq, line.Time, again)
	})
}

// bufferOutput puts a buffer before the standard output and returns what
// empties it, and gives the first error of writing.
func (a *app) bufferOutput() (flush func() error) {
	buffered := bufio.NewWriter(a.stdout)
	a.stdout = buffered
	return buffered.Flush
}
